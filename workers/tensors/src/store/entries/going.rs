//! What goes, and comes back.

use std::sync::Arc;

use protocol::TensorName;

use super::{At, Entries, Entry, Evicted, Next};
use crate::Tensor;

impl Entries {
    /// What evictions can give back of the GPU's memory.
    pub(in crate::store) fn idle_bytes(&self) -> u64 {
        let idle = self.kept.values().filter(|entry| entry.is_idle_on_gpu()).map(Entry::gpu_bytes).sum::<u64>();
        idle + self.leaving_bytes
    }

    /// Marks as leaving what was used longest ago of what nobody uses.
    pub(in crate::store) fn next_to_leave(&mut self) -> Next {
        let idle = self.kept.values_mut().filter(|entry| entry.is_idle_on_gpu() && entry.gpu_bytes() > 0);
        let Some(entry) = idle.min_by_key(|entry| entry.used) else {
            return if self.leaving_bytes > 0 { Next::IsLeaving } else { Next::Nothing };
        };
        let At::Gpu(tensor) = &entry.at else { return Next::Nothing };
        let tensor = Arc::clone(tensor);
        self.leaving_bytes += tensor.buffer().len();
        entry.at = At::Leaving(Arc::clone(&tensor));
        Next::Leaves(tensor)
    }

    fn leaving(&mut self, tensor: &Arc<Tensor>) -> Option<&mut Entry> {
        self.kept.get_mut(&tensor.about().name).filter(|entry| entry.is_leaving(tensor))
    }

    /// Its eviction came to nothing: it stays, where nothing else has become of it.
    pub(in crate::store) fn stays(&mut self, tensor: &Arc<Tensor>) {
        if let Some(entry) = self.leaving(tensor) {
            entry.at = At::Gpu(Arc::clone(tensor));
        }
    }

    /// It has left the GPU's memory, for the host's or altogether. `None`: it was used, replaced or freed meanwhile.
    pub(in crate::store) fn left(&mut self, tensor: &Arc<Tensor>, evicted: Option<&Arc<Evicted>>) -> Option<At> {
        let entry = self.leaving(tensor)?;
        if let Some(evicted) = evicted {
            let was_at = std::mem::replace(&mut entry.at, At::Host(Arc::clone(evicted)));
            self.counts.to_host += 1;
            return Some(was_at);
        }
        self.counts.away += 1;
        self.goes(&tensor.about().name).map(|entry| entry.at)
    }

    /// An eviction is over, and what it gave back of the GPU's memory is free.
    pub(in crate::store) const fn eviction_ended(&mut self, bytes: u64, given_back: u64) {
        self.leaving_bytes -= bytes;
        self.given_back += given_back;
    }

    /// What can be given back of the host's memory, of what was used before a tensor that leaves the GPU. `None`: that one does not leave any more.
    pub(in crate::store) fn older_on_host(&mut self, tensor: &Arc<Tensor>) -> Option<u64> {
        let used = self.leaving(tensor)?.used;
        let older = self.kept.values().filter(|entry| entry.used < used);
        Some(older.map(|entry| if let At::Host(evicted) = &entry.at { evicted.bytes.len() as u64 } else { 0 }).sum())
    }

    /// Takes out what was used longest ago of what lies in the host's memory, before a tensor that leaves the GPU.
    pub(in crate::store) fn next_off_host(&mut self, tensor: &Arc<Tensor>) -> Option<Entry> {
        let used = self.leaving(tensor)?.used;
        self.next_away(|entry| matches!(entry.at, At::Host(_)) && entry.used < used)
    }

    /// Takes out what was used longest ago of what nobody uses, so that there is a place for another. Of a name that arrives, that would make none.
    pub(in crate::store) fn next_for_place(&mut self) -> Option<Entry> {
        let arriving = std::mem::take(&mut self.arriving);
        let next = self.next_away(|entry| entry.is_idle() && !arriving.contains_key(&entry.about.name));
        self.arriving = arriving;
        next
    }

    fn next_away(&mut self, may_go: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let next = self.kept.values().filter(|entry| may_go(entry)).min_by_key(|entry| entry.used);
        let name = next?.about.name.clone();
        self.counts.away += 1;
        self.goes(&name)
    }

    fn returning(&mut self, name: &TensorName, evicted: &Arc<Evicted>) -> Option<&mut Entry> {
        self.kept.get_mut(name).filter(|entry| entry.is_returning(evicted))
    }

    /// It is back in the GPU's memory, where nothing else has become of it.
    pub(in crate::store) fn returned(&mut self, tensor: &Arc<Tensor>, evicted: &Arc<Evicted>) {
        if let Some(entry) = self.returning(&tensor.about().name, evicted) {
            entry.at = At::Gpu(Arc::clone(tensor));
        }
    }

    /// Its return came to nothing: it stays in the host's memory, where nothing else has become of it.
    pub(in crate::store) fn stays_on_host(&mut self, name: &TensorName, evicted: &Arc<Evicted>) {
        if let Some(entry) = self.returning(name, evicted) {
            entry.at = At::Host(Arc::clone(evicted));
        }
    }
}
