//! How single arguments are read, and what is said of wrong ones. The message names the argument already.

use std::num::NonZeroUsize;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use protocol::{Kind, Limits, Strategy, TaskId, task::ComputeCapability};

/// A strategy's name: the others are listed, and the nearest one is offered.
pub(super) fn strategy() -> impl TypedValueParser<Value = Strategy> {
    let names = Strategy::ALL.map(Strategy::name);
    PossibleValuesParser::new(names).map(|name| name.parse::<Strategy>().expect("one of the names"))
}

/// A task's id.
pub(super) fn task_id(text: &str) -> Result<TaskId, String> {
    TaskId::new(text).map_err(|error| format!("must be {}", error.rule))
}

/// What to run.
pub(super) fn kind(text: &str) -> Result<Kind, String> {
    Kind::new(text).map_err(|error| format!("must be {}", error.rule))
}

/// How often.
pub(super) fn count(text: &str) -> Result<NonZeroUsize, String> {
    let count: usize = text.parse().map_err(|_| "must be a whole number, at least 1".to_owned())?;
    NonZeroUsize::new(count).ok_or_else(|| "must be at least 1".to_owned())
}

/// `major.minor`.
pub(super) fn capability(text: &str) -> Result<ComputeCapability, String> {
    text.to_owned().try_into()
}

/// A time limit of a task, in milliseconds.
pub(super) fn limit_ms() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..=Limits::LONGEST_MS)
}
