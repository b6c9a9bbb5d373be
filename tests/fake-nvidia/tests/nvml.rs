//! The real `nvml-wrapper` against the fake NVML.

use fake_nvidia::process as harness;

use std::{sync::mpsc, thread, time::Duration};

use fake_nvidia::{FakeGpu, FakeMig, NvmlFault, VARIABLE, libraries_beside};
use harness::{on_a_machine, without_a_driver};
use nvml_wrapper::{
    Nvml,
    bitmasks::{device::ThrottleReasons, event::EventTypes},
    enum_wrappers::device::{Clock, EccCounter, MemoryError, P2pCapabilitiesIndex, P2pStatus, TemperatureSensor, TopologyLevel},
    error::NvmlError,
};

const MIB: u64 = 1 << 20;

#[test]
fn without_a_script_no_driver_is_loaded() {
    without_a_driver(|| assert!(matches!(Nvml::init(), Err(NvmlError::DriverNotLoaded))));
}

#[test]
fn an_executable_finds_the_libraries_beside_itself() {
    fn is_found<F: FnOnce()>(body: F) {
        if std::env::var_os(VARIABLE).is_some() {
            return body();
        }
        let machine = fake_nvidia::FakeMachine::new(1);
        libraries_beside(&std::env::current_exe().unwrap());
        let mut inner = harness::inner::<F>();
        inner.env(VARIABLE, machine.script()).env_remove("LD_LIBRARY_PATH");
        harness::succeed(inner);
    }
    is_found(|| assert_eq!(Nvml::init().unwrap().device_count().unwrap(), 1));
}

#[test]
fn every_gpu_says_who_it_is() {
    on_a_machine(3, |_| {
        let nvml = Nvml::init().unwrap();
        assert_eq!(nvml.sys_driver_version().unwrap(), "550.54.15");
        assert_eq!(nvml.sys_nvml_version().unwrap(), "12.550.54.15");
        assert_eq!(nvml.sys_cuda_driver_version().unwrap(), 12_040);
        assert_eq!(nvml.device_count().unwrap(), 3);
        for index in 0..3 {
            let number = index as usize;
            let device = nvml.device_by_index(index).unwrap();
            let expected = FakeGpu::numbered(number);
            assert_eq!(device.uuid().unwrap(), expected.uuid);
            assert_eq!(device.name().unwrap(), expected.name);
            assert_eq!(device.pci_info().unwrap().bus_id, expected.pci_bus_id);
            assert_eq!(device.pci_info().unwrap().bus, 0x17 + index);
            assert_eq!(nvml.device_by_uuid(expected.uuid).unwrap().index().unwrap(), index);
            assert_eq!(nvml.device_by_pci_bus_id(expected.pci_bus_id).unwrap().index().unwrap(), index);
            let capability = device.cuda_compute_capability().unwrap();
            assert_eq!((capability.major, capability.minor), (9, 0));
            assert_eq!((device.max_pcie_link_gen().unwrap(), device.current_pcie_link_width().unwrap()), (5, 16));
        }
        assert!(matches!(nvml.device_by_index(3), Err(NvmlError::InvalidArg)));
        assert!(matches!(nvml.device_by_uuid("GPU-none"), Err(NvmlError::NotFound)));
    });
}

#[test]
fn samples_follow_the_script() {
    on_a_machine(1, |machine| {
        let nvml = Nvml::init().unwrap();
        let device = nvml.device_by_index(0).unwrap();
        let calm = device.memory_info().unwrap();
        assert_eq!((calm.total, calm.used, calm.free), (81_559 * MIB, 0, 81_559 * MIB));
        machine.change(|state| {
            let gpu = &mut state.gpus[0];
            gpu.utilization_percent = 97;
            gpu.memory_used_mib = 1_000;
            gpu.free_memory_cap_mib = Some(70_000);
            gpu.temperature_celsius = 88;
            gpu.power_milliwatts = 650_000;
            gpu.sm_clock_mhz = 1_200;
            gpu.throttle_reasons = 0x40;
            gpu.ecc_uncorrected = 2;
            gpu.numa_node = 1;
        });
        assert_eq!(device.utilization_rates().unwrap().gpu, 97);
        assert_eq!(device.memory_info().unwrap().free, 70_000 * MIB);
        assert_eq!(device.temperature(TemperatureSensor::Gpu).unwrap(), 88);
        assert_eq!(device.power_usage().unwrap(), 650_000);
        assert_eq!(device.clock_info(Clock::SM).unwrap(), 1_200);
        assert_eq!(device.current_throttle_reasons().unwrap(), ThrottleReasons::HW_THERMAL_SLOWDOWN);
        assert!(device.is_ecc_enabled().unwrap().currently_enabled);
        assert_eq!(device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile).unwrap(), 2);
        assert_eq!(device.total_ecc_errors(MemoryError::Corrected, EccCounter::Volatile).unwrap(), 0);
        assert_eq!(device.numa_node_id().unwrap(), 1);
        assert!(device.running_compute_processes().unwrap().is_empty());
    });
}

