//! The GPU and its standing: heartbeats, what its kinds do, health, trouble, pace.

pub(crate) mod describing;
pub(crate) mod health;
pub(crate) mod heartbeat;
pub(crate) mod item_times;
pub(crate) mod models;
pub(crate) mod quarantine;
pub(crate) mod trouble;
