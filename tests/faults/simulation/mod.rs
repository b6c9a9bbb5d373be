//! Deterministic fault simulation: whole fleets (client, workers, queue, table, store) on one thread and a paused clock, under faults that follow from a seed.
//!
//! A failing seed is printed with its journal. `GPUFLEET_SEED=17 cargo test -p tests --test faults simulation` runs that one alone; `GPUFLEET_SEEDS=100000` runs more of them.

mod bugs;
mod chaos;
mod fleet;
mod judge;
mod ports;
mod scenario;
mod tables;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, atomic::AtomicU64, atomic::Ordering},
};

use self::{
    bugs::Bug,
    chaos::Site,
    fleet::SimulatedFleet,
    scenario::{STEPS, STEPS_OF_REPLIES, Scenario},
};

/// How many seeds one run of the tests tries.
const SEEDS: u64 = 2_500;
/// How many seeds may pass before a planted mistake is found.
const SEEDS_FOR_A_BUG: u64 = 2_000;

/// One seed's life, judged.
struct Life {
    scenario: Scenario,
    violations: Vec<String>,
    journal: Vec<String>,
    sites: BTreeSet<Site>,
}

fn live(seed: u64, bug: Option<Bug>) -> Life {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut fleet = SimulatedFleet::new(Scenario::of(seed), bug).await;
        fleet.live().await;
        judge::judge(&fleet).await;
        let (violations, journal) = (fleet.world.violations(), fleet.world.journal());
        Life { scenario: fleet.scenario, violations, journal, sites: fleet.sites }
    })
}

fn fail(life: &Life) -> ! {
    let Life { scenario, violations, journal, .. } = life;
    panic!(
        "seed {}: {}\n\n{scenario:#?}\n\n{}\n\nreplay: GPUFLEET_SEED={} cargo test -p tests --test faults simulation",
        scenario.seed,
        violations.join("; "),
        journal.join("\n"),
        scenario.seed
    );
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Lives of all seeds below `count`, on all cores, as long as `each` wants more.
fn live_all(count: u64, bug: Option<Bug>, each: impl Fn(Life) -> bool + Sync) {
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while done.load(Ordering::Relaxed) == 0 {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        return;
                    }
                    if !each(live(seed, bug)) {
                        done.store(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

#[test]
fn whatever_fails_every_task_has_one_outcome_and_no_slot_is_lost() {
    if let Some(seed) = number_from("GPUFLEET_SEED") {
        let life = live(seed, None);
        if !life.violations.is_empty() {
            fail(&life);
        }
        return;
    }
    let failed: Mutex<Option<Life>> = Mutex::new(None);
    let seen: Mutex<(BTreeSet<Site>, BTreeMap<String, u64>)> = Mutex::default();
    live_all(number_from("GPUFLEET_SEEDS").unwrap_or(SEEDS), None, |life| {
        let mut seen = seen.lock().unwrap();
        seen.0.extend(&life.sites);
        *seen.1.entry(format!("{:?}", life.scenario.class)).or_default() += 1;
        if life.violations.is_empty() {
            return true;
        }
        *failed.lock().unwrap() = Some(life);
        false
    });
    if let Some(life) = failed.into_inner().unwrap() {
        fail(&life);
    }
    let (sites, classes) = seen.into_inner().unwrap();
    println!("{classes:?}; processes died at {sites:?}");
    for step in STEPS.into_iter().chain(STEPS_OF_REPLIES) {
        for when in ["before", "after"] {
            assert!(sites.contains(&(step, when)), "no process died {when} {step:?}: the seeds do not cover it");
        }
    }
    assert_eq!(classes.len(), 6, "{classes:?}");
}

#[test]
fn a_seed_is_the_same_life_every_time() {
    for seed in 0..60 {
        let (first, second) = (live(seed, None), live(seed, None));
        let parted = first.journal.iter().zip(&second.journal).position(|(one, other)| one != other);
        let parted = parted.map(|place| (&first.journal[place.saturating_sub(3)..=place], &second.journal[place]));
        assert_eq!(parted, None, "seed {seed}");
        assert_eq!(first.journal.len(), second.journal.len(), "seed {seed}");
    }
}

#[test]
fn every_planted_mistake_is_found() {
    for bug in Bug::ALL {
        let found: Mutex<Option<Life>> = Mutex::new(None);
        live_all(SEEDS_FOR_A_BUG, Some(bug), |life| {
            // With the store emptied less is promised; a mistake must show in the full promises, if it can.
            let counts = bug.needs_an_emptied_store() || !life.scenario.empties_the_store();
            let shows = counts && !life.violations.is_empty();
            if shows {
                *found.lock().unwrap() = Some(life);
            }
            !shows
        });
        let life = found.into_inner().unwrap().unwrap_or_else(|| panic!("{bug:?} was not found"));
        println!("{bug:?}: seed {}: {}", life.scenario.seed, life.violations[0]);
    }
}
