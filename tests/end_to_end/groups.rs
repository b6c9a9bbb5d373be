//! Groups: counted exactly whatever happens to workers and store, cancelled as a whole, and at no cost to tasks without one.

pub(crate) mod store;

use std::sync::{Arc, atomic::Ordering::Relaxed};

use producer::NewTask;
use protocol::{Envelope, GroupCounts, GroupName, GroupStatus, TaskId, TaskState};
use serde_json::json;
use task_queue::{Outgoing, Queue, Target};
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, echo, reply, result, simulate, started, task},
    until::until,
};

use self::store::{ControlledStore, Controls};

crate::on_both!(
    fifty_tasks_with_mixed_outcomes_are_counted_exactly,
    they_are_counted_exactly_though_a_worker_is_killed_at_once,
    they_are_counted_exactly_though_the_store_fails_between_record_and_count,
    an_end_that_a_crash_left_uncounted_is_counted_by_the_next_worker,
    a_cancel_reaches_what_runs_what_waits_and_what_nobody_has_seen,
    a_cancel_that_broke_off_keeps_what_waits_from_running_and_may_be_repeated,
    a_dead_letter_that_is_requeued_makes_its_group_go_on,
    a_task_beyond_the_bound_runs_and_is_told_as_not_counted,
    tasks_without_a_group_make_no_group_call,
);

fn group() -> GroupName {
    "nightly".parse().unwrap()
}

fn grouped(task: NewTask) -> NewTask {
    NewTask { group: Some(group()), ..task }
}

fn failing(retry: bool) -> NewTask {
    task("simulate", json!({"fail": {"code": "flaky", "message": "as asked", "retry": retry}}))
}

async fn show(fleet: &Fleet) -> GroupStatus {
    fleet.producer.groups().show(&group()).await.unwrap().unwrap()
}

async fn ended(fleet: &Fleet) -> GroupStatus {
    tokio::time::timeout(PATIENCE, fleet.producer.group_ended(&group())).await.unwrap().unwrap().unwrap()
}

/// A fleet whose GPUs are not blamed for tasks that fail as asked, and whose crashes are found soon.
fn plan(gpus: usize, slots: u32, controls: &Arc<Controls>) -> FleetPlan {
    let controls = Arc::clone(controls);
    let plan = Fleet::of(gpus).slots(slots).configured(|configuration| {
        configuration.worker.failures_to_quarantine = 0;
        configuration.worker.lease_ms = 1_500;
        configuration.worker.offer_ms = 1_000;
    });
    plan.store_through(move |inner| Arc::new(ControlledStore { inner, controls: Arc::clone(&controls) }))
}

/// Submits fifty tasks: twenty succeed, ten fail for good, ten fail in each of two attempts, five run out of time and five are cancelled.
async fn submit_fifty(fleet: &Fleet) {
    let mut flaky = failing(true);
    flaky.body.limits.max_attempts = Some(2);
    let mut endless = simulate(600_000, "never");
    endless.body.limits.total_deadline_ms = Some(1_000);
    let mut cancelled = Vec::new();
    for number in 0..50 {
        let task = match number % 10 {
            0..4 => echo(number),
            4..6 => failing(false),
            6..8 => flaky.clone(),
            8 => endless.clone(),
            _ => simulate(600_000, "never"),
        };
        let submitted = fleet.producer.submit(grouped(task)).await.unwrap();
        if number % 10 == 9 {
            cancelled.push(submitted.task_id);
        }
    }
    for task_id in cancelled {
        fleet.producer.cancel(&task_id).await.unwrap();
    }
}

async fn are_counted_exactly(fleet: &Fleet) {
    let expected = GroupCounts { succeeded: 20, failed: 20, expired: 5, cancelled: 5, ..GroupCounts::default() };
    let status = ended(fleet).await;
    assert_eq!((status.counts, status.total, status.not_counted), (expected, 50, 0));
    fleet.idle().await;
    assert_eq!(show(fleet).await.counts, expected, "nothing that comes later changes them");
}

async fn fifty_tasks_with_mixed_outcomes_are_counted_exactly(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(plan(2, 4, &Arc::default())).start().await;
    submit_fifty(&fleet).await;
    are_counted_exactly(&fleet).await;
}

