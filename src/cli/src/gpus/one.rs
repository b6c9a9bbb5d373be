//! All that the table knows of one GPU.

use protocol::{
    DataState, WayView,
    gpu::{GpuLink, GpuView, Pcie},
};

use super::{capability, down::one_line, phase, state};

/// One line for each thing.
pub(super) fn described(number: usize, view: &GpuView) -> String {
    let GpuView { row, held, draining, eligible, expires_in_ms, .. } = view;
    let (gpu, sample) = (&row.gpu, &row.sample);
    let mut lines = vec![
        ("GPU", format!("{} (number {number})", gpu.gpu_id)),
        ("name", format!("{}, {} MB, compute capability {}", gpu.name, gpu.memory_total_mb, capability(gpu.compute_capability))),
        ("host", format!("{}, pool {}, incarnation {}", row.host, row.pool, row.incarnation)),
        ("state", format!("{}; phase: {}; eligible: {}; drain asked: {}", state(view), phase(view).name(), yes(*eligible), yes(*draining))),
        ("slots", format!("{held} of {} held, {} tasks wait in hand", row.slots, row.waiting)),
        ("kinds", listed(row.kinds.iter().map(|kind| kind.as_str()))),
        ("models", listed(row.models.iter().map(String::as_str))),
        ("tensors", tensors(&row.data)),
        ("memory", format!("{} MB in use", sample.memory_used_mb)),
        ("utilisation", format!("{:.0} %, of it {:.0} % by others", sample.utilization_percent, row.foreign_utilization_percent)),
        ("temperature", format!("{:.0} °C", sample.temperature_celsius)),
        ("power", format!("{:.0} W", sample.power_watts)),
        ("SM clock", format!("{:.0} MHz", sample.sm_clock_mhz)),
        ("throttled by", listed(sample.throttled_by.iter().map(|throttle| throttle.name()))),
        ("ECC errors", sample.ecc_errors.map_or_else(|| "ECC is off, or unknown".to_owned(), |errors| format!("{errors} not corrected"))),
        ("age", format!("sample {} ms; the row expires in {expires_in_ms} ms", sample.age_ms)),
    ];
    lines.extend(row.kinds_down.iter().map(|(kind, reason)| ("kind down", format!("{kind} ({})", one_line(reason)))));
    lines.extend(row.model_state.model_errors.iter().map(|(model, why)| ("model error", format!("{model}: {}", one_line(why)))));
    lines.extend(gpu.hardware.pcie.as_ref().map(|pcie| ("PCIe", link(pcie, gpu.hardware.numa_node))));
    lines.extend(gpu.hardware.mig_of.as_ref().map(|whole| ("MIG", format!("an instance of {whole}"))));
    lines.extend(gpu.hardware.links.iter().map(|link| ("way", way(link))));
    lines.extend(row.data.ways.iter().map(|way| ("data way", data_way(way))));
    lines.into_iter().map(|(name, text)| format!("{name:<14}{text}")).collect::<Vec<_>>().join("\n")
}

/// The way to another GPU of the host.
pub(crate) fn way(link: &GpuLink) -> String {
    let path = serde_json::to_value(link.path).ok().and_then(|name| name.as_str().map(ToOwned::to_owned)).unwrap_or_default();
    let nvlinks = if link.nvlinks > 0 { format!(" x{}", link.nvlinks) } else { String::new() };
    let access = if link.peer_access { "peer access" } else { "no peer access" };
    format!("to {}: {path}{nvlinks}, {access}", link.gpu_id)
}

/// The tensors that it has.
fn tensors(data: &DataState) -> String {
    if data.tensors == 0 {
        return "none".to_owned();
    }
    let evicted = if data.tensor_host_mb > 0 { format!(", {} MB in the host's memory", data.tensor_host_mb) } else { String::new() };
    let port = data.data_port.as_ref().and_then(|port| port.address.as_deref()).map(|address| format!(", read at {address}"));
    format!("{}, {} MB on the GPU{evicted}{}", data.tensors, data.tensor_mb, port.unwrap_or_default())
}

/// A way that tensors take from another GPU to this one.
fn data_way(way: &WayView) -> String {
    let carries = way.gb_s.map_or_else(String::new, |gb_s| format!(", {gb_s:.1} GB/s"));
    let left_out = match way.demoted_for_ms {
        Some(ms) => format!(", left out for {} s: {}", ms.div_ceil(1_000), one_line(&way.reason)),
        None if way.reason.is_empty() => String::new(),
        None => format!(" ({})", one_line(&way.reason)),
    };
    format!("from {}: {}{carries}{left_out}", way.from, way.way.name())
}

fn link(pcie: &Pcie, numa_node: Option<u32>) -> String {
    let mut parts = vec![pcie.bus_id.clone()];
    parts.extend(pcie.generation.map(|generation| format!("generation {generation}")));
    parts.extend(pcie.width.map(|lanes| format!("{lanes} lanes")));
    parts.extend(numa_node.map(|node| format!("NUMA node {node}")));
    parts.join(", ")
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

const fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use protocol::{GpuId, TransferWay};

    use super::*;

    #[test]
    fn the_ways_of_tensors_say_what_they_carry_or_why_they_are_left_out() {
        let from = GpuId::new("sim-1").expect("valid");
        let works = WayView { from, way: TransferWay::Peer, gb_s: Some(181.26), demoted_for_ms: None, reason: String::new() };
        assert_eq!(data_way(&works), "from sim-1: peer, 181.3 GB/s");
        let failed = WayView { gb_s: None, demoted_for_ms: Some(11_001), reason: "the trial's\nbytes differ".to_owned(), ..works };
        assert_eq!(data_way(&failed), "from sim-1: peer, left out for 12 s: the trial's bytes differ");
    }

    #[test]
    fn tensors_are_counted_where_they_lie() {
        assert_eq!(tensors(&DataState::default()), "none");
        let some = DataState { tensors: 3, tensor_mb: 120, ..DataState::default() };
        assert_eq!(tensors(&some), "3, 120 MB on the GPU");
        assert_eq!(tensors(&DataState { tensor_host_mb: 40, ..some }), "3, 120 MB on the GPU, 40 MB in the host's memory");
    }
}
