//! Memory for bodies: above the budget of its process a worker waits with what the broker delivers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use executors::{Executor, Executors, Failure, Run};
use producer::NewTask;
use protocol::Kind;
use serde_json::{Value, json};
use task_queue::Queue;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, replies, result, simulate, started, task},
    until::until,
};

crate::on_both!(
    above_the_budget_large_tasks_run_one_by_one_and_each_gets_its_own_reply,
    a_body_larger_than_the_budget_runs_alone,
    what_waits_for_memory_goes_to_another_worker_when_its_own_stops,
);

/// Two of these are more than 1 MB.
const LARGE: usize = 600_000;

/// Gives its payload back after a moment, and notes how many do so at once.
#[derive(Default)]
struct Crowd {
    now: AtomicU32,
    most: AtomicU32,
}

#[async_trait]
impl Executor for Crowd {
    fn kind(&self) -> Kind {
        Kind::new("crowd").unwrap()
    }

    async fn run(&self, run: Run<'_>) -> Result<protocol::Framed, Failure> {
        self.most.fetch_max(self.now.fetch_add(1, Relaxed) + 1, Relaxed);
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.now.fetch_sub(1, Relaxed);
        Ok(run.payload.clone().into())
    }
}

/// One worker of 8 slots with memory for 1 MB of bodies, and what counts how many run at once.
async fn narrow(here: fn(FleetPlan) -> FleetPlan) -> (Fleet, Arc<Crowd>) {
    let crowd = Arc::new(Crowd::default());
    let executors = Executors::new().with(Arc::<Crowd>::clone(&crowd)).with(executors::simulate());
    let plan = Fleet::of(1).slots(8).executors(executors).configured(|configuration| configuration.memory.bodies_mb = 1);
    (here(plan).start().await, crowd)
}

fn payload(n: usize, bytes: usize) -> Value {
    json!({"n": n, "filler": "x".repeat(bytes)})
}

fn crowd_of(tasks: usize, bytes: usize) -> Vec<NewTask> {
    (0..tasks).map(|n| task("crowd", payload(n, bytes))).collect()
}

async fn above_the_budget_large_tasks_run_one_by_one_and_each_gets_its_own_reply(here: fn(FleetPlan) -> FleetPlan) {
    let (fleet, crowd) = narrow(here).await;
    for (n, reply) in replies(&fleet.producer, crowd_of(20, LARGE), 20).await.iter().enumerate() {
        assert!(result(reply) == payload(n, LARGE), "task {n} got another one's reply");
    }
    assert_eq!(crowd.most.load(Relaxed), 1);
    fleet.idle().await;
}

async fn a_body_larger_than_the_budget_runs_alone(here: fn(FleetPlan) -> FleetPlan) {
    let (fleet, crowd) = narrow(here).await;
    let bytes = 2_000_000;
    for (n, reply) in replies(&fleet.producer, crowd_of(3, bytes), 3).await.iter().enumerate() {
        assert!(result(reply) == payload(n, bytes), "task {n} got another one's reply");
    }
    assert_eq!(crowd.most.load(Relaxed), 1);
}

async fn what_waits_for_memory_goes_to_another_worker_when_its_own_stops(here: fn(FleetPlan) -> FleetPlan) {
    let (mut fleet, _) = narrow(here).await;
    let first = started(&fleet.producer, simulate(5_000, "x".repeat(LARGE))).await;
    let second = fleet.producer.pending(task("crowd", payload(2, LARGE)), PATIENCE).await.unwrap();
    let pool = Queue::Pool(fleet.pool());
    until("it is in the worker's hand", async || fleet.ports.queue.depth(&pool).await.unwrap().is_some_and(|depth| depth.ready == 0)).await;
    let (stopping, other) = (fleet.gpus()[0].clone(), fleet.add_gpu().await);
    let first = tokio::spawn(first);
    let ended = async {
        let reply = second.await.unwrap();
        assert!(!first.is_finished(), "it waited for the memory that the first one has");
        reply
    };
    let ((), reply) = tokio::join!(fleet.drain(&stopping), ended);
    assert_eq!((result(&reply) == payload(2, LARGE), reply.gpu_id), (true, Some(other)));
    result(&first.await.unwrap().unwrap());
}
