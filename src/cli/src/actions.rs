//! `gpufleet actions`: what operators did.

use std::process::ExitCode;

use protocol::OperatorAction;

use crate::{arguments::Common, fault::Fault, fleet::Fleet, output, words};

/// The least letters of the last column, however narrow the terminal is.
const DETAIL_MIN: usize = 16;
/// The longest name of who did it, and of to what.
const NAME_MAX: usize = 24;
/// A date and a time.
const WHEN: usize = 19;

/// Lists them, the latest first.
pub(crate) async fn run(common: &Common, limit: u32) -> Result<ExitCode, Fault> {
    let actions = Fleet::to_ask(common)?.actions(limit).await?;
    if common.json {
        output::json(&actions)?;
    } else if actions.is_empty() {
        output::line("no operator did anything that is remembered")?;
    } else {
        let header = ["WHEN (UTC)", "WHO", "DID", "TO WHAT, AND MORE"];
        output::line(&output::table_of_sentences(&header, &rows(&actions, output::width())))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The table's rows, at most `width` columns of letters wide with its frame, if that is possible.
fn rows(actions: &[OperatorAction], width: usize) -> Vec<Vec<String>> {
    let row = |action: &OperatorAction| {
        let OperatorAction { at_ms, who, action, target, detail, .. } = action;
        let when: String = words::date_and_time(*at_ms).chars().take(WHEN).collect();
        let more = match (target.as_str(), detail.as_str()) {
            (target, "") => target.to_owned(),
            ("", detail) => detail.to_owned(),
            (target, detail) => format!("{target} ({detail})"),
        };
        vec![when, output::cut(who, NAME_MAX), output::cut(action, NAME_MAX), more]
    };
    let mut rows: Vec<Vec<String>> = actions.iter().map(row).collect();
    let widest = |column: usize, name: &str| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0).max(name.len());
    let taken = widest(0, "WHEN (UTC)") + widest(1, "WHO") + widest(2, "DID") + 4 * 2 + 3 + 2;
    let left = width.saturating_sub(taken).max(DETAIL_MIN);
    for row in &mut rows {
        row[3] = output::cut(&row[3], left);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_no_wider_than_there_is_place_for() {
        let action = OperatorAction {
            at_ms: 1_777_896_184_512,
            who: "somebody-with-a-long-name@a-host".to_owned(),
            via: "cli".to_owned(),
            action: "set_thresholds".to_owned(),
            target: "memory 0.8, utilization 0.95".to_owned(),
            detail: "was memory 0.9, utilization 0.95".to_owned(),
        };
        let rows = rows(&[action], 100);
        assert_eq!(rows[0][0], "2026-05-04 12:03:04");
        let text = output::table_of_sentences(&["WHEN (UTC)", "WHO", "DID", "TO WHAT, AND MORE"], &rows);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(text.contains("memory 0.8") && text.contains('…'), "{text}");
    }
}
