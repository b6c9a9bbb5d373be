//! What planes do, each for itself and together.

mod keeping;
mod many;
mod simulated;
