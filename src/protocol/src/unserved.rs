//! Tasks that no living GPU of their pool can run, as workers have found them lately.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Kind;

/// What tasks asked for lately and no living GPU of the pool has. Soft state of the table: it lapses a few minutes after the last task was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unserved {
    /// What they ask for: `kind ecko`, or `kind echo, 90000 MB of memory`.
    pub wanted: String,
    /// Their kind.
    pub kind: Kind,
    /// Why no GPU fits, for people.
    pub reason: String,
    /// The kinds that the living GPUs of the pool serve, sorted; at most [`Unserved::SERVED_MAX`] of them.
    pub served: Vec<Kind>,
    /// When such a task was first told of, in Unix milliseconds, by the table's clock.
    pub first_ms: u64,
    /// When one was last told of, in Unix milliseconds, by the table's clock.
    pub last_ms: u64,
    /// How often workers have found such tasks. While it waits, a task is found once a round: after 5 s at first, once a minute later.
    pub sightings: u64,
}

impl Unserved {
    /// How many kinds that are served are named.
    pub const SERVED_MAX: usize = 32;
}
