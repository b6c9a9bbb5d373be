//! A GPU with too little memory: evict, cut into pieces, a bigger GPU, a clear failure.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use devices::{Device, SimulatedOptions, Use};
use executors::{Executor, Executors, Failure, Run};
use producer::NewTask;
use protocol::{GpuId, KeepAs, Kind, Outcome, Segments, TaskBody, TensorName};
use serde_json::{Value, json};
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{reply, result, task},
};

crate::on_both!(
    a_task_is_cut_into_pieces_until_it_fits,
    what_is_only_kept_is_evicted_first,
    a_task_that_fits_no_piece_of_here_goes_to_a_bigger_gpu,
    a_task_that_fits_nowhere_fails_with_what_it_needs_and_what_there_is,
);

/// Needs the memory that its payload says, cut into as many pieces as it is told; keeps some on the GPU from one task to the next.
#[derive(Default)]
struct Hungry {
    kept_mb: AtomicU64,
}

#[async_trait]
impl Executor for Hungry {
    fn kind(&self) -> Kind {
        Kind::new("hungry").unwrap()
    }

    fn pieces_max(&self, payload: &protocol::Json) -> u32 {
        payload.to::<Value>().unwrap()["pieces_max"].as_u64().unwrap() as u32
    }

    async fn run(&self, run: Run<'_>) -> Result<protocol::Framed, Failure> {
        let memory_mb =
            run.payload.to::<Value>().unwrap()["memory_mb"].as_u64().unwrap() / u64::from(run.pieces) + self.kept_mb.load(Ordering::SeqCst);
        let wanted = Use { memory_mb, compute_share: 0.1 };
        let refused =
            |error: devices::OutOfMemory| Failure { memory_mb: Some(error.wanted_mb), ..Failure::out_of_memory(error.to_string()) };
        let _work = run.device.begin(wanted).map_err(refused)?;
        Ok(protocol::Json::of(&run.pieces).into())
    }

    async fn evict(&self, _device: &dyn Device) -> bool {
        self.kept_mb.swap(0, Ordering::SeqCst) > 0
    }
}

async fn fleet(on: fn(FleetPlan) -> FleetPlan, kept_mb: u64) -> Fleet {
    let hungry = Hungry { kept_mb: AtomicU64::new(kept_mb) };
    on(Fleet::of(1).executors(Executors::new().with(Arc::new(hungry)))).start().await
}

fn hungry(memory_mb: u64, pieces_max: u32) -> producer::NewTask {
    task("hungry", json!({"memory_mb": memory_mb, "pieces_max": pieces_max}))
}

async fn a_task_is_cut_into_pieces_until_it_fits(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = fleet(on, 0).await;
    assert_eq!(result(&reply(&fleet.producer, hungry(50_000, 8)).await), json!(1));
    let answered = reply(&fleet.producer, hungry(300_000, 8)).await;
    assert_eq!((result(&answered), answered.attempt), (json!(4), 1), "75,000 MB fit into 80,000");
    assert_eq!(fleet.counted("gpufleet_memory_relief_total", "split"), 2.0);
}

async fn what_is_only_kept_is_evicted_first(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = fleet(on, 60_000).await;
    assert_eq!(result(&reply(&fleet.producer, hungry(50_000, 8)).await), json!(1), "whole, once there is room");
    assert_eq!(fleet.counted("gpufleet_memory_relief_total", "evicted"), 1.0);
    assert_eq!(fleet.counted("gpufleet_memory_relief_total", "split"), 0.0);
}

async fn a_task_that_fits_no_piece_of_here_goes_to_a_bigger_gpu(on: fn(FleetPlan) -> FleetPlan) {
    let mut fleet = fleet(on, 0).await;
    let small = fleet.gpus().remove(0);
    let big = GpuId::new("big").unwrap();
    fleet.add(SimulatedOptions { memory_mb: 400_000, ..SimulatedOptions::new(big.clone()) }).await;
    fleet.eligible(2).await;
    let answered = loop {
        // Some are claimed for the big one at once.
        let answered = reply(&fleet.producer, hungry(300_000, 2)).await;
        if answered.attempt > 1 {
            break answered;
        }
        assert_eq!(answered.gpu_id.as_ref(), Some(&big));
    };
    assert_eq!((result(&answered), answered.gpu_id.as_ref()), (json!(1), Some(&big)), "not in pieces, and not on {small}");
    assert!(fleet.counted("gpufleet_memory_relief_total", "bigger_gpu") >= 1.0);
}

async fn a_task_that_fits_nowhere_fails_with_what_it_needs_and_what_there_is(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = fleet(on, 0).await;
    let answered = reply(&fleet.producer, hungry(300_000, 2)).await;
    assert_eq!((answered.outcome, answered.attempt), (Outcome::Failed, 1), "another try would not mend it");
    let error = answered.error.unwrap();
    assert_eq!(error.code, "out_of_memory");
    assert!(error.message.contains("needs 150000 MB") && error.message.contains("more than 72000 MB"), "{}", error.message);
    assert_eq!(fleet.counted("gpufleet_gpu_quarantines_total", ""), 0.0, "too little memory is no fault of the GPU");
}

#[tokio::test(start_paused = true)]
async fn for_a_task_that_fits_nowhere_no_tensor_goes() {
    let kinds = Executors::new().with(Arc::new(Hungry::default())).with(executors::echo());
    let fleet = Fleet::of(1).executors(kinds).start().await;
    let putting = task("echo", json!({"data": {"$segment": 0}}));
    let keep_as = Some(KeepAs::one(TensorName::new("x").unwrap()));
    let body = TaskBody { segments: Segments::of(vec![Bytes::from_static(b"some bytes")]), keep_as, ..putting.body };
    result(&reply(&fleet.producer, NewTask { body, ..putting }).await);
    assert_eq!(reply(&fleet.producer, hungry(300_000, 2)).await.outcome, Outcome::Failed);
    assert_eq!(fleet.counted("gpufleet_memory_relief_total", "evicted"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn where_what_is_kept_beside_tensors_is_not_enough_tensors_go_too() {
    let kinds = Executors::new().with(Arc::new(Hungry { kept_mb: AtomicU64::new(12) })).with(executors::echo());
    let mut fleet = Fleet::of(0).executors(kinds).start().await;
    fleet.add(SimulatedOptions { memory_mb: 40, ..SimulatedOptions::new(GpuId::new("small").unwrap()) }).await;
    fleet.eligible(1).await;
    let putting = task("echo", json!({"data": {"$segment": 0}}));
    let keep_as = Some(KeepAs::one(TensorName::new("x").unwrap()));
    let body = TaskBody { segments: Segments::of(vec![Bytes::from(vec![1; 8_000_000])]), keep_as, ..putting.body };
    result(&reply(&fleet.producer, NewTask { body, ..putting }).await);
    assert_eq!(result(&reply(&fleet.producer, hungry(34, 1)).await), json!(1), "whole, once there is room");
    assert_eq!(fleet.counted("gpufleet_memory_relief_total", "evicted"), 2.0);
}
