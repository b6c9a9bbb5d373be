//! What the gateway promises over HTTP, in front of the memory back ends and a worker that answers as it is told.

mod contract;
mod down;
mod events;
mod fleet;
mod idempotency;
mod observing;
mod overloaded;
mod predict;
mod stopping;
mod streaming;
mod tasks;
mod unserved;