async fn they_are_counted_exactly_though_a_worker_is_killed_at_once(on: fn(FleetPlan) -> FleetPlan) {
    let mut fleet = on(plan(2, 4, &Arc::default())).start().await;
    submit_fifty(&fleet).await;
    let gpu_id = fleet.gpus().remove(0);
    fleet.kill_and_restart(&gpu_id).await;
    are_counted_exactly(&fleet).await;
}

async fn they_are_counted_exactly_though_the_store_fails_between_record_and_count(on: fn(FleetPlan) -> FleetPlan) {
    let controls = Arc::<Controls>::default();
    let fleet = on(plan(2, 4, &controls)).start().await;
    controls.fail_ends.store(20, Relaxed);
    submit_fifty(&fleet).await;
    are_counted_exactly(&fleet).await;
    assert_eq!(controls.fail_ends.load(Relaxed), 0, "it did fail");
}

async fn an_end_that_a_crash_left_uncounted_is_counted_by_the_next_worker(on: fn(FleetPlan) -> FleetPlan) {
    let controls = Arc::<Controls>::default();
    let mut fleet = on(plan(1, 1, &controls)).start().await;
    controls.hang_ends.store(true, Relaxed);
    let task_id = fleet.producer.submit(grouped(echo(1))).await.unwrap().task_id;
    let state = async || fleet.producer.status(&task_id).await.unwrap().map(|status| status.state);
    until("its end is recorded", async || state().await == Some(TaskState::Succeeded)).await;
    assert!(!show(&fleet).await.ended, "and not counted");
    let gpu_id = fleet.gpus().remove(0);
    fleet.kill(&gpu_id).await;
    controls.hang_ends.store(false, Relaxed);
    fleet.add_gpu().await;
    let status = ended(&fleet).await;
    assert_eq!((status.counts, status.total), (GroupCounts { succeeded: 1, ..GroupCounts::default() }, 1));
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 1.0, "it ran once");
}

/// Publishes an echo as a client of the broker does, which tells the store nothing.
async fn publish(fleet: &Fleet, id: &str, timestamp: Option<u64>, body: &'static [u8]) {
    let mut envelope = Envelope { message_id: Some(id.to_owned()), kind: Some("echo".to_owned()), timestamp, ..Envelope::default() };
    envelope.headers.group = Some(group());
    let outgoing = Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, body.into());
    fleet.ports.queue.publish(outgoing).await.unwrap();
}

