//! The port for the fleet's course, on Redis. The contracts of the functions stand at the heads of `journal/*.lua`.

mod teller;

use std::sync::atomic::Ordering::Relaxed;

use async_trait::async_trait;
use protocol::{HistoryPoint, HistorySpan, OperatorAction, TaskStep};

pub use self::teller::Teller;
use super::{Arguments, RedisStore};
use crate::{
    Journal, StepCursor, StepPage, StoreError,
    journal::{ACTIONS_KEPT_MS, PAGE_MAX, action_of, line_of, point_of, step_of},
};

impl RedisStore {
    /// An item on the points of a history, whose first arguments are the offset of time and how far back it reaches.
    fn on_history(&self, function: &'static str, span: HistorySpan) -> Arguments {
        Arguments::new(function, vec![self.keys.history(span)]).with(self.offset_ms.load(Relaxed)).with(span.length_ms())
    }
}

#[async_trait]
impl Journal for RedisStore {
    fn keeps_steps(&self) -> bool {
        self.options.journal.steps_max > 0
    }

    fn tell(&self, step: TaskStep) {
        if self.keeps_steps() {
            self.teller.tell(line_of(&step.bounded()));
        }
    }

    fn steps_lost(&self) -> u64 {
        self.teller.lost()
    }

    async fn flush(&self) {
        self.teller.flush().await;
    }

    async fn steps_after(&self, cursor: &StepCursor, max: usize) -> Result<StepPage, StoreError> {
        let [steps, _, state] = self.keys.steps();
        let item = Arguments::new("journal/steps", vec![steps, state]).with(self.offset_ms.load(Relaxed));
        let item = item.with(self.options.journal.age_max_ms()).with(&cursor.0).with(max.clamp(1, PAGE_MAX));
        let answer = self.calls.run_beside("read the steps of tasks", item.0).await?;
        let (cursor, more) = (StepCursor(answer.optional(0)?.unwrap_or_default()), answer.optional::<String>(1)?);
        let entries = answer.into_parts_from(2);
        let lines = entries.iter().flat_map(|entry| entry.split(|byte| *byte == b'\n'));
        Ok(StepPage { steps: lines.filter_map(step_of).collect(), cursor, has_more: more.is_some() })
    }

    async fn note_point(&self, span: HistorySpan, point: &HistoryPoint) -> Result<bool, StoreError> {
        let item = self.on_history("journal/note_point", span).with(span.points()).with(point.at_ms).with_bytes(&line_of(point));
        let answer = self.calls.run("note a point of the history", item.0).await?;
        match answer.word() {
            "noted" => Ok(true),
            "known" | "not_of_now" => Ok(false),
            _ => Err(answer.garbled()),
        }
    }

    async fn points(&self, span: HistorySpan, from_ms: u64) -> Result<Vec<HistoryPoint>, StoreError> {
        let item = self.on_history("journal/points", span).with(from_ms);
        let answer = self.calls.run_beside("read the history", item.0).await?;
        let mut points: Vec<HistoryPoint> = answer.into_parts_from(0).iter().filter_map(|line| point_of(line)).collect();
        points.sort_by_key(|point| point.at_ms);
        Ok(points)
    }

    async fn note_action(&self, action: &OperatorAction) -> Result<(), StoreError> {
        let item = Arguments::new("journal/note_action", vec![self.keys.actions()]);
        let item = item.with(self.options.journal.actions_max).with(ACTIONS_KEPT_MS).with_bytes(&line_of(&action.clone().bounded()));
        self.calls.run("note what an operator did", item.0).await.map(drop)
    }

    async fn actions(&self, max: usize) -> Result<Vec<OperatorAction>, StoreError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let range = redis::cmd("LRANGE").arg(self.keys.actions()).arg(0).arg(max - 1).to_owned();
        let lines: Vec<Vec<u8>> = self.calls.query_large("read what operators did", &range).await?;
        Ok(lines.iter().filter_map(|line| action_of(line)).collect())
    }
}
