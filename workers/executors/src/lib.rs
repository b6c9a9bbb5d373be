//! What a kind of task does when it runs: one file or folder per kind.
//!
//! [`Executor`] is the trait; [`Executors`] is the set that one worker offers: [`echo`], [`simulate`] and [`predict`].

mod echo;
mod executor;
#[cfg(test)]
mod fixture;
mod occupy;
mod payload;
pub mod predict;
mod report;
mod simulate;

pub use echo::echo;
pub use executor::{Executor, Executors, Failure, Run};
pub use predict::{Predict, PredictError};
pub use report::{Listening, Report, Reported, ReportedPartials, Reports};
pub use simulate::simulate;
