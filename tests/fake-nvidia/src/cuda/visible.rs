//! Which devices a process sees: `CUDA_VISIBLE_DEVICES`, applied to the GPUs of the script.

use crate::state::{FakeGpu, FakeNvidia};

/// The UUIDs of the visible devices, in CUDA's order. The list ends at the first entry that means nothing. A GPU in MIG mode is
/// its first instance, and none without instances; each device is there once.
pub(super) fn visible(machine: &FakeNvidia, wanted: Option<&str>) -> Vec<String> {
    let Some(wanted) = wanted else {
        return machine.gpus.iter().filter_map(whole).collect();
    };
    let mut devices = Vec::new();
    for entry in wanted.split(',').map(str::trim) {
        match device(machine, entry) {
            Some(device) if !devices.contains(&device) => devices.push(device),
            _ => break,
        }
    }
    devices
}

fn whole(gpu: &FakeGpu) -> Option<String> {
    let instance = gpu.mig.first().map(|instance| instance.uuid.clone());
    if gpu.is_in_mig_mode() { instance } else { Some(gpu.uuid.clone()) }
}

fn device(machine: &FakeNvidia, entry: &str) -> Option<String> {
    if let Ok(index) = entry.parse::<usize>() {
        return machine.gpus.get(index).and_then(whole);
    }
    let gpus = machine.gpus.iter().filter(|gpu| entry.starts_with("GPU-") && gpu.uuid.starts_with(entry)).filter_map(whole);
    let instances =
        machine.gpus.iter().flat_map(|gpu| &gpu.mig).filter(|instance| entry.starts_with("MIG-") && instance.uuid.starts_with(entry));
    let mut found = gpus.chain(instances.map(|instance| instance.uuid.clone()));
    match (found.next(), found.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::FakeMig;

    #[test]
    fn the_variable_picks_and_orders_the_devices() {
        let mut machine = FakeNvidia { gpus: (0..3).map(FakeGpu::numbered).collect(), ..FakeNvidia::default() };
        machine.gpus[2].mig = vec![FakeMig::numbered(2, 0), FakeMig::numbered(2, 1)];
        machine.gpus[0].uuid = "GPU-aaaa".to_owned();
        let [zero, one] = [0, 1].map(|number: usize| machine.gpus[number].uuid.clone());
        let [first, second] = [0, 1].map(|number: usize| machine.gpus[2].mig[number].uuid.clone());
        let all = [zero.clone(), one.clone(), first.clone()];
        let cases: [(Option<&str>, &[String]); 9] = [
            (None, &all),
            (Some(""), &[]),
            (Some("-1"), &[]),
            (Some("1, 0"), &[one.clone(), zero.clone()]),
            (Some("1,7,0"), std::slice::from_ref(&one)),
            (Some("0,0"), std::slice::from_ref(&zero)),
            (Some("GPU-aa"), std::slice::from_ref(&zero)),
            (Some("GPU-"), &[]),
            (Some(&second), std::slice::from_ref(&second)),
        ];
        for (wanted, expected) in cases {
            assert_eq!(visible(&machine, wanted), expected, "{wanted:?}");
        }
    }
}
