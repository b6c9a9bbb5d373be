//! Dead letters, as operators see them: messages that could not be tasks, and tasks that were given up.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ListedSegment;

/// One dead letter. It stays where it is while it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// The id of its task; empty where the message has none.
    pub task_id: String,
    /// The kind that it asks for.
    pub kind: Option<String>,
    /// Its priority.
    pub priority: Option<u8>,
    /// Where its reply was to go.
    pub reply_to: Option<String>,
    /// What was to come back in the reply.
    pub correlation_id: Option<String>,
    /// Why it is here.
    pub reason: Option<String>,
    /// The attempt that it asked for.
    pub attempt: Option<u32>,
    /// What became of the attempts of its task, oldest first.
    pub history: Option<Vec<String>>,
    /// Which of its properties could not be read, and why.
    pub unreadable: Option<String>,
    /// The original bytes of properties that could not be read, in hexadecimal digits.
    pub properties_hex: Option<String>,
    /// The length of its body, in bytes.
    pub body_bytes: u64,
    /// Its body as text, of a frame its JSON; what is not UTF-8 is replaced by U+FFFD here, and by nothing in the letter itself.
    pub body: String,
    /// Of a frame: its segments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<ListedSegment>,
}

/// What became of dead letters that were to be requeued.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Requeued {
    /// How many are tasks in their pools again.
    pub requeued: u64,
    /// Those that stay.
    pub kept: Vec<KeptLetter>,
}

/// A dead letter that cannot be requeued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptLetter {
    /// The id of its task; empty where the message has none.
    pub task_id: String,
    /// Why it stays, and what to do.
    pub why: String,
}