#[test]
fn an_xid_error_arrives_once() {
    on_a_machine(2, |machine| {
        machine.change(|state| state.gpus[1].xids.push(13));
        let nvml = Nvml::init().unwrap();
        let device = nvml.device_by_index(1).unwrap();
        assert_eq!(device.supported_event_types().unwrap(), EventTypes::CRITICAL_XID_ERROR);
        let set = device.register_events(EventTypes::CRITICAL_XID_ERROR, nvml.create_event_set().unwrap()).unwrap();
        assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));
        machine.change(|state| state.gpus[1].xids.extend([79, 48]));
        for expected in [79, 48] {
            let event = set.wait(5_000).unwrap();
            assert_eq!(event.device.uuid().unwrap(), FakeGpu::numbered(1).uuid);
            assert_eq!(event.event_type, EventTypes::CRITICAL_XID_ERROR);
            assert!(format!("{:?}", event.event_data).contains(&expected.to_string()), "{:?}", event.event_data);
        }
        assert!(matches!(set.wait(0), Err(NvmlError::Timeout)));
        set.release_events().unwrap();
    });
}

#[test]
fn a_waiting_set_is_woken_by_the_event() {
    on_a_machine(1, |machine| {
        let nvml = Nvml::init().unwrap();
        let set = nvml.create_event_set().unwrap();
        let set = nvml.device_by_index(0).unwrap().register_events(EventTypes::CRITICAL_XID_ERROR, set).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(move || set.wait(60_000).map(|event| event.event_type));
            machine.change(|state| state.gpus[0].xids.push(79));
            assert_eq!(waiting.join().unwrap().unwrap(), EventTypes::CRITICAL_XID_ERROR);
        });
    });
}

#[test]
fn a_gpu_that_hangs_blocks_its_callers_until_it_is_released() {
    on_a_machine(2, |machine| {
        let nvml = Nvml::init().unwrap();
        let (first, second) = (nvml.device_by_index(0).unwrap(), nvml.device_by_index(1).unwrap());
        machine.change(|state| state.gpus[0].nvml_hangs = true);
        let (answered, answer) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| answered.send(first.temperature(TemperatureSensor::Gpu)).unwrap());
            assert!(second.temperature(TemperatureSensor::Gpu).is_ok(), "the other GPU answers");
            assert!(answer.recv_timeout(Duration::from_millis(100)).is_err(), "the hanging GPU does not");
            machine.change(|state| state.gpus[0].nvml_hangs = false);
            assert_eq!(answer.recv().unwrap().unwrap(), 35);
        });
    });
}

#[test]
fn a_lost_gpu_gives_out_nothing_and_an_ill_one_still_its_name() {
    on_a_machine(2, |machine| {
        let nvml = Nvml::init().unwrap();
        let device = nvml.device_by_index(0).unwrap();
        let set = device.register_events(EventTypes::CRITICAL_XID_ERROR, nvml.create_event_set().unwrap()).unwrap();
        machine.change(|state| state.gpus[0].nvml_error = Some(NvmlFault::GpuLost));
        assert!(matches!(device.memory_info(), Err(NvmlError::GpuLost)));
        assert!(matches!(device.uuid(), Err(NvmlError::GpuLost)));
        assert!(matches!(nvml.device_by_index(0), Err(NvmlError::GpuLost)));
        assert!(matches!(nvml.device_by_uuid(FakeGpu::numbered(0).uuid), Err(NvmlError::GpuLost)));
        assert!(matches!(set.wait(0), Err(NvmlError::GpuLost)));
        assert!(nvml.device_by_index(1).unwrap().memory_info().is_ok());
        machine.change(|state| state.gpus[0].nvml_error = Some(NvmlFault::ResetRequired));
        assert!(matches!(device.memory_info(), Err(NvmlError::ResetRequired)));
        assert_eq!(device.uuid().unwrap(), FakeGpu::numbered(0).uuid);
        machine.change(|state| {
            state.gpus[0].nvml_error = None;
            state.gpus[0].unsupported = vec!["nvmlDeviceGetMemoryInfo_v2".to_owned()];
        });
        assert!(matches!(device.memory_info(), Err(NvmlError::NotSupported)));
        assert!(device.temperature(TemperatureSensor::Gpu).is_ok());
    });
}

