//! Which GPUs of this host are meant.

use devices::nvidia::{Found, Host, NvidiaError};
use protocol::{GpuId, NamingError, config::Configuration, gpu_named};

use super::VISIBLE;
use crate::{fault::Fault, output};

/// The variable that decides what CUDA's numbers mean.
const ORDER: &str = "CUDA_DEVICE_ORDER";
/// A UUID is no shorter.
const UUID_CHARACTERS: usize = 36;

/// What NVML lists of this host.
struct Listed {
    gpus: Vec<Found>,
    /// The GPUs that cannot be used, and why.
    lost: Vec<NvidiaError>,
}

/// The GPUs that this host's workers serve: all that the caller's `CUDA_VISIBLE_DEVICES` shows, or with `gpu.multi_gpu.enabled: false` the first of them.
pub(super) async fn every_gpu(configuration: &Configuration) -> Result<Vec<Found>, Fault> {
    let listed = ask(configuration, Listed::of).await?;
    for error in &listed.lost {
        output::note(&format!("a GPU is left out: {error}"));
    }
    if listed.gpus.is_empty() {
        return Err(Fault::Failed("this host has no NVIDIA GPU that answers; `--simulated N` serves simulated ones".to_owned()));
    }
    let mut gpus = match std::env::var(VISIBLE) {
        Ok(visible) => listed.visible(&visible, std::env::var(ORDER).is_ok_and(|order| order == "PCI_BUS_ID"))?,
        Err(_) => listed.gpus,
    };
    if !configuration.gpu.multi_gpu.enabled {
        gpus.truncate(1);
    }
    Ok(gpus)
}

/// The GPU of this name. One that answers is found whatever its neighbours do; one that does not may come back.
pub(super) async fn gpu_of(configuration: &Configuration, name: &str) -> Result<Found, Fault> {
    let by_id = GpuId::new(name).ok();
    let listing = ask(configuration, move |host| {
        let one = by_id.map(|id| host.gpu(&id)).transpose()?.flatten();
        one.map_or_else(|| Listed::of(host), |one| Ok(Listed { gpus: vec![one], lost: Vec::new() }))
    });
    listing.await?.named(name, "--gpu").cloned()
}

impl Listed {
    fn of(host: &Host) -> Result<Self, NvidiaError> {
        let (gpus, lost) = host.gpus()?;
        Ok(Self { gpus, lost })
    }

    /// The GPU of this name: NVML's index of it, its UUID, or the beginning of that.
    fn named(&self, name: &str, said: &str) -> Result<&Found, Fault> {
        if let Some(error) = self.lost.iter().find(|error| is_of(error, name)) {
            return Err(Fault::Unavailable(format!("{said}: {error}")));
        }
        if let Some(instances) = self.instances_of(name) {
            return Err(Fault::Usage(format!("{said}: GPU {name} is in MIG mode: name one of its instances by UUID: {instances}")));
        }
        if let Some(numbered) = self.gpus.iter().find(|found| number(name) == Some(found.index)) {
            return Ok(numbered);
        }
        let ids = ids(&self.gpus);
        let wanted = beginning(name, &ids).map_err(|error| {
            // A whole id was right once: its GPU does not answer now.
            let whole = name.len() >= UUID_CHARACTERS;
            if whole {
                Fault::Unavailable(format!("GPU {name} does not answer: {error}"))
            } else {
                Fault::Usage(format!("{said}: {error}"))
            }
        })?;
        let found = self.gpus.iter().find(|found| found.description.gpu_id == *wanted);
        found.ok_or_else(|| Fault::NotFound(format!("GPU {wanted} is gone")))
    }

    /// The instances of the GPU in MIG mode with this name: it cannot be served itself.
    fn instances_of(&self, name: &str) -> Option<String> {
        let is_part = |found: &&Found| {
            let whole = found.description.hardware.mig_of.as_ref();
            whole.is_some_and(|whole| number(name) == Some(found.index) || whole.as_str().eq_ignore_ascii_case(name))
        };
        let instances: Vec<&str> = self.gpus.iter().filter(is_part).map(|found| found.description.gpu_id.as_str()).collect();
        (!instances.is_empty()).then(|| instances.join(", "))
    }

    /// Those that the caller's `CUDA_VISIBLE_DEVICES` names: on a shared host the others belong to somebody else.
    fn visible(self, visible: &str, same_order: bool) -> Result<Vec<Found>, Fault> {
        let said = format!("{VISIBLE}={visible}");
        let refused = |what: &str| Fault::Usage(format!("{said}: {what}"));
        let names: Vec<&str> = visible.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.is_empty() {
            return Err(refused("it names no GPU: take it away, or name the GPUs to serve"));
        }
        let numbered = names.iter().any(|name| number(name).is_some());
        let alike = self.gpus.windows(2).all(|two| two[0].description.name == two[1].description.name);
        if numbered && !alike && !same_order {
            return Err(refused(&format!(
                "the GPUs of this host differ, and CUDA numbers them in an order of its own: name them by UUID, or set {ORDER}=PCI_BUS_ID"
            )));
        }
        let wanted: Result<Vec<&Found>, _> = names.into_iter().map(|name| self.named(name, &said)).collect();
        let wanted: Vec<GpuId> = wanted?.into_iter().map(|found| found.description.gpu_id.clone()).collect();
        Ok(self.gpus.into_iter().filter(|found| wanted.contains(&found.description.gpu_id)).collect())
    }
}

/// What a name says as a number: NVML's index of a GPU, which does not move when another GPU is lost or parted.
fn number(name: &str) -> Option<u32> {
    let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    if digits { name.parse().ok() } else { None }
}

