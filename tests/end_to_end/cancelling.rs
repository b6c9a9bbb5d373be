//! Cancelling: waiting, running, ended, and not seen yet.

use std::sync::Arc;

use async_trait::async_trait;
use executors::{Executor, Executors, Failure, Run};
use protocol::{Kind, Outcome, TaskId};
use serde_json::json;
use task_store::Cancel;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, echo, reply, result, simulate, started, task},
};

crate::on_both!(
    a_running_task_ends_as_cancelled_and_its_slot_is_free,
    a_waiting_task_is_skipped,
    a_task_cancelled_before_it_was_published_never_runs,
    cancelling_an_ended_task_says_so,
    an_executor_that_ignores_a_cancel_is_reported_and_its_slot_is_not_lost,
);

async fn a_running_task_ends_as_cancelled_and_its_slot_is_free(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1).slots(1)).start().await;
    let long = started(&fleet.producer, simulate(600_000, "never")).await;
    assert_eq!(fleet.producer.cancel(long.task_id()).await.unwrap(), Cancel::Running(fleet.gpus()[0].clone()));
    assert_eq!(long.await.unwrap().outcome, Outcome::Cancelled);
    result(&reply(&fleet.producer, echo("next")).await);
    assert_eq!(fleet.counted("gpufleet_cancel_ignored_total", ""), 0.0);
}

async fn a_waiting_task_is_skipped(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1).slots(1)).start().await;
    let busy = started(&fleet.producer, simulate(600_000, "busy")).await;
    let waiting = fleet.producer.pending(echo("skipped"), PATIENCE).await.unwrap();
    assert_eq!(fleet.producer.cancel(waiting.task_id()).await.unwrap(), Cancel::Waiting);
    assert_eq!(fleet.producer.cancel(busy.task_id()).await.unwrap(), Cancel::Running(fleet.gpus()[0].clone()), "it ran on, unharmed");
    assert_eq!((busy.await.unwrap().outcome, waiting.await.unwrap().outcome), (Outcome::Cancelled, Outcome::Cancelled));
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 0.0);
}

async fn a_task_cancelled_before_it_was_published_never_runs(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let task_id = TaskId::new("not-yet").unwrap();
    assert_eq!(fleet.producer.cancel(&task_id).await.unwrap(), Cancel::Unseen);
    let mut task = echo("never");
    task.task_id = Some(task_id);
    assert_eq!(reply(&fleet.producer, task).await.outcome, Outcome::Cancelled);
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 0.0);
}

async fn cancelling_an_ended_task_says_so(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let ended = reply(&fleet.producer, echo(1)).await;
    assert_eq!(fleet.producer.cancel(&ended.task_id).await.unwrap(), Cancel::Ended(Outcome::Succeeded));
}

/// Runs for ever, whatever it is asked.
struct Stubborn;

#[async_trait]
impl Executor for Stubborn {
    fn kind(&self) -> Kind {
        Kind::new("stubborn").unwrap()
    }

    async fn run(&self, _: Run<'_>) -> Result<protocol::Json, Failure> {
        std::future::pending().await
    }
}

async fn an_executor_that_ignores_a_cancel_is_reported_and_its_slot_is_not_lost(on: fn(FleetPlan) -> FleetPlan) {
    let executors = Executors::new().with(executors::echo()).with(Arc::new(Stubborn));
    let fleet = on(Fleet::of(1).slots(1).executors(executors)).start().await;
    let stubborn = started(&fleet.producer, task("stubborn", json!(null))).await;
    fleet.producer.cancel(stubborn.task_id()).await.unwrap();
    assert_eq!(stubborn.await.unwrap().outcome, Outcome::Cancelled);
    assert_eq!(fleet.counted("gpufleet_cancel_ignored_total", ""), 1.0);
    result(&reply(&fleet.producer, echo("next")).await);
    fleet.idle().await;
}
