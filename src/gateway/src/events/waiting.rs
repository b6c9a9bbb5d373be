//! One client that waits for many tasks.
//!
//! The store is asked about those that have not ended, in rounds: some at once, so that their questions travel together, then a pause as long as the answers were in vain. Between
//! two rounds is a pause that grows while nothing ends. So a request costs the store a bounded rate of questions, whatever it waits for, and what has ended is not asked about again.

use std::{collections::VecDeque, time::Duration};

use futures::future::join_all;
use producer::{Pace, Patience};
use protocol::{Outcome, Reply, TaskId, TaskStatus};
use task_store::StoreError;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tracing::debug;

use super::{
    Event, READY_BYTES_MAX, Source,
    wait::{Tally, TimeOver},
};
use crate::{Gateway, Problem, problem::ProblemKind};

/// The pause between two rounds: after one in which a task ended, and when none has for long.
const PAUSE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];
/// The pause for each question that was asked in vain: at most 2,000 of them a second.
const PAUSE_EACH: Duration = Duration::from_micros(500);
/// Most questions at once.
const AT_ONCE_MAX: usize = 64;
/// How many of them are asked first.
const AT_ONCE: usize = 16;

/// A task that is waited for.
struct Open {
    task_id: TaskId,
    /// With its reply, once it has ended.
    patience: Patience,
}

/// The replies of many tasks, as they come.
pub(super) struct Waiting {
    gateway: Gateway,
    /// Those that have not ended, in the order in which they are asked about.
    open: VecDeque<Open>,
    /// How many of them are still to be asked about in this round.
    left_in_round: usize,
    /// Whether one of them ended in this round.
    ended_in_round: bool,
    at_once: usize,
    pace: Pace,
    look_at: Instant,
    until: Instant,
    ready: VecDeque<Event>,
    tally: Tally,
    over: bool,
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Waiting {
    pub(super) fn new(
        gateway: Gateway,
        task_ids: Vec<TaskId>,
        limit: Duration,
        permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) -> Self {
        let ([shortest, longest], now) = (PAUSE, Instant::now());
        let open: VecDeque<Open> = task_ids.into_iter().map(|task_id| Open { task_id, patience: Patience::default() }).collect();
        let (ended_in_round, ready, tally, over) = Default::default();
        Self {
            gateway,
            left_in_round: open.len(),
            open,
            ended_in_round,
            at_once: AT_ONCE,
            pace: Pace::new(shortest, longest),
            look_at: now,
            until: now + limit,
            ready,
            tally,
            over,
            _permits: permits,
        }
    }

    /// Asks about the next ones of this round, and says when to ask again.
    async fn look(&mut self) {
        let count = self.at_once.min(self.left_in_round);
        let asked: Vec<Open> = self.open.drain(..count).collect();
        let answers = join_all(asked.iter().map(|open| status(&self.gateway, &open.task_id))).await;
        let before = self.open.len();
        for (open, answer) in asked.into_iter().zip(answers) {
            self.take(open, answer);
        }
        let in_vain = self.open.len() - before;
        self.ended_in_round |= in_vain < count;
        self.left_in_round -= count;
        let pause = if self.left_in_round > 0 { PAUSE_EACH * u32::try_from(in_vain).unwrap_or(u32::MAX) } else { self.end_round() };
        self.look_at = Instant::now() + pause;
        let bytes: usize = self.ready.iter().map(|event| event.data.len()).sum();
        // Where the replies of one go are larger together, fewer are asked for at once, down to one.
        self.at_once = if bytes > READY_BYTES_MAX { (self.at_once / 2).max(1) } else { (self.at_once * 2).min(AT_ONCE_MAX) };
    }

    /// The pause before the next round.
    fn end_round(&mut self) -> Duration {
        self.left_in_round = self.open.len();
        if std::mem::take(&mut self.ended_in_round) {
            self.pace.quicken();
        }
        self.pace.pause()
    }

    fn take(&mut self, mut open: Open, answer: Result<Option<TaskStatus>, StoreError>) {
        let status = match answer {
            Ok(Some(status)) => status,
            Ok(None) => {
                self.tally.unknown();
                return self.ready.push_back(unknown(&open.task_id));
            }
            // While the store does not answer, the stream goes on.
            Err(error) => {
                debug!(task_id = %open.task_id, %error, "wait for a task");
                return self.open.push_back(open);
            }
        };
        let Some(outcome) = status.state.outcome() else {
            open.patience.renew();
            return self.open.push_back(open);
        };
        if let Some(reply) = &status.reply {
            self.tally.replied(reply.outcome);
            return self.ready.push_back(Event::new("reply", reply));
        }
        if !open.patience.is_over() {
            return self.open.push_back(open);
        }
        if outcome == Outcome::Cancelled {
            // Before any worker had it: nobody makes a reply.
            self.tally.replied(outcome);
            return self.ready.push_back(Event::new("reply", &Reply::without_body(status, outcome)));
        }
        self.tally.not_kept();
        self.ready.push_back(not_kept(&open.task_id, outcome));
    }

    /// The last event, if this is the end.
    fn last(&self) -> Option<Event> {
        if self.open.is_empty() {
            return Some(Event::new("end", &self.tally));
        }
        let over = TimeOver { left: self.open.len() as u64, ended: self.tally };
        (self.until <= Instant::now()).then(|| Event::new("timeout", &over))
    }
}

impl Source for Waiting {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            if let Some(last) = self.last() {
                self.over = true;
                return Some(last);
            }
            tokio::select! {
                biased;
                // The client asks another gateway for those that are left.
                () = self.gateway.closing.cancelled() => return None,
                () = sleep_until(self.look_at.min(self.until)) => {}
            }
            if self.look_at <= Instant::now() {
                self.look().await;
            }
        }
    }
}

/// Asks the store, in turn with all who wait here.
async fn status(gateway: &Gateway, task_id: &TaskId) -> Result<Option<TaskStatus>, StoreError> {
    // Nobody closes it.
    let _turn = gateway.waits.looks.acquire().await;
    gateway.metrics.wait_looks_total.inc();
    gateway.ports.producer.status(task_id).await
}

fn unknown(task_id: &TaskId) -> Event {
    let detail = format!("the fleet never heard of task {task_id}, or has forgotten it");
    Event::new("problem", &Problem::new(ProblemKind::NotFound, detail).task(task_id).into_document())
}

fn not_kept(task_id: &TaskId, outcome: Outcome) -> Event {
    let detail = format!("task {task_id} {}, and its reply is no longer kept; only its outcome is known", outcome.name());
    let problem = Problem::new(ProblemKind::ReplyNotKept, detail).task(task_id).code("reply_not_kept");
    Event::new("problem", &problem.into_document())
}
