//! What is known of the fleet, and what is made of it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use insight::{Activity, IndexBounds, Judged, Observed, Planner, Recorder, TaskIndex};
use protocol::{
    HistoryPoint, HistorySpan, PoolName, TaskId, TaskStatus,
    claim::Settings,
    config::{JournalSection, ScalingSection},
    gpu::GpuView,
    insight::{Overview, TaskFilter, Why},
};
use task_store::StepCursor;
use tokio::time::Instant;

use super::{audit::Audit, servers::Server};

/// What rates are made of.
const MINUTE_MS: u64 = 60_000;
/// What verdicts, plans and forecasts are made of.
const LATELY_MS: u64 = 300_000;
/// What is said of kinds.
const QUARTER_MS: u64 = 900_000;
/// For so long a cancel that was asked for here is remembered: the journal may not have it yet.
const ASKED_FOR_MS: u64 = 60_000;

/// How a server answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ServerSeen {
    /// Whether it answered the last question.
    pub(crate) is_up: bool,
    /// How long it takes, smoothed, in ms.
    pub(crate) ms: Option<f64>,
}

/// What was made out of all that is known at one moment.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(crate) overview: Overview,
    /// In how many ms a task would begin that comes now, by priority.
    pub(crate) expected_wait_ms: [Option<f64>; 10],
    pub(crate) broker: ServerSeen,
    pub(crate) store: ServerSeen,
    pub(crate) table: ServerSeen,
    /// Whether the index has the whole journal.
    pub(crate) caught_up: bool,
}

/// What the servers last said.
pub(super) struct Seen {
    pub(super) gpus: Vec<GpuView>,
    pub(super) settings: Settings,
    /// Messages ready in the pool's queue.
    pub(super) ready: Option<u64>,
    /// Dead letters.
    pub(super) dead: Option<u64>,
    /// Replies that nobody took.
    pub(super) parked: Option<u64>,
    /// When the two were last asked for.
    pub(super) dead_asked: Option<Instant>,
    pub(super) broker: Server,
    pub(super) store: Server,
    pub(super) table: Server,
    pub(super) broker_blocked: bool,
}

impl Seen {
    /// With what happened in a while.
    fn observed<'a>(&'a self, activity: &'a Activity, scaling: &'a ScalingSection, now_ms: u64) -> Observed<'a> {
        Observed {
            now_ms,
            activity,
            gpus: &self.gpus,
            settings: &self.settings,
            scaling,
            ready: self.ready,
            broker_ms: self.broker.ms(),
            store_ms: self.store.ms(),
            table_ms: self.table.ms(),
            broker_blocked: self.broker_blocked,
        }
    }

    /// Which servers do not do their part, in words.
    fn away(&self) -> Vec<String> {
        let blocked = self.broker_blocked.then(|| "broker: it blocks publishers, since it is low on memory or disk".to_owned());
        [self.broker.away().or(blocked), self.store.away(), self.table.away()].into_iter().flatten().collect()
    }
}

/// All that an observatory knows.
pub(super) struct State {
    pub(super) index: TaskIndex,
    pub(super) cursor: StepCursor,
    /// Whether all of the journal was read once.
    pub(super) caught_up: bool,
    planner: Planner,
    recorder: Recorder,
    pub(super) seen: Seen,
    pub(super) judgement: Option<Arc<Judgement>>,
    /// What happened in the last minutes before that.
    lately: Option<Activity>,
    refreshed: Option<Instant>,
    /// When somebody last looked.
    pub(super) looked: Option<Instant>,
    pub(super) audit: Audit,
    /// Tasks whose end was asked for here a moment ago, and when.
    asked: BTreeMap<TaskId, u64>,
}

impl State {
    pub(super) fn new(journal: &JournalSection, settings: Settings) -> Self {
        let bounds = IndexBounds { tasks_max: journal.tasks_max as usize, age_max_ms: journal.age_max_ms };
        Self {
            index: TaskIndex::new(bounds),
            cursor: StepCursor::default(),
            caught_up: false,
            planner: Planner::new(),
            recorder: Recorder::new(),
            seen: Seen {
                gpus: Vec::new(),
                settings,
                ready: None,
                dead: None,
                parked: None,
                dead_asked: None,
                broker: Server::new("broker"),
                store: Server::new("store"),
                table: Server::new("table"),
                broker_blocked: false,
            },
            judgement: None,
            lately: None,
            refreshed: None,
            looked: None,
            audit: Audit::default(),
            asked: BTreeMap::new(),
        }
    }

