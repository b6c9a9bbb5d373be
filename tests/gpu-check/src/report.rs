//! The report: what passed, what failed, what was not checked.

use std::{fmt::Write, fs, path::Path, time::Duration};

use crate::{
    Fault,
    arguments::Scale,
    checks::CHECKS,
    finding::{Finding, Verdict},
    look::Looked,
};

/// What the checks found so far.
pub struct Report {
    lines: Vec<String>,
    gpus: u64,
    rows: Vec<Row>,
    /// Whether there is a GPU, and so anything left to run.
    goes_on: bool,
}

struct Row {
    name: &'static str,
    verdict: Verdict,
    took: Duration,
}

impl Report {
    pub fn of(looked: &Looked, seed: u64, scale: Scale) -> Self {
        let mut lines = looked.lines.clone();
        let quick = scale.of("", "; a quick run for fake libraries, whose figures mean nothing");
        lines.push(format!("gpufleet {}, seed of the inputs {seed}{quick}", env!("CARGO_PKG_VERSION")));
        let mut report = Self { lines, gpus: looked.gpus, rows: Vec::new(), goes_on: looked.gpu_id.is_ok() };
        if let Err(problem) = &looked.gpu_id {
            let finding: Finding = Err(problem.clone().into());
            report.add("a GPU is found", (Verdict::of(finding), Duration::ZERO));
        }
        report
    }

    /// Takes what a check found, and says it.
    pub fn add(&mut self, name: &'static str, (verdict, took): (Verdict, Duration)) {
        line(&format!("{:<9} {name} ({:.1} s): {}", verdict.word, took.as_secs_f64(), verdict.detail));
        self.rows.push(Row { name, verdict, took });
    }

    pub fn all_passed(&self) -> bool {
        self.rows.iter().all(|row| !row.verdict.failed())
    }

    /// Writes it as Markdown. Whoever reads sees the old one or the new one.
    pub fn write(&self, path: &Path) -> Result<(), Fault> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let draft = path.with_extension("draft");
        fs::write(&draft, self.markdown()?)?;
        Ok(fs::rename(draft, path)?)
    }

    fn markdown(&self) -> Result<String, Fault> {
        let mut text = String::from(
            "# What was checked on a GPU\n\nWritten by `make gpu-check`. Figures are of that one run, on that one machine.\n\n",
        );
        for known in &self.lines {
            writeln!(text, "- {known}")?;
        }
        text.push_str("\n| check | verdict | what was seen | seconds |\n| --- | --- | --- | --- |\n");
        for Row { name, verdict, took } in &self.rows {
            let detail = verdict.detail.replace('|', "\\|").replace(['\n', '\r'], " ");
            writeln!(text, "| {name} | {} | {detail} | {:.1} |", verdict.word, took.as_secs_f64())?;
        }
        text.push_str("\n## Not checked\n\n");
        for left in self.left_out() {
            writeln!(text, "- {left}")?;
        }
        Ok(text)
    }

    fn left_out(&self) -> Vec<String> {
        let mut left = Vec::new();
        let ran = if self.goes_on { self.rows.len() } else { 0 };
        left.extend(CHECKS.iter().skip(ran).map(|check| format!("This run did not come to it: {}.", check.name)));
        if self.gpus < 2 {
            left.push("Whatever needs two GPUs: ways between GPUs (NVLink, PCIe switches), peer access, isolation of one GPU's faults from another's worker, claiming among GPUs.".to_owned());
        }
        left.push("Tensors that go from one GPU to another (over NVLink or PCIe, to one or to many), and how fast: each check sees one GPU. Simulated GPUs and fake libraries play them in `tests/devices` and `tests/end_to_end`.".to_owned());
        left.push("Xid events of failing hardware, uncorrectable ECC errors, a GPU that falls off the bus, a driver that hangs: they cannot be caused at will. Fake libraries play them in `tests/devices` and `tests/programs`.".to_owned());
        left.push("MIG instances, unless the GPU is in MIG mode.".to_owned());
        left.push("Real RabbitMQ and Redis: this machine needs none; the fleet of these checks is embedded.".to_owned());
        left
    }
}

/// Prints a line for whoever waits. Nobody may: then it is lost, and ends nothing.
pub fn line(text: &str) {
    use std::io::Write as _;
    let _lost = writeln!(std::io::stdout(), "{text}");
}
