//! Progress and partial output: what a running attempt says before its reply. Lossy by design; nothing rests on it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{IndexedItem, ItemCounts, Json, Slice, TaskId, Token};

/// The AMQP `type` of a progress message. A reply has no `type`, which is how a consumer tells the two apart.
pub const PROGRESS_TYPE: &str = "progress";

/// A share of the work, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "f64", into = "f64")]
#[schemars(with = "f64", extend("minimum" = 0.0, "maximum" = 1.0))]
pub struct Fraction(f64);

impl Fraction {
    /// The nearest share to any number; 0 for what is no number.
    #[must_use]
    pub const fn clamped(number: f64) -> Self {
        // `max` takes the other side where one is no number.
        Self(number.max(0.0).min(1.0))
    }

    /// The share as a number, 0 to 1.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Fraction {
    type Error = String;

    fn try_from(number: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&number) { Ok(Self(number)) } else { Err(format!("a fraction is 0 to 1, not {number}")) }
    }
}

impl From<Fraction> for f64 {
    fn from(fraction: Fraction) -> Self {
        fraction.0
    }
}

/// How far a running task is, as its executor last said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// The share of the work that is done, 0 to 1.
    pub fraction: Fraction,
    /// What it does now, for people. At most 256 characters are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it was noted, in Unix milliseconds: of the store's clock in a status, of the worker's in a progress message.
    pub at_ms: u64,
}

impl Progress {
    /// The longest message that is kept, in characters.
    pub const MESSAGE_CHARACTERS_MAX: usize = 256;
}

/// A part of the result, before the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Partial {
    /// Its place among the attempt's parts, from 1. A gap is what was dropped because nobody kept up.
    pub number: u64,
    /// What the executor gave. Its shape belongs to the kind; for `predict` it is a piece of text.
    pub value: Json,
}

/// The JSON body of a progress message: what is new since the one before. Only a producer that asked for them gets any.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "gpufleet progress message")]
pub struct ProgressMessage {
    /// The task.
    pub task_id: TaskId,
    /// The attempt that runs, from 1.
    pub attempt: u32,
    /// The token it runs under. Of two attempts the one with the higher token is the later; an earlier one may still speak for a moment.
    pub token: Token,
    /// Its place among the attempt's messages, from 1. A gap is a message that was dropped.
    pub number: u64,
    /// Of a batch that was split: the slice whose attempt it is. Slices run beside each other, each under a token of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<Slice>,
    /// Of a batch: how many of all its items have ended, as far as this attempt's worker knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
    /// Of a batch: the results of items since the message before, in no order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<IndexedItem>,
    /// How far the attempt is, if that changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The parts of the result since the message before, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partials: Vec<Partial>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_is_never_outside_0_to_1() {
        let clamped = [f64::NAN, -1.0, f64::NEG_INFINITY, 0.25, 7.0, f64::INFINITY].map(|number| Fraction::clamped(number).get());
        assert_eq!(clamped, [0.0, 0.0, 0.0, 0.25, 1.0, 1.0]);
        assert!([f64::NAN, -0.1, 1.1].into_iter().all(|number| Fraction::try_from(number).is_err()));
    }
}
