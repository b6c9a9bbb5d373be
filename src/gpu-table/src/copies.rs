//! Copies of tensors, in the order in which the table tells of them.

use protocol::TensorRecord;

/// By name, version and GPU, each once.
pub(crate) fn in_order(mut records: Vec<TensorRecord>) -> Vec<TensorRecord> {
    let place = |record: &TensorRecord| (record.name.clone(), record.version, record.gpu_id.clone());
    records.sort_by_cached_key(place);
    records.dedup_by(|one, other| place(one) == place(other));
    records
}
