//! The script: what the machine's GPUs are and how they are doing, as the JSON file says at this moment.

use std::{
    env, fs,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};

use crate::{c_interface::lock, copy_fault::FakeCopyFault};

/// The environment variable with the path of the file. Absent: no driver is loaded.
pub const VARIABLE: &str = "FAKE_NVIDIA";

const MIB: u64 = 1 << 20;

/// The machine. Every field that the file lacks has its default; a field that it should not have makes the whole file unreadable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FakeNvidia {
    /// The driver's version; default `550.54.15`.
    pub driver_version: String,
    /// The CUDA version that the driver offers, as NVIDIA counts it: 12040 (the default) is 12.4.
    pub cuda_driver_version: i32,
    /// The GPUs in NVML's order; default none.
    pub gpus: Vec<FakeGpu>,
    /// While true, CUDA's exit handler takes a process down that exits in order; default false.
    pub dies_at_exit: bool,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FakeGpu {
    /// `GPU-` and 32 hexadecimal digits in the usual groups.
    pub uuid: String,
    /// The product's name.
    pub name: String,
    /// Major and minor; default 9.0.
    pub compute_capability: (u32, u32),
    /// All of its memory, in MiB; default 81559.
    pub memory_mib: u64,
    /// As NVML writes it, with a domain of eight digits.
    pub pci_bus_id: String,
    /// The PCIe generation, now and at most; default 5.
    pub pcie_generation: u32,
    /// The PCIe lanes, now and at most; default 16.
    pub pcie_width: u32,
    /// 0 to 100; default 0. Not available in MIG mode.
    pub utilization_percent: u32,
    /// What others than the fake CUDA processes use, in MiB; default 0.
    pub memory_used_mib: u64,
    /// Default 35.
    pub temperature_celsius: u32,
    /// Default 70 W.
    pub power_milliwatts: u32,
    /// Default 1980.
    pub sm_clock_mhz: u32,
    /// NVML's bits of why the clock is held down; default none.
    pub throttle_reasons: u64,
    /// Uncorrected memory errors since the driver was loaded; default 0.
    pub ecc_uncorrected: u64,
    /// Default true. When false, errors are not counted.
    pub ecc_enabled: bool,
    /// Default 0.
    pub numa_node: u32,
    /// The UUIDs of the GPUs to which it has an active NVLink, once for each link; default none.
    pub nvlinks: Vec<String>,
    /// Its active NVLinks to a switch, behind which are all GPUs with such links; default 0.
    pub nvswitch_links: usize,
    /// The UUIDs of the GPUs whose memory it can access; default none.
    pub peers: Vec<String>,
    /// The MIG instances. With any, MIG mode is enabled; default none.
    pub mig: Vec<FakeMig>,
    /// While true, MIG mode is enabled also without instances; default false.
    pub mig_enabled: bool,
    /// The Xid errors so far. An event set hears of those appended after the GPU was registered in it.
    pub xids: Vec<u64>,
    /// While true, every `nvmlDevice…` query of this GPU blocks.
    pub nvml_hangs: bool,
    /// What NVML answers instead of the GPU's state; default none.
    pub nvml_error: Option<NvmlFault>,
    /// The names of NVML functions that this GPU does not support.
    pub unsupported: Vec<String>,
    /// The code with which CUDA refuses to open the GPU (`cuDevicePrimaryCtxRetain`), one that CUDA has; default none.
    pub cuda_init_error: Option<u32>,
    /// The code with which cuBLAS refuses a handle on the GPU (`cublasCreate`); default none.
    pub cublas_init_error: Option<u32>,
    /// While true, every word that a kernel writes has one bit flipped.
    pub wrong_results: bool,
    /// While true, allocations above 16 MiB fail although free memory is shown.
    pub fragmented: bool,
    /// The most free memory that is shown and given, in MiB; default no such limit.
    pub free_memory_cap_mib: Option<u64>,
    /// The code with which CUDA refuses to make a handle of memory for other processes (`cuIpcGetMemHandle`); default none.
    pub ipc_export_error: Option<u32>,
    /// The code with which CUDA refuses to open the memory of another process (`cuIpcOpenMemHandle`); default none. Without it, the memory's GPU must be among `peers`, or be this one.
    pub ipc_open_error: Option<u32>,
    /// The code with which CUDA refuses to pin memory of the caller (`cuMemHostRegister`); default none.
    pub host_register_error: Option<u32>,
    /// Copies that go wrong; the first that fits counts. Default none.
    pub copy_faults: Vec<FakeCopyFault>,
}

/// A MIG instance: a part of a GPU that CUDA sees as a device of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FakeMig {
    /// `MIG-` and 32 hexadecimal digits in the usual groups.
    pub uuid: String,
    /// The profile's name; default `1g.10gb`.
    pub profile: String,
    /// All of its memory, in MiB; default 9856.
    pub memory_mib: u64,
    /// What others than the fake CUDA processes use of it, in MiB; default 0.
    pub memory_used_mib: u64,
}

/// What NVML answers when a GPU is in trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NvmlFault {
    /// It has fallen off the bus: not even its handle is given out.
    GpuLost,
    /// It does not support what is asked.
    NotSupported,
    /// An unexpected error.
    Unknown,
    /// It must be reset first.
    ResetRequired,
}

impl Default for FakeNvidia {
    fn default() -> Self {
        Self { driver_version: "550.54.15".to_owned(), cuda_driver_version: 12_040, gpus: Vec::new(), dies_at_exit: false }
    }
}