#[test]
fn links_and_peers_are_those_of_the_script() {
    on_a_machine(3, |machine| {
        let [_, one, two] = [0, 1, 2].map(|number| FakeGpu::numbered(number).uuid);
        machine.change(|state| {
            state.gpus[0].nvlinks = vec![one.clone(), one.clone()];
            state.gpus[0].peers = vec![one.clone(), two.clone()];
            state.gpus[2].numa_node = 1;
        });
        let nvml = Nvml::init().unwrap();
        let devices = [0, 1, 2].map(|index| nvml.device_by_index(index).unwrap());
        let active = (0..18).filter(|link| devices[0].link_wrapper_for(*link).is_active().unwrap()).count();
        assert_eq!(active, 2);
        assert_eq!(devices[0].link_wrapper_for(1).remote_pci_info().unwrap().bus_id, FakeGpu::numbered(1).pci_bus_id);
        assert!(matches!(devices[0].link_wrapper_for(18).is_active(), Err(NvmlError::InvalidArg)));
        assert!(matches!(devices[1].link_wrapper_for(0).is_active(), Err(NvmlError::NotSupported)));
        let status = |other, capability| devices[0].p2p_status(&devices[other], capability).unwrap();
        assert_eq!(status(1, P2pCapabilitiesIndex::NvLink), P2pStatus::Ok);
        assert_eq!(status(2, P2pCapabilitiesIndex::NvLink), P2pStatus::NotSupported);
        assert_eq!(status(2, P2pCapabilitiesIndex::Read), P2pStatus::Ok);
        let [first, second, third] = devices;
        assert_eq!(first.topology_common_ancestor(second).unwrap(), TopologyLevel::Node);
        assert_eq!(first.topology_common_ancestor(third).unwrap(), TopologyLevel::System);
    });
}

#[test]
fn a_mig_instance_says_who_it_is_and_how_much_memory_it_has() {
    on_a_machine(1, |machine| {
        let (whole, instance) = (FakeGpu::numbered(0), FakeMig::numbered(0, 1));
        machine.change(|state| state.gpus[0].mig = vec![FakeMig::numbered(0, 0), instance.clone()]);
        let nvml = Nvml::init().unwrap();
        let device = nvml.device_by_index(0).unwrap();
        assert_eq!(device.mig_mode().unwrap().current, 1);
        assert_eq!(device.mig_device_count().unwrap(), 7);
        assert!(matches!(device.utilization_rates(), Err(NvmlError::NotSupported)));
        let part = device.mig_device_by_index(1).unwrap();
        assert_eq!(part.uuid().unwrap(), instance.uuid);
        assert_eq!(part.name().unwrap(), "NVIDIA H100 80GB HBM3 MIG 1g.10gb");
        assert_eq!(part.memory_info().unwrap().total, instance.memory_mib * MIB);
        assert!(part.mig_is_mig_device_handle().unwrap());
        assert_eq!(part.mig_parent_device().unwrap().uuid().unwrap(), whole.uuid);
        assert!(matches!(part.temperature(TemperatureSensor::Gpu), Err(NvmlError::NotSupported)));
        assert!(matches!(device.mig_device_by_index(2), Err(NvmlError::NotFound)));
        assert_eq!(nvml.device_by_uuid(instance.uuid).unwrap().memory_info().unwrap().total, instance.memory_mib * MIB);
    });
}

#[test]
fn mig_mode_can_be_enabled_without_an_instance() {
    on_a_machine(1, |machine| {
        machine.change(|state| state.gpus[0].mig_enabled = true);
        let nvml = Nvml::init().unwrap();
        let device = nvml.device_by_index(0).unwrap();
        assert_eq!(device.mig_mode().unwrap().current, 1);
        assert!(matches!(device.mig_device_by_index(0), Err(NvmlError::NotFound)));
        assert!(matches!(device.memory_info(), Err(NvmlError::NoPermission)));
    });
}
