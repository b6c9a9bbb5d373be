//! How a batch is cut into slices.
//!
//! All slices are published at once to one line, and whichever worker has a free slot takes the next one: nobody can give a slice to a certain GPU. So the cut acts the line
//! out beforehand. A plan knows at each moment which seats may come for a slice, and makes it as large as the *slowest* of them can run until all are to end. Several plans
//! are made: some give away all of that time at once, some a part of it, so that smaller slices follow which make up for what was foreseen wrongly (another load, another
//! pace). Each plan is acted out on the fleet as it is known, and on one that is slower than it is known to be; the best one is taken.
//! `docs/decisions/0014-how-a-batch-is-cut.md` has the figures behind the numbers here.

use std::{cmp::Reverse, collections::BinaryHeap};

use protocol::{GpuRow, Kind};

/// What a slice costs beside its items, in ms: it is published, claimed, begun and recorded.
const SLICE_MS: f64 = 1.5;
/// What a slice should take at least, in ms, where the time of an item is known: cutting further costs more than it saves.
const SHORTEST_MS: f64 = 2.0;
/// What a slice should take at most, in ms, where the time of an item is known: other tasks of the same priority stand in the same line.
const LONGEST_MS: f64 = 1_000.0;
/// Seats that become free within so many ms of each other come in an order that nobody knows.
const TOGETHER_MS: f64 = 3.0;
/// The smallest slices need be no smaller than this share of the batch's whole time: they even out no more than that.
const SMALLEST_SHARE: f64 = 0.02;
/// What an item is taken to need, in ms, where no GPU has run any.
const ASSUMED_MS: f64 = 5.0;
/// Where no GPU has run any, no slice is larger than the batch divided by this: it may run for long.
const UNKNOWN_SLICES: u32 = 64;
/// How much the time on a fleet that is slower than it is known to be counts, beside the time on the fleet as it is known.
const DOUBT: f64 = 0.1;
/// The same where no GPU has run any.
const DOUBT_UNKNOWN: f64 = 0.5;
/// Of the time until all are to end: the shares of it that a slice is given, plan by plan.
const SHARES: [f64; 3] = [1.0, 0.5, 0.34];
/// When all are to end, beside the best that could be: whole items and the smallest slice may make the best impossible.
const ENDS: [f64; 8] = [1.0, 1.03, 1.06, 1.1, 1.15, 1.2, 1.3, 1.5];
/// By how much a plan with smaller slices must be better.
const BETTER: f64 = 0.995;

/// The slots of a GPU that fits the batch: each takes a slice, and another one when that has ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seats {
    /// How many slots.
    pub slots: u32,
    /// What an item of the batch's kind takes in one of them while the others run too, in ms; `None` where that is not known.
    pub item_ms: Option<f64>,
}

impl Seats {
    /// Those of a GPU, for a batch of this kind. Slots that other tasks hold count too: they become free while the batch is under way, and a batch that is cut for few
    /// slots leaves the others idle.
    #[must_use]
    pub fn of(row: &GpuRow, kind: &Kind) -> Self {
        Self { slots: row.slots, item_ms: row.item_ms.get(kind).copied() }
    }
}

/// How far a batch may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Items of a slice at least. A batch of fewer than twice as many is not cut.
    pub items_min: u32,
    /// Slices at most.
    pub slices_max: u32,
}

impl Bounds {
    /// Slices of a batch at most, whatever its size.
    pub const SLICES_MAX: u32 = 256;

    /// The bounds of a fleet whose `min_batch_size_per_gpu` is this.
    #[must_use]
    pub const fn of(min_batch_size_per_gpu: u32) -> Self {
        Self { items_min: min_batch_size_per_gpu, slices_max: Self::SLICES_MAX }
    }
}

/// The lengths of the slices, in the order in which they are published: their sum is `items`, and the same question has the same answer. No slice is shorter than
/// [`Bounds::items_min`] unless the batch itself is; none is empty, and no items are no slices.
#[must_use]
pub fn cut(items: u32, fleet: &[Seats], bounds: Bounds) -> Vec<u32> {
    if items == 0 {
        return Vec::new();
    }
    let pace = ItemPace::of(fleet);
    let cutting = Cutting::of(items, &pace, bounds);
    let seats = seats(fleet, &pace, cutting.slices_max);
    if cutting.slices_max < 2 || seats.is_empty() {
        return vec![items];
    }
    if seats.len() >= cutting.slices_max as usize {
        return evenly(items, cutting.slices_max);
    }
    best_plan(items, &seats, &cutting, if pace.is_known { DOUBT } else { DOUBT_UNKNOWN })
}

