//! `gpufleet dead`: what could not be a task, in its original bytes.
//!
//! AMQP cannot look without taking: messages are taken, shown, and given back to their places.

use std::{process::ExitCode, sync::Arc};

use protocol::TaskId;
use serde_json::{Value, json};
use task_queue::{Delivery, Queue, TaskQueue};

use crate::{
    arguments::{Common, DeadCommand},
    configuration,
    fault::Fault,
    fleet::needs_servers,
    output, requeue,
    servers::Servers,
};

/// Most letters in hand at once: each has a channel of its own, and RabbitMQ allows a connection 2,047 unless told otherwise.
pub(crate) const IN_HAND_MAX: usize = 1_000;

/// Shows, requeues or purges dead letters.
pub(crate) async fn run(common: &Common, command: DeadCommand) -> Result<ExitCode, Fault> {
    needs_servers(
        common,
        "dead letters",
        "give --amqp-url and --redis-url, the fleet's servers; an embedded `gpufleet up` keeps its own to itself",
    )?;
    let servers = Servers::of_a_running_fleet(configuration::load(common, Vec::new())?)?.impatient();
    let backends = servers.connect().await?;
    let queue = Arc::clone(&backends.queue);
    let done = match command {
        DeadCommand::Ls { limit } => list(common, &*queue, limit).await,
        DeadCommand::Show { task_id } => show(&*queue, &task_id).await,
        DeadCommand::Requeue { task_id, .. } => requeue::run(common, &backends, servers.configuration(), task_id.as_ref()).await,
        DeadCommand::Purge { task_id: Some(task_id), .. } => purge_one(common, &*queue, &task_id).await,
        DeadCommand::Purge { task_id: None, all } => purge_all(common, &*queue, all).await,
    };
    queue.close().await;
    done
}

/// Takes up to `limit` letters, as many as there are now and can be in hand.
pub(crate) async fn take(queue: &dyn TaskQueue, limit: usize) -> Result<Vec<Delivery>, Fault> {
    let mut letters = Vec::new();
    while letters.len() < limit.min(IN_HAND_MAX) {
        match queue.take(&Queue::Dead).await? {
            Some(letter) => letters.push(letter),
            None => break,
        }
    }
    Ok(letters)
}

pub(crate) async fn give_back(letters: Vec<Delivery>) -> Result<(), Fault> {
    // The last one first, so that each comes back before those that stood behind it.
    for letter in letters.into_iter().rev() {
        letter.receipt.give_back().await?;
    }
    Ok(())
}

pub(crate) fn id(letter: &Delivery) -> &str {
    letter.envelope.message_id.as_deref().unwrap_or_default()
}

async fn list(common: &Common, queue: &dyn TaskQueue, limit: usize) -> Result<ExitCode, Fault> {
    let letters = take(queue, limit).await?;
    let text = if common.json {
        output::json_text(&letters.iter().map(describe).collect::<Vec<_>>())
    } else {
        let row = |letter: &Delivery| {
            let kind = letter.envelope.kind.clone().unwrap_or_default();
            let reason = letter.envelope.headers.reason.clone().unwrap_or_default();
            vec![id(letter).to_owned(), kind, letter.body.len().to_string(), reason]
        };
        output::table_text(&["TASK", "KIND", "BYTES", "REASON"], &letters.iter().map(row).collect::<Vec<_>>())
    };
    // Before they are shown: they go back whether or not somebody reads of them.
    give_back(letters).await?;
    output::line(&text)?;
    Ok(ExitCode::SUCCESS)
}

async fn show(queue: &dyn TaskQueue, task_id: &TaskId) -> Result<ExitCode, Fault> {
    let letters = take(queue, IN_HAND_MAX).await?;
    let found: Vec<Value> = letters.iter().filter(|letter| id(letter) == task_id.as_str()).map(describe).collect();
    give_back(letters).await?;
    if found.is_empty() {
        return Err(not_found(task_id));
    }
    for letter in &found {
        output::pretty(letter)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn not_found(task_id: &TaskId) -> Fault {
    Fault::NotFound(format!("there is no dead letter of task {task_id} among the first {IN_HAND_MAX}; `gpufleet dead ls` lists them"))
}

fn describe(letter: &Delivery) -> Value {
    json!({
        "task_id": id(letter),
        "kind": letter.envelope.kind,
        "priority": letter.envelope.priority,
        "reply_to": letter.envelope.reply_to,
        "correlation_id": letter.envelope.correlation_id,
        "reason": letter.envelope.headers.reason,
        "attempt": letter.envelope.headers.attempt,
        "history": letter.envelope.headers.history.as_deref().map(|history| history.lines().collect::<Vec<_>>()),
        "unreadable": letter.envelope.headers.unreadable,
        "properties_hex": letter.envelope.headers.properties.as_deref().map(hexadecimal),
        "body": String::from_utf8_lossy(&letter.body),
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Deletes the letters of one task: a crash may have left two.
async fn purge_one(common: &Common, queue: &dyn TaskQueue, task_id: &TaskId) -> Result<ExitCode, Fault> {
    let letters = take(queue, IN_HAND_MAX).await?;
    let (chosen, others): (Vec<_>, Vec<_>) = letters.into_iter().partition(|letter| id(letter) == task_id.as_str());
    give_back(others).await?;
    let count = chosen.len();
    for letter in chosen {
        letter.receipt.ack().await?;
    }
    if count == 0 { Err(not_found(task_id)) } else { purged(common, count) }
}

/// Deletes all that are there now, if that was asked for outright, or somebody agrees. One by one: there may be more than can be in hand.
async fn purge_all(common: &Common, queue: &dyn TaskQueue, all: bool) -> Result<ExitCode, Fault> {
    let present = queue.depth(&Queue::Dead).await?.map_or(0, |depth| depth.ready as usize);
    if !all && present > 0 {
        agreed(present, &queue.names().queue(&Queue::Dead))?;
    }
    let mut count = 0;
    while count < present
        && let Some(letter) = queue.take(&Queue::Dead).await?
    {
        letter.receipt.ack().await?;
        count += 1;
    }
    purged(common, count)
}

/// Asks whether all letters are to go. Where nobody can be asked it must have been said.
fn agreed(present: usize, queue: &str) -> Result<(), Fault> {
    if output::can_ask() && output::agreed(&format!("Delete all {present} dead letters in {queue}, for ever?")) {
        return Ok(());
    }
    let advice = "give --all to delete them, or the id of one task (`gpufleet dead ls` lists them)";
    Err(Fault::Usage(format!("nothing was deleted; this would delete all {present} dead letters in {queue}: {advice}")))
}

fn purged(common: &Common, count: usize) -> Result<ExitCode, Fault> {
    if common.json {
        output::json(&json!({ "purged": count }))?;
    } else {
        output::line(&format!("{count} purged"))?;
    }
    Ok(ExitCode::SUCCESS)
}