    pub(super) fn is_fresh(&self, age: Duration) -> bool {
        self.refreshed.is_some_and(|at| at.elapsed() < age)
    }

    pub(super) fn is_looked_at(&self, within: Duration) -> bool {
        self.looked.is_some_and(|at| at.elapsed() < within)
    }

    /// Judges anew.
    pub(super) fn judge(&mut self, pool: &PoolName, scaling: &ScalingSection, now_ms: u64) {
        self.index.forget_old(now_ms);
        let Self { index, planner, seen, caught_up, .. } = self;
        // In one look at all that waits: there may be a hundred thousand tasks, and whoever lists waits meanwhile.
        let [minute, lately, quarter] = index.activities(now_ms, [MINUTE_MS, LATELY_MS, QUARTER_MS]);
        let observed = seen.observed(&lately, scaling, now_ms);
        let expected_waits_ms = insight::expected_waits_ms(&observed);
        let judged = Judged {
            verdict: insight::verdict(&observed),
            scaling: planner.plan(pool, &observed),
            expected_waits_ms,
            dead: seen.dead,
            parked_replies: seen.parked,
            servers_away: seen.away(),
        };
        let shown = Overview { kinds: insight::kind_activities(&quarter), ..insight::overview(pool, &observed, judged) };
        let judgement = Judgement {
            overview: with_rates_of(shown, &minute),
            expected_wait_ms: expected_waits_ms,
            broker: seen.broker.seen(),
            store: seen.store.seen(),
            table: seen.table.seen(),
            caught_up: *caught_up,
        };
        self.judgement = Some(Arc::new(judgement));
        self.lately = Some(lately);
        self.refreshed = Some(Instant::now());
    }

    pub(super) fn why(&self, scaling: &ScalingSection, now_ms: u64, task_id: &TaskId, status: Option<&TaskStatus>) -> Option<Why> {
        // Made out a moment ago: anybody may ask, and as often as they like.
        let of_now;
        let lately = match &self.lately {
            Some(lately) => lately,
            None => {
                of_now = self.index.activity(now_ms, LATELY_MS);
                &of_now
            }
        };
        insight::why(&self.seen.observed(lately, scaling, now_ms), &self.index, task_id, status)
    }

    /// The points of histories that are due.
    pub(super) fn points(&mut self, scaling: &ScalingSection, now_ms: u64) -> Vec<(HistorySpan, HistoryPoint)> {
        let Self { index, recorder, seen, judgement: Some(judgement), .. } = self else { return Vec::new() };
        let Overview { verdict, scaling: plan, .. } = &judgement.overview;
        let point = |(span, at_ms): (HistorySpan, u64)| {
            let activity = index.activity(at_ms, span.step_ms());
            let observed = seen.observed(&activity, scaling, at_ms);
            (span, insight::point(at_ms, &activity, &observed, plan, verdict, seen.dead.unwrap_or(0)))
        };
        recorder.due(now_ms).into_iter().map(point).collect()
    }

    /// The first `max` tasks that pass the filter and whose end nobody asked for yet, and how many pass it in all.
    pub(super) fn not_asked(&self, filter: &TaskFilter, max: usize, now_ms: u64) -> (Vec<TaskId>, u64) {
        self.index.to_cancel(filter, max, now_ms, |task_id| self.asked.contains_key(task_id))
    }

    /// The end of these tasks was asked for.
    pub(super) fn note_asked(&mut self, tasks: &[TaskId], now_ms: u64) {
        self.asked.retain(|_, at_ms| *at_ms + ASKED_FOR_MS > now_ms);
        self.asked.extend(tasks.iter().map(|task_id| (task_id.clone(), now_ms)));
    }
}

/// The same with the rates of the last minute.
fn with_rates_of(overview: Overview, minute: &Activity) -> Overview {
    let per_s = |count: u64| count as f64 * 1_000.0 / MINUTE_MS as f64;
    let ended = minute.succeeded + minute.failed + minute.cancelled + minute.expired;
    Overview { arrived_per_s: per_s(minute.arrived), ended_per_s: per_s(ended), retried_per_s: per_s(minute.retried), ..overview }
}