/// How long the fleet's GPUs take for an item.
struct ItemPace {
    /// The longest time known, in ms. It stands for GPUs of which none is.
    slowest_ms: f64,
    is_known: bool,
}

impl ItemPace {
    fn of(fleet: &[Seats]) -> Self {
        let known = fleet.iter().filter(|seats| seats.slots > 0).filter_map(usable_ms);
        let slowest_ms = known.reduce(f64::max);
        Self { slowest_ms: slowest_ms.unwrap_or(ASSUMED_MS), is_known: slowest_ms.is_some() }
    }
}

/// The time of an item, if it can be reckoned with.
fn usable_ms(seats: &Seats) -> Option<f64> {
    seats.item_ms.filter(|ms| ms.is_finite() && *ms > 0.0).map(|ms| ms.clamp(0.001, 1e7))
}

/// What holds for every slice of one batch.
struct Cutting {
    items_min: u32,
    longest_ms: f64,
    /// Slices of so many items are allowed however long they take: with fewer in each, there would be too many, or no smaller ones could follow.
    always: u32,
    slices_max: u32,
}

impl Cutting {
    fn of(items: u32, pace: &ItemPace, bounds: Bounds) -> Self {
        let (shortest, longest_ms) = if pace.is_known {
            ((SHORTEST_MS / pace.slowest_ms).ceil() as u32, LONGEST_MS)
        } else {
            (1, f64::from(items.div_ceil(UNKNOWN_SLICES)) * ASSUMED_MS)
        };
        let items_min = bounds.items_min.max(shortest).max(1);
        let slices_max = bounds.slices_max.min(items / items_min);
        let always = items_min.max(items.div_ceil(slices_max.max(1)).saturating_mul(3) / 2);
        Self { items_min, longest_ms, always, slices_max }
    }

    /// Items of a slice at most, where the slowest seat that may take it needs so long for an item.
    fn items_max(&self, slowest_ms: f64) -> u32 {
        whole(self.longest_ms / slowest_ms).max(self.always)
    }
}

/// The time of an item on each seat, the fastest first; no more of them than a batch can use.
fn seats(fleet: &[Seats], pace: &ItemPace, most: u32) -> Vec<f64> {
    let of_one = |seats: &Seats| {
        let item_ms = usable_ms(seats).unwrap_or(pace.slowest_ms);
        std::iter::repeat_n(item_ms, seats.slots.min(most) as usize)
    };
    let mut seats: Vec<f64> = fleet.iter().flat_map(of_one).collect();
    seats.sort_by(f64::total_cmp);
    seats.truncate(most as usize);
    seats
}

/// As many slices of nearly one length, the longer ones first.
fn evenly(items: u32, slices: u32) -> Vec<u32> {
    (0..slices).map(|number| items / slices + u32::from(number < items % slices)).collect()
}

/// The plan that is best on this fleet, and on one that is slower than it is known to be.
fn best_plan(items: u32, seats: &[f64], cutting: &Cutting, doubt: f64) -> Vec<u32> {
    let fastest_come_first = seats.to_vec();
    let slowest_come_first: Vec<f64> = seats.iter().rev().copied().collect();
    // Every fourth seat at half its pace, the fastest one among them.
    let slower: Vec<f64> = seats.iter().enumerate().map(|(number, ms)| if number % 4 == 0 { ms * 2.0 } else { *ms }).collect();
    let cost = |slices: &[u32]| {
        let as_known = (acted_out(slices, &fastest_come_first) + acted_out(slices, &slowest_come_first)) / 2.0;
        as_known + doubt * acted_out(slices, &slower)
    };
    let best_end = earliest_end(items, seats);
    let mut best: Option<(f64, Vec<u32>)> = None;
    for share in SHARES {
        for end in ENDS {
            let slices = plan(items, seats, cutting, (best_end * end, share));
            let cost = cost(&slices);
            if best.as_ref().is_none_or(|(least, _)| cost < least * BETTER) {
                best = Some((cost, slices));
            }
        }
    }
    best.map_or_else(|| vec![items], |(_, slices)| slices)
}

