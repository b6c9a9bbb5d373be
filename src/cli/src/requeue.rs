//! `gpufleet dead requeue`: a second life for dead letters, once what killed them is mended.

use std::{
    collections::BTreeSet,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use protocol::{BodyHash, Envelope, TaskId, config::Configuration};
use serde_json::json;
use service::Backends;
use task_queue::{Delivery, Outgoing, PublishError, Queue, Target};
use task_store::Reopen;

use crate::{
    arguments::Common,
    dead::{IN_HAND_MAX, give_back, id, not_found, take},
    fault::Fault,
    output,
};

/// Requeues one letter, or all that are there now.
pub(crate) async fn run(
    common: &Common,
    backends: &Backends,
    configuration: &Configuration,
    task_id: Option<&TaskId>,
) -> Result<ExitCode, Fault> {
    let letters = take(&*backends.queue, IN_HAND_MAX).await?;
    let (chosen, others): (Vec<_>, Vec<_>) = letters.into_iter().partition(|letter| task_id.is_none_or(|only| id(letter) == only.as_str()));
    give_back(others).await?;
    if let (Some(task_id), true) = (task_id, chosen.is_empty()) {
        return Err(not_found(task_id));
    }
    let (mut requeued, mut kept, mut done) = (0_usize, Vec::new(), BTreeSet::new());
    for letter in chosen {
        let task_id = id(&letter).to_owned();
        // A worker that crashed while it gave a task up may have left two letters of it.
        if !done.insert((task_id.clone(), BodyHash::of(&letter.body).as_str().to_owned())) {
            letter.receipt.ack().await?;
            continue;
        }
        match requeue(backends, configuration, &letter).await? {
            None => {
                letter.receipt.ack().await?;
                requeued += 1;
            }
            Some(why) => {
                letter.receipt.give_back().await?;
                kept.push((task_id, why));
            }
        }
    }
    if common.json {
        let kept: Vec<_> = kept.iter().map(|(task_id, why)| json!({"task_id": task_id, "why": why})).collect();
        output::json(&json!({ "requeued": requeued, "kept": kept }))?;
    } else {
        output::line(&format!("{requeued} requeued"))?;
        for (task_id, why) in &kept {
            output::line(&format!("{task_id} kept: {why}"))?;
        }
    }
    Ok(if kept.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Publishes a letter to its pool as a fresh task; the reason if it stays. The letter itself is acked only afterwards: a crash between leaves both, and
/// requeueing the letter once more would run the task once more.
async fn requeue(backends: &Backends, configuration: &Configuration, letter: &Delivery) -> Result<Option<String>, Fault> {
    let original = &letter.envelope;
    if let Some(problem) = &original.headers.unreadable {
        return Ok(Some(format!("its properties cannot be read ({problem}); publish the task anew")));
    }
    if letter.body.is_empty() {
        return Ok(Some("it has no body (one that is larger than a task's may be is not kept); publish the task anew".to_owned()));
    }
    let Ok(task_id) = id(letter).parse::<TaskId>() else {
        return Ok(Some("its id is not valid; publish the task anew".to_owned()));
    };
    match backends.store.reopen(&task_id, &BodyHash::of(&letter.body)).await? {
        Reopen::Open => {}
        Reopen::NotEnded => return Ok(Some("a task of this id has not ended yet".to_owned())),
        Reopen::ReusedId => return Ok(Some("its id belongs to a task with another body; publish the task anew".to_owned())),
    }
    let pool = original.headers.pool.as_deref().and_then(|pool| pool.parse().ok()).unwrap_or_else(|| configuration.worker.pool.clone());
    let queue = Queue::Pool(pool);
    let envelope = Envelope {
        message_id: Some(task_id.to_string()),
        kind: original.kind.clone(),
        priority: original.priority,
        reply_to: original.reply_to.clone(),
        correlation_id: original.correlation_id.clone(),
        content_type: original.content_type.clone(),
        content_encoding: original.content_encoding.clone(),
        // Deadlines count from now.
        timestamp: SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|now| now.as_secs()),
        headers: protocol::envelope::Headers {
            traceparent: original.headers.traceparent.clone(),
            user: original.headers.user.clone(),
            progress: original.headers.progress,
            ..Default::default()
        },
        ..Envelope::default()
    };
    match backends.queue.publish(Outgoing::new(Target::Queue(queue), envelope, letter.body.clone())).await {
        Ok(()) => Ok(None),
        Err(PublishError::Unroutable { target }) => Ok(Some(format!("its pool has no queue {target}; start a worker of that pool first"))),
        Err(error) if error.is_transient() => Err(Fault::Unavailable(error.to_string())),
        Err(error) => Err(Fault::Failed(error.to_string())),
    }
}
