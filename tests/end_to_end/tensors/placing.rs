//! Where a task goes that names tensors, and what that costs.

use std::time::Duration;

use devices::simulated::{LinkSpeed, SimulatedOptions};
use producer::NewTask;
use protocol::{GpuId, Kind, Outcome, Segments, TaskBody};
use serde_json::json;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, by, on, reply, result, task},
    until::until,
};

use super::{bytes, fleet, moved, putting, read, reading};

/// What takes less time than a claim weighs nothing, so it is more.
const LARGE: usize = 7_000_000;

/// A fleet whose links carry so much.
async fn linked(gpus: usize, link: LinkSpeed) -> Fleet {
    linked_of(fleet(0), gpus, link).await
}

/// The same, as planned.
async fn linked_of(plan: FleetPlan, gpus: usize, link: LinkSpeed) -> Fleet {
    let mut fleet = plan.start().await;
    for number in 0..gpus {
        let gpu_id = GpuId::new(format!("slow-{number}")).unwrap();
        fleet.add(SimulatedOptions { host_link: link, peer_link: Some(link), ..SimulatedOptions::new(gpu_id) }).await;
    }
    fleet.eligible(gpus).await;
    fleet
}

#[tokio::test(start_paused = true)]
async fn a_task_goes_where_most_of_its_bytes_are() {
    let fleet = linked(4, LinkSpeed::gb_s(1.0)).await;
    for (number, gpu) in fleet.gpus().iter().enumerate() {
        let tensors = [format!("large.{number}"), format!("small.{number}")];
        for (tensor, count) in tensors.iter().zip([LARGE, 10_000]) {
            result(&reply(&fleet.producer, on(gpu.as_str(), putting(tensor, &bytes(count, number)))).await);
        }
    }
    for (number, gpu) in fleet.gpus().iter().enumerate() {
        fleet.idle().await;
        let before = moved(&fleet);
        let large = format!("large.{number}");
        let alone = reply(&fleet.producer, by("task_specific", reading(&[large.as_str()]))).await;
        assert_eq!((alone.gpu_id.as_ref(), moved(&fleet)), (Some(gpu), before), "it is there already");
        fleet.idle().await;
        // The small one comes along.
        let small = format!("small.{}", (number + 1) % 4);
        let both = reply(&fleet.producer, by("task_specific", reading(&[large.as_str(), small.as_str()]))).await;
        assert_eq!((both.gpu_id.as_ref(), moved(&fleet)), (Some(gpu), before + 10_000.0));
        assert_eq!(read(&both), [bytes(LARGE, number), bytes(10_000, (number + 1) % 4)]);
    }
}

#[tokio::test(start_paused = true)]
async fn how_long_tensors_are_on_their_way_is_no_run_time_of_the_kind() {
    let slow = LinkSpeed { bytes_per_second: 1e6, latency: Duration::from_micros(10) };
    let fleet = linked(2, slow).await;
    result(&reply(&fleet.producer, on("slow-0", putting("x", &bytes(2_000_000, 1)))).await);
    let brought = reply(&fleet.producer, on("slow-1", reading(&["x"]))).await;
    assert!(brought.timings.run_ms >= 1_000.0, "the attempt took as long as the way: {:?}", brought.timings);
    let run_ms = async || {
        let rows = fleet.rows().await;
        rows.iter()
            .filter(|view| view.row.gpu.gpu_id.as_str() == "slow-1")
            .find_map(|view| view.row.run_ms.iter().find(|(kind, _)| kind.as_str() == "reading").map(|(_, ms)| *ms))
    };
    until("the run is learnt", async || run_ms().await.is_some()).await;
    assert!(run_ms().await.unwrap() < 100.0, "the run took no time: {:?}", run_ms().await);
}

#[tokio::test(start_paused = true)]
async fn behind_a_long_run_no_task_waits_for_its_tensors_while_another_gpu_idles() {
    const BYTES: usize = 2_000_000;
    let slow = LinkSpeed { bytes_per_second: 1e6, latency: Duration::from_micros(10) };
    let fleet = linked_of(Fleet::of(0).slots(1), 2, slow).await;
    let put = |tensor: &str| {
        let task = task("tensor.put", json!({"name": tensor, "value": {"$segment": 0, "dtype": "f32"}}));
        NewTask { body: TaskBody { segments: Segments::of(vec![vec![0; BYTES].into()]), ..task.body }, ..task }
    };
    for tensor in ["x", "y"] {
        result(&reply(&fleet.producer, on("slow-0", put(tensor))).await);
    }
    let adding = |tensor: &str| task("simulate", json!({"inputs": [{ "tensor": tensor }], "duration_ms": 1}));
    // From here on it is known how slow the way is.
    assert_eq!(reply(&fleet.producer, on("slow-1", adding("y"))).await.outcome, Outcome::Succeeded);
    let lasting = |duration_ms: u64| task("simulate", json!({"duration_ms": duration_ms, "result": duration_ms}));
    for _ in 0..10 {
        result(&reply(&fleet.producer, on("slow-0", lasting(1))).await);
    }
    let row = async || fleet.rows().await.into_iter().map(|view| view.row).find(|row| row.gpu.gpu_id.as_str() == "slow-0").unwrap();
    let simulate: Kind = "simulate".parse().unwrap();
    until("runs are known to be short", async || row().await.run_ms.get(&simulate).is_some_and(|ms| *ms < 100.0)).await;
    fleet.idle().await;
    let long = fleet.producer.pending(on("slow-0", lasting(60_000)), PATIENCE).await.unwrap();
    until("the long one runs", async || row().await.running.len() == 1).await;
    let short = reply(&fleet.producer, by("task_specific", adding("x"))).await;
    assert_eq!(short.outcome, Outcome::Succeeded, "{short:?}");
    assert_eq!(short.gpu_id.as_ref().map(GpuId::as_str), Some("slow-1"), "it did not wait for the end of the long one");
    assert_eq!(result(&long.await.unwrap()), json!(60_000));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_its_tensors_says_how_far_they_are() {
    let slow = LinkSpeed { bytes_per_second: 8e6, latency: Duration::from_micros(10) };
    let fleet = linked(2, slow).await;
    result(&reply(&fleet.producer, on("slow-0", putting("x", &bytes(8_000_000, 1)))).await);
    let pending = fleet.producer.pending(on("slow-1", reading(&["x"])), PATIENCE).await.unwrap();
    let shown = async || {
        let status = fleet.producer.status(pending.task_id()).await.unwrap();
        status.and_then(|status| status.progress?.message).unwrap_or_default()
    };
    until("it says where they come from, and how far they are", async || {
        let shown = shown().await;
        shown.starts_with("bringing tensor x from slow-0: ") && !shown.ends_with(": 0 %")
    })
    .await;
    let reply = pending.await.unwrap();
    assert_eq!(reply.outcome, Outcome::Succeeded, "{reply:?}");
}
