//! What the scripts are given, in the order that their headers state.

use std::time::Duration;

use protocol::{ClaimMode, ClaimRequest, GpuId, GpuRow, Incarnation, KindDescription, TensorName, TensorRecord, claim::Settings};

use super::answers::Told;
use crate::{
    DESCRIBED_FOR_LEASES, DESCRIPTIONS_MAX, Heartbeat, KNOWN_FOR, Leases, Sighting, TENSOR_LOOKS, TENSORS_FOR, TENSORS_FOR_LEASES, Telling,
    UNSERVED_FOR, UNSERVED_MAX, VersionDraw, VersionWanted, described::place, weights::Weights,
};

/// How many names of tensors one call looks at, at most: it must not hold up claims for long.
const NAMES_LOOKED_AT: usize = 500;

pub(super) fn claim(leases: Leases, request: &ClaimRequest) -> Vec<String> {
    let needs = &request.needs;
    let mut arguments = vec![
        milliseconds(leases.offered),
        request.task_id.to_string(),
        request.kind.to_string(),
        needs.memory_mb.map_or_else(String::new, |memory_mb| memory_mb.to_string()),
        needs.compute_capability.map_or_else(|| "-1".to_owned(), |lowest| lowest.rank().to_string()),
        any_text(needs.model.as_deref()),
        request.specific_gpu_id.as_ref().map_or_else(String::new, ToString::to_string),
        any_text(request.strategy.as_deref()),
        request.asker.to_string(),
        request.incarnation.to_string(),
        request.holding.slots.to_string(),
        request.holding.number.to_string(),
        flag(request.has_slot),
        mode(request.mode).to_owned(),
    ];
    if request.data.is_some() {
        let weights = Weights::of(request.data.as_ref());
        arguments.push(weights.elsewhere_us.to_string());
        arguments.extend(weights.at_us.iter().flat_map(|(gpu_id, us)| [gpu_id.to_string(), us.to_string()]));
    }
    arguments
}

pub(super) fn tell(telling: &Telling) -> Vec<String> {
    let mut arguments = vec![
        telling.gpu_id.to_string(),
        telling.incarnation.to_string(),
        telling.holding.slots.to_string(),
        telling.holding.number.to_string(),
    ];
    arguments.extend(telling.taken.iter().map(ToString::to_string));
    arguments
}

pub(super) fn heartbeat(leases: Leases, heartbeat: &Heartbeat) -> Vec<String> {
    let row = &heartbeat.row;
    let settings = settings(&heartbeat.settings);
    let mut arguments = vec![
        milliseconds(leases.held),
        milliseconds(KNOWN_FOR),
        row.gpu.gpu_id.to_string(),
        row.incarnation.to_string(),
        json(row),
        class(row),
        row.slots.to_string(),
        row.memory_in_the_way_mb().to_string(),
        flag(row.health.takes_tasks() && !row.stopping),
        flag(row.consuming),
        row.foreign_utilization_percent.to_string(),
        row.waiting.to_string(),
        heartbeat.holding.slots.to_string(),
        heartbeat.holding.number.to_string(),
        row.models.len().to_string(),
        settings.len().to_string(),
    ];
    arguments.extend(row.models.iter().cloned());
    arguments.extend(settings);
    arguments.extend(heartbeat.taken.iter().map(ToString::to_string));
    arguments
}

pub(super) fn note_unserved(sighting: &Sighting) -> Vec<String> {
    let Sighting { wanted, kind, reason, served, times } = sighting.clone();
    vec![milliseconds(UNSERVED_FOR), UNSERVED_MAX.to_string(), wanted, times.to_string(), json(&Told { kind, reason, served })]
}

/// How long a description of a kind lives after it was last told.
pub(super) fn described_for(leases: Leases) -> String {
    milliseconds(leases.held * DESCRIBED_FOR_LEASES)
}

pub(super) fn renew_kinds(leases: Leases, kinds: &[KindDescription]) -> Vec<String> {
    std::iter::once(described_for(leases)).chain(kinds.iter().map(place)).collect()
}

