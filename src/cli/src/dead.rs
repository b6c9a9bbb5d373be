//! `gpufleet dead`: what could not be a task, in its original bytes.

use std::process::ExitCode;

use protocol::{DeadLetter, TaskId};
use serde_json::json;

use crate::{
    arguments::{Common, DeadCommand},
    fault::Fault,
    fleet::Fleet,
    output,
};

/// Shows, requeues or purges dead letters.
pub(crate) async fn run(common: &Common, command: DeadCommand) -> Result<ExitCode, Fault> {
    let fleet = Fleet::to_submit(common)?;
    let done = match command {
        DeadCommand::Ls { limit } => list(common, &fleet, limit).await,
        DeadCommand::Show { task_id } => show(&fleet, &task_id).await,
        DeadCommand::Requeue { task_id, .. } => requeue(common, &fleet, task_id.as_ref()).await,
        DeadCommand::Purge { task_id: Some(task_id), .. } => purge_one(common, &fleet, &task_id).await,
        DeadCommand::Purge { task_id: None, all } => purge_all(common, &fleet, all).await,
    };
    fleet.close().await;
    done
}

async fn list(common: &Common, fleet: &Fleet, limit: usize) -> Result<ExitCode, Fault> {
    let letters = fleet.dead_letters(limit).await?;
    if common.json {
        output::json(&letters)?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |letter: &DeadLetter| {
        let DeadLetter { task_id, kind, reason, body_bytes, .. } = letter;
        vec![task_id.clone(), kind.clone().unwrap_or_default(), body_bytes.to_string(), reason.clone().unwrap_or_default()]
    };
    output::table(&["TASK", "KIND", "BYTES", "REASON"], &letters.iter().map(row).collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}

async fn show(fleet: &Fleet, task_id: &TaskId) -> Result<ExitCode, Fault> {
    for letter in fleet.dead_letters_of(task_id).await? {
        output::pretty(&letter)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Requeues the letters of one task, or all that are there now: a second life, once what killed them is mended.
async fn requeue(common: &Common, fleet: &Fleet, task_id: Option<&TaskId>) -> Result<ExitCode, Fault> {
    let requeued = fleet.requeue(task_id).await?;
    if common.json {
        output::json(&requeued)?;
    } else {
        output::line(&format!("{} requeued", requeued.requeued))?;
        for kept in &requeued.kept {
            output::line(&format!("{} kept: {}", kept.task_id, kept.why))?;
        }
    }
    Ok(if requeued.kept.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Deletes the letters of one task: a crash may have left two.
async fn purge_one(common: &Common, fleet: &Fleet, task_id: &TaskId) -> Result<ExitCode, Fault> {
    purged(common, fleet.purge(task_id).await?)
}

/// Deletes all that are there now, if that was asked for outright, or somebody agrees.
async fn purge_all(common: &Common, fleet: &Fleet, all: bool) -> Result<ExitCode, Fault> {
    if !all {
        let (present, place) = fleet.dead_letters_present().await?;
        if present > 0 {
            agreed(present, &place)?;
        }
    }
    purged(common, fleet.purge_all().await?)
}

/// Asks whether all letters are to go. Where nobody can be asked it must have been said.
fn agreed(present: u64, place: &str) -> Result<(), Fault> {
    if output::can_ask() && output::agreed(&format!("Delete all {present} dead letters in {place}, for ever?")) {
        return Ok(());
    }
    let advice = "give --all to delete them, or the id of one task (`gpufleet dead ls` lists them)";
    Err(Fault::Usage(format!("nothing was deleted; this would delete all {present} dead letters in {place}: {advice}")))
}

fn purged(common: &Common, count: u64) -> Result<ExitCode, Fault> {
    if common.json {
        output::json(&json!({ "purged": count }))?;
    } else {
        output::line(&format!("{count} purged"))?;
    }
    Ok(ExitCode::SUCCESS)
}
