//! How single arguments are read, and what is said of wrong ones. The message names the argument already.

use std::num::NonZeroUsize;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use protocol::{
    DType, GroupCounts, GroupName, IfExists, KeepAs, Kind, Limits, OnError, OnMissing, Strategy, TaskId, TaskState, TensorName,
    batch::ITEMS_MAX, task::ComputeCapability,
};

use super::Sides;

/// A strategy's name: the others are listed, and the nearest one is offered.
pub(super) fn strategy() -> impl TypedValueParser<Value = Strategy> {
    let names = Strategy::ALL.map(Strategy::name);
    PossibleValuesParser::new(names).map(|name| name.parse::<Strategy>().expect("one of the names"))
}

/// The name of a state.
pub(super) fn state() -> impl TypedValueParser<Value = TaskState> {
    let named = |name: String| GroupCounts::STATES.into_iter().find(|state| state.name() == name).expect("one of the names");
    PossibleValuesParser::new(GroupCounts::STATES.map(TaskState::name)).map(named)
}

/// The name of any state of a task; groups count no delayed ones by themselves.
pub(super) fn task_state() -> impl TypedValueParser<Value = TaskState> {
    let named = |name: String| TaskState::ALL.into_iter().find(|state| state.name() == name).expect("one of the names");
    PossibleValuesParser::new(TaskState::ALL.map(TaskState::name)).map(named)
}

/// What becomes of a batch one of whose items fails.
pub(super) fn on_error() -> impl TypedValueParser<Value = OnError> {
    PossibleValuesParser::new(["report", "fail"]).map(|name| if name == "fail" { OnError::Fail } else { OnError::Report })
}

/// The number of a batch's item.
pub(super) fn item() -> clap::builder::RangedI64ValueParser<u32> {
    let last = i64::try_from(ITEMS_MAX).unwrap_or(i64::MAX);
    clap::value_parser!(u32).range(0..=last)
}

/// A task's id.
pub(super) fn task_id(text: &str) -> Result<TaskId, String> {
    TaskId::new(text).map_err(|error| format!("must be {}", error.rule))
}

/// A task's id, or that of a slice of a batch, as lists show it.
pub(super) fn task_id_or_slice(text: &str) -> Result<TaskId, String> {
    TaskId::read(text).map_err(|error| format!("must be {}", error.rule))
}

/// How long ago, or how long: a number and its unit. In milliseconds.
pub(super) fn age_ms(text: &str) -> Result<u64, String> {
    time_ms(text)
}

/// A share of a GPU's memory. At more than all of it, tasks would be taken that do not fit.
pub(super) fn memory_share(text: &str) -> Result<f64, String> {
    share(text, 1.0).ok_or_else(|| "must be a share above 0 and at most 1, as 0.9".to_owned())
}

/// A share of a GPU's time.
pub(super) fn utilization_share(text: &str) -> Result<f64, String> {
    share(text, 1.01).ok_or_else(|| "must be a share above 0 and at most 1, as 0.95, or 1.01, which switches the threshold off".to_owned())
}

fn share(text: &str, most: f64) -> Option<f64> {
    text.parse().ok().filter(|share| *share > 0.0 && *share <= most)
}

/// A group's name.
pub(super) fn group(text: &str) -> Result<GroupName, String> {
    GroupName::new(text).map_err(|error| format!("must be {}", error.rule))
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

/// How long a task is not to start: a number and its unit. In milliseconds.
pub(super) fn delay_ms(text: &str) -> Result<u64, String> {
    time_ms(text)
}

/// How long a tensor is kept after its last use: a number and its unit. In milliseconds.
pub(super) fn ttl_ms(text: &str) -> Result<u64, String> {
    match time_ms(text)? {
        0 => Err("must be at least 1ms".to_owned()),
        ms => Ok(ms),
    }
}

/// A number and its unit, at most [`Limits::LONGEST_MS`], which is also [`KeepAs::TTL_MS_MAX`]. In milliseconds.
fn time_ms(text: &str) -> Result<u64, String> {
    const { assert!(Limits::LONGEST_MS == KeepAs::TTL_MS_MAX, "one bound for both") };
    let wrong = || "must be a whole number with its unit: ms, s, m, h or d, as 90s".to_owned();
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let ms = number.parse::<u64>().map_err(|_| wrong())?.saturating_mul(unit_ms);
    if ms > Limits::LONGEST_MS { Err("must be at most 30d".to_owned()) } else { Ok(ms) }
}

/// A tensor's name.
pub(super) fn tensor(text: &str) -> Result<TensorName, String> {
    TensorName::new(text).map_err(|error| format!("must be {}", error.rule))
}

/// What becomes of a tensor whose name is written again.
pub(super) fn if_exists() -> impl TypedValueParser<Value = IfExists> {
    PossibleValuesParser::new(["replace", "fail"]).map(|name| if name == "fail" { IfExists::Fail } else { IfExists::Replace })
}

/// What becomes of a task that names a tensor which is nowhere.
pub(super) fn on_missing() -> impl TypedValueParser<Value = OnMissing> {
    PossibleValuesParser::new(["fail", "wait"]).map(|name| if name == "wait" { OnMissing::Wait } else { OnMissing::Fail })
}

/// The type of a tensor's numbers.
pub(super) fn dtype() -> impl TypedValueParser<Value = DType> {
    PossibleValuesParser::new(DType::ALL.map(DType::name)).map(|name| DType::named(&name).expect("one of the names"))
}

/// The sizes of a tensor's dimensions; of nothing, none.
pub(super) fn sides(text: &str) -> Result<Sides, String> {
    let sides = text.split(',').map(str::trim).map(str::parse);
    let sides = if text.trim().is_empty() { Ok(Vec::new()) } else { sides.collect::<Result<Vec<usize>, _>>() };
    sides.map(Sides).map_err(|_| "must be whole numbers with commas between them, as 2,3".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_of_dimensions_have_commas_between_them() {
        let read = |text| sides(text).ok().map(|Sides(sides)| sides);
        assert_eq!(["2,3", "7", " 2, 3 ", ""].map(read), [vec![2, 3], vec![7], vec![2, 3], vec![]].map(Some));
        for wrong in ["2x3", "-1", "2,,3", "2,"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_threshold_is_a_share_above_none() {
        let of_memory = |text| memory_share(text).ok();
        assert_eq!(["0.9", "1", "1.01", "0", "-1", "NaN", "x"].map(of_memory), [Some(0.9), Some(1.0), None, None, None, None, None]);
        let of_time = |text| utilization_share(text).ok();
        assert_eq!(["0.9", "1.01", "1.02", "0"].map(of_time), [Some(0.9), Some(1.01), None, None]);
    }

    #[test]
    fn a_delay_is_a_number_with_its_unit() {
        let read = |text| delay_ms(text).ok();
        assert_eq!(
            ["0ms", "250ms", "90s", "15m", "2h", "30d"].map(read),
            [0, 250, 90_000, 900_000, 7_200_000, Limits::LONGEST_MS].map(Some)
        );
        for wrong in ["", "90", "s", "-1s", "1.5h", "1w", "31d", "2592000001ms", "99999999999999999999d", "9 s"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
