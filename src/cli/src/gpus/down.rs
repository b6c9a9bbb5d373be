//! Kinds that GPUs would run and cannot now: their handlers are down, or what else runs them.

use std::collections::BTreeMap;

use protocol::{GpuId, Kind, gpu::GpuView};

/// How many GPUs are named.
const NAMED_MAX: usize = 4;
/// How much of a reason is shown, in letters: it may have what a process wrote last.
const REASON_MAX: usize = 400;

/// A kind that is down on some GPUs for the same reason.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KindDown {
    /// The kind.
    pub(crate) kind: Kind,
    /// Why, in one line.
    pub(crate) reason: String,
    /// On which.
    pub(crate) gpus: Vec<GpuId>,
}

impl KindDown {
    /// Where: `2 GPUs: sim-0, sim-1`.
    pub(crate) fn places(&self) -> String {
        let count = self.gpus.len();
        let mut named: Vec<&str> = self.gpus.iter().map(GpuId::as_str).take(NAMED_MAX).collect();
        if count > NAMED_MAX {
            named.push("…");
        }
        format!("{count} {}: {}", if count == 1 { "GPU" } else { "GPUs" }, named.join(", "))
    }
}

/// What is down on these GPUs, sorted by kind and reason.
pub(crate) fn kinds_down(views: &[GpuView]) -> Vec<KindDown> {
    let mut found: BTreeMap<(Kind, String), Vec<GpuId>> = BTreeMap::new();
    for view in views {
        for (kind, reason) in &view.row.kinds_down {
            found.entry((kind.clone(), one_line(reason))).or_default().push(view.row.gpu.gpu_id.clone());
        }
    }
    found.into_iter().map(|((kind, reason), gpus)| KindDown { kind, reason, gpus }).collect()
}

/// A reason in one line. A handler may say anything, a traceback of many lines too.
pub(crate) fn one_line(reason: &str) -> String {
    let words = reason.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    if line.chars().count() > REASON_MAX { line.chars().take(REASON_MAX).chain(['…']).collect() } else { line }
}

/// The lines below the table; empty where nothing is down.
pub(super) fn lines(views: &[GpuView]) -> String {
    let line = |down: &KindDown| format!("\nkind down: {} ({}) on {}", down.kind, down.reason, down.places());
    kinds_down(views).iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use protocol::{GpuDescription, GpuRow, GpuSample, Health, Incarnation, PoolName, gpu::Hardware, task::ComputeCapability};

    use super::*;

    fn view(id: &str, down: &[(&str, &str)]) -> GpuView {
        let row = GpuRow {
            gpu: GpuDescription {
                gpu_id: GpuId::new(id).expect("valid"),
                name: "a GPU".to_owned(),
                memory_total_mb: 80_000,
                compute_capability: ComputeCapability { major: 9, minor: 0 },
                hardware: Hardware::default(),
            },
            sample: GpuSample::default(),
            pool: PoolName::default(),
            incarnation: Incarnation::new("i").expect("valid"),
            host: "a-host".to_owned(),
            slots: 8,
            health: Health::Healthy,
            health_reason: String::new(),
            consuming: true,
            stopping: false,
            kinds: Vec::new(),
            models: Vec::new(),
            foreign_utilization_percent: 0.0,
            waiting: 0,
            running: Vec::new(),
            item_ms: BTreeMap::new(),
            kinds_down: down.iter().map(|(kind, reason)| (kind.parse().expect("a kind"), (*reason).to_owned())).collect(),
            run_ms: BTreeMap::new(),
            model_state: protocol::gpu::ModelState::default(),
            data: protocol::DataState::default(),
            servers: Default::default(),
            emptied: false,
        };
        GpuView { row, held: 0, draining: false, eligible: true, expires_in_ms: 5_000, phase: Default::default() }
    }

    #[test]
    fn a_kind_that_is_down_for_one_reason_has_one_line_and_names_its_gpus() {
        let setup = ("embed", "handler mine: setup failed:\nno such model");
        let views = [view("sim-0", &[setup]), view("sim-1", &[setup, ("rank", "handler rank: starts")]), view("sim-2", &[])];
        assert_eq!(
            lines(&views),
            "\nkind down: embed (handler mine: setup failed: no such model) on 2 GPUs: sim-0, sim-1\nkind down: rank (handler rank: starts) on 1 GPU: sim-1"
        );
        assert_eq!(lines(&views[2..]), "");
        let many: Vec<GpuView> = (0..9).map(|n| view(&format!("sim-{n}"), &[setup])).collect();
        assert_eq!(kinds_down(&many)[0].places(), "9 GPUs: sim-0, sim-1, sim-2, sim-3, …");
    }

    #[test]
    fn a_long_reason_is_cut() {
        assert_eq!(one_line("Traceback:\n  File \"a.py\",\tline 1\r\n"), "Traceback: File \"a.py\", line 1");
        assert_eq!(one_line("é".repeat(400).as_str()).chars().count(), 400);
        assert_eq!(one_line("é".repeat(401).as_str()).chars().count(), 401);
        assert!(one_line("é".repeat(500).as_str()).ends_with('…'));
    }
}
