//! How batches are cut: the way that is chosen beside others, lived through on one line of tasks before fleets of all sorts.
//!
//! `cargo test -p tests --test cutting -- --nocapture` prints the tables of `docs/decisions/0014-how-a-batch-is-cut.md`. Nothing here looks at a clock.

mod line;
mod ways;

use gpu_worker::cutting::{Bounds, Seats};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    line::{Arrival, TASK_MS, live_through, shortest},
    ways::{ITEMS_MIN, WAYS},
};

/// How often each batch is lived through, each time by another chance.
const LIVES: u64 = 20;
/// The same where many fleets are taken together, or the fleet is full of other tasks: the mean needs fewer.
const FEW_LIVES: u64 = 4;
/// The place of the chosen way in [`WAYS`].
const CHOSEN: usize = WAYS.len() - 1;

/// What the worker that cuts knows of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    All,
    Nothing,
    /// By turns 1.6 and 0.6 times the truth.
    Wrong,
}

/// GPUs by how many times as long as the fastest they take for an item.
const FLEETS: [(&str, &[f64]); 9] = [
    ("1", &[1.0]),
    ("2", &[1.0; 2]),
    ("4", &[1.0; 4]),
    ("8", &[1.0; 8]),
    ("2, one at half speed", &[1.0, 2.0]),
    ("4, one at half speed", &[1.0, 1.0, 1.0, 2.0]),
    ("8, one at half speed", &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0]),
    ("4x, 2x, 1x", &[1.0, 2.0, 4.0]),
    ("three 4x, three 2x, two 1x", &[1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 4.0, 4.0]),
];

/// Fleets that nobody looked at when the numbers in `cutting.rs` were chosen.
const OTHER_FLEETS: [(&str, &[f64]); 9] = [
    ("3", &[1.0; 3]),
    ("6", &[1.0; 6]),
    ("12", &[1.0; 12]),
    ("3, one at two thirds", &[1.0, 1.0, 1.5]),
    ("5, one at a third", &[1.0, 1.0, 1.0, 1.0, 3.0]),
    ("6, half of them at two thirds", &[1.0, 1.0, 1.0, 1.5, 1.5, 1.5]),
    ("5, all but one slow", &[1.0, 2.5, 2.5, 2.5, 2.5]),
    ("7, all different", &[1.0, 1.2, 1.5, 1.9, 2.4, 3.0, 3.8]),
    ("12, one at a third", &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0]),
];

/// Fleets, how many slots their GPUs may have, and what an item takes, in ms: all with all.
struct Cases {
    fleets: &'static [(&'static str, &'static [f64])],
    slots: [u32; 2],
    times_ms: &'static [f64],
}

/// The slots of such a fleet: what is known, and the time of an item on each.
fn fleet(paces: &[f64], slots: u32, item_ms: f64, known: Known) -> (Vec<Seats>, Vec<f64>) {
    let told = |(number, pace): (usize, &f64)| {
        let item_ms = match known {
            Known::All => Some(pace * item_ms),
            Known::Nothing => None,
            Known::Wrong => Some(pace * item_ms * if number % 2 == 0 { 1.6 } else { 0.6 }),
        };
        Seats { slots, item_ms }
    };
    let truth = paces.iter().flat_map(|pace| std::iter::repeat_n(pace * item_ms, slots as usize)).collect();
    (paces.iter().enumerate().map(told).collect(), truth)
}

/// The makespan of each way over the shortest that the fleet could do, on average over the lives.
fn over_shortest(items: u32, seats: &[Seats], truth: &[f64], lives: u64) -> [f64; WAYS.len()] {
    let shortest = shortest(items, truth, ITEMS_MIN);
    WAYS.map(|way| {
        let slices = (way.cut)(items, seats);
        assert_eq!(slices.iter().sum::<u32>(), items, "{}: {slices:?}", way.name);
        let seen = (0..lives).map(|life| live_through(truth, &[(0.0, Arrival::Batch(slices.clone(), slices.len()))], life));
        seen.map(|seen| seen.makespans_ms[0]).sum::<f64>() / lives as f64 / shortest
    })
}

fn row(table: &mut String, name: &str, values: &[f64], digits: usize) {
    let cells: Vec<String> = values.iter().map(|value| format!("{value:.digits$}")).collect();
    table.push_str(&format!("| {name} | {} |\n", cells.join(" | ")));
}

fn head(first: &str) -> String {
    let names = WAYS.map(|way| way.name);
    format!("\n| {first} | {} |\n| --- |{}\n", names.join(" | "), " ---: |".repeat(names.len()))
}