fn is_of(error: &NvidiaError, name: &str) -> bool {
    let named = matches!(error, NvidiaError::NoInstance { gpu_id, .. } if gpu_id.as_str().eq_ignore_ascii_case(name));
    named || number(name).is_some_and(|number| error.index() == Some(number))
}

/// The id that begins so. Digits that are no index may still be the beginning of a UUID.
fn beginning<'a>(name: &str, ids: &'a [GpuId]) -> Result<&'a GpuId, NamingError> {
    if number(name).is_none() {
        return gpu_named(name, ids);
    }
    let begins = |prefix: &str| gpu_named(&format!("{prefix}-{name}"), ids);
    let told = match begins("gpu") {
        Err(NamingError::None { .. }) => begins("mig"),
        told => told,
    };
    told.map_err(|error| match error {
        NamingError::None { there, .. } => NamingError::None { name: name.to_owned(), there },
        several => several,
    })
}

/// NVML may hang, so it is asked on a thread that may block.
async fn ask<T: Send + 'static>(
    configuration: &Configuration,
    question: impl FnOnce(&Host) -> Result<T, NvidiaError> + Send + 'static,
) -> Result<T, Fault> {
    if !configuration.gpu.enabled {
        return Err(Fault::Usage("gpu.enabled is false: no NVIDIA GPU is looked for; `--simulated N` serves simulated ones".to_owned()));
    }
    let asking = tokio::task::spawn_blocking(move || question(&Host::open()?)).await;
    let answer = asking.map_err(|error| Fault::Failed(format!("look for GPUs: {error}")))?;
    answer.map_err(|error| Fault::Failed(format!("{error}; `--simulated N` serves simulated GPUs")))
}

fn ids(gpus: &[Found]) -> Vec<GpuId> {
    gpus.iter().map(|found| found.description.gpu_id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use protocol::{GpuDescription, gpu::Hardware, task::ComputeCapability};

    use super::*;

    fn host(names: &[&str]) -> Vec<Found> {
        let found = |(index, name): (u32, &&str)| Found {
            index,
            description: GpuDescription {
                gpu_id: GpuId::new(format!("GPU-{index}0000000-0000-4000-8000-000000000000")).unwrap(),
                name: (*name).to_owned(),
                memory_total_mb: 80_000,
                compute_capability: ComputeCapability { major: 9, minor: 0 },
                hardware: Hardware::default(),
            },
        };
        (0..).zip(names).map(found).collect()
    }

    fn listed(gpus: Vec<Found>) -> Listed {
        Listed { gpus, lost: Vec::new() }
    }

    fn shown(gpus: Vec<Found>, visible: &str, same_order: bool) -> Result<Vec<u32>, String> {
        let shown = listed(gpus).visible(visible, same_order).map(|gpus| gpus.into_iter().map(|found| found.index).collect());
        shown.map_err(|fault| format!("{fault:?}"))
    }

    #[test]
    fn only_the_gpus_that_the_caller_may_use_are_served() {
        let three = || host(&["A", "A", "A"]);
        assert_eq!(shown(three(), "GPU-1, GPU-20000000-0000-4000-8000-000000000000", false), Ok(vec![1, 2]));
        assert_eq!(shown(three(), "2,0", false), Ok(vec![0, 2]));
        assert!(shown(three(), "3", false).unwrap_err().contains("CUDA_VISIBLE_DEVICES=3"));
        assert!(shown(three(), "", false).unwrap_err().contains("names no GPU"));
    }

    #[test]
    fn numbers_count_only_where_cuda_counts_as_we_do() {
        let mixed = || host(&["fast", "slow"]);
        assert!(shown(mixed(), "1", false).unwrap_err().contains("CUDA_DEVICE_ORDER=PCI_BUS_ID"));
        assert_eq!(shown(mixed(), "1", true), Ok(vec![1]));
        assert_eq!(shown(mixed(), "GPU-0", false), Ok(vec![0]));
    }

    #[test]
    fn a_number_means_the_same_gpu_when_another_one_is_lost() {
        let mut host = listed(host(&["A", "A", "A"]));
        host.gpus.remove(0);
        host.lost.push(NvidiaError::Gpu { index: 0, cause: "it is lost".to_owned() });
        assert_eq!(host.named("1", "--gpu").unwrap().index, 1);
        let refused = host.named("0", "--gpu").unwrap_err();
        assert!(matches!(&refused, Fault::Unavailable(why) if why.contains("GPU 0: it is lost")), "{refused:?}");
        // No GPU has this number: it is the beginning of an id.
        assert_eq!(host.named("20", "--gpu").unwrap().index, 2);
        let refused = host.named("9", "--gpu").unwrap_err();
        assert!(matches!(&refused, Fault::Usage(why) if why.contains("no GPU is called \"9\"")), "{refused:?}");
    }

    #[test]
    fn a_gpu_in_mig_mode_is_served_by_its_instances_alone() {
        let mut host = listed(host(&["A", "A"]));
        let whole = std::mem::replace(&mut host.gpus[0].description.gpu_id, GpuId::new("MIG-7").unwrap());
        host.gpus[0].description.hardware.mig_of = Some(whole.clone());
        for name in ["0", &whole.as_str().to_lowercase()] {
            let refused = host.named(name, "--gpu").unwrap_err();
            assert!(matches!(&refused, Fault::Usage(why) if why.contains("in MIG mode") && why.contains("MIG-7")), "{refused:?}");
        }
        assert_eq!(host.named("mig-7", "--gpu").unwrap().index, 0);
        assert_eq!(host.named("1", "--gpu").unwrap().index, 1);
    }
}
