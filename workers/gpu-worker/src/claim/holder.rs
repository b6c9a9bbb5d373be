//! Another worker, or another delivery here, began an attempt of this task, and no end of it is known: does it still have it?
//!
//! A worker that lives names its unsettled attempts in its row. One that lives and does not name the task has let go of it without being able to say so. A row that is
//! missing proves a crash only while the table is steady, and only if it is missing still half a lease later.

use std::time::Duration;

use gpu_table::Seen;
use protocol::{GpuRow, TaskId};
use task_store::{Holder, Verdict};

use crate::{context::Context, delivery::InHand, ports::Abandoned, steps};

/// What became of the attempt of a former holder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Former {
    /// Its holder lives and has it.
    GoesOn,
    /// It is over: here is what the store should know.
    Over(Verdict),
}

/// How long a look at a holder may take at least, in leases: one given back before its end would begin anew with every delivery, for ever.
const LOOK_LEASES: u32 = 4;

/// A look at a holder may take leases: a worker that drains, or a delivery that is in hand for long, does not wait for that (`None`).
pub(crate) async fn patiently(
    context: &Context,
    in_hand: &InHand,
    looking: impl Future<Output = Result<Former, Abandoned>>,
) -> Result<Option<Former>, Abandoned> {
    let options = &context.me.options;
    let left = options.unacked.saturating_sub(in_hand.received.elapsed()).max(options.lease * LOOK_LEASES);
    tokio::select! {
        biased;
        former = looking => former.map(Some),
        () = context.ports.stop.gently.cancelled() => Ok(None),
        () = tokio::time::sleep(left) => Ok(None),
    }
}

/// What one look at the table says of a holder.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// It lives, and names the task.
    Runs,
    /// It lives, and does not name the task. Its row may be older than the attempt.
    Idle,
    /// Another worker has taken its place on its GPU, which has only one.
    Replaced,
    /// The table is steady, and has no row of it.
    Missing,
    /// Not known before this has passed.
    NotSure(Duration),
}

/// Looks until it is certain. A crash is counted.
pub(crate) async fn look_into(context: &Context, task_id: &TaskId, former: &Holder) -> Result<Former, Abandoned> {
    let over = |gone| Ok(Former::Over(Verdict { token: former.token, gone }));
    if former.incarnation == context.me.incarnation {
        return if context.begun.has(task_id, former.delivery) { Ok(Former::GoesOn) } else { over(false) };
    }
    let lease = context.me.options.lease;
    let (mut was_idle, mut was_missing) = (false, false);
    loop {
        let seen = context.ports.seen(&context.me.options.pool, &former.gpu_id).await?;
        let pause = match judge(&seen, task_id, former, lease) {
            Look::Runs => return Ok(Former::GoesOn),
            Look::Idle if was_idle => return over(false),
            // By then it has written its row anew.
            Look::Idle => {
                was_idle = true;
                lease
            }
            Look::Replaced => break,
            Look::Missing if was_missing => break,
            // A table that fell back a little has old rows, which lapse before their workers' next heartbeat: that comes within a third of a lease.
            Look::Missing => {
                was_missing = true;
                lease / 2
            }
            Look::NotSure(pause) => pause,
        };
        context.ports.pause(pause).await?;
    }
    context.metrics.crashes.inc();
    tracing::warn!(%task_id, crashed_on = %former.gpu_id, "its worker crashed; it runs alone from now on");
    steps::crashed_there(context, task_id, &former.gpu_id);
    over(true)
}

fn judge(seen: &Seen, task_id: &TaskId, former: &Holder, lease: Duration) -> Look {
    match &seen.row {
        Some(row) if row.incarnation != former.incarnation => Look::Replaced,
        Some(row) if row.running.contains(task_id) || row.running.len() >= GpuRow::RUNNING_MAX => Look::Runs,
        Some(_) => Look::Idle,
        None if seen.steady >= lease => Look::Missing,
        None => Look::NotSure(lease - seen.steady),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use protocol::{DeliveryId, GpuDescription, GpuSample, Health, Incarnation, PoolName, Token, gpu::Hardware, task::ComputeCapability};

    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    fn row(incarnation: &str, running: &[&str]) -> GpuRow {
        GpuRow {
            gpu: GpuDescription {
                gpu_id: "gpu-0".parse().unwrap(),
                name: String::new(),
                memory_total_mb: 1,
                compute_capability: ComputeCapability { major: 9, minor: 0 },
                hardware: Hardware::default(),
            },
            sample: GpuSample::default(),
            pool: PoolName::default(),
            incarnation: Incarnation::new(incarnation).unwrap(),
            host: String::new(),
            slots: 1,
            health: Health::Healthy,
            health_reason: String::new(),
            consuming: true,
            stopping: false,
            kinds: Vec::new(),
            models: Vec::new(),
            model_state: Default::default(),
            data: Default::default(),
            servers: Default::default(),
            emptied: false,
            foreign_utilization_percent: 0.0,
            waiting: 0,
            running: running.iter().map(|task| task.parse().unwrap()).collect(),
            item_ms: BTreeMap::new(),
            kinds_down: Default::default(),
            run_ms: Default::default(),
        }
    }

    fn look(row: Option<GpuRow>, steady: Duration) -> Look {
        let former =
            Holder { token: Token(7), gpu_id: "gpu-0".parse().unwrap(), incarnation: "former".parse().unwrap(), delivery: DeliveryId(1) };
        judge(&Seen { row, steady }, &"t".parse().unwrap(), &former, LEASE)
    }

    #[test]
    fn a_row_tells_whether_its_worker_has_the_task_and_a_missing_one_only_while_the_table_is_steady() {
        assert_eq!(look(Some(row("former", &["s", "t"])), LEASE), Look::Runs);
        assert_eq!(look(Some(row("former", &["s"])), LEASE), Look::Idle);
        assert_eq!(look(Some(row("later", &["t"])), LEASE), Look::Replaced, "its successor's run is not its own");
        assert_eq!(look(None, LEASE), Look::Missing);
        assert_eq!(look(None, Duration::from_secs(4)), Look::NotSure(Duration::from_secs(6)));
        let many: Vec<String> = (0..GpuRow::RUNNING_MAX).map(|n| format!("n{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(look(Some(row("former", &many)), LEASE), Look::Runs, "it may run more than it names");
    }
}
