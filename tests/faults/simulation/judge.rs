//! What must hold when a simulated fleet has come to rest.

use std::collections::BTreeSet;

use bytes::Bytes;
use protocol::{GroupCounts, ItemResult, Outcome, Reply};
use serde_json::Value;
use tokio::time::{Duration, Instant};

use super::{
    fleet::{SimulatedFleet, id_of},
    scenario::{Class, PlannedBatch, PlannedTask},
    world::BAD,
};

/// Judges a fleet that has lived through its scenario; violations go into its world's list.
pub async fn judge(fleet: &SimulatedFleet) {
    if let Some(unrest) = fleet.unrest().await {
        fleet.world.violated(format!("not at rest: {unrest}"));
        return;
    }
    for task in &fleet.scenario.tasks {
        one_outcome(fleet, task).await;
    }
    group_is_counted(fleet).await;
    if fleet.scenario.class == Class::Calm {
        in_order_of_priority(fleet);
    }
    let poison: BTreeSet<&str> = fleet.scenario.tasks.iter().filter(|task| task.poison).map(|task| task.id.as_str()).collect();
    for id in fleet.dead() {
        if !poison.contains(id.as_str()) {
            fleet.world.violated(format!("{id} is among the dead letters"));
        }
    }
    all_slots_serve(fleet).await;
}

fn read(body: &Bytes) -> Reply {
    serde_json::from_slice(body).expect("a reply")
}

/// Exactly one outcome, and every copy of the reply the same; with the store emptied, the weaker promise.
async fn one_outcome(fleet: &SimulatedFleet, task: &PlannedTask) {
    let bodies: Vec<Bytes> = fleet.world.replies(&id_of(task));
    let mut different: Vec<&Bytes> = bodies.iter().collect();
    different.sort();
    different.dedup();
    let most = match &fleet.held_when_emptied {
        Some(held) if held.contains(&task.id) => 2,
        _ => 1,
    };
    if different.len() > most {
        fleet.world.violated(format!("{} has {} different replies, at most {most} may be", task.id, different.len()));
        return;
    }
    if let [one, other] = different[..]
        && let Some(token) = read(one).token
        && read(other).token == Some(token)
    {
        fleet.world.violated(format!("{}: two different replies of one token", task.id));
    }
    for body in &different {
        let reply = read(body);
        if !allowed(fleet.scenario.class, task, &reply) {
            fleet.world.violated(format!("{} ended as {reply:?}", task.id));
        }
    }
    let status = fleet.status(task).await;
    let known = status.as_ref().and_then(|status| status.reply.as_ref());
    let forgotten = fleet.held_when_emptied.is_some() && status.as_ref().is_none_or(|status| !status.state.ended());
    if !forgotten && !different.iter().any(|body| Some(&read(body)) == known) {
        fleet.world.violated(format!("{}: the stored reply is {known:?}, none that was sent", task.id));
    }
}

/// The group of all tasks counts each of them once, as it ended. What an emptied store had counted is gone.
async fn group_is_counted(fleet: &SimulatedFleet) {
    if fleet.held_when_emptied.is_some() {
        return;
    }
    let mut expected = GroupCounts::default();
    for task in &fleet.scenario.tasks {
        if let Some(status) = fleet.status(task).await {
            *expected.of_mut(status.state) += 1;
        }
    }
    let counted = fleet.group().await.map(|group| group.counts);
    if counted != Some(expected) {
        fleet.world.violated(format!("the group counts {counted:?}, and its tasks ended as {expected:?}"));
    }
}

fn allowed(class: Class, task: &PlannedTask, reply: &Reply) -> bool {
    if let Some(batch) = &task.batch {
        return allowed_of_a_batch(class, task, batch, reply);
    }
    let code = reply.error.as_ref().map(|error| error.code.as_str());
    let in_attempts = reply.attempt <= task.attempts_max;
    in_attempts
        && match reply.outcome {
            Outcome::Succeeded => !task.poison && reply.attempt == task.fails + 1,
            Outcome::Failed if task.poison => code == Some("quarantined"),
            // With both table and store emptied nobody remembers a GPU that is away.
            Outcome::Failed if code == Some("unknown_gpu") => task.gpu.is_some() && class == Class::StoreEmptied,
            Outcome::Failed => code == Some("executor_failed") && task.fails >= task.attempts_max && class != Class::Calm,
            Outcome::Cancelled => task.cancelled,
            Outcome::Expired => task.queue_deadline_ms.is_some(),
        }
}

