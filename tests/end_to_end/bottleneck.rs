//! What holds a fleet back: each cause that can be made on simulated GPUs is made, and recognised by whoever observes the fleet.

use std::{sync::Arc, time::Duration};

use gateway::{Observatory, ObservedPorts};
use producer::NewTask;
use protocol::{
    GpuId, Strategy, TaskState,
    claim::Settings,
    config::{ScalingSection, SimulatedModel},
    insight::{Holdup, TaskFilter, Verdict},
};
use serde_json::json;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, echo, on, priority, replies, simulate, started, task},
    until::until,
};
use tokio::time::{sleep, timeout};

crate::on_both!(
    a_fleet_that_keeps_up_is_held_back_by_nothing,
    more_work_than_slots_needs_more_gpus,
    tasks_without_any_gpu_need_one,
    a_drained_gpu_is_missed_while_tasks_wait,
    a_kind_that_nobody_serves_waits_for_workers_that_have_it,
    a_kind_that_takes_all_slots_holds_others_back,
);

/// Longest wait for a verdict. Generous: it bounds a hang.
const LONGEST: Duration = Duration::from_secs(100);

/// A task that runs for longer than any case takes.
fn endless() -> NewTask {
    simulate(300_000, "never")
}

/// Whoever observes this fleet, for whom tasks should wait so long at most.
fn observatory(fleet: &Fleet, wait_objective_ms: u64) -> Observatory {
    let ports = ObservedPorts {
        queue: Arc::clone(&fleet.ports.queue),
        table: Arc::clone(&fleet.ports.table),
        store: Arc::clone(&fleet.ports.store),
        environment: fleet.environment().clone(),
    };
    let scaling = ScalingSection { wait_objective_ms, ..ScalingSection::default() };
    Observatory::new(ports, fleet.pool(), Settings::default(), fleet.configuration().journal.clone(), scaling)
}

async fn judged(observatory: &Observatory) -> Verdict {
    observatory.refresh().await.unwrap();
    observatory.verdict().await.unwrap()
}

/// Waits until this is the verdict.
async fn recognised(observatory: &Observatory, holdup: Holdup) -> Verdict {
    let mut last = Verdict::default();
    let eventually = async {
        loop {
            last = judged(observatory).await;
            if last.holdup == holdup {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = timeout(LONGEST, eventually).await;
    if in_time.is_err() {
        let waiting = observatory.list(&TaskFilter { state: TaskState::OPEN.to_vec(), ..TaskFilter::default() }, None, 3);
        let first = waiting.tasks.first().map(|task| observatory.log(&task.task_id));
        panic!(
            "{} is not recognised; the last verdict: {last:?}; what is open: {waiting:?}; the steps of the first: {first:?}",
            holdup.name()
        );
    }
    assert!((1..=5).contains(&last.evidence.len()), "{last:?}");
    last
}

fn says(verdict: &Verdict, part: &str) {
    assert!(verdict.sentence.contains(part), "{part}: {}", verdict.sentence);
}

async fn submit(fleet: &Fleet, tasks: impl IntoIterator<Item = NewTask>) {
    for task in tasks {
        fleet.producer.submit(task).await.unwrap();
    }
}

/// From now on exactly these GPUs take no tasks.
async fn drain_only(fleet: &Fleet, draining: Vec<GpuId>) {
    let settings = fleet.ports.table.settings(&fleet.pool(), &Settings::default()).await.unwrap();
    fleet.ports.table.change_settings(&fleet.pool(), &Settings { draining, ..settings }).await.unwrap();
}

async fn a_fleet_that_keeps_up_is_held_back_by_nothing(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(2).slots(2)).start().await;
    let observatory = observatory(&fleet, 60_000);
    says(&recognised(&observatory, Holdup::Nothing).await, "no task waits");
    let flow = {
        let producer = fleet.producer.clone();
        tokio::spawn(async move { replies(&producer, (0..120).map(|n| simulate(40, n)).collect(), 20).await })
    };
    while !flow.is_finished() {
        let verdict = judged(&observatory).await;
        assert_eq!(verdict.holdup, Holdup::Nothing, "{verdict:?}");
        sleep(Duration::from_millis(50)).await;
    }
    flow.await.unwrap();
}

async fn more_work_than_slots_needs_more_gpus(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1).slots(1)).start().await;
    let observatory = observatory(&fleet, 2_000);
    submit(&fleet, (0..60).map(|n| simulate(1_000, n))).await;
    let verdict = recognised(&observatory, Holdup::TooFewGpus).await;
    says(&verdict, "more GPUs would hold the wait under 2.0 s");
    let scaling = observatory.scaling().await.unwrap();
    assert!(scaling.desired_workers > 5 && scaling.workers == 1, "{scaling:?}");
}

async fn tasks_without_any_gpu_need_one(here: fn(FleetPlan) -> FleetPlan) {
    let mut fleet = here(Fleet::of(1)).start().await;
    let observatory = observatory(&fleet, 60_000);
    let gpu = fleet.gpus().remove(0);
    drain_only(&fleet, vec![gpu.clone()]).await;
    submit(&fleet, [echo("waits")]).await;
    says(&recognised(&observatory, Holdup::NoGpus).await, "1 drained");
    fleet.drain(&gpu).await;
    let nobody = async || judged(&observatory).await.sentence.starts_with("No GPU lives while 1 task waits");
    until("it is seen that none lives", nobody).await;
    let scaling = observatory.scaling().await.unwrap();
    assert!(scaling.desired_workers >= 1 && scaling.workers == 0, "{scaling:?}");
    drain_only(&fleet, Vec::new()).await;
    fleet.add_gpu().await;
    recognised(&observatory, Holdup::Nothing).await;
}

