//! The results of a batch's items, read in pieces.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ItemCounts, ItemResult, Json, TaskId, TaskState};

/// Results of neighbouring items of a batch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "gpufleet results of items")]
pub struct ItemResults {
    /// The batch.
    pub task_id: TaskId,
    /// Where it is.
    pub state: TaskState,
    /// How many items it has, and how many of them have ended. Absent while nobody has said so: the task waits, and may turn out to be no batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<ItemCounts>,
    /// The item of the first result, counted from 0: the one that was asked for.
    pub from: u32,
    /// How the items came out from that one on, in order and without a gap, each to the last byte. Of a batch that runs: those that are there; what lies behind an item that
    /// has not ended is left for later. A batch that was not split has none before it has ended.
    #[schemars(with = "Vec<ItemResult>")]
    pub results: Json,
    /// The item to go on with. Absent where nothing follows. It is that of `from` where there is nothing new yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_bytes_on_their_way() {
        let text = r#"{"task_id":"b","state":"running","from":1,"results":[{"result":{"a": 1.00}}],"next":2}"#;
        let read: ItemResults = serde_json::from_str(text).expect("results");
        assert_eq!(read.results.elements().expect("a list")[0].as_str(), r#"{"result":{"a": 1.00}}"#);
        assert_eq!(serde_json::to_string(&read).expect("JSON"), text);
    }
}
