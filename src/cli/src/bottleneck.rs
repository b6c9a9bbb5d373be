//! `gpufleet bottleneck`: what holds the fleet back, with its evidence.

use std::process::ExitCode;

use protocol::insight::{Evidence, Verdict};

use crate::{arguments::Common, fault::Fault, fleet::Fleet, output, words};

/// Says it. The exit code does not depend on what it is.
pub(crate) async fn run(common: &Common) -> Result<ExitCode, Fault> {
    let fleet = Fleet::to_observe(common).await?;
    let verdict = fleet.verdict().await;
    fleet.close().await;
    let verdict = verdict?;
    if common.json {
        output::json(&verdict)?
    } else {
        output::line(&told(&verdict))?
    }
    Ok(ExitCode::SUCCESS)
}

fn told(verdict: &Verdict) -> String {
    let Verdict { holdup, sentence, evidence, also, window_ms } = verdict;
    let mut lines = vec![format!("{}: {sentence}", holdup.name())];
    if !evidence.is_empty() {
        lines.push(format!("evidence of the last {}:", words::span(*window_ms as f64)));
        lines.extend(evidence.iter().map(|evidence| format!("  {}", figure(evidence))));
    }
    if !also.is_empty() {
        lines.push("also:".to_owned());
        lines.extend(also.iter().map(|cause| format!("  {cause}")));
    }
    lines.join("\n")
}

/// What was measured, its figure with the unit, and beyond what it counts.
fn figure(evidence: &Evidence) -> String {
    let Evidence { what, value, unit, limit } = evidence;
    let limit = limit.map(|limit| format!(" (limit {})", number(limit, unit))).unwrap_or_default();
    format!("{what}: {}{limit}", number(*value, unit))
}

fn number(value: f64, unit: &str) -> String {
    let digits = if value.fract() == 0.0 || value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    match unit {
        "ms" => words::span(value),
        "" => digits,
        unit => format!("{digits} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use protocol::insight::Holdup;

    use super::*;

    #[test]
    fn a_verdict_is_told_with_its_figures_and_their_units() {
        let evidence = |what: &str, value, unit: &str, limit| Evidence { what: what.to_owned(), value, unit: unit.to_owned(), limit };
        let verdict = Verdict {
            holdup: Holdup::TooFewGpus,
            sentence: "every slot is busy; 3 more GPUs would hold the wait".to_owned(),
            evidence: vec![
                evidence("slots held", 99.5, "%", Some(95.0)),
                evidence("oldest wait", 61_000.0, "ms", None),
                evidence("tasks that wait", 1_204.0, "tasks", None),
            ],
            also: vec!["Redis is slow: 40 ms".to_owned()],
            window_ms: 300_000,
        };
        let expected = "too_few_gpus: every slot is busy; 3 more GPUs would hold the wait\nevidence of the last 5m 00s:\n  slots held: 99.50 % (limit 95 %)\n  oldest wait: 61.0 s\n  tasks that wait: 1204 tasks\nalso:\n  Redis is slow: 40 ms";
        assert_eq!(told(&verdict), expected);
        let nothing = Verdict { sentence: "nothing holds it back".to_owned(), ..Verdict::default() };
        assert_eq!(told(&nothing), "nothing: nothing holds it back");
    }
}
