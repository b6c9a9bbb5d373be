//! The GPUs of this host, as NVML lists them.

use std::{
    fs,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use nvml_wrapper::{Device, Nvml, error::NvmlError};
use protocol::{
    GpuDescription, GpuId,
    gpu::{Hardware, Pcie},
    task::ComputeCapability,
};

use super::{NvidiaError, topology};

/// The longest that NVML may take for an answer at a start.
const LIMIT: Duration = Duration::from_secs(20);

/// Where the kernel shows what it knows of PCI devices.
const PCI_DEVICES: &str = "/sys/bus/pci/devices";

/// One GPU, or one MIG instance, of this host.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// NVML's index of the GPU. Instances of one GPU share it. CUDA's order may differ: never use it there.
    pub index: u32,
    /// What it is.
    pub description: GpuDescription,
}

/// The NVIDIA driver of this host, through NVML.
#[derive(Clone)]
pub struct Host {
    nvml: Arc<Nvml>,
}

/// Versions of what the driver brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// The driver, such as `550.54.15`.
    pub driver: String,
    /// NVML.
    pub nvml: String,
    /// The highest CUDA that the driver serves, such as `12.4`.
    pub cuda: String,
}

impl Host {
    /// Loads NVML.
    ///
    /// # Errors
    /// [`NvidiaError`]: no library, no driver, or no answer in time.
    pub fn open() -> Result<Self, NvidiaError> {
        let opened = in_time("its start", || {
            Nvml::init().map_err(|error| match error {
                NvmlError::LibloadingError(cause) => NvidiaError::NoNvml(cause.to_string()),
                refused => NvidiaError::Nvml(refused.to_string()),
            })
        })?;
        Ok(Self { nvml: Arc::new(opened) })
    }

    pub(super) fn nvml(&self) -> Arc<Nvml> {
        Arc::clone(&self.nvml)
    }

    /// The versions.
    ///
    /// # Errors
    /// [`NvidiaError`] if NVML refuses or hangs.
    pub fn versions(&self) -> Result<Versions, NvidiaError> {
        let nvml = self.nvml();
        in_time("its versions", move || {
            let asked = |cause: NvmlError| NvidiaError::asked("its versions", cause);
            let cuda = nvml.sys_cuda_driver_version().map_err(asked)?;
            Ok(Versions {
                driver: nvml.sys_driver_version().map_err(asked)?,
                nvml: nvml.sys_nvml_version().map_err(asked)?,
                cuda: format!("{}.{}", cuda / 1000, cuda % 1000 / 10),
            })
        })
    }

    /// The GPU with this UUID, whatever the others do. `None`: it does not answer, is in MIG mode, or is none of this host.
    ///
    /// # Errors
    /// [`NvidiaError::Hangs`] if NVML gives no answer.
    pub fn gpu(&self, gpu_id: &GpuId) -> Result<Option<Found>, NvidiaError> {
        let (nvml, id) = (self.nvml(), gpu_id.clone());
        let found = in_time("the GPU", move || Ok(by_uuid(&nvml, &id).ok()))?;
        // The ways to its neighbours are worth having, and not worth failing for.
        let (nvml, one) = (self.nvml(), found.clone());
        let linked = in_time("the ways between GPUs", move || Ok(one.map(|one| topology::linked(&nvml, one))));
        Ok(linked.unwrap_or(found))
    }

    /// Every GPU that can run tasks, in NVML's order. A GPU in MIG mode is replaced by its instances. One that does not answer, or is in MIG mode without an instance, is
    /// in the second list, with the reason.
    ///
    /// # Errors
    /// [`NvidiaError`] if NVML cannot even count them, or hangs.
    pub fn gpus(&self) -> Result<(Vec<Found>, Vec<NvidiaError>), NvidiaError> {
        let nvml = self.nvml();
        in_time("the GPUs of this host", move || {
            let count = nvml.device_count().map_err(|cause| NvidiaError::asked("the number of GPUs", cause))?;
            let (mut found, mut lost) = (Vec::new(), Vec::new());
            for described in (0..count).flat_map(|index| describe(&nvml, index)) {
                match described {
                    Ok(one) => found.push(one),
                    Err(error) => lost.push(error),
                }
            }
            topology::link(&nvml, &mut found);
            Ok((found, lost))
        })
    }
}

fn by_uuid(nvml: &Nvml, gpu_id: &GpuId) -> Result<Found, NvmlError> {
    let device = nvml.device_by_uuid(gpu_id.as_str())?;
    if !gpu_id.as_str().starts_with("MIG-") {
        if is_parted(&device) {
            return Err(NvmlError::NotSupported);
        }
        return Ok(Found { index: device.index()?, description: description(&device, &device)? });
    }
    let parent = device.mig_parent_device()?;
    let mut found = Found { index: parent.index()?, description: description(&device, &parent)? };
    found.description.hardware.mig_of = GpuId::new(parent.uuid()?).ok();
    Ok(found)
}

/// The GPU of an index, or its MIG instances: each of them, or what is wrong with it.
pub(super) fn describe(nvml: &Nvml, index: u32) -> Vec<Result<Found, NvidiaError>> {
    let refused = |cause| NvidiaError::Gpu { index, cause: NvmlError::to_string(&cause) };
    let device = match nvml.device_by_index(index) {
        Ok(device) => device,
        Err(cause) => return vec![Err(refused(cause))],
    };
    if is_parted(&device) {
        return instances(&device, index).unwrap_or_else(|cause| vec![Err(refused(cause))]);
    }
    vec![description(&device, &device).map(|description| Found { index, description }).map_err(refused)]
}

