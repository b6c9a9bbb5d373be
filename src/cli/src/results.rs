//! `gpufleet results`.

use std::process::ExitCode;

use protocol::{ItemCounts, ItemResults, TaskId};

use crate::{arguments::Common, fault::Fault, fleet::Fleet, output};

/// Prints the results of a batch's items from one on, a line each, as far as they are there.
pub(crate) async fn run(common: &Common, task_id: &TaskId, from: u32) -> Result<ExitCode, Fault> {
    let fleet = Fleet::to_ask(common)?;
    let mut next = from;
    loop {
        let piece = fleet.results(task_id, next).await?;
        let results = piece.results.elements().map_err(|error| Fault::Failed(format!("the results of task {task_id}: {error}")))?;
        for came_out in &results {
            output::exact_line(&output::in_one_line(came_out.to_string()))?;
        }
        match piece.next {
            // Something more may be there by now.
            Some(then) if then > next => next = then,
            Some(_) => {
                output::note(&waits_for_more(&piece));
                return Ok(ExitCode::SUCCESS);
            }
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Why the results end before their last one, and how to go on.
fn waits_for_more(piece: &ItemResults) -> String {
    let ItemResults { task_id, state, items, from, .. } = piece;
    let counts = items.as_ref().map(|items| format!(", {}", how_many(items))).unwrap_or_default();
    format!(
        "the batch is {}{counts}; the result of item {from} is not there yet: `gpufleet results {task_id} --from {from}` goes on",
        state.name()
    )
}

/// How many items of a batch have ended.
pub(crate) fn how_many(items: &ItemCounts) -> String {
    let ItemCounts { of, done, failed } = items;
    let failed = failed.filter(|failed| *failed > 0).map(|failed| format!(", {failed} failed")).unwrap_or_default();
    format!("{done} of {of} items ended{failed}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_tell_of_failures_where_there_are_some() {
        let counts = |failed| how_many(&ItemCounts { of: 64, done: 37, failed });
        assert_eq!(
            [counts(None), counts(Some(0)), counts(Some(2))],
            ["37 of 64 items ended", "37 of 64 items ended", "37 of 64 items ended, 2 failed",]
        );
    }
}
