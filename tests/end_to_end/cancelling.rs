//! Cancelling (R-32): waiting, running, ended, and not seen yet.

use std::sync::Arc;

use async_trait::async_trait;
use executors::{Executor, Executors, Failure, Run};
use producer::NewTask;
use protocol::{Envelope, Kind, Outcome, TaskId, TaskState};
use serde_json::json;
use task_queue::{Outgoing, Queue, Target};
use task_store::{Cancel, Reach};
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, echo, reply, result, simulate, started, task},
    until::until,
};

crate::on_both!(
    a_running_task_ends_as_cancelled_and_its_slot_is_free,
    a_waiting_task_is_skipped,
    a_task_submitted_after_a_cancel_of_its_id_runs,
    a_task_cancelled_ahead_of_its_submit_never_runs,
    a_cancel_of_an_unseen_id_ends_what_was_published_before_it_and_nothing_later,
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

async fn a_task_submitted_after_a_cancel_of_its_id_runs(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let task_id = TaskId::new("not-yet").unwrap();
    assert_eq!(fleet.producer.cancel(&task_id).await.unwrap(), Cancel::Unseen);
    assert_eq!(fleet.producer.cancel(&task_id).await.unwrap(), Cancel::Unseen, "asking makes no task");
    assert_eq!(fleet.producer.status(&task_id).await.unwrap(), None);
    let task = NewTask { task_id: Some(task_id), ..echo("runs") };
    assert_eq!(result(&reply(&fleet.producer, task).await), json!("runs"));
}

async fn a_task_cancelled_ahead_of_its_submit_never_runs(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let task_id = TaskId::new("not-ever").unwrap();
    assert_eq!(fleet.producer.cancel_with(&task_id, Reach::Ahead).await.unwrap(), Cancel::Unseen);
    let task = NewTask { task_id: Some(task_id), ..echo("never") };
    assert_eq!(reply(&fleet.producer, task).await.outcome, Outcome::Cancelled);
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 0.0);
}

/// Publishes an echo as a client of the broker does, which tells the store nothing.
async fn publish(fleet: &Fleet, id: &TaskId, timestamp: Option<u64>) {
    let envelope = Envelope { message_id: Some(id.to_string()), kind: Some("echo".to_owned()), timestamp, ..Envelope::default() };
    let outgoing = Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, (&br#"{"payload":1}"#[..]).into());
    fleet.ports.queue.publish(outgoing).await.unwrap();
}

async fn a_cancel_of_an_unseen_id_ends_what_was_published_before_it_and_nothing_later(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1).slots(1)).start().await;
    let busy = started(&fleet.producer, simulate(600_000, "busy")).await;
    // By the store's clock, which on real servers is not the fleet's.
    let now_s = fleet.producer.status(busy.task_id()).await.unwrap().unwrap().changed_ms / 1_000;
    let [before, unknown, after] = ["before", "unknown", "after"].map(|id| TaskId::new(id).unwrap());
    let when = [(&before, Some(now_s - 2)), (&unknown, None), (&after, Some(now_s + 3_600))];
    // All three wait behind the task that runs, and no worker has looked at them when their cancel comes, but for the one that is in its hand.
    for (id, timestamp) in when {
        publish(&fleet, id, timestamp).await;
    }
    for (id, _) in when {
        assert_eq!(fleet.producer.cancel(id).await.unwrap(), Cancel::Unseen, "{id}");
    }
    fleet.producer.cancel(busy.task_id()).await.unwrap();
    let state = async |id: &TaskId| fleet.producer.status(id).await.unwrap().map(|status| status.state);
    for (id, ended) in [(&before, TaskState::Cancelled), (&unknown, TaskState::Cancelled), (&after, TaskState::Succeeded)] {
        until("it ended", async || state(id).await.is_some_and(TaskState::ended)).await;
        assert_eq!(state(id).await, Some(ended), "{id}");
    }
    fleet.idle().await;
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 1.0);
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

    async fn run(&self, _: Run<'_>) -> Result<protocol::Framed, Failure> {
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
