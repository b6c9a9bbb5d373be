//! Operators scale workers up and down while work flows: nothing is lost.

use std::time::Duration;

use devices::simulated::SimulatedOptions;
use futures::future::try_join_all;
use protocol::{GpuId, Reply, claim::Settings};
use task_queue::Queue;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, replies, result, simulate, started},
    until::until,
};
use tokio::{task::JoinHandle, time::Instant};

crate::on_both!(
    workers_come_and_go_while_work_flows_and_nothing_is_lost,
    a_killed_workers_tasks_run_elsewhere,
    a_drained_workers_running_tasks_end_there_and_are_delivered_to_nobody_else,
    an_emptied_table_is_rebuilt_by_the_heartbeats,
    a_drained_gpu_takes_nothing_new_until_it_is_undrained,
    losing_the_table_again_and_again_costs_no_running_task_anything,
    what_waits_for_a_gpu_that_stays_away_runs_elsewhere_though_the_store_was_emptied,
);

fn flow(fleet: &Fleet, count: u64) -> JoinHandle<Vec<Reply>> {
    let producer = fleet.producer.clone();
    tokio::spawn(async move { replies(&producer, (0..count).map(|n| simulate(15, n)).collect(), 60).await })
}

fn complete(replies: &[Reply]) {
    for (n, reply) in replies.iter().enumerate() {
        assert_eq!(result(reply), serde_json::json!(n));
    }
}

async fn ended(fleet: &Fleet, at_least: f64) {
    until(&format!("{at_least} tasks ended"), async || fleet.counted("gpufleet_tasks_total", "succeeded") >= at_least).await;
}

async fn workers_come_and_go_while_work_flows_and_nothing_is_lost(here: fn(FleetPlan) -> FleetPlan) {
    let mut fleet = here(Fleet::of(1).slots(2)).start().await;
    let flow = flow(&fleet, 400);
    ended(&fleet, 20.0).await;
    for _ in 0..3 {
        fleet.add_gpu().await;
    }
    ended(&fleet, 120.0).await;
    for gpu_id in ["gpu-0", "gpu-1", "gpu-2"] {
        fleet.drain(&GpuId::new(gpu_id).unwrap()).await;
    }
    complete(&flow.await.unwrap());
    assert_eq!(fleet.counted("gpufleet_tasks_total", "succeeded"), 400.0, "each task ended once");
    assert_eq!(fleet.gpus().len(), 1);
}

async fn a_killed_workers_tasks_run_elsewhere(here: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(3).slots(2).configured(|configuration| configuration.worker.lease_ms = 1_000);
    let mut fleet = here(plan).start().await;
    let flow = flow(&fleet, 200);
    ended(&fleet, 20.0).await;
    fleet.kill(&GpuId::new("gpu-1").unwrap()).await;
    complete(&flow.await.unwrap());
    fleet.eligible(2).await;
}

async fn a_drained_workers_running_tasks_end_there_and_are_delivered_to_nobody_else(here: fn(FleetPlan) -> FleetPlan) {
    let mut fleet = here(Fleet::of(1).slots(4)).start().await;
    let mut pending = Vec::new();
    for n in 0..4 {
        pending.push(started(&fleet.producer, simulate(1_500, n)).await);
    }
    fleet.add_gpu().await;
    fleet.eligible(2).await;
    fleet.drain(&GpuId::new("gpu-0").unwrap()).await;
    let replies: Vec<Reply> = try_join_all(pending).await.unwrap();
    complete(&replies);
    assert!(replies.iter().all(|reply| reply.gpu_id.as_ref().is_some_and(|gpu_id| gpu_id.as_str() == "gpu-0")));
    assert_eq!(fleet.counted("gpufleet_redelivered_total", ""), 0.0);
}

async fn an_emptied_table_is_rebuilt_by_the_heartbeats(here: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(2).slots(2).configured(|configuration| configuration.worker.lease_ms = 1_500);
    let fleet = here(plan).start().await;
    let flow = flow(&fleet, 200);
    ended(&fleet, 20.0).await;
    fleet.empty_the_table().await;
    complete(&flow.await.unwrap());
    fleet.eligible(2).await;
    fleet.idle().await;
}

