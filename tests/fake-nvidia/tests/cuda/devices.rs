//! What CUDA sees of the machine.

use cudarc::driver::{CudaContext, result, sys, sys::CUresult};
use fake_nvidia::{FakeGpu, FakeMig};
use nvml_wrapper::{Nvml, error::NvmlError};

use crate::{
    code,
    harness::{on_a_machine, on_a_machine_with, without_a_driver},
};

const MIB: usize = 1 << 20;
const SECOND: &str = "GPU-00000000-0000-4000-8000-000000000001";
const INSTANCE: &str = "MIG-00000000-0000-4000-9000-000001000001";

/// A UUID as NVML writes it.
fn text(uuid: sys::CUuuid, prefix: &str) -> String {
    let hex: String = uuid.bytes.iter().map(|byte| format!("{:02x}", byte.cast_unsigned())).collect();
    format!("{prefix}-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[test]
fn without_a_script_there_is_no_device() {
    without_a_driver(|| assert_eq!(code(result::init()), CUresult::CUDA_ERROR_NO_DEVICE));
}

#[test]
fn nvml_and_cuda_see_the_same_gpus() {
    on_a_machine(3, |_| {
        let nvml = Nvml::init().unwrap();
        assert_eq!(CudaContext::device_count().unwrap(), 3);
        for index in 0..3 {
            let context = CudaContext::new(index as usize).unwrap();
            let device = nvml.device_by_index(index).unwrap();
            assert_eq!(text(context.uuid().unwrap(), "GPU"), device.uuid().unwrap());
            assert_eq!(context.name().unwrap(), device.name().unwrap());
            assert_eq!(context.compute_capability().unwrap(), (9, 0));
            assert_eq!(context.total_mem().unwrap() as u64, device.memory_info().unwrap().total);
            assert_eq!(device.running_compute_processes().unwrap()[0].pid, std::process::id());
        }
        assert_eq!(code(CudaContext::new(3)), CUresult::CUDA_ERROR_INVALID_DEVICE);
    });
}

#[test]
fn the_variable_leaves_cuda_one_gpu_and_nvml_all() {
    on_a_machine_with(3, &[("CUDA_VISIBLE_DEVICES", SECOND)], |_| {
        assert_eq!(CudaContext::device_count().unwrap(), 1);
        let context = CudaContext::new(0).unwrap();
        assert_eq!(text(context.uuid().unwrap(), "GPU"), SECOND);
        assert_eq!(Nvml::init().unwrap().device_count().unwrap(), 3);
    });
}

#[test]
fn a_mig_instance_is_a_device_with_its_own_memory() {
    on_a_machine_with(2, &[("CUDA_VISIBLE_DEVICES", INSTANCE)], |machine| {
        machine.change(|state| state.gpus[1].mig = vec![FakeMig::numbered(1, 0), FakeMig::numbered(1, 1)]);
        let context = CudaContext::new(0).unwrap();
        assert_eq!(CudaContext::device_count().unwrap(), 1);
        assert_eq!(text(context.uuid().unwrap(), "MIG"), INSTANCE);
        assert_eq!(context.total_mem().unwrap(), 9_856 * MIB);
        assert_eq!(context.mem_get_info().unwrap().0, (9_856 - 400) * MIB);
        let nvml = Nvml::init().unwrap();
        let memory = |uuid: &str| nvml.device_by_uuid(uuid).unwrap().memory_info();
        assert_eq!(memory(INSTANCE).unwrap().free, ((9_856 - 400) * MIB) as u64);
        assert!(matches!(memory(SECOND), Err(NvmlError::NoPermission)), "of the whole GPU nobody is told");
    });
}

#[test]
fn a_gpu_that_does_not_open_says_why() {
    on_a_machine(2, |machine| {
        machine.change(|state| state.gpus[1].cuda_init_error = Some(802));
        assert!(CudaContext::new(0).is_ok());
        let error = CudaContext::new(1).unwrap_err();
        assert_eq!(error.0, CUresult::CUDA_ERROR_SYSTEM_NOT_READY);
        assert_eq!(error.error_name().unwrap(), c"CUDA_ERROR_SYSTEM_NOT_READY");
    });
}

#[test]
fn peers_are_those_of_the_script() {
    on_a_machine(3, |machine| {
        machine.change(|state| {
            state.gpus[0].peers = vec![FakeGpu::numbered(1).uuid];
            state.gpus[0].nvlinks = vec![FakeGpu::numbered(1).uuid];
        });
        let contexts = [0, 1, 2].map(|ordinal| CudaContext::new(ordinal).unwrap());
        let can = |peer: i32| {
            let mut answer = -1;
            // SAFETY: a place for the answer.
            unsafe { sys::cuDeviceCanAccessPeer(&raw mut answer, 0, peer) }.result().map(|()| answer)
        };
        assert_eq!([can(0), can(1), can(2)].map(Result::unwrap), [0, 1, 0]);
        contexts[0].bind_to_thread().unwrap();
        // SAFETY: contexts that are open.
        let enable = |peer: usize| unsafe { sys::cuCtxEnablePeerAccess(contexts[peer].cu_ctx(), 0) };
        assert_eq!(enable(1), CUresult::CUDA_SUCCESS);
        assert_eq!(enable(1), CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
        assert_eq!(enable(2), CUresult::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
    });
}
