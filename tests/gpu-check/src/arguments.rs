//! What this program is asked to do.

use std::{path::PathBuf, time::Duration};

use protocol::GpuId;

use crate::{Fault, bench::Bench, look};

/// For people. The rest is between this program's own processes.
pub const USAGE: &str = "usage: gpu-check [--quick] [--limit=SECONDS] [REPORT.md]

Checks one NVIDIA GPU of this machine, the first that CUDA_VISIBLE_DEVICES allows, and writes the report (default: docs/gpu-check.md).
  --quick          few and small inputs, and no check that takes long by its nature: for fake libraries; its figures mean nothing
  --limit=SECONDS  no check may take longer (default: one or two minutes, as each needs); one that does is killed, and has failed
Ends with 0 if nothing failed, 1 if something did, 2 for arguments that it does not understand.";

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Full,
    /// For fake libraries.
    Quick,
}

impl Scale {
    /// The one of two.
    pub fn of<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// What to do.
pub enum Asked {
    /// All checks, and the report.
    Report(Run),
    /// Nothing: the usage.
    Help,
    /// Which GPU, and which libraries there are.
    Look,
    /// One check.
    Check { place: usize, bench: Bench },
    /// A process that a check takes down.
    Role { role: String, bench: Bench },
}

/// How all checks are run.
pub struct Run {
    pub path: PathBuf,
    pub scale: Scale,
    /// The longest of any check.
    pub limit: Duration,
}

#[derive(Default)]
struct Given {
    limit: Option<Duration>,
    path: Option<String>,
    quick: bool,
    help: bool,
    look: bool,
    check: Option<usize>,
    role: Option<String>,
    gpu_id: Option<GpuId>,
    seed: u64,
}

impl Asked {
    pub fn read(arguments: impl Iterator<Item = String>) -> Result<Self, Fault> {
        let mut given = Given::default();
        for argument in arguments {
            given.take(&argument)?;
        }
        let scale = if given.quick { Scale::Quick } else { Scale::Full };
        if given.help {
            return Ok(Self::Help);
        }
        if given.look {
            return Ok(Self::Look);
        }
        match (given.check, given.role, given.gpu_id) {
            (Some(place), None, Some(gpu_id)) => Ok(Self::Check { place, bench: Bench { gpu_id, seed: given.seed, scale } }),
            (None, Some(role), Some(gpu_id)) => Ok(Self::Role { role, bench: Bench { gpu_id, seed: given.seed, scale } }),
            (None, None, None) => {
                let path = PathBuf::from(given.path.unwrap_or_else(|| "docs/gpu-check.md".to_owned()));
                Ok(Self::Report(Run { path, scale, limit: given.limit.unwrap_or(Duration::MAX) }))
            }
            _ => Err("a check and a role need --gpu, and nothing else does".into()),
        }
    }
}

impl Given {
    fn take(&mut self, argument: &str) -> Result<(), Fault> {
        match argument.split_once('=') {
            _ if argument == "--quick" => self.quick = true,
            _ if argument == "--help" => self.help = true,
            _ if argument == look::ARGUMENT => self.look = true,
            Some(("--limit", seconds)) => self.limit = Some(Duration::from_secs(seconds.parse()?)),
            Some(("--check", place)) => self.check = Some(place.parse()?),
            Some(("--child", role)) => self.role = Some(role.to_owned()),
            Some(("--gpu", gpu_id)) => self.gpu_id = Some(GpuId::new(gpu_id)?),
            Some(("--seed", seed)) => self.seed = seed.parse()?,
            _ if argument.starts_with('-') || self.path.is_some() => return Err(format!("{argument:?} is not understood").into()),
            _ => self.path = Some(argument.to_owned()),
        }
        Ok(())
    }
}

/// What a process is told that runs one check.
pub fn of_check(place: usize, gpu_id: &GpuId, seed: u64, scale: Scale) -> Vec<String> {
    let mut arguments = vec![format!("--check={place}"), format!("--gpu={gpu_id}"), format!("--seed={seed}")];
    arguments.extend(scale.of(None, Some("--quick".to_owned())));
    arguments
}

/// What a process is told that plays a role.
pub fn of_role(role: &str, gpu_id: &GpuId) -> Vec<String> {
    vec![format!("--child={role}"), format!("--gpu={gpu_id}")]
}
