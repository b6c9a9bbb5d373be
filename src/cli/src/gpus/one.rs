//! All that the table knows of one GPU.

use protocol::gpu::{GpuLink, GpuView, Pcie};

use super::{capability, down::one_line, state};

/// One line for each thing.
pub(super) fn described(number: usize, view: &GpuView) -> String {
    let GpuView { row, held, draining, eligible, expires_in_ms } = view;
    let (gpu, sample) = (&row.gpu, &row.sample);
    let mut lines = vec![
        ("GPU", format!("{} (number {number})", gpu.gpu_id)),
        ("name", format!("{}, {} MB, compute capability {}", gpu.name, gpu.memory_total_mb, capability(gpu.compute_capability))),
        ("host", format!("{}, pool {}, incarnation {}", row.host, row.pool, row.incarnation)),
        ("state", format!("{}; eligible: {}; drained: {}", state(view), yes(*eligible), yes(*draining))),
        ("slots", format!("{held} of {} held, {} tasks wait in hand", row.slots, row.waiting)),
        ("kinds", listed(row.kinds.iter().map(|kind| kind.as_str()))),
        ("models", listed(row.models.iter().map(String::as_str))),
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
    lines.into_iter().map(|(name, text)| format!("{name:<14}{text}")).collect::<Vec<_>>().join("\n")
}

/// The way to another GPU of the host.
pub(crate) fn way(link: &GpuLink) -> String {
    let path = serde_json::to_value(link.path).ok().and_then(|name| name.as_str().map(ToOwned::to_owned)).unwrap_or_default();
    let nvlinks = if link.nvlinks > 0 { format!(" x{}", link.nvlinks) } else { String::new() };
    let access = if link.peer_access { "peer access" } else { "no peer access" };
    format!("to {}: {path}{nvlinks}, {access}", link.gpu_id)
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