/// Whether the GPU is in MIG mode: then nothing runs on it but on its instances.
fn is_parted(device: &Device<'_>) -> bool {
    device.mig_mode().is_ok_and(|mode| mode.current != 0)
}

/// The instances of a GPU in MIG mode. Only they tell their memory: of the whole GPU's, NVML tells nobody but root.
fn instances(whole: &Device<'_>, index: u32) -> Result<Vec<Result<Found, NvidiaError>>, NvmlError> {
    let whole_id = GpuId::new(whole.uuid()?).map_err(|_| NvmlError::InvalidArg)?;
    let there = (0..whole.mig_device_count()?).filter_map(|number| whole.mig_device_by_index(number).ok());
    let described = there.map(|instance| {
        let mut description = description(&instance, whole).map_err(|cause| NvidiaError::Gpu { index, cause: cause.to_string() })?;
        description.hardware.mig_of = Some(whole_id.clone());
        Ok(Found { index, description })
    });
    let described: Vec<_> = described.collect();
    Ok(if described.is_empty() { vec![Err(NvidiaError::NoInstance { index, gpu_id: whole_id })] } else { described })
}

/// `device` is the GPU or an instance of `parent`, which knows what an instance does not.
fn description(device: &Device<'_>, parent: &Device<'_>) -> Result<GpuDescription, NvmlError> {
    let uuid = device.uuid()?;
    let capability = parent.cuda_compute_capability()?;
    let version = |number: i32| u8::try_from(number).unwrap_or(0);
    Ok(GpuDescription {
        gpu_id: GpuId::new(uuid).map_err(|_| NvmlError::InvalidArg)?,
        name: device.name().or_else(|_| parent.name())?,
        memory_total_mb: megabytes(device.memory_info()?.total),
        compute_capability: ComputeCapability { major: version(capability.major), minor: version(capability.minor) },
        hardware: hardware(parent),
    })
}

fn hardware(device: &Device<'_>) -> Hardware {
    let pcie = pcie(device);
    let numa_node = pcie.as_ref().and_then(|pcie| numa_node(Path::new(PCI_DEVICES), &pcie.bus_id));
    Hardware { pcie, numa_node, ..Hardware::default() }
}

/// The node that the slot is closest to. The kernel says it: NVML's node is that of a GPU's own memory, which few GPUs have.
fn numa_node(devices: &Path, bus_id: &str) -> Option<u32> {
    let node = fs::read_to_string(devices.join(kernels_name(bus_id)?).join("numa_node")).ok()?;
    // -1: the firmware does not say.
    node.trim().parse().ok()
}

/// The kernel writes the domain with four digits, NVML with eight; the kernel in small letters.
fn kernels_name(bus_id: &str) -> Option<String> {
    let (domain, rest) = bus_id.split_once(':')?;
    let domain = u32::from_str_radix(domain, 16).ok()?;
    Some(format!("{domain:04x}:{}", rest.to_ascii_lowercase()))
}

fn pcie(device: &Device<'_>) -> Option<Pcie> {
    let bus_id = device.pci_info().ok()?.bus_id;
    Some(Pcie { bus_id, generation: device.max_pcie_link_gen().ok(), width: device.max_pcie_link_width().ok() })
}

/// MB (10^6 bytes), as everywhere in the fleet.
pub(super) const fn megabytes(bytes: u64) -> u64 {
    bytes / 1_000_000
}

/// Asks on a thread of its own: NVML can hang for ever, and with it whoever asks.
pub(super) fn in_time<T: Send + 'static>(
    what: &str,
    ask: impl FnOnce() -> Result<T, NvidiaError> + Send + 'static,
) -> Result<T, NvidiaError> {
    let (answer, answered) = mpsc::sync_channel(1);
    let hangs = || NvidiaError::Hangs { what: what.to_owned(), seconds: LIMIT.as_secs() };
    let asking = thread::Builder::new().name("nvml-start".to_owned()).spawn(move || {
        // Nobody waits any more: the answer came too late.
        let _ = answer.send(ask());
    });
    asking.map_err(|error| NvidiaError::asked(what, error))?;
    answered.recv_timeout(LIMIT).map_err(|_| hangs())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numa_node_is_the_kernels_and_minus_one_is_none() {
        let folder = std::env::temp_dir().join(format!("numa-node-{}", std::process::id()));
        for (name, node) in [("0000:c1:00.0", "1\n"), ("0000:17:00.0", "-1\n"), ("10000:01:00.0", "3\n")] {
            fs::create_dir_all(folder.join(name)).unwrap();
            fs::write(folder.join(name).join("numa_node"), node).unwrap();
        }
        let node = |bus_id| numa_node(&folder, bus_id);
        assert_eq!(node("00000000:C1:00.0"), Some(1));
        assert_eq!(node("00000000:17:00.0"), None, "the firmware does not say");
        assert_eq!(node("00010000:01:00.0"), Some(3));
        assert_eq!((node("00000000:18:00.0"), node("nonsense")), (None, None));
        fs::remove_dir_all(folder).unwrap();
    }
}
