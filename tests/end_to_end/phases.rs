//! Where workers are between taking tasks and their end, as their rows say: who reads `drained` may take the machine away.

use protocol::{GpuId, claim::Settings, gpu::WorkerPhase};
use serde_json::json;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{echo, on, reply, result, simulate, started},
    until::until,
};

crate::on_both!(a_gpu_is_drained_once_it_has_nothing_left_and_serves_again_when_it_may);

async fn phase(fleet: &Fleet, gpu_id: &str) -> Option<WorkerPhase> {
    fleet.rows().await.into_iter().find(|view| view.row.gpu.gpu_id.as_str() == gpu_id).map(|view| view.phase)
}

async fn until_phase(fleet: &Fleet, gpu_id: &str, wanted: WorkerPhase) {
    until(&format!("{gpu_id} is {}", wanted.name()), async || phase(fleet, gpu_id).await == Some(wanted)).await;
}

async fn drain_only(fleet: &Fleet, draining: &[&str]) {
    let draining: Vec<GpuId> = draining.iter().map(|gpu_id| gpu_id.parse().unwrap()).collect();
    let settings = fleet.ports.table.settings(&fleet.pool(), &Settings::default()).await.unwrap();
    fleet.ports.table.change_settings(&fleet.pool(), &Settings { draining, ..settings }).await.unwrap();
}

async fn a_gpu_is_drained_once_it_has_nothing_left_and_serves_again_when_it_may(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(2).configured(|configuration| configuration.worker.lease_ms = 1_500)).start().await;
    assert_eq!(phase(&fleet, "gpu-0").await, Some(WorkerPhase::Serving));
    let running = started(&fleet.producer, on("gpu-0", simulate(2_500, "in the end"))).await;
    drain_only(&fleet, &["gpu-0"]).await;
    // At every look until the task has ended: whoever believed the row would cut it short.
    let mut looks = 0;
    until("it is drained", async || {
        let phase = phase(&fleet, "gpu-0").await;
        let ended = fleet.producer.status(running.task_id()).await.unwrap().is_some_and(|status| status.state.ended());
        looks += 1;
        assert!(ended || phase != Some(WorkerPhase::Drained), "drained at look {looks}, and its task runs");
        phase == Some(WorkerPhase::Drained)
    })
    .await;
    assert_eq!(result(&running.await.unwrap()), json!("in the end"));
    let metrics = fleet.metrics();
    for series in
        [r#"gpufleet_worker_phase{gpu_id="gpu-0",phase="drained"} 1"#, r#"gpufleet_worker_phase{gpu_id="gpu-1",phase="serving"} 1"#]
    {
        assert!(metrics.contains(series), "{series} is not among\n{metrics}");
    }
    for n in 0..6 {
        assert_eq!(reply(&fleet.producer, echo(n)).await.gpu_id.unwrap().as_str(), "gpu-1");
    }
    assert_eq!(phase(&fleet, "gpu-0").await, Some(WorkerPhase::Drained));
    drain_only(&fleet, &[]).await;
    until_phase(&fleet, "gpu-0", WorkerPhase::Serving).await;
    result(&reply(&fleet.producer, on("gpu-0", echo("again"))).await);
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_not_believed_before_its_worker_has_heard_of_it() {
    let fleet = Fleet::of(1).configured(|configuration| configuration.worker.lease_ms = 30_000).start().await;
    // It was idle when it wrote its row, and does not write it again for ten seconds.
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    drain_only(&fleet, &["gpu-0"]).await;
    assert_eq!(phase(&fleet, "gpu-0").await, Some(WorkerPhase::Draining), "it may take a task until it has heard");
    until_phase(&fleet, "gpu-0", WorkerPhase::Drained).await;
}

#[tokio::test(start_paused = true)]
async fn a_row_says_how_its_worker_finds_the_servers() {
    let fleet = Fleet::of(1).configured(|configuration| configuration.worker.lease_ms = 900).start().await;
    result(&reply(&fleet.producer, echo("one")).await);
    until("the times are in the row", async || {
        let servers = fleet.rows().await[0].row.servers;
        servers.broker_ms.is_some() && servers.store_ms.is_some() && servers.table_ms.is_some() && !servers.broker_blocked
    })
    .await;
    for name in ["gpufleet_broker_confirm_seconds", "gpufleet_store_call_seconds", "gpufleet_table_call_seconds"] {
        assert!(fleet.metrics().contains(&format!("{name}{{gpu_id=\"gpu-0\"}} ")), "{}", fleet.metrics());
    }
    assert_eq!((fleet.counted("gpufleet_slots_used", "gpu-0"), fleet.counted("gpufleet_slots_free", "gpu-0")), (0.0, 8.0));
}
