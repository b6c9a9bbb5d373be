//! How far the items of an attempt are, for whoever watches: how many have ended, and the results of those that have.
//!
//! Results wait here until a message takes them along, as parts of the output do: bounded, the oldest dropped where nobody keeps up.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use protocol::{IndexedItem, ItemCounts, ItemResult, Json, Task, TaskError};
use tokio::sync::Notify;

/// Results that wait at most; beyond it the oldest are dropped.
const RESULTS_MAX: usize = 256;
/// What waiting results may take together, in bytes; one that is larger by itself is dropped.
const RESULT_BYTES_MAX: usize = 1 << 20;

/// The items of an attempt that have ended so far.
#[derive(Debug)]
pub(crate) struct ItemsSoFar {
    of: u32,
    /// The index of its first item in its batch.
    first: u32,
    /// Whether it has but a part of its batch.
    is_slice: bool,
    /// Whether anybody takes the results.
    watched: bool,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    done: u32,
    failed: u32,
    /// How far the whole batch is, as the store last said.
    batch: Option<ItemCounts>,
    results: VecDeque<(usize, IndexedItem)>,
    bytes: usize,
}

impl ItemsSoFar {
    /// Those of a task; `None` if it has none.
    pub(crate) fn of(task: &Task, watched: bool) -> Option<Self> {
        let of = u32::try_from(task.body.items.as_ref()?.len()).unwrap_or(u32::MAX);
        let (first, is_slice) = task.slice().map_or((0, false), |slice| (slice.from, true));
        Some(Self { of, first, is_slice, watched, state: Mutex::default(), arrived: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index in its batch of one of its items.
    pub(crate) fn absolute(&self, index: usize) -> u32 {
        self.first.saturating_add(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// An item has ended so.
    pub(crate) fn ended(&self, index: usize, result: &Result<Json, TaskError>) {
        {
            let mut state = self.lock();
            state.done += 1;
            state.failed += u32::from(result.is_err());
            if !self.watched {
                return;
            }
            let came_out = result.clone().map_or_else(ItemResult::failed, ItemResult::succeeded);
            state.keep(IndexedItem { index: self.absolute(index), came_out });
        }
        self.arrived.notify_one();
    }

    /// How many of its own items have ended.
    pub(crate) fn own(&self) -> ItemCounts {
        let state = self.lock();
        ItemCounts { of: self.of, done: state.done, failed: Some(state.failed) }
    }

    /// How many of all items of its batch have ended, as far as that is known here.
    pub(crate) fn of_batch(&self) -> Option<ItemCounts> {
        if self.is_slice { self.lock().batch } else { Some(self.own()) }
    }

    /// The store says how far the whole batch is.
    pub(crate) fn batch_is_at(&self, counts: ItemCounts) {
        self.lock().batch = Some(counts);
    }

    /// Waits until there are results to take; for ever where nobody takes any. Cancel safe.
    pub(crate) async fn arrived(&self) {
        while self.lock().results.is_empty() {
            self.arrived.notified().await;
        }
    }

    /// The results since the last call, in the order in which the items ended.
    pub(crate) fn take(&self) -> Vec<IndexedItem> {
        let mut state = self.lock();
        state.bytes = 0;
        state.results.drain(..).map(|(_, item)| item).collect()
    }
}

impl State {
    fn keep(&mut self, item: IndexedItem) {
        let ItemResult { result, error } = &item.came_out;
        let bytes = error.as_ref().map_or(result.as_bytes().len(), |error| error.message.len());
        if bytes > RESULT_BYTES_MAX {
            return;
        }
        while self.results.len() >= RESULTS_MAX || self.bytes + bytes > RESULT_BYTES_MAX {
            let Some((dropped, _)) = self.results.pop_front() else { break };
            self.bytes -= dropped;
        }
        self.bytes += bytes;
        self.results.push_back((bytes, item));
    }
}

#[cfg(test)]
mod tests {
    use protocol::{BodyHash, DeliveryId, ErrorCode, Kind, Slice, TaskBody, TaskId};

    use super::*;

    fn task(items: usize, slice: Option<Slice>) -> Task {
        let batch = TaskId::new("batch").unwrap();
        Task {
            id: slice.map_or(batch.clone(), |slice| batch.of_slice(slice)),
            body_hash: BodyHash::of(b""),
            kind: Kind::new("simulate").unwrap(),
            priority: 0,
            attempt: 1,
            hops: 0,
            memory_mb: None,
            start_before_ms: None,
            end_before_ms: None,
            not_before_ms: None,
            body: TaskBody { items: Some(vec![Json::null(); items]), ..TaskBody::default() },
            delivery: DeliveryId(1),
        }
    }

    #[test]
    fn a_slice_counts_its_own_items_and_names_them_by_their_place_in_the_batch() {
        let so_far = ItemsSoFar::of(&task(4, Slice::new(16, 20)), true).unwrap();
        assert_eq!(so_far.of_batch(), None, "nobody has said how far the others are");
        so_far.ended(2, &Ok(Json::of(&1)));
        so_far.ended(0, &Err(TaskError::new(ErrorCode::InvalidPayload, "no")));
        assert_eq!(so_far.own(), ItemCounts { of: 4, done: 2, failed: Some(1) });
        assert_eq!(so_far.take().iter().map(|item| item.index).collect::<Vec<_>>(), [18, 16]);
        assert!(so_far.take().is_empty());
        let whole = ItemCounts { of: 40, done: 7, failed: Some(1) };
        so_far.batch_is_at(whole);
        assert_eq!(so_far.of_batch(), Some(whole));
    }

    #[test]
    fn a_whole_batch_knows_how_far_it_is() {
        let so_far = ItemsSoFar::of(&task(4, None), false).unwrap();
        so_far.ended(3, &Ok(Json::null()));
        assert_eq!(so_far.of_batch(), Some(ItemCounts { of: 4, done: 1, failed: Some(0) }));
        assert!(so_far.take().is_empty(), "nobody watches");
    }

    #[test]
    fn results_that_nobody_takes_are_bounded() {
        let so_far = ItemsSoFar::of(&task(1_000, None), true).unwrap();
        (0..300).for_each(|index| so_far.ended(index, &Ok(Json::null())));
        let kept = so_far.take();
        assert_eq!((kept.len(), kept[0].index), (256, 44), "the oldest are dropped");
        let half = Json::of(&"x".repeat(600_000));
        so_far.ended(300, &Ok(half.clone()));
        so_far.ended(301, &Ok(Json::of(&"x".repeat(2_000_000))));
        so_far.ended(302, &Ok(half));
        assert_eq!(so_far.take().iter().map(|item| item.index).collect::<Vec<_>>(), [302]);
    }
}
