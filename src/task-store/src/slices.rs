//! What both back ends write of the slices of a batch, and what they say of it.

use protocol::{BodyHash, Fraction, ItemCounts, Progress, Slice, SliceCounts, TaskState, TaskStatus, Token, batch::SLICES_MAX};

use crate::{SliceState, Split};

/// Results of so few bytes are always kept, so that a slice can end where there is no room: by saying so.
pub const RESULT_BYTES_ALWAYS_KEPT: u64 = 256;

/// What the record of a batch says of one of its slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceNote {
    /// Which.
    pub slice: Slice,
    /// What it is at.
    pub state: SliceState,
    /// How many of its items have ended. Those of an attempt that came to nothing run again, and do not count.
    pub done: u32,
    /// How many of those failed.
    pub failed: u32,
    /// What its results take, in bytes; 0 until it has ended.
    pub result_bytes: u64,
}

impl SliceNote {
    /// A slice none of whose items has ended.
    pub const fn fresh(slice: Slice, state: SliceState) -> Self {
        Self { slice, state, done: 0, failed: 0, result_bytes: 0 }
    }
}

/// Whether these are the slices of a whole batch: neighbours from item 0 on, at least one and not too many.
pub fn is_cut(slices: &[Slice]) -> bool {
    let begins = slices.first().is_some_and(|first| first.from == 0);
    let neighbours = slices.windows(2).all(|pair| pair[0].to == pair[1].from);
    begins && neighbours && slices.len() <= SLICES_MAX && slices.iter().all(|slice| slice.from < slice.to)
}

/// How many of a slice's items have ended, and how many of those failed, as far as it can be.
pub fn within(items: ItemCounts, slice: Slice) -> (u32, u32) {
    let done = items.done.min(slice.items());
    (done, items.failed.unwrap_or(0).min(done))
}

/// What the port says of a batch with these slices: its body's hash, its attempt that was split, and which split it is.
pub fn split_of(notes: &[SliceNote], (body_hash, attempt, token): (BodyHash, u32, Token)) -> Split {
    let ended = || notes.iter().filter(|note| note.state == SliceState::Ended);
    Split {
        slices: notes.iter().map(|note| (note.slice, note.state)).collect(),
        result_bytes: ended().map(|note| note.result_bytes).fold(0, u64::saturating_add),
        items_failed: ended().map(|note| note.failed).fold(0, u32::saturating_add),
        body_hash,
        attempt,
        token,
    }
}

/// How far a batch with these slices is.
pub fn items_of(notes: &[SliceNote]) -> ItemCounts {
    ItemCounts {
        of: notes.last().map_or(0, |last| last.slice.to),
        done: notes.iter().map(|note| note.done).fold(0, u32::saturating_add),
        failed: Some(notes.iter().map(|note| note.failed).fold(0, u32::saturating_add)),
    }
}

/// Shows in a batch's status what its slices are at. For a batch that was split and has not ended.
pub fn show(notes: &[SliceNote], is_cancelled: bool, status: &mut TaskStatus) {
    let mut counts = SliceCounts::default();
    for note in notes {
        match note.state {
            SliceState::Waiting => counts.waiting += 1,
            SliceState::Running => counts.running += 1,
            SliceState::Ended => counts.ended += 1,
        }
    }
    let items = items_of(notes);
    status.state = match counts {
        SliceCounts { running: 1.., .. } => TaskState::Running,
        _ if is_cancelled => TaskState::Cancelled,
        SliceCounts { ended: 1.., .. } => TaskState::Running,
        _ => TaskState::Waiting,
    };
    let fraction = Fraction::clamped(f64::from(items.done) / f64::from(items.of.max(1)));
    let progress = Progress { fraction, message: None, at_ms: status.changed_ms };
    status.progress = (status.state == TaskState::Running).then_some(progress);
    (status.items, status.slices) = (Some(items), Some(counts));
}

/// Of slices and the sizes of their results, in order, those whose results fit together, but at least one.
pub fn fitting(sizes: impl IntoIterator<Item = (Slice, u64)>, bytes_max: usize) -> Vec<Slice> {
    let (mut taken, mut bytes) = (Vec::new(), 0_u64);
    for (slice, size) in sizes {
        bytes = bytes.saturating_add(size);
        if !taken.is_empty() && bytes > bytes_max as u64 {
            break;
        }
        taken.push(slice);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(lengths: &[u32]) -> Vec<Slice> {
        Slice::of_lengths(lengths)
    }

    #[test]
    fn a_cut_has_every_item_once() {
        assert!(is_cut(&slices(&[4, 4, 1])) && is_cut(&slices(&[1])));
        assert!(!is_cut(&[]), "no slice");
        assert!(!is_cut(&slices(&[4, 4])[1..]), "the first items are missing");
        let (gap, overlap) = ([slices(&[2, 2, 2])[0], slices(&[4, 2])[1]], [slices(&[4])[0], slices(&[2, 4])[1]]);
        assert!(!is_cut(&gap) && !is_cut(&overlap));
        let most = slices(&[1; SLICES_MAX]);
        assert!(is_cut(&most) && !is_cut(&slices(&[1; SLICES_MAX + 1])));
    }

    #[test]
    fn no_slice_counts_more_items_than_it_has() {
        let slice = slices(&[4])[0];
        let counts = |done, failed| within(ItemCounts { of: 9, done, failed }, slice);
        assert_eq!([counts(3, None), counts(3, Some(1)), counts(9, Some(7)), counts(1, Some(2))], [(3, 0), (3, 1), (4, 4), (1, 1)]);
    }

    #[test]
    fn of_large_results_one_fits_always() {
        let sizes = || slices(&[1, 1, 1]).into_iter().zip([10, 5, 1]);
        assert_eq!(fitting(sizes(), 15), slices(&[1, 1]));
        assert_eq!(fitting(sizes(), 0), slices(&[1]));
        assert_eq!(fitting(sizes(), 16), slices(&[1, 1, 1]));
        assert!(fitting(sizes().skip(3), 9).is_empty());
    }
}
