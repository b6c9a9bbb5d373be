//! The line acted out: each slot, once it is free, takes the first task of the line that it can run.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use super::{
    ANYTHING, Class,
    costs::Costs,
    fleet::{Fleet, Gpu, UNKNOWN_MS},
};
use crate::index::Turn;

/// So many tasks are acted out. Of a longer line only the work counts, and the slots that could do it.
const ACTED_MAX: usize = 20_000;
/// The same of a line of which only numbers are known: it is forecast once a second for each priority, and more of it makes the forecast no better.
const ACTED_EVENLY_MAX: usize = 4_000;
/// So often a slot is looked at; a fleet that mostly idles until many delayed tasks are due is not acted out to its end.
const LOOKS_MAX: usize = 100_000;
/// So many classes are told apart; tasks of others count as running anywhere, for as long as any task runs.
const CLASSES_MAX: usize = 64;
/// What is later than this is never.
const NEVER_MS: f64 = UNKNOWN_MS / 10.0;

/// A task in the line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) class: usize,
    pub(super) turn: Turn,
    /// In how many ms it may begin at the earliest.
    pub(super) due_ms: f64,
}

/// Those that wait.
pub(super) struct Line<'a> {
    fleet: &'a Fleet<'a>,
    costs: &'a Costs<'a>,
    classes: Vec<Class<'a>>,
    places: Vec<Place>,
    /// What is not in `places` because it would be too much, by class.
    beyond: Vec<u64>,
    /// Tells apart what nobody numbered.
    numbered: u64,
}

impl<'a> Line<'a> {
    pub(super) fn new(fleet: &'a Fleet<'a>, costs: &'a Costs<'a>) -> Self {
        Self { fleet, costs, classes: vec![ANYTHING], places: Vec::new(), beyond: vec![0], numbered: 0 }
    }

    /// The number of a class.
    pub(super) fn class(&mut self, class: Class<'a>) -> usize {
        if let Some(known) = self.classes.iter().position(|known| *known == class) {
            return known;
        }
        if self.classes.len() >= CLASSES_MAX {
            return 0;
        }
        self.classes.push(class);
        self.beyond.push(0);
        self.classes.len() - 1
    }

    pub(super) fn add(&mut self, place: Place) {
        if self.places.len() < ACTED_MAX {
            self.places.push(place);
        } else {
            self.beyond[place.class] += 1;
        }
    }

    /// Adds tasks of a class of which only the number is known, spread among the others of their priority.
    pub(super) fn add_evenly(&mut self, class: usize, below_top: u8, count: u64) {
        const SPREAD: f64 = 1e12;
        let acted = count.min(ACTED_EVENLY_MAX.saturating_sub(self.places.len()) as u64);
        for number in 0..acted {
            let since_ms = ((number as f64 + 0.5) / acted as f64 * SPREAD) as u64;
            self.numbered += 1;
            self.places.push(Place { class, turn: Turn { below_top, since_ms, number: self.numbered }, due_ms: 0.0 });
        }
        self.beyond[class] += count - acted;
    }

    /// Adds tasks of which nothing is known but that they wait: before all others of the lowest priority.
    pub(super) fn add_unknown(&mut self, count: u64) {
        let acted = count.min((ACTED_MAX - self.places.len()) as u64);
        for number in 0..acted {
            self.places.push(Place { class: 0, turn: Turn { below_top: 9, since_ms: 0, number }, due_ms: 0.0 });
        }
        self.beyond[0] += count - acted;
    }

    /// Adds tasks of a class that will come at this rate, in tasks per ms, until a time.
    pub(super) fn add_later(&mut self, class: usize, below_top: u8, rate: f64, until_ms: f64) {
        let count = (rate * until_ms) as u64;
        for number in 0..count {
            self.numbered += 1;
            let turn = Turn { below_top, since_ms: u64::MAX - 1, number: self.numbered };
            self.places.push(Place { class, turn, due_ms: (number as f64 + 0.5) / rate });
        }
    }

    pub(super) fn slots(&self) -> usize {
        self.fleet.slots()
    }

    /// What any run takes; nothing, where no run of anything has ended.
    pub(super) fn mean_run_ms(&self) -> f64 {
        self.costs.mean_ms().unwrap_or(0.0)
    }

    /// In how many ms the task at this place begins. `None`: no GPU takes such tasks, or it waits for runs of which nothing is learnt.
    pub(super) fn begins_ms(&self, task: Place) -> Option<f64> {
        if !self.fleet.gpus.iter().any(|gpu| self.fleet.fits(gpu, &self.classes[task.class])) {
            return None;
        }
        let acted_ms = match Stage::new(self).act(task) {
            Acted::Begins(ms) => ms,
            Acted::Never => return None,
            Acted::TooLong => task.due_ms + self.work_ms(&self.counts_before(task), task.class),
        };
        let begins_ms = acted_ms + self.work_ms(&self.beyond, task.class);
        (begins_ms < NEVER_MS).then_some(begins_ms)
    }

    /// How many tasks of each class are before a task.
    fn counts_before(&self, task: Place) -> Vec<u64> {
        let mut counts = vec![0; self.classes.len()];
        self.places.iter().filter(|place| place.turn < task.turn).for_each(|place| counts[place.class] += 1);
        counts
    }

