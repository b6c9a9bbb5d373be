//! What the tests share: private servers, whole fleets, waiting for a condition.

pub mod rabbitmq;
pub mod redis;
pub mod until;
pub mod watchdog;
