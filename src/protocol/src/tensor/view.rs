//! Tensors as operators and producers see them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{TensorPlace, TensorRecord, TensorShape};
use crate::{GpuId, TensorName};

/// A tensor with its copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "gpufleet tensor")]
pub struct TensorView {
    /// Its name.
    pub name: TensorName,
    /// Its version.
    pub version: u64,
    /// What its numbers are.
    #[serde(flatten)]
    pub shape: TensorShape,
    /// Its length.
    pub bytes: u64,
    /// Who made it: the id of a task.
    pub owner: String,
    /// How long ago it was made, in ms.
    pub age_ms: u64,
    /// How long ago a task last used any copy of it, in ms.
    pub last_used_ms_ago: u64,
    /// How long it is kept after its last use, in ms.
    pub ttl_ms: u64,
    /// Where it is, by GPU id.
    pub copies: Vec<TensorCopy>,
}

/// One copy of a tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TensorCopy {
    /// The GPU that it belongs to.
    pub gpu_id: GpuId,
    /// Where it lies.
    pub place: TensorPlace,
}

impl TensorView {
    /// The tensors that records tell of, by name: of each name the latest version, with all copies of that. `now_ms` is Unix time in ms.
    #[must_use]
    pub fn of(records: Vec<TensorRecord>, now_ms: u64) -> Vec<Self> {
        let mut by_name: BTreeMap<TensorName, Self> = BTreeMap::new();
        for record in records {
            let used_ago = now_ms.saturating_sub(record.last_used_ms);
            let copy = TensorCopy { gpu_id: record.gpu_id.clone(), place: record.place };
            match by_name.get_mut(&record.name) {
                Some(view) if view.version == record.version => {
                    view.last_used_ms_ago = view.last_used_ms_ago.min(used_ago);
                    view.copies.push(copy);
                }
                Some(view) if view.version > record.version => {}
                _ => drop(by_name.insert(record.name.clone(), Self::first(record, copy, now_ms, used_ago))),
            }
        }
        by_name.values_mut().for_each(|view| view.copies.sort_by(|one, other| one.gpu_id.cmp(&other.gpu_id)));
        by_name.into_values().collect()
    }

    fn first(record: TensorRecord, copy: TensorCopy, now_ms: u64, last_used_ms_ago: u64) -> Self {
        let TensorRecord { name, version, shape, bytes, owner, made_ms, ttl_ms, .. } = record;
        let age_ms = now_ms.saturating_sub(made_ms);
        Self { name, version, shape, bytes, owner, age_ms, last_used_ms_ago, ttl_ms, copies: vec![copy] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Incarnation};

    fn record(name: &str, version: u64, gpu: &str, last_used_ms: u64) -> TensorRecord {
        TensorRecord {
            name: TensorName::new(name).unwrap(),
            version,
            shape: TensorShape { dtype: DType::F32, shape: vec![2] },
            bytes: 8,
            owner: "task".to_owned(),
            made_ms: 1_000,
            last_used_ms,
            ttl_ms: 60_000,
            gpu_id: GpuId::new(gpu).unwrap(),
            incarnation: Incarnation::new("i").unwrap(),
            place: TensorPlace::Gpu,
            port: None,
        }
    }

    #[test]
    fn of_each_name_the_latest_version_is_shown_with_all_its_copies() {
        let records =
            vec![record("b", 1, "g1", 1_000), record("a", 1, "g2", 1_500), record("a", 2, "g2", 2_000), record("a", 2, "g1", 3_000)];
        let shown = TensorView::of(records, 4_000);
        let told: Vec<_> = shown.iter().map(|view| (view.name.as_str(), view.version, view.last_used_ms_ago, view.copies.len())).collect();
        assert_eq!(told, [("a", 2, 1_000, 2), ("b", 1, 3_000, 1)]);
        assert_eq!(shown[0].copies[0].gpu_id.as_str(), "g1");
    }
}