    /// How long so many tasks of each class keep a task of a class waiting: each class all the slots that it fits, where it shares some with that class.
    fn work_ms(&self, counts: &[u64], of_class: usize) -> f64 {
        let waiting = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        waiting.map(|(class, count)| self.slot_ms(class, of_class) * *count as f64).sum()
    }

    /// How long one task of a class keeps another class waiting.
    fn slot_ms(&self, class: usize, other: usize) -> f64 {
        let (class, other) = (&self.classes[class], &self.classes[other]);
        let fitting: Vec<&Gpu<'_>> = self.fleet.gpus.iter().filter(|gpu| self.fleet.fits(gpu, class)).collect();
        if !fitting.iter().any(|gpu| self.fleet.fits(gpu, other)) {
            return 0.0;
        }
        let slots: usize = fitting.iter().map(|gpu| gpu.free_in_ms.len()).sum();
        let run_ms = fitting.first().and_then(|gpu| self.costs.run_ms(class.kind, &gpu.view.row)).unwrap_or(0.0);
        run_ms / slots.max(1) as f64
    }
}

/// What acting out gave.
enum Acted {
    /// The task begins in so many ms.
    Begins(f64),
    /// Every slot is idle, and the task still waits.
    Never,
    /// It was given up.
    TooLong,
}

/// The acting out of a line.
struct Stage<'a> {
    line: &'a Line<'a>,
    /// By GPU: the classes that it can run, and what that takes there.
    runs: Vec<Vec<(usize, f64)>>,
    /// Slots by when they are free, in µs, each with its GPU.
    slots: BinaryHeap<Reverse<(u64, usize)>>,
    /// By class: those that may begin. The task of which the forecast is has the number [`Stage::ITS_NUMBER`].
    ready: Vec<BTreeSet<(Turn, usize)>>,
    /// Those that may not begin yet, by when they may, in µs.
    later: BinaryHeap<Reverse<(u64, usize)>>,
}

impl<'a> Stage<'a> {
    const ITS_NUMBER: usize = usize::MAX;

    fn new(line: &'a Line<'a>) -> Self {
        let runs_of = |gpu: &Gpu<'_>| {
            let fitting = line.classes.iter().enumerate().filter(|(_, class)| line.fleet.fits(gpu, class));
            fitting.map(|(number, class)| (number, line.costs.run_ms(class.kind, &gpu.view.row).unwrap_or(UNKNOWN_MS))).collect()
        };
        let slots_of = |(number, gpu): (usize, &'a Gpu<'a>)| gpu.free_in_ms.iter().map(move |ms| Reverse((micros(*ms), number)));
        Self {
            line,
            runs: line.fleet.gpus.iter().map(runs_of).collect(),
            slots: line.fleet.gpus.iter().enumerate().flat_map(slots_of).collect(),
            ready: vec![BTreeSet::new(); line.classes.len()],
            later: BinaryHeap::new(),
        }
    }

    fn act(mut self, task: Place) -> Acted {
        let mut looks = 0;
        for (number, place) in self.line.places.iter().enumerate() {
            self.enter(number, place, 0);
        }
        self.enter(Self::ITS_NUMBER, &task, 0);
        while let Some(Reverse((now, gpu))) = self.slots.pop() {
            looks += 1;
            if looks > LOOKS_MAX {
                return Acted::TooLong;
            }
            while let Some(Reverse((due, number))) = self.later.peek().copied().filter(|Reverse((due, _))| *due <= now) {
                self.later.pop();
                let place = if number == Self::ITS_NUMBER { &task } else { &self.line.places[number] };
                self.enter(number, place, due);
            }
            match self.first_for(gpu) {
                Some((_, _, number)) if number == Self::ITS_NUMBER => return Acted::Begins(now as f64 / 1_000.0),
                Some((class, turn, number)) => {
                    self.ready[class].remove(&(turn, number));
                    let run_ms = self.runs[gpu].iter().find(|(run, _)| *run == class).map_or(0.0, |(_, run_ms)| *run_ms);
                    self.slots.push(Reverse((now.saturating_add(micros(run_ms).max(1)), gpu)));
                }
                // Idle until somebody comes.
                None => {
                    if let Some(Reverse((due, _))) = self.later.peek() {
                        self.slots.push(Reverse((*due, gpu)));
                    }
                }
            }
        }
        Acted::Never
    }

    fn enter(&mut self, number: usize, place: &Place, now: u64) {
        let due = micros(place.due_ms);
        if due <= now {
            self.ready[place.class].insert((place.turn, number));
        } else {
            self.later.push(Reverse((due, number)));
        }
    }

    /// The first of the line that this GPU can run.
    fn first_for(&self, gpu: usize) -> Option<(usize, Turn, usize)> {
        let firsts =
            self.runs[gpu].iter().filter_map(|(class, _)| self.ready[*class].first().map(|(turn, number)| (*class, *turn, *number)));
        firsts.min_by_key(|(_, turn, number)| (*turn, *number))
    }
}

fn micros(ms: f64) -> u64 {
    (ms * 1_000.0) as u64
}
