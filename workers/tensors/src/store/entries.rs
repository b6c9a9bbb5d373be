//! Which tensors a GPU has, and which of them goes next. Bookkeeping alone: nothing here waits, or moves a byte. What is let go of is given to the caller, who drops it when the lock is no longer held.

mod going;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use protocol::{IfExists, TensorName, TensorPlace};

use super::{KeepError, StoreCounts, Stored, room::Room};
use crate::{Tensor, TensorAbout};

/// The bytes of a tensor that was evicted to the host's memory.
#[derive(Debug)]
pub(super) struct Evicted {
    pub(super) bytes: Bytes,
    pub(super) _room: Room,
}

/// Where a tensor lies. Of one in the GPU's memory, the store has one `Arc` itself: there are more while somebody uses it.
#[derive(Debug)]
pub(super) enum At {
    Gpu(Arc<Tensor>),
    /// In the GPU's memory, and being copied to the host's. Nobody else uses it: who asks for it makes it stay.
    Leaving(Arc<Tensor>),
    Host(Arc<Evicted>),
    /// In the host's memory, and being brought back for those who asked for it.
    Returning(Arc<Evicted>),
}

/// When a tensor was last used: Unix time in ms, and its turn among those of one millisecond.
type Used = (u64, u64);

/// A tensor that is found.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) about: TensorAbout,
    used: Used,
    at: At,
}

/// What there is of a tensor that is asked for.
pub(super) enum Found {
    Absent,
    OnGpu(Arc<Tensor>),
    /// It is marked as returning: who asked brings it back.
    OnHost(TensorAbout, Arc<Evicted>),
    Returning,
}

/// What gives back memory of the GPU next.
pub(super) enum Next {
    /// This one, which is marked as leaving.
    Leaves(Arc<Tensor>),
    /// Only what is leaving already.
    IsLeaving,
    Nothing,
}

/// What becomes of a tensor that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Kept,
    /// It is here.
    Here,
    /// A newer one is here.
    Late,
}

/// The tensors of a GPU, by name.
#[derive(Debug, Default)]
pub(super) struct Entries {
    kept: BTreeMap<TensorName, Entry>,
    /// How many arrive under each name. A name that is kept or arrives counts once against the bound.
    arriving: BTreeMap<TensorName, usize>,
    gone: BTreeSet<(TensorName, u64)>,
    uses: u64,
    /// What evictions that go on will give back of the GPU's memory.
    leaving_bytes: u64,
    /// What evictions have given back of the GPU's memory.
    given_back: u64,
    counts: StoreCounts,
}

impl Entry {
    /// Whether it lies in the GPU's memory, and nobody uses it.
    fn is_idle_on_gpu(&self) -> bool {
        matches!(&self.at, At::Gpu(tensor) if Arc::strong_count(tensor) == 1)
    }

    /// Whether nobody uses it, wherever it lies.
    fn is_idle(&self) -> bool {
        self.is_idle_on_gpu() || matches!(self.at, At::Leaving(_) | At::Host(_))
    }

    /// What it takes of the GPU's memory.
    fn gpu_bytes(&self) -> u64 {
        match &self.at {
            At::Gpu(tensor) | At::Leaving(tensor) => tensor.buffer().len(),
            At::Host(_) | At::Returning(_) => 0,
        }
    }

    fn stored(&self) -> Stored {
        let place = match self.at {
            At::Gpu(_) | At::Leaving(_) => TensorPlace::Gpu,
            At::Host(_) | At::Returning(_) => TensorPlace::Host,
        };
        Stored { about: self.about.clone(), place, last_used_ms: self.used.0 }
    }

    /// Who moved it meanwhile has found it gone.
    fn where_it_lies(self) -> Self {
        let at = match self.at {
            At::Leaving(tensor) => At::Gpu(tensor),
            At::Returning(evicted) => At::Host(evicted),
            at => at,
        };
        Self { at, ..self }
    }

    fn is_leaving(&self, tensor: &Arc<Tensor>) -> bool {
        matches!(&self.at, At::Leaving(leaving) if Arc::ptr_eq(leaving, tensor))
    }

    fn is_returning(&self, evicted: &Arc<Evicted>) -> bool {
        matches!(&self.at, At::Returning(returning) if Arc::ptr_eq(returning, evicted))
    }
}

impl Entries {
    pub(super) fn list(&self) -> Vec<Stored> {
        self.kept.values().map(Entry::stored).collect()
    }

    pub(super) fn look(&self, name: &TensorName) -> Option<Stored> {
        self.kept.get(name).map(Entry::stored)
    }

    pub(super) fn take_gone(&mut self) -> Vec<(TensorName, u64)> {
        std::mem::take(&mut self.gone).into_iter().collect()
    }

    pub(super) const fn counts(&self) -> StoreCounts {
        self.counts
    }

    pub(super) const fn given_back(&self) -> u64 {
        self.given_back
    }

    fn used_at(&mut self, now_ms: u64) -> Used {
        self.uses += 1;
        (now_ms, self.uses)
    }

    /// Takes it out, and remembers that the table is to hear of it.
    fn goes(&mut self, name: &TensorName) -> Option<Entry> {
        let entry = self.kept.remove(name)?;
        self.gone.insert((name.clone(), entry.about.version));
        Some(entry)
    }

