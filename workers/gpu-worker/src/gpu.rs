//! The GPU and its standing: heartbeats, health, trouble, memory.

pub(crate) mod health;
pub(crate) mod heartbeat;
pub(crate) mod quarantine;
pub(crate) mod trouble;
