//! Every key of the store.
//!
//! What belongs to one task shares a hash tag, so that it lies in one slot of a Redis Cluster and different tasks spread over all slots. The slices of a batch share their batch's.
//!
//! | key | what |
//! | --- | --- |
//! | `<prefix>:{task:<id>}` | the task's record: a hash, its fields are in `prelude.lua`; expires |
//! | `<prefix>:{task:<id>}:reply` | the kept reply's body; expires |
//! | `<prefix>:{task:<batch>}:slice:<from>..<to>` | a slice's record: a hash, with the fields of any task; expires |
//! | `<prefix>:{task:<batch>}:results` | the results of a batch's slices that have ended: a hash of slice → results; expires |
//! | `<prefix>:store:gpus` | the announced GPUs: a hash |
//! | `<prefix>:store:reply_bytes` | what kept replies take: a hash of counts |
//! | `<prefix>:{group:<name>}` | a group: a hash, its fields are in `groups/prelude.lua`; expires |
//! | `<prefix>:{group:<name>}:members`, `:order`, `:ended` | its members: by task, by id, and those that ended by when they did; expire |
//! | `<prefix>:store:{groups}:made`, `:look` | the names of groups: by when they were made, and by when to look whether they are forgotten |
//! | `<prefix>:store:result_bytes` | what kept results of slices take: a hash of counts |
//! | `<prefix>:store:{steps}:told`, `:sizes`, `:state` | the steps of tasks: a stream, how large its entries are, and how many steps there are; expire |
//! | `<prefix>:store:history:<span>` | the points of a history: a hash of Unix ms → JSON; expires |
//! | `<prefix>:store:actions` | what operators did: a list of JSON, the latest first; expires |
//! | `<prefix>:store:probe` | the mark that shows that the server takes writes; expires |

use protocol::{GroupName, HistorySpan, TaskId};

/// Makes the keys under one prefix.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The record of a task or of a slice.
    pub fn record(&self, task_id: &TaskId) -> String {
        match task_id.slice() {
            None => format!("{}:{{task:{task_id}}}", self.prefix),
            Some(slice) => format!("{}:{{task:{}}}:slice:{slice}", self.prefix, task_id.batch()),
        }
    }

    /// What the functions that take every task are given: its record, and of a slice also what they need of its batch.
    pub fn with_batch(&self, task_id: &TaskId) -> Vec<String> {
        let mut keys = vec![self.record(task_id)];
        if task_id.slice().is_some() {
            let batch = task_id.batch();
            keys.extend([self.record(&batch), self.results(&batch)]);
        }
        keys
    }

    pub fn reply(&self, task_id: &TaskId) -> String {
        format!("{}:reply", self.record(task_id))
    }

    /// The results of a batch's slices.
    pub fn results(&self, batch: &TaskId) -> String {
        format!("{}:results", self.record(batch))
    }

    /// The group, its members, those by id, and those that ended.
    pub fn group(&self, group: &GroupName) -> [String; 4] {
        ["", ":members", ":order", ":ended"].map(|part| format!("{}:{{group:{group}}}{part}", self.prefix))
    }

    /// The list of groups, and when to look at each.
    pub fn groups(&self) -> [String; 2] {
        ["made", "look"].map(|part| format!("{}:store:{{groups}}:{part}", self.prefix))
    }

    pub fn gpus(&self) -> String {
        format!("{}:store:gpus", self.prefix)
    }

    pub fn reply_bytes(&self) -> String {
        format!("{}:store:reply_bytes", self.prefix)
    }

    pub fn result_bytes(&self) -> String {
        format!("{}:store:result_bytes", self.prefix)
    }

    /// The steps of tasks, the sizes of their entries, and what is counted of them.
    pub fn steps(&self) -> [String; 3] {
        ["told", "sizes", "state"].map(|part| format!("{}:store:{{steps}}:{part}", self.prefix))
    }

    pub fn history(&self, span: HistorySpan) -> String {
        format!("{}:store:history:{}", self.prefix, span.name())
    }

    pub fn actions(&self) -> String {
        format!("{}:store:actions", self.prefix)
    }

    pub fn probe(&self) -> String {
        format!("{}:store:probe", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use redis_link::hash_slot;

    use super::*;

    #[test]
    fn a_tasks_keys_share_one_hash_tag() {
        let keys = Keys::new("fleet");
        let task_id = TaskId::new("order-17:3").expect("a valid id");
        assert_eq!(keys.record(&task_id), "fleet:{task:order-17:3}");
        assert_eq!(keys.reply(&task_id), "fleet:{task:order-17:3}:reply");
        assert_eq!(hash_slot(&keys.record(&task_id)), hash_slot(&keys.reply(&task_id)));
        assert_eq!(keys.with_batch(&task_id), [keys.record(&task_id)]);
    }

    #[test]
    fn a_slices_keys_share_the_hash_tag_of_their_batch() {
        let keys = Keys::new("fleet");
        let batch = TaskId::new("order-17:3").expect("a valid id");
        let slice = batch.of_slice("16..32".parse().expect("a slice"));
        let expected = ["fleet:{task:order-17:3}:slice:16..32", "fleet:{task:order-17:3}", "fleet:{task:order-17:3}:results"];
        assert_eq!(keys.with_batch(&slice), expected);
        for key in expected {
            assert_eq!(hash_slot(key), hash_slot(&keys.record(&batch)), "{key}");
        }
    }

    #[test]
    fn a_groups_keys_share_one_hash_tag_and_so_do_those_of_the_list_and_of_the_steps() {
        let keys = Keys::new("fleet");
        let group = keys.group(&GroupName::new("nightly:7").expect("a valid name"));
        assert_eq!(group[0], "fleet:{group:nightly:7}");
        assert!(group.iter().all(|key| hash_slot(key) == hash_slot(&group[0])), "{group:?}");
        let [made, look] = keys.groups();
        assert_eq!(hash_slot(&made), hash_slot(&look));
        let steps = keys.steps();
        assert!(steps.iter().all(|key| hash_slot(key) == hash_slot(&steps[0])), "{steps:?}");
    }
}
