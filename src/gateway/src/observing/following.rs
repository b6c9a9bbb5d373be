//! The questions to the servers: what is new in the journal, who lives, what waits.

use std::{collections::BTreeSet, time::Duration};

use insight::TaskIndex;
use protocol::{StepName, TaskId, TaskState, TaskStep, insight::TaskFilter};
use task_queue::{Link, Queue};
use tokio::time::Instant;
use tracing::debug;

use super::{Observatory, ObserveError, audit::correction, servers::in_time};

/// Steps that are asked for at once.
const PAGE: usize = 2_000;
/// Pages beyond those of a full journal that one refresh reads at most: more come while it reads.
const PAGES_SPARE: u64 = 16;
/// Dead letters and parked replies are counted no more often than this.
const DEAD_ASKED_EVERY: Duration = Duration::from_secs(5);
/// A point of a history is made so long after its end: the last steps of it are on their way until then.
const HISTORY_LAG_MS: u64 = 1_000;

/// Whether a step says that the end of a task was asked for of which nothing else is known. It names the pool of who asked: the task may be of another one, and would seem to wait in this one.
fn is_about_nobody(step: &TaskStep, index: &TaskIndex) -> bool {
    step.step == StepName::CancelAsked && step.task_id.as_ref().is_none_or(|task_id| index.get(task_id).is_none())
}

impl Observatory {
    /// Times the store, and reads what is new in its journal.
    pub(super) async fn ask_store(&self) -> Result<(), ObserveError> {
        let began = Instant::now();
        // Not by the journal's answers: how long those take, how much is new decides.
        let pinged = in_time("store", self.0.ports.store.ping()).await;
        let took = began.elapsed();
        let asked = match pinged {
            Ok(()) if self.keeps_steps() => self.follow_journal().await,
            pinged => pinged,
        };
        let mut state = self.state();
        match &asked {
            Ok(()) => state.seen.store.answered(took),
            Err(error) => state.seen.store.failed(error),
        }
        drop(state);
        asked
    }

    async fn follow_journal(&self) -> Result<(), ObserveError> {
        let journal = self.0.ports.store.journal();
        let pages_max = self.0.journal.steps_max / PAGE as u64 + PAGES_SPARE;
        for _ in 0..pages_max {
            let cursor = self.state().cursor.clone();
            let page = in_time("store", journal.steps_after(&cursor, PAGE)).await?;
            let mut state = self.state();
            for step in page.steps.iter().filter(|step| step.pool == self.0.pool) {
                if !is_about_nobody(step, &state.index) {
                    state.index.apply(step);
                }
            }
            state.cursor = page.cursor;
            state.caught_up |= !page.has_more;
            if !page.has_more {
                break;
            }
        }
        Ok(())
    }

    /// Reads the rows and the settings.
    pub(super) async fn ask_table(&self) -> Result<(), ObserveError> {
        let (table, pool, began) = (&*self.0.ports.table, &self.0.pool, Instant::now());
        let rows = in_time("table", table.rows(pool)).await;
        let took = began.elapsed();
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return Err(self.table_failed(error)),
        };
        let settings = match in_time("table", table.current_settings(pool)).await {
            Ok(settings) => settings.unwrap_or_else(|| self.0.initial_settings.clone()),
            Err(error) => return Err(self.table_failed(error)),
        };
        let mut state = self.state();
        state.seen.table.answered(took);
        (state.seen.gpus, state.seen.settings) = (rows, settings);
        Ok(())
    }

    fn table_failed(&self, error: ObserveError) -> ObserveError {
        self.state().seen.table.failed(&error);
        error
    }

    /// Looks at the queues. Where the broker does not answer, their depths are not known.
    pub(super) async fn ask_broker(&self) {
        let blocked = matches!(&*self.0.ports.queue.link().borrow(), Link::Blocked(_));
        let began = Instant::now();
        let ready = self.depth(&Queue::Pool(self.0.pool.clone())).await;
        let took = began.elapsed();
        let is_due = self.state().seen.dead_asked.is_none_or(|at| at.elapsed() >= DEAD_ASKED_EVERY);
        let others =
            if is_due && ready.is_ok() { Some((self.depth(&Queue::Dead).await.ok(), self.depth(&Queue::Parked).await.ok())) } else { None };
        let mut state = self.state();
        let seen = &mut state.seen;
        seen.broker_blocked = blocked;
        match ready {
            Ok(ready) => {
                seen.broker.answered(took);
                seen.ready = Some(ready);
                if let Some((dead, parked)) = others {
                    (seen.dead, seen.parked, seen.dead_asked) = (dead, parked, Some(Instant::now()));
                }
            }
            Err(error) => {
                seen.broker.failed(&error);
                (seen.ready, seen.dead, seen.parked, seen.dead_asked) = (None, None, None, None);
            }
        }
    }

    async fn depth(&self, queue: &Queue) -> Result<u64, ObserveError> {
        let depth = in_time("broker", self.0.ports.queue.depth(queue)).await?;
        Ok(depth.map_or(0, |depth| u64::from(depth.ready)))
    }

    /// Writes the points of histories that are due. Of several observers the first one's count.
    pub(super) async fn note_history(&self) {
        let points = {
            let mut state = self.state();
            if !state.caught_up {
                return;
            }
            let until_ms = self.now_ms().saturating_sub(HISTORY_LAG_MS);
            state.points(&self.0.scaling, until_ms)
        };
        for (span, point) in points {
            if let Err(error) = in_time("store", self.0.ports.store.journal().note_point(span, &point)).await {
                debug!(span = span.name(), %error, "note a point of a history");
                return;
            }
        }
    }

    /// Asks the store about some open tasks of which nothing was heard for long: a step of theirs may have been lost.
    pub(super) async fn check_silent_tasks(&self) {
        let silent = self.state().silent(self.now_ms());
        let looks = silent.into_iter().map(|summary| async move {
            let status = in_time("store", self.0.ports.store.status(&summary.task_id)).await;
            (summary, status)
        });
        let looked = futures::future::join_all(looks).await;
        let mut state = self.state();
        for (summary, status) in looked {
            // Where the store does not answer there is another round.
            let Ok(status) = status else { continue };
            if let Some(step) = correction(&summary, status.as_ref(), self.now_ms()) {
                state.index.apply(&step);
            }
        }
    }

    /// The first `max` open tasks that pass the filter and whose end nobody asked for yet, and how many there are.
    pub(crate) fn to_cancel(&self, filter: &TaskFilter, max: usize) -> (Vec<TaskId>, u64) {
        self.state().not_asked(filter, max, self.now_ms())
    }

    /// The end of these tasks was asked for; those others had ended already, as the store says.
    pub(crate) fn cancel_asked(&self, asked: &[TaskId], ended: &[(TaskId, TaskState)]) {
        let (now_ms, mut state) = (self.now_ms(), self.state());
        state.note_asked(asked, now_ms);
        for (task_id, ended) in ended {
            let step =
                TaskStep { outcome: ended.outcome(), ..TaskStep::new(StepName::Ended, task_id.clone(), self.0.pool.clone(), now_ms) };
            state.index.apply(&step);
        }
    }

    /// All tasks that pass the filter.
    pub(crate) fn passing(&self, filter: &TaskFilter) -> BTreeSet<TaskId> {
        self.state().index.ids(filter, self.now_ms())
    }
}
