//! What the gateway promises over HTTP, in front of the memory back ends and a worker that answers as it is told.

mod batches;
mod bounds;
mod bulk;
mod connections;
mod contract;
mod down;
mod duplex;
mod events;
mod fleet;
mod front;
mod groups;
mod idempotency;
mod kinds;
mod observing;
mod operating;
mod overloaded;
mod predict;
mod refusals;
mod results;
mod segments;
mod stopping;
mod streaming;
mod tasks;
mod unserved;
mod wait;
