//! Cancelling: waiting, running, ended, and not seen yet.

use protocol::{Outcome, TaskId, TaskState};
use task_store::Cancel;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, echo, reply, result, simulate},
    until::until,
};

crate::on_both!(
    a_running_task_ends_as_cancelled_and_its_slot_is_free,
    a_waiting_task_is_skipped,
    a_task_cancelled_before_it_was_published_never_runs,
    cancelling_an_ended_task_says_so,
);

async fn a_running_task_ends_as_cancelled_and_its_slot_is_free(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1).slots(1)).start().await;
    let long = fleet.producer.pending(simulate(600_000, "never"), PATIENCE).await.unwrap();
    until("it runs", async || {
        fleet.producer.status(long.task_id()).await.unwrap().is_some_and(|status| status.state == TaskState::Running)
    })
    .await;
    assert_eq!(fleet.producer.cancel(long.task_id()).await.unwrap(), Cancel::Running(fleet.gpus()[0].clone()));
    assert_eq!(long.await.unwrap().outcome, Outcome::Cancelled);
    result(&reply(&fleet.producer, echo("next")).await);
    assert_eq!(fleet.counted("gpufleet_cancel_ignored_total", ""), 0.0);
}

async fn a_waiting_task_is_skipped(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1).slots(1)).start().await;
    let busy = fleet.producer.pending(simulate(1_000, "busy"), PATIENCE).await.unwrap();
    until("the slot is held", async || fleet.rows().await[0].held == 1).await;
    let waiting = fleet.producer.pending(echo("skipped"), PATIENCE).await.unwrap();
    assert_eq!(fleet.producer.cancel(waiting.task_id()).await.unwrap(), Cancel::Waiting);
    assert_eq!(waiting.await.unwrap().outcome, Outcome::Cancelled);
    result(&busy.await.unwrap());
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
