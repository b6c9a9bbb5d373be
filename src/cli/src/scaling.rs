//! `gpufleet scaling`: how many workers the fleet should have.

use std::process::ExitCode;

use protocol::{GpuId, insight::Scaling};

use crate::{arguments::Common, fault::Fault, fleet::Fleet, output, words};

/// How many GPUs are named in a line.
const NAMED_MAX: usize = 8;

/// Says it.
pub(crate) async fn run(common: &Common) -> Result<ExitCode, Fault> {
    let fleet = Fleet::to_observe(common).await?;
    let scaling = fleet.scaling().await;
    fleet.close().await;
    let scaling = scaling?;
    if common.json {
        output::json(&scaling)?
    } else {
        output::line(&told(&scaling))?
    }
    Ok(ExitCode::SUCCESS)
}

/// One line for each thing.
fn told(scaling: &Scaling) -> String {
    let Scaling { pool, desired_workers, workers, reason, remove_first, safe_to_delete, .. } = scaling;
    let lines = [
        ("pool", pool.to_string()),
        ("desired", format!("{}, {workers} take tasks now", words::count(u64::from(*desired_workers), "worker"))),
        ("because", reason.clone()),
        (
            "wait",
            format!(
                "{} expected, {} is the objective",
                words::span(scaling.expected_wait_ms),
                words::span(scaling.wait_objective_ms as f64)
            ),
        ),
        (
            "work",
            format!(
                "{} waiting, {:.1} slot-seconds; {:.2} slot-seconds come each second; {:.1} slots to a worker",
                words::count(scaling.waiting, "task"),
                scaling.waiting_slot_seconds,
                scaling.arriving_slot_seconds_per_second,
                scaling.slots_per_worker
            ),
        ),
        ("remove first", named(remove_first)),
        ("safe to delete", named(safe_to_delete)),
    ];
    lines.map(|(name, text)| format!("{name:<16}{text}")).join("\n")
}

fn named(gpus: &[GpuId]) -> String {
    let names: Vec<&str> = gpus.iter().map(GpuId::as_str).take(NAMED_MAX).collect();
    match gpus.len() {
        0 => "none".to_owned(),
        count if count > NAMED_MAX => format!("{}, and {} more", names.join(", "), count - NAMED_MAX),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use protocol::PoolName;

    use super::*;

    #[test]
    fn each_figure_has_its_line() {
        let scaling = Scaling {
            pool: PoolName::default(),
            desired_workers: 5,
            workers: 3,
            wait_objective_ms: 30_000,
            expected_wait_ms: 61_000.0,
            waiting: 1,
            waiting_slot_seconds: 240.04,
            arriving_slot_seconds_per_second: 1.5,
            slots_per_worker: 8.0,
            reason: "the wait is over its objective".to_owned(),
            remove_first: (0..10).map(|number| GpuId::new(format!("sim-{number}")).unwrap()).collect(),
            safe_to_delete: Vec::new(),
        };
        let text = told(&scaling);
        for line in [
            "desired         5 workers, 3 take tasks now",
            "wait            61.0 s expected, 30.0 s is the objective",
            "work            1 task waiting, 240.0 slot-seconds; 1.50 slot-seconds come each second; 8.0 slots to a worker",
            "remove first    sim-0, sim-1, sim-2, sim-3, sim-4, sim-5, sim-6, sim-7, and 2 more",
            "safe to delete  none",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
    }
}