async fn a_drained_gpu_is_missed_while_tasks_wait(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(2).slots(1)).start().await;
    let observatory = observatory(&fleet, 500);
    drain_only(&fleet, vec![fleet.gpus().remove(1)]).await;
    let _runs = started(&fleet.producer, endless()).await;
    submit(&fleet, [endless()]).await;
    says(&recognised(&observatory, Holdup::UnusableGpus).await, "1 of 2 GPUs takes no tasks");
}

async fn a_kind_that_nobody_serves_waits_for_workers_that_have_it(here: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(2).configured(|configuration| {
        configuration.worker.lease_ms = 3_000;
        configuration.amqp.unplaceable_ttl_ms = 200;
    });
    let fleet = here(plan).start().await;
    let observatory = observatory(&fleet, 2_000);
    submit(&fleet, [task("ecko", json!(1))]).await;
    says(&recognised(&observatory, Holdup::Unserved).await, "kind ecko");
}

async fn a_kind_that_takes_all_slots_holds_others_back(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1).slots(2)).start().await;
    let observatory = observatory(&fleet, 500);
    submit(&fleet, (0..40).map(|n| simulate(1_000, n))).await;
    submit(&fleet, (0..5).map(echo)).await;
    let verdict = recognised(&observatory, Holdup::OneKind).await;
    says(&verdict, "Kind simulate has");
    says(&verdict, "of other kinds");
}

#[tokio::test(start_paused = true)]
async fn attempts_that_fail_and_are_made_again_are_recognised() {
    let plan = Fleet::of(2).slots(4).configured(|configuration| configuration.worker.failures_to_quarantine = 0);
    let fleet = plan.start().await;
    let observatory = observatory(&fleet, 60_000);
    let flaky = || {
        let mut flaky = task("simulate", json!({"duration_ms": 20, "fail": {"code": "flaky", "message": "as asked", "retry": true}}));
        flaky.body.limits.max_attempts = Some(3);
        flaky
    };
    submit(&fleet, (0..30).map(|_| flaky())).await;
    says(&recognised(&observatory, Holdup::Retries).await, "most of them of kind simulate");
}

#[tokio::test(start_paused = true)]
async fn tasks_that_all_name_one_gpu_are_recognised() {
    let fleet = Fleet::of(3).slots(1).start().await;
    let observatory = observatory(&fleet, 500);
    submit(&fleet, (0..6).map(|_| on("gpu-0", endless()))).await;
    says(&recognised(&observatory, Holdup::Imbalance).await, "1 GPU is full and 2 idle");
}

#[tokio::test(start_paused = true)]
async fn memory_that_is_in_use_is_recognised() {
    let fleet = Fleet::of(2).slots(4).start().await;
    let observatory = observatory(&fleet, 500);
    let large = || {
        let mut large = task("simulate", json!({"duration_ms": 300_000, "memory_mb": 50_000}));
        large.body.needs.memory_mb = Some(50_000);
        large
    };
    // Each GPU has room for one of them, and slots for four.
    let _runs = (started(&fleet.producer, large()).await, started(&fleet.producer, large()).await);
    // The others are to find the memory taken, not to be refused it.
    until("both GPUs tell of the memory in use", async || {
        let rows = fleet.ports.table.rows(&fleet.pool()).await.unwrap();
        rows.len() == 2 && rows.iter().all(|view| view.row.sample.memory_used_mb >= 50_000)
    })
    .await;
    submit(&fleet, (0..4).map(|_| large())).await;
    says(&recognised(&observatory, Holdup::Memory).await, "slots are free and the memory for");
}

#[tokio::test(start_paused = true)]
async fn loads_of_models_that_make_way_for_each_other_are_recognised() {
    let plan = Fleet::of(1).slots(1).strategy(Strategy::LeastLoaded).configured(|configuration| {
        configuration.models.memory_mb = Some(10_000);
        configuration.models.simulated =
            ["a", "b"].map(|name| SimulatedModel { memory_mb: 10_000, load_ms: 400, ..SimulatedModel::named(name) }).into();
    });
    let fleet = plan.keeping_models().start().await;
    let observatory = observatory(&fleet, 500);
    let about = |model: &str| task("simulate", json!({"model": model, "model_mb": 10_000, "load_ms": 400, "duration_ms": 40}));
    submit(&fleet, (0..120).map(|n| about(["a", "b"][n % 2]))).await;
    says(&recognised(&observatory, Holdup::ModelLoads).await, "of the slot time goes into loading models");
}

#[tokio::test(start_paused = true)]
async fn low_priorities_behind_a_stream_of_high_ones_are_recognised() {
    let fleet = Fleet::of(1).slots(1).start().await;
    let observatory = observatory(&fleet, 500);
    let streams = (0..8).map(|_| {
        let producer = fleet.producer.clone();
        tokio::spawn(async move { while producer.submit_and_wait(priority(9, simulate(20, "urgent")), PATIENCE).await.is_ok() {} })
    });
    let streams: Vec<_> = streams.collect();
    until("they have begun", async || fleet.counted("gpufleet_tasks_total", "succeeded") >= 10.0).await;
    submit(&fleet, (0..5).map(|n| priority(0, simulate(20, n)))).await;
    says(&recognised(&observatory, Holdup::Starvation).await, "of priority 0");
    for stream in streams {
        stream.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_blocks_publishers_is_recognised_until_it_does_no_more() {
    let fleet = Fleet::of(1).start().await;
    let observatory = observatory(&fleet, 60_000);
    fleet.broker().block_publishers("low on memory");
    says(&recognised(&observatory, Holdup::Broker).await, "blocks publishers");
    fleet.broker().unblock_publishers();
    recognised(&observatory, Holdup::Nothing).await;
}
