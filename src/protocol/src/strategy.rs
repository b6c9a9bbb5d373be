//! The rules by which a claim chooses among eligible GPUs.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a claim chooses. A task may name one; otherwise the table's default applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The eligible GPU that was claimed longest ago.
    RoundRobin,
    /// The lowest share of slots held; then the offering worker's own GPU; then lower memory use; then claimed longest ago.
    LeastLoaded,
    /// The GPU that fits the task best (model loaded, smallest sufficient memory and compute capability), then least loaded.
    TaskSpecific,
}

impl Strategy {
    /// Every strategy there is.
    pub const ALL: [Self; 3] = [Self::RoundRobin, Self::LeastLoaded, Self::TaskSpecific];

    /// The name on the wire, in configuration and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastLoaded => "least_loaded",
            Self::TaskSpecific => "task_specific",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Why the strategy that ran is not the one asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// No strategy has that name.
    Unknown,
    /// The name exists, and the fleet's settings do not enable it.
    Disabled,
}

/// The strategy that a claim used, and what was asked for if that differs. Goes into the reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Choice {
    /// The strategy that chose.
    pub used: Strategy,
    /// What the task asked for, where that could not be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<String>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
}

impl Choice {
    /// Resolves what a task asks for (nothing, a name, or nonsense) against the fleet's default and enabled strategies.
    #[must_use]
    pub fn resolve(requested: Option<&str>, default: Strategy, enabled: &[Strategy]) -> Self {
        let plain = |used| Self { used, requested: None, fallback: None };
        let fallen = |name: &str, why| Self { used: default, requested: Some(name.to_owned()), fallback: Some(why) };
        match requested.map(|name| (name, name.parse::<Strategy>())) {
            None => plain(default),
            Some((_, Ok(strategy))) if enabled.contains(&strategy) => plain(strategy),
            Some((name, Ok(_))) => fallen(name, Fallback::Disabled),
            Some((name, Err(_))) => fallen(name, Fallback::Unknown),
        }
    }

    /// The choice of a strategy that is known to have chosen, for a task that asked for `requested`.
    #[must_use]
    pub fn made_by(used: Strategy, requested: Option<&str>) -> Self {
        Self::resolve(requested, used, &[used])
    }
}

/// A name that is no strategy's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no strategy; there are round_robin, least_loaded and task_specific")]
pub struct UnknownStrategy(String);

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, UnknownStrategy> {
        Self::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| UnknownStrategy(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_or_disabled_strategy_falls_back_and_says_so() {
        let enabled = [Strategy::RoundRobin, Strategy::LeastLoaded];
        let resolve = |name| Choice::resolve(name, Strategy::LeastLoaded, &enabled);
        assert_eq!(resolve(None).used, Strategy::LeastLoaded);
        assert_eq!(resolve(Some("round_robin")), Choice { used: Strategy::RoundRobin, requested: None, fallback: None });
        assert_eq!(resolve(Some("fastest")).fallback, Some(Fallback::Unknown));
        let disabled = resolve(Some("task_specific"));
        assert_eq!((disabled.used, disabled.fallback), (Strategy::LeastLoaded, Some(Fallback::Disabled)));
        assert_eq!(disabled.requested.as_deref(), Some("task_specific"));
    }
}
