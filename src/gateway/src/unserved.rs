//! Tasks that no living GPU of the pool can run: told to who submits one, and listed.
//!
//! The table is asked at most once a second, and only while tasks are submitted. Where it does not answer, nothing is said and nobody is refused.

use std::{sync::PoisonError, time::Duration};

use axum::{Json, extract::State};
use gpu_table::{Lack, Living, Wanted};
use protocol::{GpuOptions, Kind, Needs, PoolName, Unserved, config::WhenUnserved};
use schemars::JsonSchema;
use serde::Serialize;
use task_queue::BodyShare;
use tokio::time::Instant;

use crate::{Gateway, Problem, problem::ProblemKind};

/// What fits is judged by all of a GPU's memory: what share of it tasks may use is in the fleet's settings, and its workers go by that.
const ALL_MEMORY: f64 = 1.0;
/// Between two looks of a prediction that may be one for nobody. The view of the table is as old as that at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The tasks that no living GPU of a pool can run.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct UnservedList {
    /// The pool.
    pool: PoolName,
    /// What such tasks ask for, and when workers found them, sorted; at most 100. It lapses three minutes after the last one was found.
    unserved: Vec<Unserved>,
}

/// `GET /api/v1/unserved`.
pub(crate) async fn list(State(gateway): State<Gateway>) -> Result<Json<UnservedList>, Problem> {
    let pool = gateway.options.pool.clone();
    let unserved = gateway.ports.table.unserved(&pool).await.map_err(|error| gateway.table_failed(&error))?;
    Ok(Json(UnservedList { pool, unserved }))
}

/// How sure it is that no living GPU can run a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Certainty {
    /// The table has heard of workers for a lease: none lives that it does not know.
    Sure,
    /// The table has known of no GPU at all for a lease, in which this gateway has looked at least twice.
    NobodyLives,
    /// The table was emptied a moment ago and has not heard of all workers since, or the first of them are about to start.
    NotSure,
}

/// A prediction that a living GPU may make.
#[derive(Debug)]
pub(crate) struct Served {
    /// For how long that was not sure.
    pub(crate) waited: Duration,
    /// Its body's share of the memory; `None` once it was waited.
    pub(crate) share: Option<BodyShare>,
}

/// Since when every look at the pool has found no GPU. The time before the first of them says nothing: the table may have been emptied just then.
#[derive(Debug, Default)]
pub(crate) struct Emptiness(Option<Instant>);

impl Emptiness {
    /// Notes what a look found; for how long every look has found no GPU.
    fn seen(&mut self, is_empty: bool) -> Duration {
        if !is_empty {
            self.0 = None;
            return Duration::ZERO;
        }
        self.0.get_or_insert_with(Instant::now).elapsed()
    }
}

impl Gateway {
    /// The warnings for a task that is about to be submitted: no living GPU can run it, or its kind is down wherever it could; or its refusal, where the configuration says so.
    pub(crate) async fn warnings(&self, kind: &Kind, needs: &Needs, gpu_options: &GpuOptions) -> Result<Vec<String>, Problem> {
        let wanted = wanted(kind.clone(), needs.clone(), gpu_options);
        let Some(living) = self.living.living().await else { return Ok(Vec::new()) };
        // Where a GPU could run it and its kind is down there, it is waited for: nobody is refused.
        let Some((lack, certainty)) = self.lack_of(&living, &wanted) else {
            return Ok(living.down(&wanted, ALL_MEMORY).into_iter().collect());
        };
        if certainty == Certainty::Sure && self.options.unserved == WhenUnserved::Refuse {
            let detail = format!("{lack} (gateway.unserved is refuse)");
            return Err(Problem::new(ProblemKind::Unserved, detail).field(lack.field));
        }
        Ok(vec![lack.to_string()])
    }

    /// Refuses a prediction that no living GPU can make: its caller would wait for nothing. Where that is not sure, it is looked at again until it is, for about a lease, and for half of the
    /// prediction's time at most: a fleet that has just started would let its first caller wait to the end.
    ///
    /// Whoever has to wait gives the body's share back: it is parsed by now, and others may come with theirs.
    pub(crate) async fn must_be_served(&self, kind: &Kind, gpu_options: &GpuOptions, share: BodyShare) -> Result<Served, Problem> {
        let wanted = wanted(kind.clone(), Needs::default(), gpu_options);
        let began = Instant::now();
        let until = began + (self.options.lease + LOOK_EVERY * 4).min(self.options.predict_timeout / 2);
        let mut served = Served { waited: Duration::ZERO, share: Some(share) };
        loop {
            match self.lack(&wanted).await {
                Some((lack, Certainty::Sure | Certainty::NobodyLives)) => {
                    let detail = format!("{lack}; a worker serves {kind} once it has a model (predict.model)");
                    return Err(Problem::new(ProblemKind::NoGpu, detail).retry_after(self.unserved.refused()));
                }
                Some((_, Certainty::NotSure)) if Instant::now() < until => {
                    served.share = None;
                    tokio::time::sleep(LOOK_EVERY.min(until.saturating_duration_since(Instant::now()))).await;
                    served.waited = began.elapsed();
                }
                Some((_, Certainty::NotSure)) | None => {
                    self.unserved.accepted();
                    return Ok(served);
                }
            }
        }
    }

    async fn lack(&self, wanted: &Wanted) -> Option<(Lack, Certainty)> {
        let living = self.living.living().await?;
        self.lack_of(&living, wanted)
    }

    fn lack_of(&self, living: &Living, wanted: &Wanted) -> Option<(Lack, Certainty)> {
        let lease = self.options.lease;
        let nobody_for = self.emptiness.lock().unwrap_or_else(PoisonError::into_inner).seen(living.is_empty());
        let lack = living.lack(wanted, ALL_MEMORY)?;
        if living.steady() >= lease {
            return Some((lack, Certainty::Sure));
        }
        Some((lack, if nobody_for >= lease { Certainty::NobodyLives } else { Certainty::NotSure }))
    }
}

fn wanted(kind: Kind, needs: Needs, gpu_options: &GpuOptions) -> Wanted {
    Wanted { kind, needs, specific_gpu_id: gpu_options.specific_gpu_id.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pool_is_without_gpus_for_as_long_as_looks_have_found_none() {
        let (mut emptiness, hour) = (Emptiness::default(), Duration::from_secs(3_600));
        tokio::time::advance(hour).await;
        assert_eq!(emptiness.seen(true), Duration::ZERO, "nobody looked before");
        tokio::time::advance(hour).await;
        assert_eq!(emptiness.seen(true), hour);
        assert_eq!(emptiness.seen(false), Duration::ZERO);
        tokio::time::advance(hour).await;
        assert_eq!(emptiness.seen(true), Duration::ZERO, "it may have been emptied a moment ago");
    }
}
