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
    output, requeue,
    servers::Servers,
};

/// Most letters in hand at once: each has a channel of its own, and RabbitMQ allows a connection 2,047 unless told otherwise.
pub(crate) const IN_HAND_MAX: usize = 1_000;

/// Shows, requeues or purges dead letters.
pub(crate) async fn run(common: &Common, command: DeadCommand) -> Result<ExitCode, Fault> {
    let servers = Servers::of_a_running_fleet(configuration::load(common, &[])?)?.impatient();
    let backends = servers.connect().await?;
    let queue = Arc::clone(&backends.queue);
    let done = match command {
        DeadCommand::Ls { limit } => list(common, &*queue, limit).await,
        DeadCommand::Show { task_id } => show(&*queue, &task_id).await,
        DeadCommand::Requeue { task_id, .. } => requeue::run(common, &backends, servers.configuration(), task_id.as_ref()).await,
        DeadCommand::Purge { task_id } => purge(common, &*queue, task_id.as_ref()).await,
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
    if common.json {
        output::json(&letters.iter().map(describe).collect::<Vec<_>>());
    } else {
        let row = |letter: &Delivery| {
            let kind = letter.envelope.kind.clone().unwrap_or_default();
            let reason = letter.envelope.headers.reason.clone().unwrap_or_default();
            vec![id(letter).to_owned(), kind, letter.body.len().to_string(), reason]
        };
        output::table(&["TASK", "KIND", "BYTES", "REASON"], &letters.iter().map(row).collect::<Vec<_>>());
    }
    give_back(letters).await?;
    Ok(ExitCode::SUCCESS)
}

async fn show(queue: &dyn TaskQueue, task_id: &TaskId) -> Result<ExitCode, Fault> {
    let letters = take(queue, IN_HAND_MAX).await?;
    let found: Vec<Value> = letters.iter().filter(|letter| id(letter) == task_id.as_str()).map(describe).collect();
    give_back(letters).await?;
    if found.is_empty() {
        return Err(not_found(task_id));
    }
    found.iter().for_each(output::pretty);
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

/// Deletes one letter, or all that are there now.
async fn purge(common: &Common, queue: &dyn TaskQueue, task_id: Option<&TaskId>) -> Result<ExitCode, Fault> {
    let count = match task_id {
        Some(task_id) => purge_one(queue, task_id).await?,
        None => purge_all(queue).await?,
    };
    match task_id {
        Some(task_id) if count == 0 => return Err(not_found(task_id)),
        _ if common.json => output::json(&json!({ "purged": count })),
        _ => output::line(&format!("{count} purged")),
    }
    Ok(ExitCode::SUCCESS)
}

async fn purge_one(queue: &dyn TaskQueue, task_id: &TaskId) -> Result<usize, Fault> {
    let letters = take(queue, IN_HAND_MAX).await?;
    let (chosen, others): (Vec<_>, Vec<_>) = letters.into_iter().partition(|letter| id(letter) == task_id.as_str());
    give_back(others).await?;
    let count = chosen.len();
    for letter in chosen {
        letter.receipt.ack().await?;
    }
    Ok(count)
}

/// One by one: there may be more than can be in hand.
async fn purge_all(queue: &dyn TaskQueue) -> Result<usize, Fault> {
    let present = queue.depth(&Queue::Dead).await?.map_or(0, |depth| depth.ready as usize);
    let mut count = 0;
    while count < present
        && let Some(letter) = queue.take(&Queue::Dead).await?
    {
        letter.receipt.ack().await?;
        count += 1;
    }
    Ok(count)
}
