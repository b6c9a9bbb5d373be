//! GPUs that fail: they do not attract work, and come back once they work again.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use executors::{Executor, Executors, Failure, Run};
use futures::{StreamExt, stream::FuturesUnordered};
use protocol::{Framed, Health, Kind, Outcome, Reply, Strategy};
use serde_json::json;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, echo, on, replies, result, simulate, task},
    until::until,
};

crate::on_both!(
    a_gpu_that_fails_fast_meets_few_tasks,
    a_quarantined_gpu_comes_back_once_its_canary_passes,
    tasks_that_fail_everywhere_take_no_gpu_out,
    a_drained_gpu_leaves_the_pools_queue_to_the_others,
    what_a_program_of_the_users_fails_at_speaks_against_no_gpu,
);

const TASKS: u64 = 800;
const TASK_MS: u64 = 60;

/// Submits tasks evenly, at 70 % of what eight GPUs of one slot can do, while one GPU fails each at once. The share of tasks that met it.
async fn share_that_met_it(fleet: &Fleet) -> f64 {
    let broken = fleet.gpus().remove(3);
    fleet.knobs(&broken).fail_tasks(1.0, "the memory is gone");
    let mut clock = tokio::time::interval(Duration::from_micros(TASK_MS * 1_000 * 10 / 7 / 8));
    let waiting = FuturesUnordered::new();
    for n in 0..TASKS {
        clock.tick().await;
        let producer = fleet.producer.clone();
        waiting.push(tokio::spawn(async move { producer.submit_and_wait(simulate(TASK_MS, n), PATIENCE).await.unwrap() }));
    }
    let replies: Vec<Reply> = waiting.map(Result::unwrap).collect().await;
    let met = replies.iter().filter(|reply| reply.attempt > 1).count();
    met as f64 / TASKS as f64
}

fn eight_gpus(on: fn(FleetPlan) -> FleetPlan) -> FleetPlan {
    on(Fleet::of(8).slots(1).strategy(Strategy::LeastLoaded))
}

async fn a_gpu_that_fails_fast_meets_few_tasks(on: fn(FleetPlan) -> FleetPlan) {
    let watched = eight_gpus(on).start().await;
    let share = share_that_met_it(&watched).await;
    assert!(share < 0.02, "{:.1} % of the tasks met the broken GPU", share * 100.0);
    let rows = watched.rows().await;
    let broken = rows.iter().find(|view| !view.eligible).unwrap();
    assert!(broken.row.health_reason.contains("the memory is gone"), "{}", broken.row.health_reason);

    let unwatched = eight_gpus(on).configured(|configuration| configuration.worker.failures_to_quarantine = 0).start().await;
    let without = share_that_met_it(&unwatched).await;
    assert!(without > 0.1, "without the breaker only {:.1} % met it: the test shows nothing", without * 100.0);
}

async fn a_quarantined_gpu_comes_back_once_its_canary_passes(here: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(3).slots(2).configured(|configuration| {
        configuration.worker.quarantine_ms = 400;
        configuration.worker.lease_ms = 900;
    });
    let fleet = here(plan).start().await;
    let broken = fleet.gpus().remove(0);
    let health = async || fleet.rows().await.into_iter().find(|view| view.row.gpu.gpu_id == broken).map(|view| view.row.health);
    fleet.knobs(&broken).fail_tasks(1.0, "broken");
    let named = || (0..4).map(|n| on(broken.as_str(), simulate(1, n))).collect();
    let flow = {
        let (producer, tasks) = (fleet.producer.clone(), named());
        tokio::spawn(async move { replies(&producer, tasks, 4).await })
    };
    until("it is quarantined", async || health().await == Some(Health::Quarantined)).await;
    until("it is kept out by its canary", async || fleet.counted("gpufleet_gpu_quarantines_total", broken.as_str()) >= 2.0).await;
    result(&replies(&fleet.producer, vec![echo("elsewhere")], 1).await[0]);
    fleet.knobs(&broken).fail_tasks(0.0, "");
    flow.await.unwrap();
    until("it is healthy again", async || {
        replies(&fleet.producer, named(), 4).await;
        health().await == Some(Health::Healthy)
    })
    .await;
}