    pub(super) fn find(&mut self, name: &TensorName, version: Option<u64>, now_ms: u64) -> Found {
        let used = self.used_at(now_ms);
        let right = |entry: &&mut Entry| version.is_none_or(|version| version == entry.about.version);
        let Some(entry) = self.kept.get_mut(name).filter(right) else { return Found::Absent };
        entry.used = used;
        match &entry.at {
            At::Gpu(tensor) | At::Leaving(tensor) => {
                let tensor = Arc::clone(tensor);
                entry.at = At::Gpu(Arc::clone(&tensor));
                Found::OnGpu(tensor)
            }
            At::Host(evicted) => {
                let evicted = Arc::clone(evicted);
                entry.at = At::Returning(Arc::clone(&evicted));
                Found::OnHost(entry.about.clone(), evicted)
            }
            At::Returning(_) => Found::Returning,
        }
    }

    pub(super) fn free(&mut self, name: &TensorName, version: Option<u64>) -> Option<Entry> {
        let entry = self.kept.get(name)?;
        if version.is_some_and(|version| version != entry.about.version) {
            return None;
        }
        self.kept.remove(name)
    }

    /// Takes out what nobody has used for its time. What is in use is used now.
    pub(super) fn expire(&mut self, now_ms: u64) -> Vec<Entry> {
        let mut names = Vec::new();
        for (name, entry) in &mut self.kept {
            if !entry.is_idle() {
                entry.used.0 = entry.used.0.max(now_ms);
            } else if now_ms.saturating_sub(entry.used.0) >= entry.about.ttl_ms {
                names.push(name.clone());
            }
        }
        let expired: Vec<Entry> = names.iter().filter_map(|name| self.goes(name)).collect();
        self.counts.expired += expired.len() as u64;
        expired
    }
}

/// What comes.
impl Entries {
    /// What becomes of a tensor that arrives.
    ///
    /// # Errors
    /// [`KeepError::Exists`].
    fn judge(&self, about: &TensorAbout, if_exists: IfExists) -> Result<Verdict, KeepError> {
        let Some(there) = self.kept.get(&about.name).map(|entry| &entry.about) else { return Ok(Verdict::Kept) };
        let is_same_owner = there.owner == about.owner;
        if if_exists == IfExists::Fail && !is_same_owner {
            return Err(KeepError::Exists { name: about.name.clone(), version: there.version });
        }
        Ok(match there.version.cmp(&about.version) {
            std::cmp::Ordering::Greater => Verdict::Late,
            std::cmp::Ordering::Equal if is_same_owner => Verdict::Here,
            _ => Verdict::Kept,
        })
    }

    /// Counts a tensor that is to arrive. `false`: there are as many as there may be.
    ///
    /// # Errors
    /// [`KeepError::Exists`].
    pub(super) fn expect(&mut self, about: &TensorAbout, if_exists: IfExists, bound: usize) -> Result<bool, KeepError> {
        self.judge(about, if_exists)?;
        let is_counted = |name: &TensorName| self.kept.contains_key(name) || self.arriving.contains_key(name);
        let count = self.kept.len() + self.arriving.keys().filter(|name| !self.kept.contains_key(*name)).count();
        let has_place = is_counted(&about.name) || count < bound;
        if has_place {
            *self.arriving.entry(about.name.clone()).or_default() += 1;
        }
        Ok(has_place)
    }

    /// Whether nothing is kept, and nothing is to be told of what was.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.gone.is_empty()
    }

    /// It has arrived, or will not.
    pub(super) fn expect_no_more(&mut self, name: &TensorName) {
        if let Some(count) = self.arriving.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.arriving.remove(name);
            }
        }
    }

    /// Takes in a tensor that has arrived. The one that is used from now on, which is the one that was here where that is the same; and what it replaces.
    ///
    /// # Errors
    /// [`KeepError::Exists`].
    pub(super) fn put(
        &mut self,
        tensor: &Arc<Tensor>,
        if_exists: IfExists,
        now_ms: u64,
    ) -> Result<(Arc<Tensor>, Option<Entry>), KeepError> {
        let about = tensor.about();
        let verdict = self.judge(about, if_exists)?;
        if verdict == Verdict::Late {
            self.gone.insert((about.name.clone(), about.version));
            return Ok((Arc::clone(tensor), None));
        }
        if verdict == Verdict::Here
            && let Found::OnGpu(here) = self.find_on_gpu(&about.name, now_ms)
        {
            return Ok((here, None));
        }
        let entry = Entry { about: about.clone(), used: self.used_at(now_ms), at: At::Gpu(Arc::clone(tensor)) };
        let replaced = self.kept.insert(about.name.clone(), entry);
        self.gone.remove(&(about.name.clone(), about.version));
        Ok((Arc::clone(tensor), replaced))
    }

    /// The table is to hear that this one is gone, which another one has replaced; not where that is the same tensor, come anew.
    pub(super) fn is_replaced(&mut self, Entry { about, .. }: &Entry) {
        if self.kept.get(&about.name).is_none_or(|entry| entry.about.version != about.version) {
            self.gone.insert((about.name.clone(), about.version));
        }
    }

    /// Takes a tensor out again, and puts back what it had replaced. The one that went; `None`: another one is in its place by now, and all stays as it is.
    pub(super) fn take_back(&mut self, about: &TensorAbout, replaced: Option<Entry>) -> Option<Entry> {
        let went = self.free(&about.name, Some(about.version))?;
        if let Some(replaced) = replaced {
            self.kept.insert(about.name.clone(), replaced.where_it_lies());
        }
        Some(went)
    }

    /// As [`find`](Self::find), and leaves one that lies in the host's memory as it is.
    fn find_on_gpu(&mut self, name: &TensorName, now_ms: u64) -> Found {
        match self.kept.get(name).map(|entry| &entry.at) {
            Some(At::Gpu(_) | At::Leaving(_)) => self.find(name, None, now_ms),
            _ => Found::Absent,
        }
    }
}

#[cfg(test)]
mod tests;
