//! What the tests share: private servers, whole fleets, waiting for a condition.

pub mod browser;
pub mod collector;
pub mod environment;
pub mod executing;
pub mod facts;
pub mod fleet;
pub mod hostile;
pub mod output;
pub mod pages;
pub mod ports;
pub mod proc;
pub mod program;
pub mod proxy;
pub mod rabbitmq;
pub mod raw_amqp;
pub mod redis;
pub mod statistics;
pub mod tasks;
pub mod until;
pub mod watchdog;