async fn a_cancel_reaches_what_runs_what_waits_and_what_nobody_has_seen(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(plan(1, 1, &Arc::default())).start().await;
    let busy = started(&fleet.producer, grouped(simulate(600_000, "busy"))).await;
    // By the store's clock, which on real servers is not the fleet's.
    let now_s = fleet.producer.status(busy.task_id()).await.unwrap().unwrap().changed_ms / 1_000;
    let waiting = fleet.producer.submit(grouped(echo("waits"))).await.unwrap().task_id;
    publish(&fleet, "before", Some(now_s - 2), br#"{"payload":1}"#).await;
    publish(&fleet, "unknown", None, br#"{"payload":2}"#).await;
    publish(&fleet, "after", Some(now_s + 3_600), br#"{"payload":3}"#).await;
    let cancelled = fleet.producer.groups().cancel(&group()).await.unwrap();
    assert_eq!((cancelled.running, cancelled.ended), (1, 0));
    assert!((1..=2).contains(&cancelled.waiting), "one of those that no store knew may have been in the worker's hand: {cancelled:?}");
    let later = fleet.producer.submit(grouped(echo("later"))).await.unwrap().task_id;
    busy.await.unwrap();

    until("all have ended", async || {
        let status = show(&fleet).await;
        status.ended && status.total == 6
    })
    .await;
    let state = async |id: &TaskId| fleet.producer.status(id).await.unwrap().unwrap().state;
    for (id, expected) in [
        (waiting, TaskState::Cancelled),
        ("before".parse().unwrap(), TaskState::Cancelled),
        ("unknown".parse().unwrap(), TaskState::Cancelled),
        ("after".parse().unwrap(), TaskState::Succeeded),
        (later, TaskState::Succeeded),
    ] {
        assert_eq!(state(&id).await, expected, "{id}");
    }
    assert_eq!(show(&fleet).await.counts, GroupCounts { succeeded: 2, cancelled: 4, ..GroupCounts::default() });
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 2.0);
}

async fn a_cancel_that_broke_off_keeps_what_waits_from_running_and_may_be_repeated(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(plan(1, 1, &Arc::default())).start().await;
    let busy = started(&fleet.producer, grouped(simulate(600_000, "busy"))).await;
    let waiting = fleet.producer.submit(grouped(echo("waits"))).await.unwrap().task_id;
    // Its first step, and no other.
    fleet.ports.store.groups().cancel_all(&group()).await.unwrap();
    fleet.producer.cancel(busy.task_id()).await.unwrap();
    assert_eq!(ended(&fleet).await.counts, GroupCounts { cancelled: 2, ..GroupCounts::default() });
    assert_eq!(fleet.producer.status(&waiting).await.unwrap().unwrap().state, TaskState::Cancelled);
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 0.0);
    let repeated = fleet.producer.groups().cancel(&group()).await.unwrap();
    assert_eq!((repeated.waiting, repeated.running, repeated.ended), (0, 0, 2));
}

async fn a_dead_letter_that_is_requeued_makes_its_group_go_on(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(plan(1, 1, &Arc::default())).start().await;
    let (letters, groups) = (fleet.producer.dead_letters(), fleet.producer.groups());
    publish(&fleet, "wrong", None, br#"{"prioritee":1}"#).await;
    let failed = async |ends: u64| {
        until("it failed", async || {
            let last = groups.ends(&group(), 0, 10).await.unwrap().pop();
            letters.count().await.unwrap() == 1 && last.is_some_and(|end| end.number == ends)
        })
        .await;
        let status = show(&fleet).await;
        assert_eq!((status.counts, status.total), (GroupCounts { failed: 1, ..GroupCounts::default() }, 1));
    };
    failed(1).await;
    assert_eq!(letters.requeue(None).await.unwrap().unwrap().requeued, 1);
    // Its header went with the letter, and came back with it.
    failed(2).await;
}

async fn a_task_beyond_the_bound_runs_and_is_told_as_not_counted(on: fn(FleetPlan) -> FleetPlan) {
    let plan = plan(1, 1, &Arc::default()).configured(|configuration| configuration.store.group_members_max = 1);
    let fleet = on(plan).start().await;
    result(&reply(&fleet.producer, grouped(echo(1))).await);
    let refused = fleet.producer.submit(grouped(echo(2))).await.unwrap_err();
    assert!(!refused.is_transient() && refused.to_string().contains("store.group_members_max"), "{refused}");
    assert_eq!(fleet.producer.status(refused.task_id().unwrap()).await.unwrap(), None, "nothing was submitted");
    publish(&fleet, "beyond", None, br#"{"payload":3}"#).await;
    until("it is told", async || fleet.counted("gpufleet_group_members_not_counted_total", "") == 1.0).await;
    let beyond = fleet.producer.status(&"beyond".parse().unwrap()).await.unwrap().unwrap();
    let status = show(&fleet).await;
    assert_eq!((beyond.state, status.total, status.not_counted), (TaskState::Succeeded, 1, 1));
}

async fn tasks_without_a_group_make_no_group_call(on: fn(FleetPlan) -> FleetPlan) {
    let controls = Arc::<Controls>::default();
    let fleet = on(plan(2, 2, &controls)).start().await;
    let cancelled = started(&fleet.producer, simulate(600_000, "never")).await;
    fleet.producer.cancel(cancelled.task_id()).await.unwrap();
    for task in [echo(1), failing(false), failing(true)] {
        reply(&fleet.producer, task).await;
    }
    cancelled.await.unwrap();
    publish_without_a_group(&fleet).await;
    fleet.idle().await;
    assert_eq!(controls.calls.load(Relaxed), 0);
    reply(&fleet.producer, grouped(echo(1))).await;
    // Joined, come, begun and ended.
    assert_eq!(controls.calls.load(Relaxed), 4);
}

/// A message that is no task.
async fn publish_without_a_group(fleet: &Fleet) {
    let envelope = Envelope { message_id: Some("wrong".to_owned()), kind: Some("echo".to_owned()), ..Envelope::default() };
    let outgoing = Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, (&b"{"[..]).into());
    fleet.ports.queue.publish(outgoing).await.unwrap();
    until("it is a dead letter", async || fleet.producer.dead_letters().count().await.unwrap() == 1).await;
}