pub(super) fn describe_kinds<'a>(leases: Leases, kinds: impl Iterator<Item = &'a KindDescription>) -> Vec<String> {
    let mut arguments = vec![described_for(leases), DESCRIPTIONS_MAX.to_string()];
    for description in kinds {
        arguments.extend([place(description), json(description)]);
    }
    arguments
}

/// For how long a copy of a tensor is remembered, and for how long where its GPU has no row.
fn tensors_live(leases: Leases) -> [String; 2] {
    [milliseconds(TENSORS_FOR), milliseconds(leases.held * TENSORS_FOR_LEASES)]
}

pub(super) fn announce_tensors(leases: Leases, names_max: usize, records: &[TensorRecord]) -> Vec<String> {
    let mut arguments = tensors_live(leases).to_vec();
    arguments.extend([names_max, TENSOR_LOOKS].map(|bound| bound.to_string()));
    for record in records {
        let TensorRecord { name, gpu_id, version, incarnation, .. } = record;
        arguments.extend([name.to_string(), gpu_id.to_string(), version.to_string(), incarnation.to_string(), json(record)]);
    }
    arguments
}

pub(super) fn draw_tensor_version(leases: Leases, VersionDraw { name, owner, wanted }: &VersionDraw) -> Vec<String> {
    let what = match wanted {
        VersionWanted::Token(_) => "token",
        VersionWanted::Time(_) => "time",
    };
    let mut arguments = tensors_live(leases).to_vec();
    arguments.push(milliseconds(leases.held * TENSORS_FOR_LEASES));
    arguments.extend([name.to_string(), owner.clone(), wanted.number().to_string(), what.to_owned()]);
    arguments
}

pub(super) fn withdraw_tensors(gpu_id: &GpuId, incarnation: &Incarnation, copies: &[(TensorName, u64)]) -> Vec<String> {
    let mut arguments = vec![gpu_id.to_string(), incarnation.to_string()];
    for (name, version) in copies {
        arguments.extend([name.to_string(), version.to_string()]);
    }
    arguments
}

pub(super) fn find_tensors(leases: Leases, names: &[TensorName]) -> Vec<String> {
    tensors_live(leases).into_iter().chain(names.iter().map(ToString::to_string)).collect()
}

/// `after`: empty for the first page.
pub(super) fn list_tensors(leases: Leases, after: &str, names_max: usize) -> Vec<String> {
    let page = [after.to_owned(), names_max.to_string(), NAMES_LOOKED_AT.to_string()];
    tensors_live(leases).into_iter().chain(page).collect()
}

/// The fields of `settings.lua`.
pub(super) fn settings(settings: &Settings) -> Vec<String> {
    let strategies: Vec<&str> = settings.strategies.iter().map(|strategy| strategy.name()).collect();
    let mut fields = vec![
        settings.version.to_string(),
        json(settings),
        settings.default_strategy.to_string(),
        listed(&strategies),
        settings.memory_threshold.to_string(),
        settings.utilization_threshold.to_string(),
    ];
    fields.extend(settings.draining.iter().map(ToString::to_string));
    fields
}

pub(super) fn milliseconds(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// GPUs of one class fit the same tasks.
fn class(row: &GpuRow) -> String {
    let kinds: Vec<&str> = row.kinds.iter().map(|kind| kind.as_str()).collect();
    format!("{}:{}:{}", row.gpu.compute_capability.rank(), row.gpu.memory_total_mb, listed(&kinds))
}

/// `,a,b,`: so that a search for `,a,` finds a whole word.
fn listed(words: &[&str]) -> String {
    format!(",{},", words.join(","))
}

/// Text that may be empty, told apart from none.
fn any_text(text: Option<&str>) -> String {
    text.map_or_else(String::new, |text| format!("={text}"))
}

fn flag(is_set: bool) -> String {
    u8::from(is_set).to_string()
}

const fn mode(mode: ClaimMode) -> &'static str {
    match mode {
        ClaimMode::Choose => "choose",
        ClaimMode::TasksWaiting => "tasks_waiting",
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("text keys and plain values become JSON")
}
