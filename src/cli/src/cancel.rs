//! `gpufleet cancel`.

use std::process::ExitCode;

use protocol::TaskId;
use task_store::{Cancel, Reach};

use crate::{arguments::Common, fault::Fault, fleet::Fleet, output};

/// Asks for a task's end. Exit code 1 if it had ended already.
pub(crate) async fn run(common: &Common, task_id: &TaskId, reach: Reach) -> Result<ExitCode, Fault> {
    let answer = Fleet::to_ask(common)?.cancel(task_id, reach).await?;
    let (word, sentence) = match &answer {
        Cancel::Waiting => ("waiting", "it had not begun and will be skipped".to_owned()),
        Cancel::Running(gpu_id) => (
            "running",
            format!(
                "it runs on GPU {gpu_id}, whose worker was asked to end it; a handler's run that does not end by itself is interrupted, then ended"
            ),
        ),
        Cancel::Unseen => ("unseen", "the cancel is noted".to_owned()),
        Cancel::Ended(outcome) => ("ended", format!("it had ended already: {}", outcome.name())),
    };
    if common.json {
        output::json(&serde_json::json!({"task_id": task_id, "was": word}))?;
    } else {
        output::line(&format!("task {task_id}: {sentence}"))?;
    }
    if answer == Cancel::Unseen {
        output::note(reach.note());
    }
    Ok(if matches!(answer, Cancel::Ended(_)) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
