//! What expires when, in order.

use std::collections::BTreeSet;

use protocol::TaskId;

/// At most one deadline for each task, ordered by time. Every operation is logarithmic.
#[derive(Debug, Default)]
pub struct Deadlines {
    by_time: BTreeSet<(u64, TaskId)>,
}

impl Deadlines {
    /// Sets the task's deadline, replacing `before`, the one it had.
    pub fn set(&mut self, task_id: &TaskId, before: Option<u64>, deadline_ms: u64) {
        self.clear(task_id, before);
        self.by_time.insert((deadline_ms, task_id.clone()));
    }

    /// Takes the task's deadline away, if it had one.
    pub fn clear(&mut self, task_id: &TaskId, deadline_ms: Option<u64>) {
        if let Some(deadline_ms) = deadline_ms {
            self.by_time.remove(&(deadline_ms, task_id.clone()));
        }
    }

    /// Takes out the task whose deadline passed first, if any has passed at `now_ms`.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<TaskId> {
        let (deadline_ms, _) = self.by_time.first()?;
        if *deadline_ms > now_ms {
            return None;
        }
        self.by_time.pop_first().map(|(_, task_id)| task_id)
    }
}
