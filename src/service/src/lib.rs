//! What every program does at start and stop: configuration, signals, telemetry, the three back ends. Used by programs only.

mod backends;
pub mod config;
mod environment;
mod redis_servers;
mod service_manager;
pub mod signals;
pub mod telemetry;
pub mod traces;

pub use backends::{BackendError, Backends, Embedded};
pub use config::{ConfigurationErrors, FlagSetting, Loaded, Sources};
pub use environment::system_environment;
pub use redis_servers::{RedisServer, redis_servers};
pub use service_manager::ServiceManager;
pub use signals::Stop;
pub use traces::Traces;
