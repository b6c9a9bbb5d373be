//! Tensors that are nowhere: not yet, not any more, or as far as an emptied table knows.

use std::time::Duration;

use devices::simulated::{LinkSpeed, SimulatedOptions};
use protocol::{GpuId, Outcome};
use serde_json::json;
use task_store::Cancel;
use tests::{
    fleet::{Fleet, FleetPlan, with_data_kinds},
    tasks::{PATIENCE, on, reply, result, started, task},
    until::until,
};

use super::{bytes, error, executors, fleet, keeping, moved, passing, putting, read, reading, told, waiting};

/// Longest wait for a reply, on a paused clock.
const HOUR: Duration = Duration::from_secs(3_600);

crate::on_both!(a_tensor_that_is_nowhere_fails_the_task_that_names_it);

async fn a_tensor_that_is_nowhere_fails_the_task_that_names_it(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(fleet(2).configured(|configuration| configuration.worker.lease_ms = 3_000)).start().await;
    let failed = reply(&fleet.producer, reading(&["nowhere"])).await;
    let (code, field, message) = error(&failed);
    assert_eq!((failed.outcome, code, field), (Outcome::Failed, "tensor_missing", Some("payload")));
    assert!(message.contains("nowhere"), "{message}");
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "reading"), 0.0, "it took no slot");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_waits_for_a_tensor_runs_once_it_is_made_and_says_what_it_waits_for() {
    let fleet = fleet(2).start().await;
    let pending = fleet.producer.pending(waiting(reading(&["later"])), HOUR).await.unwrap();
    until("its status says so", async || {
        let status = fleet.producer.status(pending.task_id()).await.unwrap();
        let why = status.and_then(|status| status.waiting_for).unwrap_or_default();
        ["the tensor later", "it is waited for since 2026-01-01T00:00:", "until 2026-01-01T00:10:"].iter().all(|part| why.contains(part))
    })
    .await;
    let content = bytes(1_000, 1);
    result(&reply(&fleet.producer, putting("later", &content)).await);
    let answer = pending.await.unwrap();
    assert_eq!((read(&answer), answer.attempt), (vec![content], 1));
}

#[tokio::test(start_paused = true)]
async fn what_copies_and_gathers_waits_without_a_slot_too_and_what_frees_does_not_wait() {
    let fleet = Fleet::of(2).executors(with_data_kinds(executors())).start().await;
    for (kind, payload, made) in [
        ("tensor.copy", json!({"tensor": "later", "to": "all"}), "later"),
        ("tensor.gather", json!({"batch": "part", "items": 1, "name": "whole"}), "part.0"),
    ] {
        let pending = fleet.producer.pending(waiting(task(kind, payload)), HOUR).await.unwrap();
        until("its status says so", async || {
            let status = fleet.producer.status(pending.task_id()).await.unwrap();
            status.and_then(|status| status.waiting_for).is_some_and(|why| why.contains(&format!("the tensor {made}")))
        })
        .await;
        assert_eq!(fleet.counted("gpufleet_run_seconds_count", kind), 0.0, "it took no slot");
        result(&reply(&fleet.producer, putting(made, &bytes(1_000, 1))).await);
        result(&pending.await.unwrap());
    }
    let freeing = waiting(task("tensor.free", json!({"tensor": "nowhere"})));
    assert_eq!(error(&reply(&fleet.producer, freeing).await).0, "tensor_missing");
}

