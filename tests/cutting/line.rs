//! One line of tasks before a fleet: whichever seat is free takes the next, and which of several free seats does is chance.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a task costs beside its work, in ms, on average: a half to one and a half of it, by chance.
pub const TASK_MS: f64 = 1.5;

/// What comes to the end of the line.
#[derive(Debug, Clone)]
pub enum Arrival {
    /// A task of its own, and how long it runs, in ms.
    Single(f64),
    /// A batch: its slices, and how many of them stand in the line at most, the next one coming when one begins.
    Batch(Vec<u32>, usize),
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// For each single task in the order of arrival, how long it waited, in ms.
    pub waits_ms: Vec<f64>,
    /// For each batch in the order of arrival, from its arrival to the reply, in ms.
    pub makespans_ms: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ends { seat: usize, batch: Option<usize> },
    Arrives(usize),
}

#[derive(Debug, Clone, Copy)]
enum Task {
    Single { number: usize, ms: f64, since_us: u64 },
    Slice { batch: usize, items: u32 },
}

/// A batch on its way.
struct Batch {
    arrived_us: u64,
    to_come: VecDeque<u32>,
    unfinished: usize,
}

/// A fleet, by the time that each seat takes for an item, its line, and what was seen.
struct World<'a> {
    seats: &'a [f64],
    chance: ChaCha8Rng,
    free: Vec<usize>,
    line: VecDeque<Task>,
    batches: Vec<Batch>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    seen: Seen,
}

/// Lives through these arrivals (at ms, in order) on a fleet whose seats take this long for an item, in ms.
pub fn live_through(seats: &[f64], arrivals: &[(f64, Arrival)], seed: u64) -> Seen {
    let mut world = World {
        seats,
        chance: ChaCha8Rng::seed_from_u64(seed),
        free: (0..seats.len()).collect(),
        line: VecDeque::new(),
        batches: Vec::new(),
        events: arrivals.iter().enumerate().map(|(number, (at, _))| Reverse((us(*at), Event::Arrives(number)))).collect(),
        seen: Seen::default(),
    };
    while let Some(Reverse((now, event))) = world.events.pop() {
        match event {
            Event::Arrives(number) => world.arrives(now, &arrivals[number].1),
            Event::Ends { seat, batch } => world.ends(now, seat, batch),
        }
        // What happens at one moment has happened before anybody takes the next task.
        if world.events.peek().is_none_or(|Reverse((at, _))| *at > now) {
            world.fill_seats(now);
        }
    }
    world.seen
}

impl World<'_> {
    fn arrives(&mut self, now: u64, arrival: &Arrival) {
        match arrival {
            Arrival::Single(ms) => {
                self.line.push_back(Task::Single { number: self.seen.waits_ms.len(), ms: *ms, since_us: now });
                self.seen.waits_ms.push(0.0);
            }
            Arrival::Batch(slices, at_once) => {
                let number = self.batches.len();
                self.batches.push(Batch { arrived_us: now, to_come: slices.iter().copied().collect(), unfinished: slices.len() });
                self.seen.makespans_ms.push(0.0);
                for _ in 0..*at_once {
                    self.next_slice(number);
                }
            }
        }
    }

    fn next_slice(&mut self, batch: usize) {
        if let Some(items) = self.batches[batch].to_come.pop_front() {
            self.line.push_back(Task::Slice { batch, items });
        }
    }

    fn ends(&mut self, now: u64, seat: usize, batch: Option<usize>) {
        self.free.push(seat);
        let Some(number) = batch else { return };
        let batch = &mut self.batches[number];
        batch.unfinished -= 1;
        if batch.unfinished == 0 {
            self.seen.makespans_ms[number] = (now - batch.arrived_us) as f64 / 1_000.0 + TASK_MS;
        }
    }

    fn fill_seats(&mut self, now: u64) {
        while !self.free.is_empty() {
            let Some(task) = self.line.pop_front() else { return };
            let seat = self.free.swap_remove(self.chance.random_range(0..self.free.len()));
            let cost_ms = TASK_MS * self.chance.random_range(0.5..1.5);
            let (ms, batch) = match task {
                Task::Single { number, ms, since_us } => {
                    self.seen.waits_ms[number] = (now - since_us) as f64 / 1_000.0;
                    (ms, None)
                }
                Task::Slice { batch, items } => {
                    self.next_slice(batch);
                    (f64::from(items) * self.seats[seat], Some(batch))
                }
            };
            self.events.push(Reverse((now + us(cost_ms + ms), Event::Ends { seat, batch })));
        }
    }
}

fn us(ms: f64) -> u64 {
    (ms * 1_000.0).round() as u64
}

/// The shortest time in which a fleet could do a batch, in ms, if every seat were handed just the right number of items, at least so many, and nothing else took any time.
pub fn shortest(items: u32, seats: &[f64], items_min: u32) -> f64 {
    let fastest = seats.iter().copied().fold(f64::INFINITY, f64::min);
    let alone = f64::from(items) * fastest;
    if items < 2 * items_min {
        return alone;
    }
    let done_by = |ms: f64| {
        let of_one = |item_ms: &f64| Some((ms / item_ms + 1e-9).floor()).filter(|done| *done >= f64::from(items_min)).unwrap_or(0.0);
        seats.iter().map(of_one).sum::<f64>()
    };
    let (mut too_short, mut enough) = (0.0, alone);
    for _ in 0..50 {
        let middle = (too_short + enough) / 2.0;
        if done_by(middle) >= f64::from(items) { enough = middle } else { too_short = middle }
    }
    enough
}
