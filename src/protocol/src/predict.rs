//! The bounds of the kind `predict` that hold whatever its model is: what the executor checks, and what the gateway checks before it submits anything.

/// The least that `max_length` may be, in tokens. The most belongs to each worker (`predict.max_length_max`).
pub const MAX_LENGTH_MIN: u32 = 1;
/// The least that `temperature` may be.
pub const TEMPERATURE_MIN: f64 = 0.0;
/// The most that `temperature` may be.
pub const TEMPERATURE_MAX: f64 = 2.0;