/// When the batch would end if every seat were handed a slice of just the right size, in ms.
fn earliest_end(items: u32, seats: &[f64]) -> f64 {
    let items = f64::from(items);
    let done_by = |end_ms: f64| seats.iter().map(|item_ms| (end_ms / item_ms + 1e-9).floor()).sum::<f64>();
    let (mut too_early, mut enough) = (0.0, items * seats.iter().copied().fold(f64::INFINITY, f64::min));
    for _ in 0..40 {
        let middle = (too_early + enough) / 2.0;
        if done_by(middle) >= items { enough = middle } else { too_early = middle }
    }
    enough + SLICE_MS
}

/// Slices that end at `end_ms` on this fleet, if each takes up `share` of the time until then.
fn plan(items: u32, seats: &[f64], cutting: &Cutting, (end_ms, share): (f64, f64)) -> Vec<u32> {
    let slowest_ms = seats.last().copied().unwrap_or(ASSUMED_MS);
    let smallest = whole(end_ms * SMALLEST_SHARE / slowest_ms).clamp(cutting.items_min, cutting.items_max(slowest_ms));
    let mut free_at = vec![0.0; seats.len()];
    let mut slices = Vec::new();
    let mut left = items;
    while left > 0 {
        let now = free_at.iter().copied().fold(f64::INFINITY, f64::min);
        let coming: Vec<usize> = (0..seats.len()).filter(|seat| free_at[*seat] <= now + TOGETHER_MS).collect();
        let slowest_ms = coming.iter().map(|seat| seats[*seat]).fold(0.0, f64::max);
        let room = cutting.slices_max - count(slices.len());
        // No smaller than what lets the rest fit into the slices that are left.
        let in_time = whole(((end_ms - now) * share - SLICE_MS) / slowest_ms);
        let size = in_time.clamp(smallest, cutting.items_max(slowest_ms)).max(left.div_ceil(room));
        let asked = count(coming.len());
        let given = if left < size.saturating_mul(asked).saturating_add(cutting.items_min) {
            evenly(left, asked.min(room).min(left / cutting.items_min).max(1))
        } else {
            vec![size; coming.len()]
        };
        // Where not all get one, the slowest may be among those who do.
        for (size, seat) in given.iter().zip(coming.iter().rev()) {
            free_at[*seat] = free_at[*seat].max(now) + SLICE_MS + f64::from(*size) * seats[*seat];
        }
        left -= given.iter().sum::<u32>();
        slices.extend(given);
    }
    slices
}

/// How long the slices take, in ms, if the seats that are free at one moment come in this order.
fn acted_out(slices: &[u32], seats: &[f64]) -> f64 {
    let mut free_at: BinaryHeap<Reverse<(u64, usize)>> = (0..seats.len()).map(|seat| Reverse((0, seat))).collect();
    let mut end_us = 0;
    for size in slices {
        let Some(Reverse((from_us, seat))) = free_at.pop() else { break };
        let ends_us = from_us + ((SLICE_MS + f64::from(*size) * seats[seat]) * 1_000.0) as u64;
        free_at.push(Reverse((ends_us, seat)));
        end_us = end_us.max(ends_us);
    }
    end_us as f64 / 1_000.0
}

/// The whole items in this; none if it is below zero.
fn whole(items: f64) -> u32 {
    (items + 1e-9) as u32
}