async fn tasks_that_fail_everywhere_take_no_gpu_out(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(4).slots(2)).start().await;
    let failing = || {
        let mut task = task("simulate", json!({"fail": {"message": "the database is away", "retry": true}}));
        task.body.limits.max_attempts = Some(2);
        task
    };
    replies(&fleet.producer, (0..40).map(|_| failing()).collect(), 40).await;
    until("most of the GPUs take tasks", async || fleet.rows().await.iter().filter(|view| view.row.health.takes_tasks()).count() >= 2)
        .await;
    assert_eq!(fleet.counted("gpufleet_tasks_total", "failed"), 40.0);
}

async fn a_drained_gpu_leaves_the_pools_queue_to_the_others(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(2).slots(2).configured(|configuration| configuration.worker.lease_ms = 900)).start().await;
    let (table, pool) = (&fleet.ports.table, fleet.pool());
    let mut settings = table.settings(&pool, &protocol::claim::Settings::default()).await.unwrap();
    settings.draining = vec![fleet.gpus().remove(0)];
    table.change_settings(&pool, &settings).await.unwrap();
    let consumers = async || {
        let queue = task_queue::Queue::Pool(fleet.pool());
        fleet.ports.queue.depth(&queue).await.unwrap().unwrap().consumers
    };
    until("it consumes no more", async || consumers().await == 1).await;
    for (n, reply) in replies(&fleet.producer, (0..30).map(echo).collect(), 8).await.iter().enumerate() {
        assert_eq!(result(reply), json!(n));
    }
    assert_eq!(fleet.counted("gpufleet_forwarded_total", "gpu-0"), 0.0);
    let mut settings = table.settings(&pool, &settings).await.unwrap();
    settings.draining.clear();
    table.change_settings(&pool, &settings).await.unwrap();
    until("it consumes again", async || consumers().await == 2).await;
}

/// Fails each task, in a way that another try may mend.
struct Fails {
    kind: &'static str,
    blames_gpu: bool,
}

#[async_trait]
impl Executor for Fails {
    fn kind(&self) -> Kind {
        Kind::new(self.kind).unwrap()
    }

    async fn run(&self, _run: Run<'_>) -> Result<Framed, Failure> {
        Err(Failure::transient("ValueError: no such thing"))
    }

    fn failures_blame_gpu(&self) -> bool {
        self.blames_gpu
    }
}

async fn what_a_program_of_the_users_fails_at_speaks_against_no_gpu(here: fn(FleetPlan) -> FleetPlan) {
    let users = Arc::new(Fails { kind: "users", blames_gpu: false });
    let executors = Executors::new().with(users).with(Arc::new(Fails { kind: "ours", blames_gpu: true }));
    let plan = Fleet::of(3).executors(executors).configured(|configuration| configuration.worker.failures_to_quarantine = 3);
    let fleet = here(plan).start().await;
    let gpu = fleet.gpus().remove(0);
    let three_fail = async |kind: &str| {
        let failing = (0..3).map(|n| {
            let mut failing = on(gpu.as_str(), task(kind, json!(n)));
            failing.body.limits.max_attempts = Some(1);
            failing
        });
        let replies = replies(&fleet.producer, failing.collect(), 1).await;
        assert!(replies.iter().all(|reply| reply.outcome == Outcome::Failed), "{replies:?}");
    };
    three_fail("users").await;
    three_fail("users").await;
    assert_eq!(fleet.counted("gpufleet_gpu_quarantines_total", ""), 0.0);
    assert!(fleet.rows().await.iter().all(|view| view.row.health == Health::Healthy));
    three_fail("ours").await;
    until("what the worker itself fails at takes it out", async || fleet.counted("gpufleet_gpu_quarantines_total", gpu.as_str()) >= 1.0)
        .await;
}
