//! What every program does at start and stop: configuration, signals, telemetry, the three back ends. Used by programs only.

pub mod config;
mod environment;
pub mod signals;
pub mod telemetry;

pub use config::{ConfigurationErrors, Loaded, Sources};
pub use environment::system_environment;
pub use signals::Stop;
