//! Duties of a worker for the whole fleet.

pub(crate) mod delayed;
pub(crate) mod mover;
pub(crate) mod reaper;
pub(crate) mod topology;
pub(crate) mod waiting;
