//! Duties of a worker for the whole fleet.

pub(crate) mod mover;
pub(crate) mod reaper;
pub(crate) mod redeliverer;
pub(crate) mod topology;
