//! Workers that crash while they run tasks: what crashed them is found and quarantined, what stood beside it is not.

use std::sync::Arc;

use async_trait::async_trait;
use executors::{Executor, Executors, Failure, Run};
use protocol::{GpuId, Kind, Outcome, Reply};
use serde_json::{Value, json};
use task_queue::Queue;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{replies, result, simulate, started, task},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

crate::on_both!(
    of_eight_tasks_on_one_gpu_only_the_poison_is_quarantined,
    a_suspect_that_does_no_harm_ends_well,
    two_poisons_on_one_gpu_are_both_found,
    a_drain_is_no_crash,
    the_dead_letter_of_a_poison_tells_what_became_of_every_attempt,
    a_crashed_task_runs_elsewhere_though_no_delivery_may_be_in_hand_for_long,
);

/// Runs `poison` and `bystander`: both say where they begin; the poison never ends, and neither does a bystander until the poison is gone.
struct Saying {
    kind: Kind,
    began: UnboundedSender<(GpuId, bool)>,
}

#[async_trait]
impl Executor for Saying {
    fn kind(&self) -> Kind {
        self.kind.clone()
    }

    async fn run(&self, run: Run<'_>) -> Result<protocol::Framed, Failure> {
        if *run.payload == json!("flaky poison") && run.task.attempt == 1 {
            return Err(Failure::transient("not today"));
        }
        let poison = run.payload.to::<String>().is_ok_and(|payload| payload.ends_with("poison"));
        let _ = self.began.send((run.device.description().gpu_id.clone(), poison));
        if poison {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        Ok(run.payload.clone().into())
    }
}

fn saying() -> (Executors, UnboundedReceiver<(GpuId, bool)>) {
    let (began, begins) = unbounded_channel();
    let saying = Arc::new(Saying { kind: Kind::new("say").unwrap(), began });
    (Executors::new().with(saying).with(executors::simulate()), begins)
}

fn plan(gpus: usize, slots: u32) -> (FleetPlan, UnboundedReceiver<(GpuId, bool)>) {
    let (executors, begins) = saying();
    let plan = Fleet::of(gpus).slots(slots).executors(executors).configured(|configuration| configuration.worker.lease_ms = 600);
    (plan, begins)
}

fn submit(fleet: &Fleet, payloads: &[&str]) -> JoinHandle<Vec<Reply>> {
    let tasks = payloads.iter().map(|payload| task("say", json!(payload))).collect();
    let (producer, count) = (fleet.producer.clone(), payloads.len());
    tokio::spawn(async move { replies(&producer, tasks, count).await })
}

/// Kills the worker of every GPU on which the poison begins, until all replies are there. How often that was.
async fn kill_the_poisoned(
    fleet: &mut Fleet,
    begins: &mut UnboundedReceiver<(GpuId, bool)>,
    replies: JoinHandle<Vec<Reply>>,
) -> (u32, Vec<Reply>) {
    let mut kills = 0;
    let mut replies = replies;
    loop {
        tokio::select! {
            biased;
            replies = &mut replies => return (kills, replies.unwrap()),
            Some((gpu_id, poison)) = begins.recv() => if poison {
                kills += 1;
                fleet.kill_and_restart(&gpu_id).await;
            },
        }
    }
}

async fn of_eight_tasks_on_one_gpu_only_the_poison_is_quarantined(on: fn(FleetPlan) -> FleetPlan) {
    let (plan, mut begins) = plan(1, 8);
    let mut fleet = on(plan).start().await;
    let payloads = ["a", "b", "c", "poison", "d", "e", "f", "g"];
    let flow = submit(&fleet, &payloads);
    // All eight run before the first worker dies.
    let mut began = 0;
    while began < 8 {
        began += u32::from(begins.recv().await.is_some());
    }
    let gpu_id = fleet.gpus().remove(0);
    fleet.kill_and_restart(&gpu_id).await;
    let (kills, replies) = kill_the_poisoned(&mut fleet, &mut begins, flow).await;
    assert_eq!(kills, 2, "and the first time, beside its neighbours");
    for (reply, payload) in replies.iter().zip(payloads) {
        if payload == "poison" {
            let error = reply.error.as_ref().unwrap();
            assert_eq!((reply.outcome, error.code.as_str()), (Outcome::Failed, "quarantined"));
            assert_eq!(error.message.matches("attempt 1 on gpu-0").count(), 3, "{}", error.message);
            assert_eq!(error.message.matches("alone").count(), 2, "{}", error.message);
        } else {
            assert_eq!((result(reply), reply.attempt), (json!(payload), 1), "a crash costs no attempt");
        }
    }
    let dead = fleet.ports.queue.take(&Queue::Dead).await.unwrap().unwrap();
    assert!(dead.envelope.headers.reason.unwrap().starts_with("quarantined: its worker, or the process that ran it, crashed 3 times"));
    assert_eq!(serde_json::from_slice::<Value>(&dead.body).unwrap()["payload"], json!("poison"));
    assert!(fleet.ports.queue.take(&Queue::Dead).await.unwrap().is_none());
    dead.receipt.ack().await.unwrap();
    assert_eq!(fleet.counted("gpufleet_quarantined_total", ""), 1.0);
    fleet.idle().await;
}

async fn a_suspect_that_does_no_harm_ends_well(on: fn(FleetPlan) -> FleetPlan) {
    let (plan, mut begins) = plan(1, 4);
    let mut fleet = on(plan).start().await;
    let flow = submit(&fleet, &["a", "b", "c", "d"]);
    begins.recv().await.unwrap();
    let gpu_id = fleet.gpus().remove(0);
    fleet.kill_and_restart(&gpu_id).await;
    let mut crashes = Vec::new();
    for (reply, payload) in flow.await.unwrap().iter().zip(["a", "b", "c", "d"]) {
        assert_eq!(result(reply), json!(payload));
        crashes.push(fleet.producer.status(&reply.task_id).await.unwrap().unwrap().crashes);
    }
    assert!(crashes.contains(&1) && crashes.iter().all(|crashes| *crashes <= 1), "{crashes:?}");
    assert_eq!(fleet.counted("gpufleet_quarantined_total", ""), 0.0);
}

async fn two_poisons_on_one_gpu_are_both_found(on: fn(FleetPlan) -> FleetPlan) {
    let (plan, mut begins) = plan(1, 4);
    let mut fleet = on(plan).start().await;
    let flow = submit(&fleet, &["poison", "a", "poison", "b"]);
    let (_, replies) = kill_the_poisoned(&mut fleet, &mut begins, flow).await;
    let quarantined = |reply: &Reply| reply.error.as_ref().is_some_and(|error| error.code == "quarantined");
    assert_eq!(replies.iter().map(quarantined).collect::<Vec<_>>(), [true, false, true, false]);
    fleet.idle().await;
}

async fn a_drain_is_no_crash(on: fn(FleetPlan) -> FleetPlan) {
    let (plan, _begins) = plan(1, 2);
    let plan = plan.configured(|configuration| configuration.worker.drain_grace_ms = 50);
    let mut fleet = on(plan).start().await;
    let pending = started(&fleet.producer, simulate(1_500, "in the end")).await;
    let gpu_id = fleet.gpus().remove(0);
    fleet.drain(&gpu_id).await;
    fleet.add_gpu().await;
    let reply = pending.await.unwrap();
    assert_eq!((result(&reply), reply.attempt), (json!("in the end"), 1));
    let status = fleet.producer.status(&reply.task_id).await.unwrap().unwrap();
    assert_eq!(status.crashes, 0, "its worker handed it back");
}

async fn the_dead_letter_of_a_poison_tells_what_became_of_every_attempt(on: fn(FleetPlan) -> FleetPlan) {
    let (plan, mut begins) = plan(1, 2);
    let mut fleet = on(plan).start().await;
    let flow = submit(&fleet, &["flaky poison"]);
    let (kills, replies) = kill_the_poisoned(&mut fleet, &mut begins, flow).await;
    assert_eq!((kills, replies[0].error.as_ref().unwrap().code.as_str()), (3, "quarantined"));
    let dead = fleet.ports.queue.take(&Queue::Dead).await.unwrap().unwrap();
    assert_eq!(dead.envelope.headers.attempt, Some(2));
    let history = dead.envelope.headers.history.unwrap();
    let lines: Vec<&str> = history.lines().collect();
    assert!(lines[0].starts_with("attempt 1 on gpu-0 failed at ") && lines[0].ends_with(": executor_failed: not today"), "{history}");
    assert!(lines.len() == 4 && lines[1..].iter().all(|line| line.starts_with("attempt 2 on gpu-0")), "{history}");
    assert!(lines[1].contains(" crashed, found at ") && lines[3].contains("alone"), "{history}");
    dead.receipt.ack().await.unwrap();
}

async fn a_crashed_task_runs_elsewhere_though_no_delivery_may_be_in_hand_for_long(on: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(2).slots(1).configured(|configuration| {
        configuration.worker.lease_ms = 1_500;
        configuration.worker.offer_ms = 1_000;
        configuration.worker.unacked_ms = 100;
    });
    let mut fleet = on(plan).start().await;
    let pending = started(&fleet.producer, simulate(3_000, "kept")).await;
    let holder = fleet.rows().await.into_iter().find(|view| view.held == 1).unwrap().row.gpu.gpu_id;
    fleet.kill(&holder).await;
    assert_eq!(result(&pending.await.unwrap()), "kept");
    assert_eq!(fleet.counted("gpufleet_crashes_total", ""), 1.0);
}
