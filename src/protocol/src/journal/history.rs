//! Numbers over time.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Kind;

/// How far back a history reaches, and how finely.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum HistorySpan {
    /// 15 minutes, a point every 5 seconds.
    #[default]
    #[serde(rename = "15m")]
    Minutes15,
    /// 6 hours, a point every 2 minutes.
    #[serde(rename = "6h")]
    Hours6,
    /// 48 hours, a point every 15 minutes.
    #[serde(rename = "48h")]
    Hours48,
}

impl HistorySpan {
    /// All of them, the finest first.
    pub const ALL: [Self; 3] = [Self::Minutes15, Self::Hours6, Self::Hours48];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Minutes15 => "15m",
            Self::Hours6 => "6h",
            Self::Hours48 => "48h",
        }
    }

    /// The time between two points, in ms. Points lie at its multiples.
    #[must_use]
    pub const fn step_ms(self) -> u64 {
        match self {
            Self::Minutes15 => 5_000,
            Self::Hours6 => 120_000,
            Self::Hours48 => 900_000,
        }
    }

    /// How far back it reaches, in ms.
    #[must_use]
    pub const fn length_ms(self) -> u64 {
        self.step_ms() * self.points()
    }

    /// How many points are kept.
    #[must_use]
    pub const fn points(self) -> u64 {
        match self {
            Self::Minutes15 | Self::Hours6 => 180,
            Self::Hours48 => 192,
        }
    }
}

/// What was measured over one step of a history. Counts are of what happened in it, the rest is as it was at its end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HistoryPoint {
    /// Its end, in Unix ms: a multiple of the span's step.
    pub at_ms: u64,
    /// Tasks that arrived: published by a producer of ours, or first seen by a worker.
    pub arrived: u64,
    /// Attempts that began.
    pub began: u64,
    /// Tasks that ended, by outcome.
    pub succeeded: u64,
    /// Ended badly.
    pub failed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Their deadline passed.
    pub expired: u64,
    /// Attempts that failed and were followed by another one.
    pub retried: u64,
    /// Messages that were ready in the pool's queue.
    pub waiting: u64,
    /// Tasks that ran.
    pub running: u64,
    /// Dead letters.
    pub dead: u64,
    /// Age of the oldest waiting task, in ms; 0 where none waited.
    pub oldest_waiting_ms: u64,
    /// Slots of living GPUs.
    pub slots: u64,
    /// Of them held.
    pub held: u64,
    /// Living GPUs.
    pub gpus: u64,
    /// How many workers would hold the objective of the wait.
    pub desired_workers: u64,
    /// The verdict, as [`Holdup`](crate::insight::Holdup)'s name.
    pub verdict: String,
    /// By kind; at most [`HistoryPoint::KINDS_MAX`], those with the most ends.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kinds: BTreeMap<Kind, KindPoint>,
}

impl HistoryPoint {
    /// Of how many kinds a point tells.
    pub const KINDS_MAX: usize = 16;
}

/// What was measured of one kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KindPoint {
    /// Attempts that began.
    pub began: u64,
    /// Tasks that ended.
    pub ended: u64,
    /// Of them failed.
    pub failed: u64,
    /// Wait from publish to begin of those that began: median, in ms.
    pub wait_p50_ms: f64,
    /// The 95th percentile.
    pub wait_p95_ms: f64,
    /// The 99th percentile.
    pub wait_p99_ms: f64,
    /// Run time of the attempts that ended: median, in ms.
    pub run_p50_ms: f64,
    /// The 95th percentile.
    pub run_p95_ms: f64,
    /// The 99th percentile.
    pub run_p99_ms: f64,
    /// GPU time (slots times run time) that it used, in seconds.
    pub slot_seconds: f64,
}
