//! Finding the GPUs of a host.

use devices::nvidia::{Found, Host, NvidiaError, leave, libraries};
use fake_nvidia::{FakeMig, NvmlFault, process};
use protocol::{GpuId, gpu::LinkPath, gpu_named};

use crate::rig::found;

fn ids() -> Vec<GpuId> {
    found().into_iter().map(|found| found.description.gpu_id).collect()
}

#[test]
fn every_gpu_of_the_host_is_found_with_what_it_is() {
    process::on_a_machine(3, |machine| {
        let uuids: Vec<String> = machine.state().gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        let found = found();
        assert_eq!(ids().iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>(), uuids);
        for (found, scripted) in found.iter().zip(&machine.state().gpus) {
            let description = &found.description;
            assert_eq!(
                (description.name.as_str(), description.memory_total_mb),
                (scripted.name.as_str(), (scripted.memory_mib << 20) / 1_000_000)
            );
            let pcie = description.hardware.pcie.as_ref().unwrap();
            assert_eq!((pcie.generation, pcie.width), (Some(5), Some(16)));
            assert_eq!(description.hardware.links.len(), 2);
        }
        let name = uuids[1].to_ascii_uppercase();
        assert_eq!(gpu_named(&name, &ids()).unwrap().as_str(), uuids[1]);
        assert_eq!(gpu_named("2", &ids()).unwrap().as_str(), uuids[2]);
    });
}

#[test]
fn the_ways_between_gpus_show_nvlinks_and_peer_access() {
    process::on_a_machine(3, |machine| {
        machine.change(|state| {
            let (first, second) = (state.gpus[0].uuid.clone(), state.gpus[1].uuid.clone());
            state.gpus[0].nvlinks = vec![second.clone(); 4];
            state.gpus[0].peers = vec![second];
            state.gpus[1].nvlinks = vec![first; 4];
        });
        let links = found().remove(0).description.hardware.links;
        assert_eq!((links[0].path, links[0].nvlinks, links[0].peer_access), (LinkPath::Nvlink, 4, true));
        assert!(links[1].path > LinkPath::Nvlink && links[1].nvlinks == 0 && !links[1].peer_access, "{:?}", links[1]);
    });
}

#[test]
fn nvlinks_that_end_at_a_switch_lead_to_every_gpu_behind_it() {
    process::on_a_machine(3, |machine| {
        machine.change(|state| {
            state.gpus[0].nvswitch_links = 18;
            state.gpus[1].nvswitch_links = 18;
        });
        let ways = |gpu: &Found| gpu.description.hardware.links.iter().map(|link| (link.path, link.nvlinks)).collect::<Vec<_>>();
        let (switched, plain) = ((LinkPath::Nvlink, 18), (LinkPath::NumaNode, 0));
        assert_eq!(found().iter().map(ways).collect::<Vec<_>>(), [[switched, plain], [switched, plain], [plain, plain]]);
    });
}

#[test]
fn the_instances_of_a_gpu_in_mig_mode_are_gpus() {
    process::on_a_machine(2, |machine| {
        let instance = |number: u8| FakeMig { uuid: format!("MIG-00000000-0000-4000-8000-0000000000{number:02}"), ..FakeMig::default() };
        machine.change(|state| state.gpus[0].mig = vec![instance(1), instance(2)]);
        let whole = machine.state().gpus[0].uuid.clone();
        let found = found();
        let names: Vec<&str> = found.iter().map(|found| found.description.gpu_id.as_str()).collect();
        assert_eq!(names, [instance(1).uuid.as_str(), &instance(2).uuid, &machine.state().gpus[1].uuid]);
        let part = &found[0].description;
        assert_eq!(part.hardware.mig_of.as_ref().unwrap().as_str(), whole);
        assert_eq!(part.memory_total_mb, (instance(1).memory_mib << 20) / 1_000_000);
        assert_eq!(part.compute_capability, found[2].description.compute_capability);
    });
}

#[test]
fn a_gpu_in_mig_mode_without_instances_says_what_to_do() {
    process::on_a_machine(2, |machine| {
        machine.change(|state| state.gpus[0].mig_enabled = true);
        let (found, lost) = Host::open().unwrap().gpus().unwrap();
        assert_eq!(found.iter().map(|found| found.index).collect::<Vec<_>>(), [1]);
        let [error] = lost.as_slice() else { panic!("{lost:?}") };
        assert_eq!(error.index(), Some(0));
        let text = error.to_string();
        assert!(text.contains(&machine.state().gpus[0].uuid) && text.contains("nvidia-smi mig -i 0 -cgi"), "{text}");
    });
}

#[test]
fn a_gpu_that_does_not_answer_hides_no_other() {
    process::on_a_machine(2, |machine| {
        machine.change(|state| state.gpus[0].nvml_error = Some(NvmlFault::GpuLost));
        let (found, lost) = Host::open().unwrap().gpus().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].index, 1);
        assert!(lost.len() == 1 && lost[0].to_string().contains("GPU 0"), "{lost:?}");
    });
}

#[test]
fn without_a_driver_the_error_says_what_to_do() {
    process::without_a_driver(|| {
        let Err(error) = Host::open() else { panic!("there is no driver") };
        assert!(matches!(&error, NvidiaError::Nvml(_)), "{error:?}");
        assert!(error.to_string().contains("is the NVIDIA driver loaded"), "{error}");
        let libraries = libraries::look();
        let driver = libraries.iter().find(|library| library.name == "NVML").unwrap();
        assert!(driver.state.is_err());
    });
}

#[test]
fn without_libraries_each_missing_one_is_a_sentence() {
    let Err(error) = Host::open() else { return };
    assert!(error.to_string().contains("gpufleet doctor"), "{error}");
    for library in libraries::look() {
        let Err(problem) = library.state else { continue };
        assert!(problem.contains("install") || problem.contains("is the NVIDIA driver"), "{}: {problem}", library.name);
    }
}

#[test]
fn the_libraries_that_are_there_show_their_versions() {
    process::on_a_machine(1, |_| {
        let shown: Vec<(&str, String)> = libraries::look().into_iter().map(|library| (library.name, library.state.unwrap())).collect();
        assert_eq!(shown[0].0, "NVML");
        assert!(shown[0].1.contains("550.54.15"), "{shown:?}");
        assert_eq!(shown[1], ("CUDA driver", "12.4".to_owned()));
        assert_eq!(shown[2], ("NVRTC", "12.4".to_owned()));
    });
}

#[test]
fn a_process_leaves_at_once_and_with_its_code_whatever_would_hang() {
    const NAME: &str = "host::a_process_leaves_at_once_and_with_its_code_whatever_would_hang";
    const INNER: &str = "LEAVES_NOW";
    struct Hangs;
    impl Drop for Hangs {
        fn drop(&mut self) {
            std::thread::park();
        }
    }
    if std::env::var_os(INNER).is_some() {
        let _hangs = Hangs;
        leave(6);
    }
    let status = process::of_test(NAME).env(INNER, "1").output().unwrap().status;
    assert_eq!(status.code(), Some(6), "{status}");
}