#[tokio::test(start_paused = true)]
async fn a_tensor_is_not_waited_for_for_ever() {
    let fleet = fleet(1).start().await;
    let pending = fleet.producer.pending(waiting(reading(&["never"])), HOUR).await.unwrap();
    let failed = pending.await.unwrap();
    let (code, field, message) = error(&failed);
    assert_eq!((code, field), ("tensor_missing", Some("payload")));
    assert!(message.contains("waited") && message.contains("worker.unserved_wait_ms"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_worker_had_is_gone_and_a_task_that_needs_it_fails_clearly() {
    let mut fleet = fleet(2).start().await;
    let gone = fleet.gpus()[0].clone();
    result(&reply(&fleet.producer, on(gone.as_str(), putting("x", &bytes(1_000, 1)))).await);
    fleet.kill(&gone).await;
    until("its row has lapsed", async || fleet.rows().await.len() == 1).await;
    assert!(told(&fleet).await.is_empty(), "with the row the tensors are gone");
    assert_eq!(error(&reply(&fleet.producer, reading(&["x"])).await).0, "tensor_missing");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_leaves_in_order_takes_its_tensors_along_at_once() {
    let mut fleet = fleet(2).start().await;
    let leaves = fleet.gpus()[0].clone();
    result(&reply(&fleet.producer, on(leaves.as_str(), putting("x", &bytes(1_000, 1)))).await);
    fleet.drain(&leaves).await;
    assert!(told(&fleet).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_emptied_table_hears_of_all_tensors_again_and_fails_nobody_meanwhile() {
    let fleet = fleet(2).start().await;
    let content = bytes(1_000, 1);
    result(&reply(&fleet.producer, putting("x", &content)).await);
    fleet.empty_the_table().await;
    assert_eq!(read(&reply(&fleet.producer, reading(&["x"])).await), [content]);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_cancelled_while_its_tensor_is_on_the_way_ends_and_frees_its_slot() {
    let mut fleet = fleet(0).start().await;
    for number in 0..2 {
        let gpu_id = GpuId::new(format!("slow-{number}")).unwrap();
        let slow = LinkSpeed { bytes_per_second: 1e6, latency: Duration::from_micros(10) };
        fleet.add(SimulatedOptions { host_link: slow, peer_link: Some(slow), ..SimulatedOptions::new(gpu_id) }).await;
    }
    fleet.eligible(2).await;
    // Over these links each way of it takes three seconds.
    result(&reply(&fleet.producer, on("slow-0", putting("x", &bytes(3_000_000, 1)))).await);
    let running = started(&fleet.producer, on("slow-1", reading(&["x"]))).await;
    let cancelled = fleet.producer.cancel(running.task_id()).await.unwrap();
    assert_eq!(cancelled, Cancel::Running(GpuId::new("slow-1").unwrap()));
    assert_eq!(running.await.unwrap().outcome, Outcome::Cancelled);
    fleet.idle().await;
    assert_eq!(fleet.counted("gpufleet_cancel_ignored_total", ""), 0.0);
    // The next one who wants it has it all the same.
    let answer = fleet.producer.submit_and_wait(on("slow-1", reading(&["x"])), PATIENCE).await.unwrap();
    assert_eq!(read(&answer), [bytes(3_000_000, 1)]);
}

#[tokio::test(start_paused = true)]
async fn tasks_of_kinds_that_take_no_tensors_are_as_they_were() {
    let fleet = fleet(1).start().await;
    let payload = json!({"tensor": "no such thing", "of": {"tensor": "nowhere"}});
    assert_eq!(result(&reply(&fleet.producer, task("echo", payload.clone())).await), payload);
    assert_eq!(moved(&fleet), 0.0);
}

#[tokio::test(start_paused = true)]
async fn what_a_task_has_kept_goes_where_no_reply_carries_the_rest_of_its_result() {
    let fleet = fleet(1).configured(|configuration| configuration.worker.body_bytes_max = 100_000).start().await;
    result(&reply(&fleet.producer, putting("x", &bytes(60_000, 1))).await);
    for copy in ["y", "z"] {
        result(&reply(&fleet.producer, passing(&["x"], &[copy])).await);
    }
    let failed = reply(&fleet.producer, keeping(&["kept"], reading(&["x", "y", "z"]))).await;
    assert_eq!(error(&failed).0, "reply_too_large");
    let left: Vec<String> = told(&fleet).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["x", "y", "z"]);
}
