//! The report: what passed, what failed, what was not checked.

use std::{fmt::Write, fs, path::Path};

use devices::nvidia::{Found, libraries};

use crate::{Bench, Fault, Finding};

/// What a check found.
pub enum Checked {
    /// It passed; the figures.
    Passed(String),
    /// It could not be checked here; why.
    Unchecked(String),
}

/// What all checks found.
pub struct Report {
    gpu: Found,
    gpus: usize,
    seed: u64,
    rows: Vec<(&'static str, &'static str, String)>,
}

impl Report {
    pub fn of(bench: &Bench) -> Self {
        Self { gpu: bench.gpu.clone(), gpus: bench.gpus, seed: bench.seed, rows: Vec::new() }
    }

    /// Takes what a check found, and says it.
    pub fn add(&mut self, name: &'static str, finding: Finding) {
        let (verdict, detail) = match finding {
            Ok(Checked::Passed(detail)) => ("passed", detail),
            Ok(Checked::Unchecked(why)) => ("unchecked", why),
            Err(fault) => ("FAILED", fault.to_string()),
        };
        line(&format!("{verdict:<9} {name}: {detail}"));
        self.rows.push((name, verdict, detail));
    }

    pub fn all_passed(&self) -> bool {
        self.rows.iter().all(|(_, verdict, _)| *verdict != "FAILED")
    }

    /// Writes it as Markdown.
    pub fn write(&self, path: &Path) -> Result<(), Fault> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, self.markdown()?)?;
        line(&format!("written to {}", path.display()));
        Ok(())
    }

    fn markdown(&self) -> Result<String, Fault> {
        let description = &self.gpu.description;
        let mut text = String::from(
            "# What was checked on a GPU\n\nWritten by `make gpu-check`. Figures are of that one run, on that one machine.\n\n",
        );
        writeln!(
            text,
            "- GPU: {}, {} MB, compute capability {}",
            description.name,
            description.memory_total_mb,
            String::from(description.compute_capability)
        )?;
        for library in libraries::look() {
            writeln!(text, "- {}: {}", library.name, library.state.unwrap_or_else(|problem| problem))?;
        }
        writeln!(text, "- gpufleet {}, seed of the inputs {}\n", env!("CARGO_PKG_VERSION"), self.seed)?;
        text.push_str("| check | verdict | what was seen |\n| --- | --- | --- |\n");
        for (name, verdict, detail) in &self.rows {
            writeln!(text, "| {name} | {verdict} | {} |", detail.replace('|', "\\|").replace('\n', " "))?;
        }
        text.push_str("\n## Not checked\n\n");
        if self.gpus < 2 {
            text.push_str("- Whatever needs two GPUs: ways between GPUs (NVLink, PCIe switches), peer access, isolation of one GPU's faults from another's worker, claiming among GPUs.\n");
        }
        text.push_str("- Xid events, uncorrectable ECC errors, a GPU that falls off the bus, a driver that hangs: they cannot be caused at will. Fake libraries play them in `tests/devices` and `tests/programs`.\n");
        text.push_str("- MIG instances, unless the GPU is in MIG mode.\n- Real RabbitMQ and Redis: this machine needs none; the fleet of these checks is embedded.\n");
        Ok(text)
    }
}

/// Prints a line for whoever waits.
#[expect(clippy::print_stdout, reason = "a program that people run")]
pub fn line(text: &str) {
    println!("{text}");
}
