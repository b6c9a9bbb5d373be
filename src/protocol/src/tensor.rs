//! Tensors: named data that stays on GPUs between tasks.

mod keep_as;
mod reference;
mod view;
mod way;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

pub use self::{
    keep_as::{IfExists, KeepAs, OnMissing},
    reference::{KeptTensor, TensorRef},
    view::{TensorCopy, TensorView},
    way::{TransferWay, WayView},
};
use crate::{DType, GpuId, Incarnation, TensorName};

/// What the numbers of a tensor are. Its bytes are little-endian, the last dimension closest together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TensorShape {
    /// The type of its numbers.
    pub dtype: DType,
    /// The sizes of its dimensions. Empty: one number.
    pub shape: Vec<usize>,
}

impl TensorShape {
    /// Bytes without any structure.
    #[must_use]
    pub fn of_bytes(bytes: usize) -> Self {
        Self { dtype: DType::U8, shape: vec![bytes] }
    }

    /// How many bytes it has. `None`: more than can be counted.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let size = u64::try_from(self.dtype.size()).ok()?;
        self.shape.iter().try_fold(size, |bytes, side| bytes.checked_mul(u64::try_from(*side).ok()?))
    }
}

/// How the other processes of a fleet reach the tensors of one GPU.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DataPort {
    /// `host:port`, for every host. Absent: only processes of the same host reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The abstract name of a Unix socket, for processes of the same host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// What only processes of one running system with one network have in common: who has the same one can use `socket`.
    pub system: String,
    /// Who does not give it is refused. Whoever can read the table has it.
    pub key: String,
}

impl fmt::Debug for DataPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, socket, system, key: _ } = self;
        // The key is a secret, and rows and records find their way into errors and logs.
        formatter.debug_struct("DataPort").field("address", address).field("socket", socket).field("system", system).finish_non_exhaustive()
    }
}

/// Where a copy of a tensor lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TensorPlace {
    /// In the GPU's memory.
    #[default]
    Gpu,
    /// In the memory of the GPU's host, evicted from the GPU. A word of a later version is read as this, so that a record stays one: such a copy lies somewhere, and can be asked for.
    #[serde(other)]
    Host,
}

impl TensorPlace {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Host => "host",
        }
    }
}

/// One copy of a tensor, as the table knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TensorRecord {
    /// Its name.
    pub name: TensorName,
    /// Grows when the name is written again: the token of the attempt that made it, or the time at which it was put, in microseconds; one above the latest, where the name had that or a newer one. The highest is the one that is used.
    pub version: u64,
    /// What its numbers are.
    #[serde(flatten)]
    pub shape: TensorShape,
    /// Its length.
    pub bytes: u64,
    /// Who made it: the id of a task.
    pub owner: String,
    /// When it was made, Unix time in ms.
    pub made_ms: u64,
    /// When a task last used this copy, Unix time in ms.
    pub last_used_ms: u64,
    /// How long it is kept after its last use, in ms.
    pub ttl_ms: u64,
    /// The GPU that this copy belongs to.
    pub gpu_id: GpuId,
    /// The start of that GPU's worker that has it: with the worker's process it is gone.
    pub incarnation: Incarnation,
    /// Where the copy lies.
    pub place: TensorPlace,
    /// How to reach it from other processes. Absent: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<DataPort>,
}

/// What a row says of the tensors of its GPU.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DataState {
    /// How many tensors the GPU has, also those that were evicted to its host's memory.
    #[serde(skip_serializing_if = "is_zero")]
    pub tensors: u64,
    /// What they take of the GPU's memory, in MB (10^6 bytes), rounded up.
    #[serde(skip_serializing_if = "is_zero")]
    pub tensor_mb: u64,
    /// What the evicted ones take of the host's memory, in MB (10^6 bytes), rounded up.
    #[serde(skip_serializing_if = "is_zero")]
    pub tensor_host_mb: u64,
    /// How other processes reach its tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_port: Option<DataPort>,
    /// The ways from other GPUs to this one that were tried, and what came of it; at most [`DataState::WAYS_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "known_ways")]
    pub ways: Vec<WayView>,
}

impl DataState {
    /// Of how many ways a row tells.
    pub const WAYS_MAX: usize = 64;
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The ways that this version knows: what a later one tells beside them does not make a row unreadable.
fn known_ways<'de, D: Deserializer<'de>>(told: D) -> Result<Vec<WayView>, D::Error> {
    let told = Vec::<serde_json::Value>::deserialize(told)?;
    Ok(told.into_iter().filter_map(|way| serde_json::from_value(way).ok()).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_of_a_later_version_leave_rows_and_records_readable() {
        let told = json!({"tensors": 2, "ways": [{"from": "a", "way": "beam"}, {"from": "b", "way": "peer", "gb_s": 2.0}]});
        let state: DataState = serde_json::from_value(told).unwrap();
        assert_eq!((state.tensors, state.ways.len(), state.ways[0].way), (2, 1, TransferWay::Peer));
        let places: Vec<TensorPlace> = serde_json::from_value(json!(["gpu", "host", "disk"])).unwrap();
        assert_eq!(places, [TensorPlace::Gpu, TensorPlace::Host, TensorPlace::Host]);
        assert_eq!(serde_json::to_value(TensorPlace::Host).unwrap(), json!("host"));
    }

    #[test]
    fn the_key_of_a_data_port_is_in_no_log() {
        let port = DataPort { address: Some("gpu-1:81".to_owned()), socket: None, system: "s".to_owned(), key: "secret".to_owned() };
        let shown = format!("{port:?}");
        assert!(shown.contains("gpu-1:81") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_shape_says_how_many_bytes_it_has() {
        let bytes = |dtype, shape: &[usize]| TensorShape { dtype, shape: shape.to_vec() }.bytes();
        assert_eq!(bytes(DType::F32, &[3, 5]), Some(60));
        assert_eq!(bytes(DType::F64, &[]), Some(8));
        assert_eq!(bytes(DType::U8, &[0, 7]), Some(0));
        assert_eq!(bytes(DType::U8, &[usize::MAX, 2]), None);
    }
}
