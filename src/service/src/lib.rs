//! What every program does at start and stop: configuration, signals, telemetry, the three back ends. Used by programs only.

mod environment;

pub use environment::system_environment;