impl Default for FakeGpu {
    fn default() -> Self {
        Self {
            uuid: "GPU-00000000-0000-4000-8000-000000000000".to_owned(),
            name: "NVIDIA H100 80GB HBM3".to_owned(),
            compute_capability: (9, 0),
            memory_mib: 81_559,
            pci_bus_id: "00000000:17:00.0".to_owned(),
            pcie_generation: 5,
            pcie_width: 16,
            utilization_percent: 0,
            memory_used_mib: 0,
            temperature_celsius: 35,
            power_milliwatts: 70_000,
            sm_clock_mhz: 1_980,
            throttle_reasons: 0,
            ecc_uncorrected: 0,
            ecc_enabled: true,
            numa_node: 0,
            nvlinks: Vec::new(),
            nvswitch_links: 0,
            peers: Vec::new(),
            mig: Vec::new(),
            mig_enabled: false,
            xids: Vec::new(),
            nvml_hangs: false,
            nvml_error: None,
            unsupported: Vec::new(),
            cuda_init_error: None,
            cublas_init_error: None,
            wrong_results: false,
            fragmented: false,
            free_memory_cap_mib: None,
            ipc_export_error: None,
            ipc_open_error: None,
            host_register_error: None,
            copy_faults: Vec::new(),
        }
    }
}

impl Default for FakeMig {
    fn default() -> Self {
        Self {
            uuid: "MIG-00000000-0000-4000-9000-000000000000".to_owned(),
            profile: "1g.10gb".to_owned(),
            memory_mib: 9_856,
            memory_used_mib: 0,
        }
    }
}

impl FakeGpu {
    /// A GPU whose UUID and bus id are those of this number: the same at every call, and other ones for other numbers.
    pub fn numbered(number: usize) -> Self {
        Self {
            uuid: format!("GPU-00000000-0000-4000-8000-{number:012x}"),
            pci_bus_id: format!("{:08x}:{:02x}:00.0", number >> 8, (number + 0x17) & 0xff),
            ..Self::default()
        }
    }

    pub(crate) fn is_in_mig_mode(&self) -> bool {
        self.mig_enabled || !self.mig.is_empty()
    }
}

impl FakeMig {
    /// An instance whose UUID is that of these two numbers: the GPU's and its own.
    pub fn numbered(gpu: usize, instance: usize) -> Self {
        Self { uuid: format!("MIG-00000000-0000-4000-9000-{gpu:06x}{instance:06x}"), ..Self::default() }
    }
}

/// A GPU or one of its MIG instances: what a device of CUDA is, and what an NVML handle stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) gpu: &'a FakeGpu,
    pub(crate) instance: Option<&'a FakeMig>,
}

impl<'a> Part<'a> {
    pub(crate) fn uuid(&self) -> &'a str {
        self.instance.map_or(&self.gpu.uuid, |instance| &instance.uuid)
    }

    pub(crate) fn name(&self) -> String {
        match self.instance {
            Some(instance) => format!("{} MIG {}", self.gpu.name, instance.profile),
            None => self.gpu.name.clone(),
        }
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        MIB * self.instance.map_or(self.gpu.memory_mib, |instance| instance.memory_mib)
    }

    pub(crate) fn used_by_others_bytes(&self) -> u64 {
        MIB * self.instance.map_or(self.gpu.memory_used_mib, |instance| instance.memory_used_mib)
    }

    pub(crate) fn free_at_most_bytes(&self) -> u64 {
        self.gpu.free_memory_cap_mib.map_or(u64::MAX, |cap| MIB * cap)
    }
}

/// The script as it was read, and from where.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) path: PathBuf,
    pub(crate) machine: FakeNvidia,
}

/// Why there is no script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// The variable is absent.
    NoDriver,
    /// The file is missing or not what it should be.
    Unreadable,
}

impl Script {
    /// Reads the file. It is parsed again only when its bytes are others than the last time.
    pub(crate) fn read() -> Result<Arc<Self>, Unavailable> {
        static LAST: Mutex<Option<(Vec<u8>, Arc<Script>)>> = Mutex::new(None);
        let path = PathBuf::from(env::var_os(VARIABLE).ok_or(Unavailable::NoDriver)?);
        let bytes = fs::read(&path).map_err(|_| Unavailable::Unreadable)?;
        let mut last = lock(&LAST);
        if let Some((known, script)) = &*last
            && *known == bytes
            && script.path == path
        {
            return Ok(Arc::clone(script));
        }
        let machine = serde_json::from_slice(&bytes).map_err(|_| Unavailable::Unreadable)?;
        let script = Arc::new(Self { path, machine });
        *last = Some((bytes, Arc::clone(&script)));
        Ok(script)
    }

    /// The GPU or MIG instance with this UUID.
    pub(crate) fn part(&self, uuid: &str) -> Option<Part<'_>> {
        self.machine.gpus.iter().find_map(|gpu| {
            if gpu.uuid == uuid {
                return Some(Part { gpu, instance: None });
            }
            let instance = gpu.mig.iter().find(|instance| instance.uuid == uuid)?;
            Some(Part { gpu, instance: Some(instance) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_nothing_in_it_is_a_machine_without_gpus() {
        let machine: FakeNvidia = serde_json::from_str("{}").unwrap();
        assert_eq!(machine, FakeNvidia::default());
    }

    #[test]
    fn a_gpu_without_fields_has_the_defaults() {
        let machine: FakeNvidia = serde_json::from_str(r#"{"gpus": [{"nvml_error": "gpu_lost"}]}"#).unwrap();
        assert_eq!(machine.gpus, [FakeGpu { nvml_error: Some(NvmlFault::GpuLost), ..FakeGpu::default() }]);
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        let parsed: Result<FakeNvidia, _> = serde_json::from_str(r#"{"gpus": [{"nvml_hang": true}]}"#);
        assert!(parsed.is_err());
    }
}