async fn a_drained_gpu_takes_nothing_new_until_it_is_undrained(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(2).slots(2)).start().await;
    let (table, pool) = (&fleet.ports.table, fleet.pool());
    let drained = GpuId::new("gpu-0").unwrap();
    let mut settings = table.settings(&pool, &Settings::default()).await.unwrap();
    settings.draining = vec![drained.clone()];
    let mut settings = table.change_settings(&pool, &settings).await.unwrap();
    let flow_on = async |count| {
        let replies = flow(&fleet, count).await.unwrap();
        complete(&replies);
        replies.iter().any(|reply| reply.gpu_id.as_ref() == Some(&drained))
    };
    assert!(!flow_on(60).await, "a drained GPU ran a task");
    settings.draining.clear();
    table.change_settings(&pool, &settings).await.unwrap();
    assert!(flow_on(60).await, "an undrained GPU ran none");
}

async fn losing_the_table_again_and_again_costs_no_running_task_anything(here: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(4).slots(2).configured(|configuration| {
        // So long that no heartbeat of a busy machine is late: a worker that is silent for a lease counts as gone, table or not.
        configuration.worker.lease_ms = 3_000;
        // Copies of the running tasks go round, so that other workers ask for them all the time.
        configuration.worker.unacked_ms = 100;
        configuration.worker.crashes_max = 1;
    });
    let fleet = here(plan).start().await;
    let mut pending = Vec::new();
    for n in 0..6 {
        pending.push(started(&fleet.producer, simulate(14_000, n)).await);
    }
    for n in 0..12 {
        let since = Instant::now();
        fleet.empty_the_table().await;
        until("some time passes", async || since.elapsed() > Duration::from_millis(300 + n * 90)).await;
    }
    for (n, pending) in (0..).zip(pending) {
        let reply = pending.await.unwrap();
        assert_eq!((result(&reply), reply.attempt), (serde_json::json!(n), 1));
    }
    assert_eq!(fleet.counted("gpufleet_crashes_total", ""), 0.0);
    assert_eq!(fleet.counted("gpufleet_late_outcomes_refused_total", ""), 0.0);
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "simulate"), 6.0, "each ran once");
}

async fn what_waits_for_a_gpu_that_stays_away_runs_elsewhere_though_the_store_was_emptied(here: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(1).slots(1).configured(|configuration| configuration.worker.lease_ms = 1_000);
    let mut fleet = here(plan).start().await;
    let large = |name: &str| SimulatedOptions { memory_mb: 160_000, ..SimulatedOptions::new(GpuId::new(name).unwrap()) };
    fleet.add(large("large")).await;
    fleet.eligible(2).await;
    let needs_the_large_one = |duration_ms, result: &str| {
        let mut task = simulate(duration_ms, result);
        task.body.needs.memory_mb = Some(120_000);
        task
    };
    let mut pending = vec![started(&fleet.producer, needs_the_large_one(8_000, "runs")).await];
    let since = Instant::now();
    for result in ["a", "b", "c"] {
        pending.push(fleet.producer.pending(needs_the_large_one(1, result), PATIENCE).await.unwrap());
    }
    let own = Queue::Gpu(GpuId::new("large").unwrap());
    let waiting = async || fleet.ports.queue.depth(&own).await.unwrap().map_or(0, |depth| depth.ready);
    until("some wait in the queue of the large one", async || waiting().await > 0).await;
    // Its rounds are at most 1.25 leases apart.
    until("the other worker has looked around", async || since.elapsed() > Duration::from_millis(2_500)).await;
    fleet.empty_the_store().await;
    fleet.kill(&GpuId::new("large").unwrap()).await;
    fleet.add(large("larger")).await;
    for (pending, wanted) in pending.into_iter().zip(["runs", "a", "b", "c"]) {
        assert_eq!(result(&pending.await.unwrap()), wanted);
    }
    assert_eq!(fleet.ports.queue.depth(&own).await.unwrap().map_or(0, |depth| depth.ready), 0);
}