/// Every item is there in its place with its own result, or with the error that it was to give; or the batch ended as a whole, and may have.
fn allowed_of_a_batch(class: Class, task: &PlannedTask, batch: &PlannedBatch, reply: &Reply) -> bool {
    let code = reply.error.as_ref().map(|error| error.code.as_str());
    let gives_up = task.fails >= task.attempts_max;
    match reply.outcome {
        Outcome::Succeeded => {
            let items: Vec<ItemResult> = reply.results.to().unwrap_or_default();
            let right = |(index, item): (usize, &ItemResult)| is_right(task, batch, index as u32, item);
            items.len() == batch.items as usize && items.iter().enumerate().all(right) && !(batch.bad_item.is_some() && batch.fails_whole)
        }
        Outcome::Failed if code == Some(BAD) => batch.bad_item.is_some() && (batch.fails_whole || batch.items == 1 || gives_up),
        Outcome::Failed if code == Some("unknown_gpu") => task.gpu.is_some() && class == Class::StoreEmptied,
        Outcome::Failed => code == Some("executor_failed") && gives_up,
        Outcome::Cancelled => task.cancelled,
        Outcome::Expired => task.queue_deadline_ms.is_some(),
    }
}

fn is_right(task: &PlannedTask, batch: &PlannedBatch, index: u32, item: &ItemResult) -> bool {
    let Some(error) = &item.error else {
        let result: Value = item.result.to().expect("JSON");
        return result["item"] == index && batch.bad_item != Some(index);
    };
    let named = error.field.as_deref().is_some_and(|field| field.starts_with(&format!("items[{index}]")));
    let expected = match error.code.as_str() {
        BAD => batch.bad_item == Some(index),
        "deadline" => task.queue_deadline_ms.is_some(),
        "executor_failed" => task.fails >= task.attempts_max,
        _ => false,
    };
    named && expected
}

/// A task may start before a more urgent one only where that one was already in some worker's hand.
fn in_order_of_priority(fleet: &SimulatedFleet) {
    let starts = fleet.world.starts();
    let in_hand = fleet.scenario.gpus * fleet.scenario.slots as usize;
    for (place, (task_id, priority)) in starts.iter().enumerate() {
        let overtaken = starts[place + 1..].iter().filter(|(_, later)| later > priority).count();
        if overtaken > in_hand {
            fleet.world.violated(format!("{task_id} of priority {priority} started before {overtaken} more urgent ones"));
        }
    }
}

/// No slot was lost on the way: every GPU runs as many tasks at once as it has slots, once it has proved itself after a quarantine.
async fn all_slots_serve(fleet: &SimulatedFleet) {
    let probe = |id: String, gpu, ms| PlannedTask {
        id,
        priority: 9,
        ms,
        fails: 0,
        attempts_max: 1,
        poison: false,
        queue_deadline_ms: None,
        delay_ms: None,
        gpu: Some(gpu),
        strategy: None,
        cancelled: false,
        copied: false,
        batch: None,
    };
    let gpus = 0..fleet.scenario.gpus;
    let proofs = gpus.clone().flat_map(|gpu| (0..6).map(move |n| probe(format!("proof-{gpu}-{n}"), gpu, 1)));
    all_run(fleet, proofs.collect()).await;
    let slots = fleet.scenario.slots;
    let probes = gpus.flat_map(|gpu| (0..slots).map(move |slot| probe(format!("probe-{gpu}-{slot}"), gpu, 60_000)));
    all_run(fleet, probes.collect()).await;
}

/// All of them run within less than the time that one of the slow ones takes.
async fn all_run(fleet: &SimulatedFleet, tasks: Vec<PlannedTask>) {
    let before = fleet.world.runs();
    for task in &tasks {
        fleet.send(task).await.expect("the broker is there");
    }
    let deadline = Instant::now() + Duration::from_secs(50);
    while fleet.world.runs() < before + tasks.len() as u64 {
        if Instant::now() > deadline {
            fleet.world.violated(format!(
                "only {} of {} tasks run: {} and its like",
                fleet.world.runs() - before,
                tasks.len(),
                tasks[0].id
            ));
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
