//! When tasks wait and when slots wait: priorities, backlog, the slots' bound.

use std::sync::{Arc, Mutex};

use futures::future::join_all;
use protocol::{Outcome, Strategy};
use task_queue::Queue;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, by, echo, priority, replies, reply, result, simulate},
    until::until,
};

crate::on_both!(
    an_urgent_task_overtakes_five_hundred_waiting_ones,
    an_urgent_task_is_next_although_the_next_task_is_fetched_before_a_run_ends,
    an_urgent_task_is_next_where_run_times_are_mixed,
    under_a_backlog_no_task_is_forwarded_after_the_first_fill,
    on_an_idle_fleet_forwards_follow_the_strategy,
    two_hundred_tasks_at_once_never_exceed_the_slots,
);

async fn an_urgent_task_overtakes_five_hundred_waiting_ones(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(2).slots(1)).start().await;
    let ended = Arc::new(Mutex::new(Vec::new()));
    let note = |name: &'static str, pending: producer::Pending| {
        let ended = Arc::clone(&ended);
        async move {
            assert_eq!(pending.await.unwrap().outcome, Outcome::Succeeded);
            ended.lock().unwrap().push(name);
        }
    };
    let mut waits = Vec::new();
    for n in 0..500 {
        waits.push(tokio::spawn(note("low", fleet.producer.pending(priority(1, simulate(4, n)), PATIENCE).await.unwrap())));
    }
    let before = ended.lock().unwrap().len();
    waits.push(tokio::spawn(note("urgent", fleet.producer.pending(priority(9, simulate(4, "urgent")), PATIENCE).await.unwrap())));
    join_all(waits).await;
    let ended = ended.lock().unwrap();
    let place = ended.iter().position(|name| *name == "urgent").unwrap();
    // What runs or is in hand when it comes is at most one task a slot and one more in each hand; the rest must wait behind it.
    assert!(
        place < 490 && place <= before + 60,
        "the urgent task ended as number {place} of {}; {before} had ended before it came",
        ended.len()
    );
}

async fn an_urgent_task_is_next_although_the_next_task_is_fetched_before_a_run_ends(here: fn(FleetPlan) -> FleetPlan) {
    urgent_tasks_are_next(here, |_| 100).await;
}

async fn an_urgent_task_is_next_where_run_times_are_mixed(here: fn(FleetPlan) -> FleetPlan) {
    urgent_tasks_are_next(here, |n| if n % 3 == 0 { 160 } else { 60 }).await;
}

/// One slot, a backlog of tasks that take so many milliseconds each, and three urgent ones that come while it is worked off.
async fn urgent_tasks_are_next(here: fn(FleetPlan) -> FleetPlan, run_ms: fn(u64) -> u64) {
    let fleet = here(Fleet::of(1).slots(1)).start().await;
    let ended = Arc::new(Mutex::new(Vec::new()));
    let mut waits = tokio::task::JoinSet::new();
    let mut note = |name: String, pending: producer::Pending| {
        let ended = Arc::clone(&ended);
        waits.spawn(async move {
            assert_eq!(pending.await.unwrap().outcome, Outcome::Succeeded);
            ended.lock().unwrap().push(name);
        });
    };
    let submit = async |task| fleet.producer.pending(task, PATIENCE).await.unwrap();
    for n in 0..30 {
        note(format!("low {n}"), submit(priority(1, simulate(run_ms(n), n))).await);
    }
    let mut before = Vec::new();
    for n in 0..3 {
        until("some more have ended", async || ended.lock().unwrap().len() >= 7 * (n + 1)).await;
        note(format!("urgent {n}"), submit(priority(9, simulate(100, n))).await);
        before.push(ended.lock().unwrap().len());
    }
    waits.join_all().await;
    let ended = ended.lock().unwrap();
    let behind: Vec<usize> =
        (0..3).map(|n| ended.iter().position(|name| *name == format!("urgent {n}")).unwrap().saturating_sub(before[n])).collect();
    assert!(behind.iter().all(|tasks| *tasks <= 2), "behind what ran and what had just been fetched, and no more: {behind:?}");
    assert!(behind.iter().filter(|tasks| **tasks <= 1).count() >= 2, "nothing is fetched long before it is needed: {behind:?}");
}

async fn under_a_backlog_no_task_is_forwarded_after_the_first_fill(here: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(4).slots(2).strategy(Strategy::RoundRobin).configured(|configuration| {
        // A broker may take any time from an ack to the next delivery (a slow disk, a machine under load); here that alone must not look like an idle fleet.
        configuration.worker.tasks_waiting_within_ms = 600_000;
        configuration.worker.in_hand_patience_ms = 60_000;
    });
    let fleet = here(plan).start().await;
    let producer = fleet.producer.clone();
    let first_fill = tokio::spawn(async move { replies(&producer, (0..8).map(|n| simulate(5_000, n)).collect(), 8).await });
    until("every slot is held", async || fleet.rows().await.iter().all(|view| view.held == 2)).await;
    let producer = fleet.producer.clone();
    let backlog = tokio::spawn(async move { replies(&producer, (0..200).map(|n| simulate(20, n)).collect(), 200).await });
    // Each worker has at most its slots of them in hand.
    let pool = Queue::Pool(fleet.pool());
    until("the backlog waits", async || fleet.ports.queue.depth(&pool).await.unwrap().is_some_and(|depth| depth.ready >= 192)).await;
    for reply in first_fill.await.unwrap().iter().chain(&backlog.await.unwrap()) {
        result(reply);
    }
    // Each of the first eight at most once, and few of the last ones, which wait for nothing: where a slot had been idle before they came, the strategy may choose.
    let forwarded = fleet.counted("gpufleet_forwarded_total", "");
    assert!(forwarded <= 8.0 + 4.0, "{forwarded} tasks were forwarded:\n{}", fleet.metrics());
}

async fn on_an_idle_fleet_forwards_follow_the_strategy(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(3)).start().await;
    for n in 0..30 {
        result(&reply(&fleet.producer, by("round_robin", echo(n))).await);
        fleet.idle().await;
    }
    let counts = fleet.tasks_per_gpu();
    assert!(counts.values().all(|count| *count == 10), "{counts:?}");
}

async fn two_hundred_tasks_at_once_never_exceed_the_slots(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(3).slots(4)).start().await;
    let producer = fleet.producer.clone();
    let submitting = tokio::spawn(async move { replies(&producer, (0..200).map(|n| simulate(10, n)).collect(), 200).await });
    let mut most = 0;
    until("all tasks ended", async || {
        let rows = fleet.rows().await;
        assert!(rows.iter().all(|view| view.held <= 4), "{rows:?}");
        most = most.max(rows.iter().map(|view| view.held).sum::<u32>());
        submitting.is_finished()
    })
    .await;
    for reply in submitting.await.unwrap() {
        result(&reply);
    }
    assert!(most > 4, "the fleet was never busy: {most}");
}
