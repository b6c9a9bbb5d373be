//! Where the tensors of a pool are, as workers say it.

use std::collections::BTreeMap;

use protocol::{GpuId, Incarnation, TensorName, TensorRecord};

use super::pool::Pool;
use crate::{TENSOR_LOOKS, TENSORS_FOR, TENSORS_FOR_LEASES, copies::in_order};

/// A name that workers told of.
#[derive(Clone, Default)]
pub(super) struct Named {
    /// When a copy of it was told last.
    told_ms: u64,
    copies: BTreeMap<GpuId, Told>,
}

/// A copy that a worker told of.
#[derive(Clone)]
struct Told {
    record: TensorRecord,
    /// When it was told last.
    told_ms: u64,
}

impl Pool {
    /// How many records could not be kept, for the pool has as many names as it may.
    pub(super) fn announce_tensors(&mut self, records: &[TensorRecord], names_max: usize) -> usize {
        records.iter().filter(|record| !self.announce_tensor(record, names_max)).count()
    }

    /// Whether there was room for it. One that is passed over needs none.
    fn announce_tensor(&mut self, record: &TensorRecord, names_max: usize) -> bool {
        if self.lives_otherwise(&record.gpu_id, &record.incarnation) {
            return true;
        }
        let old = self.tensors.get(&record.name).and_then(|named| named.copies.get(&record.gpu_id));
        if old.is_some_and(|old| old.record.incarnation == record.incarnation && old.record.version > record.version) {
            return true;
        }
        if !self.tensors.contains_key(&record.name) && !self.has_room_for_a_name(names_max) {
            return false;
        }
        let told_ms = self.now_ms();
        let named = self.tensors.entry(record.name.clone()).or_default();
        named.told_ms = told_ms;
        named.copies.insert(record.gpu_id.clone(), Told { record: record.clone(), told_ms });
        true
    }

    /// Whether this GPU's living row is of another incarnation.
    fn lives_otherwise(&self, gpu_id: &GpuId, incarnation: &Incarnation) -> bool {
        self.rows.get(gpu_id).is_some_and(|entry| entry.row.incarnation != *incarnation)
    }

    /// Whether the pool may have one more name: it has fewer than it may, or one of those that were told longest ago has no copy that could count again.
    fn has_room_for_a_name(&mut self, names_max: usize) -> bool {
        if self.tensors.len() < names_max {
            return true;
        }
        let mut oldest: Vec<(u64, &TensorName)> = self.tensors.iter().map(|(name, named)| (named.told_ms, name)).collect();
        oldest.sort_unstable();
        let oldest: Vec<TensorName> = oldest.into_iter().take(TENSOR_LOOKS).map(|(_, name)| name.clone()).collect();
        oldest.iter().any(|name| {
            self.counting_copies(name);
            !self.tensors.contains_key(name)
        })
    }

    /// The copies of a name that count: those of living incarnations. Those that will hardly count again are forgotten: another incarnation has the GPU, or it has been gone for long since they were told.
    fn counting_copies(&mut self, name: &TensorName) -> Vec<TensorRecord> {
        let now_ms = self.now_ms();
        let (lives_ms, lives_gone_ms) =
            (TENSORS_FOR.as_millis() as u64, self.leases.held.as_millis() as u64 * u64::from(TENSORS_FOR_LEASES));
        let Some(mut named) = self.tensors.remove(name) else { return Vec::new() };
        named.copies.retain(|gpu_id, told| match self.rows.get(gpu_id) {
            Some(entry) => entry.row.incarnation == told.record.incarnation && now_ms < told.told_ms + lives_ms,
            None => now_ms < told.told_ms + lives_gone_ms,
        });
        let counts = |told: &&Told| self.rows.contains_key(&told.record.gpu_id);
        let counting = named.copies.values().filter(counts).map(|told| told.record.clone()).collect();
        if !named.copies.is_empty() {
            self.tensors.insert(name.clone(), named);
        }
        counting
    }

    pub(super) fn withdraw_tensors(&mut self, gpu_id: &GpuId, incarnation: &Incarnation, copies: &[(TensorName, u64)]) {
        for (name, version) in copies {
            let Some(named) = self.tensors.get_mut(name) else { continue };
            let is_meant = |told: &Told| told.record.incarnation == *incarnation && told.record.version <= *version;
            if named.copies.get(gpu_id).is_some_and(is_meant) {
                named.copies.remove(gpu_id);
            }
            if named.copies.is_empty() {
                self.tensors.remove(name);
            }
        }
    }

    pub(super) fn find_tensors(&mut self, names: &[TensorName]) -> Vec<TensorRecord> {
        in_order(names.iter().flat_map(|name| self.counting_copies(name)).collect())
    }

    pub(super) fn list_tensors(&mut self, after: Option<&TensorName>, names_max: usize) -> Vec<TensorRecord> {
        let names: Vec<TensorName> = self.tensors.keys().filter(|name| after.is_none_or(|after| *name > after)).cloned().collect();
        let found = names.iter().map(|name| self.counting_copies(name)).filter(|copies| !copies.is_empty());
        in_order(found.take(names_max).flatten().collect())
    }
}