/// Means over all of these.
fn means(items: u32, cases: &Cases, known: Known) -> [f64; WAYS.len()] {
    let mut ratios = Vec::new();
    for item_ms in cases.times_ms {
        for slots in cases.slots {
            for (_, paces) in cases.fleets {
                let (seats, truth) = fleet(paces, slots, *item_ms, known);
                ratios.push(over_shortest(items, &seats, &truth, FEW_LIVES));
            }
        }
    }
    std::array::from_fn(|way| ratios.iter().map(|ratios| ratios[way]).sum::<f64>() / ratios.len() as f64)
}

/// Holds the chosen way against the best of the others (one slice aside).
fn chosen_over_best_other(means: &[f64; WAYS.len()]) -> f64 {
    means[CHOSEN] / means[1..CHOSEN].iter().copied().fold(f64::INFINITY, f64::min)
}

#[test]
fn batches_of_the_bench_end_near_the_shortest_time_of_their_fleet() {
    let mut table = head("items x 5 ms, one slot a GPU, all known; GPUs");
    for items in [8, 64, 512] {
        for (name, paces) in FLEETS {
            let (seats, truth) = fleet(paces, 1, 5.0, Known::All);
            let ratios = over_shortest(items, &seats, &truth, LIVES);
            row(&mut table, &format!("{items}; {name}"), &ratios, 2);
            let chosen = ratios[CHOSEN];
            let is_even = paces.iter().all(|pace| *pace == 1.0);
            assert!(items < 64 || chosen <= if is_even { 1.15 } else { 1.25 }, "{items} items on {name}: {chosen}");
        }
    }
    println!("{table}");
}

#[test]
fn the_chosen_way_is_the_best_where_the_fleet_is_known_and_no_bad_one_where_it_is_not() {
    let mut table = head("items, what is known, ms an item; means over all fleets, with 1 and 8 slots a GPU");
    let of = |times_ms| Cases { fleets: &FLEETS, slots: [1, 8], times_ms };
    for items in [1, 8, 64, 512, 10_000] {
        for known in [Known::All, Known::Nothing, Known::Wrong] {
            row(&mut table, &format!("{items}, {known:?}, 0.2"), &means(items, &of(&[0.2]), known), 2);
            let means = means(items, &of(&[5.0, 50.0, 200.0]), known);
            row(&mut table, &format!("{items}, {known:?}, 5 to 200"), &means, 2);
            let bound = if items >= 64 && known == Known::All { 1.0 } else { 1.05 };
            assert!(chosen_over_best_other(&means) <= bound, "{items}, {known:?}: {means:?}");
        }
    }
    println!("{table}");
}

#[test]
fn it_is_the_best_as_well_on_fleets_that_its_numbers_were_not_chosen_on() {
    let mut table = head("items, what is known; other fleets, with 1 and 3 slots a GPU, 1, 12 and 30 ms an item");
    let cases = Cases { fleets: &OTHER_FLEETS, slots: [1, 3], times_ms: &[1.0, 12.0, 30.0] };
    for items in [40, 100, 300, 2_000] {
        for known in [Known::All, Known::Nothing, Known::Wrong] {
            let means = means(items, &cases, known);
            row(&mut table, &format!("{items}, {known:?}"), &means, 2);
            // Where what is known is wrong by a factor of 2.7, a way that uses none of it may be better.
            let bound = if known == Known::Wrong { 1.15 } else { 1.02 };
            assert!(chosen_over_best_other(&means) <= bound, "{items}, {known:?}: {means:?}");
        }
    }
    println!("{table}");
}

/// Single tasks that arrive by chance, and take up this share of the fleet's slots.
fn poisson(load: f64, seats: usize, single_ms: f64, until_ms: f64, seed: u64) -> Vec<(f64, Arrival)> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let pause_ms = single_ms / (load * seats as f64);
    let (mut now, mut arrivals) = (0.0, Vec::new());
    while now < until_ms {
        now -= (1.0 - chance.random_range(0.0..1.0_f64)).ln() * pause_ms;
        arrivals.push((now, Arrival::Single(single_ms)));
    }
    arrivals
}

