//! Tasks that no living GPU can run: they wait for a bounded time, in rests that grow, and are told of.

use std::time::Duration;

use devices::simulated::SimulatedOptions;
use executors::Executors;
use producer::NewTask;
use protocol::{GpuId, Outcome, claim::Settings};
use serde_json::json;
use task_queue::Queue;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, echo, replies, result, simulate, task},
    until::until,
};
use tokio::time::Instant;

/// Longest wait for a reply, on a paused clock.
const HOUR: Duration = Duration::from_secs(3_600);

crate::on_both!(a_kind_that_nobody_serves_fails_with_what_is_served_and_is_told_of);

async fn a_kind_that_nobody_serves_fails_with_what_is_served_and_is_told_of(here: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(2).configured(|configuration| {
        configuration.worker.lease_ms = 3_000;
        configuration.worker.unserved_wait_ms = 0;
        configuration.amqp.unplaceable_ttl_ms = 200;
    });
    let fleet = here(plan).start().await;
    let reply = fleet.producer.submit_and_wait(task("ecko", json!(1)), PATIENCE).await.unwrap();
    let error = reply.error.unwrap();
    assert_eq!((reply.outcome, error.code.as_str(), error.field.as_deref()), (Outcome::Failed, "unserved", Some("type")));
    for part in ["no living GPU of pool default serves kind ecko", "served now: echo, simulate", "worker.unserved_wait_ms"] {
        assert!(error.message.contains(part), "{part}: {}", error.message);
    }
    let unserved = async || fleet.ports.table.unserved(&fleet.pool()).await.unwrap();
    until("the table was told", async || !unserved().await.is_empty()).await;
    let told = unserved().await;
    assert_eq!((told.len(), told[0].kind.as_str(), told[0].wanted.as_str()), (1, "ecko", "kind ecko"), "{told:?}");
    assert_eq!(told[0].served.iter().map(|kind| kind.as_str()).take(2).collect::<Vec<_>>(), ["echo", "simulate"]);
    assert!(told[0].sightings >= 1, "{told:?}");
    assert!(fleet.counted("gpufleet_unserved_rounds_total", "") >= 1.0);
    assert_eq!(fleet.counted("gpufleet_unserved_kinds", ""), 1.0, "one thing, however many workers have found it");
}

/// What a task says of itself while it waits apart: since when nobody serves it. `None`: no task waits there now.
fn marked(fleet: &Fleet) -> Option<Option<u64>> {
    fleet.broker().envelopes(&Queue::Unplaceable).first().map(|envelope| envelope.headers.unserved_since_ms)
}

/// From now on exactly these GPUs take no tasks.
async fn drain_only(fleet: &Fleet, draining: Vec<GpuId>) {
    let settings = fleet.ports.table.settings(&fleet.pool(), &Settings::default()).await.unwrap();
    fleet.ports.table.change_settings(&fleet.pool(), &Settings { draining, ..settings }).await.unwrap();
}

/// A fleet of small GPUs, and a big one.
async fn with_a_big_gpu(plan: FleetPlan, small: usize) -> (Fleet, GpuId) {
    let (mut fleet, big) = (plan.start().await, GpuId::new("big").unwrap());
    fleet.add(SimulatedOptions { memory_mb: 192_000, ..SimulatedOptions::new(big.clone()) }).await;
    fleet.eligible(small + 1).await;
    (fleet, big)
}

/// A task that fits the big GPU alone.
fn large() -> NewTask {
    let mut task = echo("large");
    task.body.needs.memory_mb = Some(150_000);
    task
}

