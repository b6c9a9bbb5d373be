//! What the scripts answer, read back into words.

use std::time::Duration;

use protocol::{
    Choice, ClaimAnswer, ClaimRequest, DescribedKind, Fallback, GpuId, GpuRow, Kind, KindDescription, Offer, TensorRecord, Unplaceable,
    Unserved, claim::Settings, gpu::GpuView,
};
use redis::from_redis_value;
use redis_link::{Ridden, Rider};
use serde::{Deserialize, Serialize};

use crate::{Beat, Seen, TableError, described, wanted::nothing_fits};

/// JSON, slots held or offered, whether it drains, whether it is eligible, ms until it expires.
pub(super) type Row = (String, u32, bool, bool, u64);

/// What tasks ask for that nobody serves, when they were last told of, in ms; `first sightings JSON`.
pub(super) type Entry = (String, u64, String);

/// That JSON.
#[derive(Serialize, Deserialize)]
pub(super) struct Told {
    pub kind: Kind,
    pub reason: String,
    pub served: Vec<Kind>,
}

pub(super) fn claim(operation: &'static str, request: &ClaimRequest, answer: &[String]) -> Result<ClaimAnswer, TableError> {
    let words: Vec<&str> = answer.iter().map(String::as_str).collect();
    let read = match words.as_slice() {
        ["own", offer @ ..] => offered(request, offer).map(|offer| ClaimAnswer::Own(offer.choice)),
        ["other", offer @ ..] => offered(request, offer).map(ClaimAnswer::Other),
        ["full_here"] => Some(ClaimAnswer::Full { fits_here: true, elsewhere: None }),
        ["full_elsewhere", gpu_id] => gpu_id.parse().ok().map(|gpu_id| ClaimAnswer::Full { fits_here: false, elsewhere: Some(gpu_id) }),
        ["nothing_fits"] => Some(ClaimAnswer::Unplaceable(nothing_fits(request))),
        ["gpu_unknown"] => named(request).map(|gpu_id| ClaimAnswer::Unplaceable(Unplaceable::GpuUnknown { gpu_id })),
        ["gpu_away"] => named(request).map(|gpu_id| ClaimAnswer::Unplaceable(Unplaceable::GpuAway { gpu_id })),
        _ => None,
    };
    read.ok_or_else(|| garbled(operation, answer))
}

/// The claim's answer, and whether the rider came to its end with its answer, if it ran.
pub(super) fn claim_with(
    operation: &'static str,
    request: &ClaimRequest,
    answer: Vec<redis::Value>,
) -> Result<(ClaimAnswer, Option<Ridden>), TableError> {
    let mut parts = answer.into_iter();
    let words: Vec<String> =
        parts.next().map(from_redis_value).transpose().map_err(|error| garbled(operation, &error.to_string()))?.unwrap_or_default();
    let claimed = claim(operation, request, &words)?;
    let ridden = match (parts.next(), parts.next()) {
        (Some(done), Some(answer)) => {
            Some(Rider::ridden(from_redis_value(done).map_err(|error| garbled(operation, &error.to_string()))?, answer))
        }
        _ => None,
    };
    Ok((claimed, ridden))
}

fn offered(request: &ClaimRequest, words: &[&str]) -> Option<Offer> {
    let [gpu_id, strategy, fallback, requested] = words else { return None };
    let fallback = match *fallback {
        "-" => None,
        "unknown" => Some(Fallback::Unknown),
        "disabled" => Some(Fallback::Disabled),
        _ => return None,
    };
    Some(Offer {
        pool: request.pool.clone(),
        task_id: request.task_id.clone(),
        gpu_id: gpu_id.parse().ok()?,
        choice: Choice { used: strategy.parse().ok()?, requested: fallback.map(|_| (*requested).to_owned()), fallback },
    })
}

fn named(request: &ClaimRequest) -> Option<GpuId> {
    request.specific_gpu_id.clone()
}

/// The settings, whether the GPU drains.
pub(super) fn beat(operation: &'static str, answer: redis::Value) -> Result<Beat, TableError> {
    let (json, draining): (String, bool) = from_redis_value(answer).map_err(|error| garbled(operation, &error.to_string()))?;
    Ok(Beat { settings: settings(operation, &json)?, draining })
}

/// For how long the table is steady, in ms, and the JSON of the row, if it lives.
pub(super) fn seen(operation: &'static str, answer: redis::Value) -> Result<Seen, TableError> {
    let parts: Vec<String> = from_redis_value(answer).map_err(|error| garbled(operation, &error.to_string()))?;
    let steady_ms = parts.first().and_then(|ms| ms.parse().ok()).ok_or_else(|| garbled(operation, &parts))?;
    let row =
        parts.get(1).map(|json| serde_json::from_str(json).map_err(|error| garbled(operation, &format!("{error}: {json}")))).transpose()?;
    Ok(Seen { row, steady: Duration::from_millis(steady_ms) })
}

pub(super) fn settings(operation: &'static str, json: &str) -> Result<Settings, TableError> {
    serde_json::from_str(json).map_err(|error| garbled(operation, &format!("{error}: {json}")))
}