/// There are never more slices, nor seats, than [`Bounds::slices_max`].
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds::of(4);

    fn one_slot(item_ms: &[f64]) -> Vec<Seats> {
        item_ms.iter().map(|ms| Seats { slots: 1, item_ms: Some(*ms) }).collect()
    }

    #[test]
    fn a_batch_of_fewer_items_than_two_slices_need_is_not_cut() {
        let fleet = one_slot(&[5.0; 8]);
        assert_eq!(cut(0, &fleet, BOUNDS), Vec::<u32>::new());
        assert_eq!(cut(1, &fleet, BOUNDS), [1]);
        assert_eq!(cut(7, &fleet, BOUNDS), [7]);
        assert_eq!(cut(8, &fleet, BOUNDS), [4, 4]);
        assert_eq!(cut(9, &fleet, Bounds::of(0)).iter().sum::<u32>(), 9, "no least size is one item");
    }

    #[test]
    fn nothing_is_cut_where_nobody_could_share() {
        assert_eq!(cut(500, &[], BOUNDS), [500]);
        assert_eq!(cut(500, &[Seats { slots: 0, item_ms: Some(5.0) }], BOUNDS), [500]);
        assert_eq!(cut(500, &one_slot(&[5.0; 8]), Bounds { slices_max: 1, ..BOUNDS }), [500]);
    }

    #[test]
    fn a_short_batch_on_gpus_of_one_speed_is_cut_into_one_slice_for_each() {
        assert_eq!(cut(64, &one_slot(&[5.0; 8]), BOUNDS), [8; 8]);
    }

    #[test]
    fn no_slice_of_the_first_round_is_longer_than_the_slowest_can_run_until_the_end() {
        let slices = cut(64, &one_slot(&[5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 10.0]), BOUNDS);
        assert!(slices[..8].iter().all(|size| *size == 4), "the fleet could end after 45 ms: {slices:?}");
    }

    #[test]
    fn a_long_batch_ends_with_small_slices() {
        let slices = cut(2_000, &one_slot(&[5.0, 5.0, 10.0, 20.0]), BOUNDS);
        let (first, last) = (slices[0], slices[slices.len() - 1]);
        assert!(last * 3 < first, "{slices:?}");
    }

    #[test]
    fn where_items_are_short_a_slice_is_worth_its_cost() {
        let slices = cut(64, &one_slot(&[0.2; 8]), BOUNDS);
        assert!(slices.iter().all(|size| *size >= 10), "2 ms at least: {slices:?}");
        assert_eq!(cut(16, &one_slot(&[0.1; 8]), BOUNDS), [16]);
    }

    #[test]
    fn where_items_are_long_a_slice_runs_for_a_second_if_the_count_allows_it() {
        let slices = cut(1_000, &one_slot(&[50.0; 4]), BOUNDS);
        assert!(slices.iter().all(|size| *size <= 20 + BOUNDS.items_min), "{slices:?}");
        let many = cut(10_000, &one_slot(&[200.0; 4]), BOUNDS);
        assert!(many.len() <= 256 && many.iter().all(|size| *size <= 60 + BOUNDS.items_min), "{many:?}");
    }

    #[test]
    fn a_gpu_of_which_nothing_is_known_counts_as_the_slowest_known() {
        let unknown =
            |item_ms| vec![Seats { slots: 1, item_ms: Some(5.0) }, Seats { slots: 1, item_ms: Some(10.0) }, Seats { slots: 1, item_ms }];
        for useless in [None, Some(0.0), Some(-1.0), Some(f64::NAN), Some(f64::INFINITY)] {
            assert_eq!(cut(100, &unknown(useless), BOUNDS), cut(100, &unknown(Some(10.0)), BOUNDS), "{useless:?}");
        }
    }

    /// Fleets of all sorts: sizes, slots, speeds, known or not.
    fn fleets() -> Vec<Vec<Seats>> {
        let mut fleets = Vec::new();
        for slots in [1, 3, 8, 1_024] {
            for gpus in [1, 2, 5, 16] {
                for item_ms in [0.000_1, 0.2, 5.0, 1_700.0, 1e12] {
                    let of_one = |gpu: u32| match gpu % 3 {
                        0 => Some(item_ms),
                        1 => Some(item_ms * f64::from(1 + gpu)),
                        _ => None,
                    };
                    fleets.push((0..gpus).map(|gpu| Seats { slots, item_ms: of_one(gpu) }).collect());
                }
                fleets.push(vec![Seats { slots, item_ms: None }; gpus as usize]);
            }
        }
        fleets
    }

    #[test]
    fn whatever_the_fleet_every_item_is_in_one_slice_and_every_slice_is_within_the_bounds() {
        for (number, fleet) in fleets().iter().enumerate() {
            for (items_min, slices_max) in [(1, 256), (4, 256), (7, 5), (4, 2), (100, 256)] {
                // Other numbers for every fleet.
                for items in
                    [1, 2, 7, 8, 9, 31, 64, 257, 512, 4_999, 10_000].map(|items| items + u32::from(items > 9) * (number as u32 % 7))
                {
                    let bounds = Bounds { items_min, slices_max };
                    let slices = cut(items, fleet, bounds);
                    let case = format!("{items} items, {bounds:?}, {fleet:?}: {slices:?}");
                    assert_eq!(slices.iter().map(|size| u64::from(*size)).sum::<u64>(), u64::from(items), "{case}");
                    assert!(slices.iter().all(|size| *size >= items_min.min(items)), "{case}");
                    assert!(slices.len() <= slices_max as usize, "{case}");
                    assert!(items >= 2 * items_min || slices.len() == 1, "{case}");
                }
            }
        }
    }

    #[test]
    fn the_same_question_has_the_same_answer() {
        for fleet in fleets() {
            assert_eq!(cut(777, &fleet, BOUNDS), cut(777, &fleet, BOUNDS));
        }
    }
}