/// Puts a batch into the arrivals.
fn with_batch(arrivals: &[(f64, Arrival)], at: f64, batch: Arrival) -> Vec<(f64, Arrival)> {
    let mut all = arrivals.to_vec();
    let place = all.partition_point(|(other, _)| *other <= at);
    all.insert(place, (at, batch));
    all
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// What the singles that come while a batch is under way wait on average, in ms, and the batch's makespan: for each way; for the chosen one a slice at a time for each
/// slot; and without a batch.
fn beside_a_batch(load: f64, slots: u32, single_ms: f64, (items, item_ms): (u32, f64)) -> (Vec<f64>, Vec<f64>) {
    let (seats, truth) = fleet(&[1.0, 1.0, 1.0, 2.0], slots, item_ms, Known::All);
    let from = 20.0 * single_ms;
    let until = from + 2.0 * shortest(items, &truth, ITEMS_MIN) / (1.0 - load);
    let cut = |way: usize| (WAYS[way].cut)(items, &seats);
    let mut batches: Vec<Arrival> = (0..WAYS.len()).map(|way| Arrival::Batch(cut(way), Bounds::SLICES_MAX as usize)).collect();
    batches.push(Arrival::Batch(cut(CHOSEN), truth.len()));
    let (mut waits, mut makespans) = (vec![Vec::new(); batches.len() + 1], vec![Vec::new(); batches.len()]);
    for life in 0..FEW_LIVES {
        let arrivals = poisson(load, truth.len(), single_ms, until + 500.0, life);
        let first = arrivals.partition_point(|(at, _)| *at <= from);
        let last = arrivals.partition_point(|(at, _)| *at <= until);
        for (number, batch) in batches.iter().enumerate() {
            let seen = live_through(&truth, &with_batch(&arrivals, from, batch.clone()), life);
            waits[number].extend_from_slice(&seen.waits_ms[first..last]);
            makespans[number].push(seen.makespans_ms[0]);
        }
        waits[batches.len()].extend_from_slice(&live_through(&truth, &arrivals, life).waits_ms[first..last]);
    }
    (waits.iter().map(|waits| mean(waits)).collect(), makespans.iter().map(|spans| mean(spans)).collect())
}

#[test]
fn among_other_tasks_a_cut_batch_ends_sooner_and_holds_them_up_no_longer_than_by_factoring() {
    let names: Vec<&str> = WAYS.iter().map(|way| way.name).chain(["acted out, as many as slots in line", "no batch"]).collect();
    let first = "4 GPUs, one at half speed; slots, load of singles x ms, items x ms";
    let mut table = format!("\n| {first} | {} |\n| --- |{}\n", names.join(" | "), " ---: |".repeat(names.len()));
    for (slots, load, single_ms) in [(1, 0.3, 20.0), (1, 0.7, 20.0), (8, 0.7, 20.0), (1, 0.3, 1_000.0), (8, 0.7, 1_000.0)] {
        for batch in [(64, 5.0), (512, 5.0), (512, 50.0)] {
            let (waits, makespans) = beside_a_batch(load, slots, single_ms, batch);
            let name = format!("{slots}, {:.0} % x {single_ms}, {} x {}", load * 100.0, batch.0, batch.1);
            row(&mut table, &format!("{name}: wait, ms"), &waits, 1);
            row(&mut table, &format!("{name}: makespan, ms"), &makespans, 0);
            let (equal, factoring, few_at_a_time) = (1, 5, WAYS.len());
            assert!(makespans[CHOSEN] < makespans[equal] * 1.05, "{name}: {makespans:?}");
            assert!(waits[CHOSEN] < waits[factoring] * 1.05 + 2.0 * TASK_MS, "{name}: {waits:?}");
            assert!(waits[few_at_a_time] < waits[CHOSEN] + 2.0 * TASK_MS, "{name}: {waits:?}");
        }
    }
    println!("{table}");
}

/// The mean wait of 800 singles of 20 ms that stand in one line from the beginning, with a batch of 64 items of 5 ms after every 100 of them, or the same work as singles.
fn backlog(batch: &[Arrival], life: u64) -> f64 {
    let (_, truth) = fleet(&[1.0; 4], 1, 5.0, Known::All);
    let mut arrivals = Vec::new();
    let mut counted = Vec::new();
    let mut singles = 0..;
    for _ in 0..8 {
        for _ in 0..100 {
            arrivals.push((0.0, Arrival::Single(20.0)));
            counted.extend(singles.next());
        }
        for arrival in batch {
            if matches!(arrival, Arrival::Single(_)) {
                singles.next();
            }
            arrivals.push((0.0, arrival.clone()));
        }
    }
    let seen = live_through(&truth, &arrivals, life);
    mean(&counted.iter().map(|number: &usize| seen.waits_ms[*number]).collect::<Vec<f64>>())
}

#[test]
fn a_backlog_of_single_tasks_waits_for_a_batch_no_longer_than_for_as_much_other_work() {
    let (seats, _) = fleet(&[1.0; 4], 1, 5.0, Known::All);
    let slices = (WAYS[CHOSEN].cut)(64, &seats);
    let cut = Arrival::Batch(slices.clone(), slices.len());
    let (mut with, mut without) = (0.0, 0.0);
    for life in 0..LIVES {
        with += backlog(std::slice::from_ref(&cut), life);
        without += backlog(&vec![Arrival::Single(20.0); 16], life);
    }
    println!("\na backlog's wait beside cut batches over the same work as single tasks: {:.3}", with / without);
    assert!(with <= without * 1.1, "{with} {without}");
}