pub(super) fn views(operation: &'static str, rows: Vec<Row>) -> Result<Vec<GpuView>, TableError> {
    let view = |(json, held, draining, eligible, expires_in_ms): Row| {
        let row: GpuRow = serde_json::from_str(&json).map_err(|error| garbled(operation, &format!("{error}: {json}")))?;
        let phase = GpuView::phase_of(&row, held, draining);
        Ok(GpuView { row, held, draining, eligible, expires_in_ms, phase })
    };
    let mut views = rows.into_iter().map(view).collect::<Result<Vec<_>, TableError>>()?;
    views.sort_by(|a, b| a.row.gpu.gpu_id.cmp(&b.row.gpu.gpu_id));
    Ok(views)
}

pub(super) fn gpu_ids(operation: &'static str, ids: Vec<String>) -> Result<Vec<GpuId>, TableError> {
    let mut ids = ids.into_iter().map(GpuId::new).collect::<Result<Vec<_>, _>>().map_err(|error| garbled(operation, &error.to_string()))?;
    ids.sort();
    Ok(ids)
}

pub(super) fn unserved(operation: &'static str, entries: Vec<Entry>) -> Result<Vec<Unserved>, TableError> {
    let entry = |entry: Entry| one_unserved(&entry).ok_or_else(|| garbled(operation, &entry));
    let mut unserved = entries.into_iter().map(entry).collect::<Result<Vec<_>, TableError>>()?;
    unserved.sort_by(|a, b| a.wanted.cmp(&b.wanted));
    Ok(unserved)
}

fn one_unserved((wanted, last_ms, told): &Entry) -> Option<Unserved> {
    let mut parts = told.splitn(3, ' ');
    let (first_ms, sightings) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let Told { kind, reason, served } = serde_json::from_str(parts.next()?).ok()?;
    Some(Unserved { wanted: wanted.clone(), kind, reason, served, first_ms, last_ms: *last_ms, sightings })
}

/// Of each description `first JSON`.
pub(super) fn kinds(operation: &'static str, told: &[String]) -> Result<Vec<DescribedKind>, TableError> {
    let one = |told: &String| one_described(told).ok_or_else(|| garbled(operation, told));
    Ok(described::newest(told.iter().map(one).collect::<Result<Vec<_>, TableError>>()?))
}

fn one_described(told: &str) -> Option<(u64, KindDescription)> {
    let (first_ms, json) = told.split_once(' ')?;
    Some((first_ms.parse().ok()?, serde_json::from_str(json).ok()?))
}

/// The JSON of copies of tensors. Where one is not understood, others have written there, or a later version: for this process there is none.
pub(super) fn tensors(told: &[String]) -> impl Iterator<Item = TensorRecord> {
    told.iter().filter_map(|json| serde_json::from_str(json).ok())
}

pub(super) fn garbled(operation: &'static str, answer: &(impl std::fmt::Debug + ?Sized)) -> TableError {
    TableError::Garbled { operation, answer: format!("{answer:?}").chars().take(200).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use protocol::{ClaimMode, Holding, Incarnation, Needs, PoolName, TaskId};

    use super::*;

    fn request() -> ClaimRequest {
        let gpu_id = GpuId::new("gpu-0").expect("valid");
        ClaimRequest {
            pool: PoolName::default(),
            task_id: TaskId::new("t").expect("valid"),
            kind: "echo".parse().expect("valid"),
            needs: Needs::default(),
            specific_gpu_id: None,
            strategy: None,
            asker: gpu_id,
            incarnation: Incarnation::new("i").expect("valid"),
            holding: Holding::default(),
            has_slot: true,
            mode: ClaimMode::Choose,
            data: None,
        }
    }

    fn word() -> impl Strategy<Value = String> {
        const KNOWN: [&str; 12] = ["own", "other", "full_here", "gpu_away", "gpu-0", "7", "round_robin", "-", "unknown", "", "{}", "1"];
        prop_oneof![3 => prop::sample::select(&KNOWN[..]).prop_map(str::to_owned), 1 => "\\PC{0,9}"]
    }

    proptest! {
        #[test]
        fn any_answer_is_understood_or_garbled(words in vec(word(), 0..8), json in "[\\PC]{0,40}") {
            let rows = vec![(json.clone(), 1, false, true, 5)];
            let entries = vec![("kind echo".to_owned(), 5, json.clone())];
            let beat = redis::Value::Array(words.iter().map(|word| redis::Value::BulkString(word.as_bytes().to_vec())).collect());
            let errors = [
                claim("test", &request(), &words).err(),
                self::beat("test", beat.clone()).err(),
                seen("test", beat).err(),
                settings("test", &json).err(),
                views("test", rows).err(),
                gpu_ids("test", words.clone()).err(),
                unserved("test", entries).err(),
                kinds("test", &words).err(),
            ];
            for error in errors.into_iter().flatten() {
                let garbled = matches!(error, TableError::Garbled { .. });
                prop_assert!(garbled && !error.is_transient(), "{}", error);
            }
        }
    }
}
