//! Attempts: what may be mended by another try is tried again, through the retry queues.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use executors::{Executor, Executors, Failure, Run};
use protocol::{Framed, Kind, Outcome, TaskState};
use serde_json::json;
use task_queue::Queue;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{reply, result, task},
    until::until,
};

use crate::topology;

crate::on_both!(
    a_failure_that_may_be_mended_is_tried_again_until_the_attempts_are_used_up,
    a_failure_for_good_is_not_tried_again,
    a_task_that_fails_once_succeeds_in_its_second_attempt,
    a_task_that_started_in_time_is_tried_again_after_its_queue_deadline,
    attempts_end_with_the_total_deadline,
    a_retry_goes_through_though_its_retry_queue_was_deleted,
);

fn failing(retry: bool) -> producer::NewTask {
    task("simulate", json!({"fail": {"code": "flaky", "message": "as asked", "retry": retry}}))
}

async fn a_failure_that_may_be_mended_is_tried_again_until_the_attempts_are_used_up(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(2)).start().await;
    let mut flaky = failing(true);
    flaky.body.limits.max_attempts = Some(3);
    let pending = fleet.producer.pending(flaky, tests::tasks::PATIENCE).await.unwrap();
    let task_id = pending.task_id().clone();
    until("it waits for its next attempt", async || {
        let status = fleet.producer.status(&task_id).await.unwrap();
        status.is_some_and(|status| status.state == TaskState::Retrying && status.waiting_for.is_some_and(|why| why.contains("flaky")))
    })
    .await;
    let reply = pending.await.unwrap();
    assert_eq!((reply.outcome, reply.attempt), (Outcome::Failed, 3));
    assert_eq!(reply.error.unwrap().code, "flaky");
    assert_eq!(fleet.counted("gpufleet_retries_total", ""), 2.0);
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "simulate"), 3.0);
}

async fn a_failure_for_good_is_not_tried_again(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let reply = reply(&fleet.producer, failing(false)).await;
    assert_eq!((reply.outcome, reply.attempt), (Outcome::Failed, 1));
    assert_eq!(fleet.counted("gpufleet_retries_total", ""), 0.0);
}

async fn a_task_that_fails_once_succeeds_in_its_second_attempt(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    fleet.knobs(&fleet.gpus()[0]).fail_next_allocations(1);
    let reply = reply(&fleet.producer, task("simulate", json!({"memory_mb": 10, "result": "in the end"}))).await;
    assert_eq!(result(&reply), json!("in the end"));
    assert_eq!(reply.attempt, 2);
}

async fn a_task_that_started_in_time_is_tried_again_after_its_queue_deadline(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    // The first attempt outlasts the deadline of the start, and fails.
    let mut slow = task("simulate", json!({"duration_ms": 2_500, "fail": {"code": "flaky", "message": "as asked", "retry": true}}));
    slow.body.limits.queue_deadline_ms = Some(2_000);
    slow.body.limits.max_attempts = Some(2);
    let reply = reply(&fleet.producer, slow).await;
    assert_eq!((reply.outcome, reply.attempt), (Outcome::Failed, 2), "{reply:?}");
    assert_eq!(reply.error.unwrap().code, "flaky");
}

async fn attempts_end_with_the_total_deadline(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let mut flaky = failing(true);
    flaky.body.limits.max_attempts = Some(100);
    flaky.body.limits.total_deadline_ms = Some(3_000);
    let reply = reply(&fleet.producer, flaky).await;
    assert_eq!((reply.outcome, reply.error.unwrap().code.as_str()), (Outcome::Expired, "deadline"));
    assert!(reply.attempt > 1, "attempt {}", reply.attempt);
}

async fn a_retry_goes_through_though_its_retry_queue_was_deleted(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    for queue in Queue::where_tasks_wait() {
        topology::delete(&fleet, &queue).await;
    }
    let mut flaky = failing(true);
    flaky.body.limits.max_attempts = Some(2);
    let reply = reply(&fleet.producer, flaky).await;
    assert_eq!((reply.outcome, reply.attempt), (Outcome::Failed, 2), "{reply:?}");
    assert_eq!(reply.error.unwrap().code, "flaky");
}

/// Fails once, and asks for a long rest.
struct Tired;

#[async_trait]
impl Executor for Tired {
    fn kind(&self) -> Kind {
        Kind::new("tired").unwrap()
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        if run.task.attempt == 1 {
            return Err(Failure { retry_after_ms: Some(40_000), ..Failure::transient("not now") });
        }
        Ok(run.payload.clone().into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_for_as_long_as_its_failure_asks() {
    let fleet = Fleet::of(1).executors(Executors::new().with(Arc::new(Tired))).start().await;
    let submitted = tokio::time::Instant::now();
    let reply = reply(&fleet.producer, task("tired", json!("rested"))).await;
    assert_eq!((result(&reply), reply.attempt), (json!("rested"), 2));
    assert!(submitted.elapsed() >= Duration::from_secs(40), "{:?}", submitted.elapsed());
}