#[tokio::test(start_paused = true)]
async fn the_looks_at_a_task_that_nobody_serves_grow_rare_until_its_time_is_over() {
    let fleet = Fleet::of(2).start().await;
    let submitted = Instant::now();
    let waiting = fleet.producer.pending(task("ecko", json!(1)), HOUR).await.unwrap();
    until("its status says since when and until when it is waited for", async || {
        let status = fleet.producer.status(waiting.task_id()).await.unwrap();
        let why = status.and_then(|status| status.waiting_for).unwrap_or_default();
        ["served now: echo, simulate", "since 2026-01-01T00:00:", "until 2026-01-01T00:10:"].iter().all(|part| why.contains(part))
    })
    .await;
    let reply = waiting.await.unwrap();
    assert_eq!(reply.error.map(|error| error.code).as_deref(), Some("unserved"));
    let waited = submitted.elapsed();
    assert!(waited >= Duration::from_secs(600) && waited < Duration::from_secs(700), "{waited:?}");
    let rounds = fleet.counted("gpufleet_forwarded_total", "unplaceable");
    assert!((10.0..=25.0).contains(&rounds), "one every five seconds would be 120: {rounds}");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_its_own_ends_the_wait_before() {
    let fleet = Fleet::of(1).start().await;
    let mut hurried = task("ecko", json!(1));
    hurried.expiration = Some(Duration::from_secs(100));
    let reply = fleet.producer.submit_and_wait(hurried, HOUR).await.unwrap();
    assert_eq!(reply.outcome, Outcome::Expired);
}

#[tokio::test(start_paused = true)]
async fn a_gpu_that_starts_meanwhile_gets_the_task_and_its_wait_is_forgotten() {
    let mut fleet = Fleet::of(1).executors(Executors::new().with(executors::echo())).start().await;
    let waiting = fleet.producer.pending(simulate(5, "in the end"), HOUR).await.unwrap();
    until("it is marked as unserved", async || marked(&fleet).flatten().is_some()).await;
    until("that shows", async || fleet.counted("gpufleet_unserved_kinds", "") == 1.0).await;
    // The GPU that serves it comes, and takes no tasks yet.
    let late = GpuId::new("late").unwrap();
    drain_only(&fleet, vec![late.clone()]).await;
    fleet.executors_from_now_on(Executors::new().with(executors::echo()).with(executors::simulate()));
    fleet.add(SimulatedOptions::new(late.clone())).await;
    until("it is marked no more", async || marked(&fleet) == Some(None)).await;
    drain_only(&fleet, Vec::new()).await;
    let reply = waiting.await.unwrap();
    assert_eq!((result(&reply), reply.gpu_id), (json!("in the end"), Some(late)));
    until("nothing is unserved any more", async || {
        let told = fleet.ports.table.unserved(&fleet.pool()).await.unwrap();
        told.is_empty() && fleet.counted("gpufleet_unserved_kinds", "") == 0.0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fits_a_living_gpu_is_waited_for_however_long_that_one_takes_none() {
    let plan = Fleet::of(1).configured(|configuration| configuration.worker.unserved_wait_ms = 1_000);
    let (fleet, big) = with_a_big_gpu(plan, 1).await;
    drain_only(&fleet, vec![big.clone()]).await;
    let waiting = fleet.producer.pending(large(), HOUR).await.unwrap();
    until("it was looked at for long", async || fleet.counted("gpufleet_forwarded_total", "unplaceable") >= 10.0).await;
    assert_eq!(fleet.counted("gpufleet_unserved_rounds_total", ""), 0.0);
    drain_only(&fleet, Vec::new()).await;
    let reply = waiting.await.unwrap();
    assert_eq!((result(&reply), reply.gpu_id), (json!("large"), Some(big)));
}

#[tokio::test(start_paused = true)]
async fn no_task_fails_for_what_a_lost_table_does_not_know() {
    let plan = Fleet::of(2).configured(|configuration| configuration.worker.unserved_wait_ms = 0);
    let (fleet, big) = with_a_big_gpu(plan, 2).await;
    for _ in 0..5 {
        fleet.empty_the_table().await;
        for reply in replies(&fleet.producer, (0..6).map(|_| large()).collect(), 6).await {
            assert_eq!((result(&reply), reply.gpu_id), (json!("large"), Some(big.clone())));
        }
    }
    assert!(fleet.counted("gpufleet_forwarded_total", "unplaceable") > 0.0, "no task met the lost table");
}
