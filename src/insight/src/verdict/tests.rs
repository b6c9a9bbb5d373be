//! Each cause alone, healthy fleets, and several causes at once.

use protocol::{
    gpu::{GpuView, ServerTimes},
    insight::{Holdup, Verdict},
};

use super::verdict;
use crate::sketch::{Sketch, WINDOW_MS, gpu_id, kind};

const LATE_MS: u64 = 45_000;

fn judge(sketch: &Sketch) -> Verdict {
    let verdict = verdict(&sketch.observed());
    assert!(!verdict.sentence.is_empty() && !verdict.sentence.contains('\n') && verdict.sentence.ends_with('.'), "{verdict:?}");
    assert!(
        (2..=5).contains(&verdict.evidence.len()) || verdict.holdup == Holdup::Broker || verdict.holdup == Holdup::Redis,
        "{verdict:?}"
    );
    assert_eq!(verdict.window_ms, WINDOW_MS);
    verdict
}

/// Asserts that a fleet has this cause and no other.
fn alone(sketch: &Sketch, holdup: Holdup) -> Verdict {
    let verdict = judge(sketch);
    assert_eq!((verdict.holdup, verdict.also.len()), (holdup, 0), "{verdict:?}");
    assert!(holdup == Holdup::Nothing || verdict.evidence.iter().any(|figure| figure.limit.is_some()), "{verdict:?}");
    verdict
}

/// Two GPUs of four slots, all held, whose work of kind `a` comes as fast as it ends and waits for too long.
fn busy_and_late() -> Sketch {
    Sketch::of(2, 4).full().flow("a", 420, 1_000.0).waiting("a", 60, LATE_MS)
}

/// The same with little that waits: a GPU more is nothing that it lacks.
fn half_busy_and_late() -> Sketch {
    let mut sketch = Sketch::of(2, 4).flow("a", 100, 1_000.0).waiting("a", 10, LATE_MS);
    for view in &mut sketch.gpus {
        view.held = 2;
    }
    sketch
}

fn each(sketch: &mut Sketch, change: impl FnMut(&mut GpuView)) {
    sketch.gpus.iter_mut().for_each(change);
}

#[test]
fn an_idle_fleet_is_held_back_by_nothing() {
    alone(&Sketch::of(3, 4), Holdup::Nothing);
    alone(&Sketch::of(0, 4), Holdup::Nothing);
}

#[test]
fn a_busy_fleet_whose_tasks_begin_in_time_is_held_back_by_nothing() {
    let sketch = Sketch::of(4, 4).full().flow("a", 900, 1_000.0).waiting("a", 20, 1_500);
    let verdict = alone(&sketch, Holdup::Nothing);
    assert!(verdict.sentence.contains("waits for 1.5 s"), "{}", verdict.sentence);
}

#[test]
fn a_fleet_that_just_began_is_held_back_by_nothing() {
    alone(&Sketch::of(2, 4).waiting("a", 500, 2_000), Holdup::Nothing);
    let mut failing = Sketch::of(2, 4).waiting("a", 5, 200);
    (failing.activity.began, failing.activity.retried) = (4, 3);
    alone(&failing, Holdup::Nothing);
}

#[test]
fn slow_servers_blocked_gpus_and_loads_are_nothing_while_tasks_begin_in_time() {
    let mut sketch = Sketch::of(4, 4).full().flow("a", 400, 1_000.0).waiting("a", 5, 900);
    (sketch.broker_ms, sketch.store_ms) = (Some(900.0), Some(900.0));
    sketch.quarantine(3);
    sketch.numbers("a").load_ms = 300_000.0;
    sketch.numbers("a").transfer_ms = 300_000.0;
    sketch.gpus[0].row.kinds_down.insert(kind("a"), "it ended".to_owned());
    alone(&sketch, Holdup::Nothing);
}

#[test]
fn tasks_that_wait_too_long_without_a_cause_are_said_so() {
    let verdict = alone(&half_busy_and_late(), Holdup::Nothing);
    assert!(verdict.sentence.contains("no cause stands out"), "{}", verdict.sentence);
}

#[test]
fn too_few_gpus_says_how_many_more_would_do() {
    let verdict = alone(&busy_and_late(), Holdup::TooFewGpus);
    // 7 slots of work come each second, 8.05 with headroom; 60 s of it wait, to be drained in 15 s: 12.05 of which 8 are there.
    assert!(verdict.sentence.contains(": 2 more GPUs would hold the wait under 30 s"), "{}", verdict.sentence);
    let needed = verdict.evidence.iter().find(|figure| figure.what.contains("needed")).unwrap();
    assert!((needed.value - 12.05).abs() < 0.01 && needed.limit == Some(8.0), "{needed:?}");
    let with_more = Sketch::of(4, 4).full().flow("a", 420, 1_000.0).waiting("a", 60, 5_000);
    alone(&with_more, Holdup::Nothing);
}

#[test]
fn too_few_gpus_is_seen_before_the_first_task_is_late() {
    let coming = Sketch::of(1, 1).full().flow("a", 60, 1_000.0).waiting("a", 500, 2_000);
    alone(&coming, Holdup::TooFewGpus);
}

#[test]
fn no_gpus_tells_none_from_none_that_takes_tasks() {
    let verdict = alone(&Sketch::of(0, 1).waiting("a", 1, 10), Holdup::NoGpus);
    assert!(verdict.sentence.starts_with("No GPU lives while 1 task waits"), "{}", verdict.sentence);
    let mut sketch = Sketch::of(3, 1).waiting("a", 5, 10);
    sketch.drain(0);
    sketch.drain(1);
    sketch.quarantine(2);
    let verdict = alone(&sketch, Holdup::NoGpus);
    assert!(verdict.sentence.contains("(2 drained, 1 quarantined)"), "{}", verdict.sentence);
}

#[test]
fn a_table_that_does_not_answer_says_nothing_of_gpus() {
    let mut sketch = Sketch::of(0, 1).waiting("a", 5, LATE_MS);
    sketch.table_ms = None;
    let verdict = alone(&sketch, Holdup::Redis);
    assert!(verdict.sentence.contains("the table does not answer"), "{}", verdict.sentence);
}

#[test]
fn memory_that_waiting_tasks_need_and_no_gpu_has_free() {
    let mut sketch = half_busy_and_late();
    each(&mut sketch, |view| view.row.sample.memory_used_mb = 50_000);
    alone(&sketch, Holdup::Nothing);
    sketch.activity.waiting_memory.insert((kind("a"), 30_000), 8);
    let verdict = alone(&sketch, Holdup::Memory);
    assert!(
        verdict.sentence.contains("4 slots are free and the memory for 8 tasks") && verdict.sentence.contains("22000 MB"),
        "{}",
        verdict.sentence
    );
    // One GPU that has it is enough.
    sketch.gpus[1].row.sample.memory_used_mb = 10_000;
    alone(&sketch, Holdup::Nothing);
}

#[test]
fn memory_that_the_fleets_own_tasks_fill() {
    let mut sketch = half_busy_and_late();
    each(&mut sketch, |view| {
        view.row.sample.memory_used_mb = 75_000;
        view.eligible = false;
    });
    let verdict = judge(&sketch);
    assert!(verdict.also.iter().any(|sentence| sentence.contains("memory")) || verdict.holdup == Holdup::Memory, "{verdict:?}");
    sketch.gpus[0].eligible = true;
    sketch.gpus[0].row.sample.memory_used_mb = 60_000;
    alone(&sketch, Holdup::Memory);
}

#[test]
fn a_task_that_fits_no_gpu_at_all_waits_for_another_gpu_and_not_for_memory() {
    let mut sketch = half_busy_and_late();
    sketch.activity.waiting_memory.insert((kind("a"), 100_000), 10);
    sketch.activity.unserved = 10;
    let verdict = alone(&sketch, Holdup::Unserved);
    assert!(verdict.sentence.contains("what they need (memory"), "{}", verdict.sentence);
}

#[test]
fn loads_of_models_that_take_much_of_the_slot_time() {
    let mut sketch = half_busy_and_late();
    sketch.numbers("a").load_ms = 40_000.0;
    let verdict = alone(&sketch, Holdup::ModelLoads);
    assert!(verdict.sentence.starts_with("40 % of the slot time") && verdict.sentence.contains("kind a"), "{}", verdict.sentence);
    sketch.numbers("a").load_ms = 20_000.0;
    alone(&sketch, Holdup::Nothing);
}

#[test]
fn transfers_that_take_much_of_the_slot_time() {
    let mut sketch = half_busy_and_late();
    sketch.numbers("a").transfer_ms = 55_000.0;
    let verdict = alone(&sketch, Holdup::Transfers);
    assert!(verdict.sentence.starts_with("55 %"), "{}", verdict.sentence);
}

#[test]
fn one_kind_that_others_wait_behind() {
    let few = || Sketch::of(2, 4).full().flow("a", 342, 1_000.0).flow("b", 18, 1_000.0);
    let verdict = alone(&few().waiting("b", 12, LATE_MS), Holdup::OneKind);
    assert!(
        verdict.sentence.starts_with("Kind a has 95 %") && verdict.sentence.contains("12 tasks of other kinds wait"),
        "{}",
        verdict.sentence
    );
    let without_others = few().waiting("a", 12, LATE_MS);
    assert_ne!(judge(&without_others).holdup, Holdup::OneKind, "nobody waits behind it");
}

#[test]
fn one_kind_whose_long_tasks_have_not_ended_yet() {
    let mut sketch = Sketch::of(2, 4).full();
    sketch.numbers("a").running = 8;
    sketch.wait("b", 4, 5, LATE_MS);
    alone(&sketch, Holdup::OneKind);
}

#[test]
fn full_gpus_beside_idle_ones_that_fit() {
    let mut sketch = Sketch::of(4, 2).flow("a", 30, 1_000.0).waiting("a", 40, LATE_MS);
    sketch.gpus[0].held = 2;
    let verdict = alone(&sketch, Holdup::Imbalance);
    assert!(verdict.sentence.contains("1 GPU is full and 3 idle") && verdict.sentence.contains("strategy"), "{}", verdict.sentence);
    sketch.activity.waiting_for_gpu.insert(gpu_id(0), 40);
    assert!(judge(&sketch).sentence.contains("specific_gpu_id"));
    // Those that do not have the kind are no help.
    each(&mut sketch, |view| {
        if view.held == 0 {
            view.row.kinds = vec![kind("b")];
        }
    });
    alone(&sketch, Holdup::Nothing);
}

#[test]
fn gpus_that_worked_all_the_time_are_not_idle_for_an_instant_between_two_tasks() {
    let mut sketch = Sketch::of(4, 1).flow("a", 200, 1_000.0).waiting("a", 10, LATE_MS);
    sketch.gpus[0].held = 1;
    for number in 0..4 {
        sketch.activity.gpus.entry(gpu_id(number)).or_default().slot_ms = 50_000.0;
    }
    alone(&sketch, Holdup::Nothing);
}

#[test]
fn a_handler_that_is_down_where_tasks_wait_for_it() {
    let mut sketch = Sketch::of(2, 4);
    each(&mut sketch, |view| {
        view.row.kinds.retain(|served| *served != kind("a"));
        view.row.kinds_down.insert(kind("a"), "ended with status 1: no module named torch\nTraceback".to_owned());
    });
    alone(&sketch, Holdup::Nothing);
    sketch.wait("a", 4, 3, 100);
    let verdict = alone(&sketch, Holdup::Handler);
    for part in ["kind a is down on 2 GPUs", "3 tasks of it wait", "no module named torch)"] {
        assert!(verdict.sentence.contains(part), "{part}: {}", verdict.sentence);
    }
}

#[test]
fn a_handler_that_takes_a_multiple_of_what_it_used_to() {
    let mut sketch = half_busy_and_late();
    sketch.numbers("a").run.p50_ms = 4_000.0;
    let verdict = alone(&sketch, Holdup::Handler);
    assert!(verdict.sentence.contains("takes 4.0 s where it used to take 1.0 s"), "{}", verdict.sentence);
    // What was learnt last has followed the change; what was usual says it still.
    sketch.numbers("a").learnt_run_ms = 4_000.0;
    sketch.numbers("a").usual_run_ms = 1_000.0;
    sketch.activity.priorities[4].waiting.clear();
    sketch.numbers("a").waiting = 0;
    sketch.wait("a", 4, 2, LATE_MS);
    alone(&sketch, Holdup::Handler);
}

#[test]
fn a_broker_that_is_away_blocks_or_is_slow() {
    let mut away = Sketch::of(2, 4);
    (away.broker_ms, away.ready) = (None, None);
    alone(&away, Holdup::Broker);

    let mut blocked = Sketch::of(2, 4);
    blocked.broker_blocked = true;
    assert!(alone(&blocked, Holdup::Broker).sentence.contains("alarm"));
    let mut by_workers = Sketch::of(2, 4);
    each(&mut by_workers, |view| view.row.servers.broker_blocked = true);
    alone(&by_workers, Holdup::Broker);

    let mut slow = half_busy_and_late();
    each(&mut slow, |view| view.row.servers = ServerTimes { broker_ms: Some(700.0), ..ServerTimes::default() });
    let verdict = alone(&slow, Holdup::Broker);
    assert!(verdict.sentence.starts_with("A confirm of the broker takes 700 ms"), "{}", verdict.sentence);
    // One worker with a bad line says nothing of the broker.
    slow.gpus[0].row.servers.broker_ms = Some(1.0);
    alone(&slow, Holdup::Nothing);
}

#[test]
fn a_store_or_a_table_that_is_away_or_slow() {
    let mut away = Sketch::of(2, 4);
    away.store_ms = None;
    assert!(alone(&away, Holdup::Redis).sentence.contains("the store does not answer"));
    let mut slow = half_busy_and_late();
    slow.table_ms = Some(800.0);
    each(&mut slow, |view| view.row.servers = ServerTimes { table_ms: Some(900.0), ..ServerTimes::default() });
    let verdict = alone(&slow, Holdup::Redis);
    assert!(verdict.sentence.starts_with("A claim of the table takes 900 ms"), "{}", verdict.sentence);
}

#[test]
fn attempts_that_are_made_again_and_again() {
    let mut sketch = Sketch::of(2, 4).flow("a", 60, 100.0).flow("b", 60, 100.0);
    (sketch.activity.retried, sketch.activity.crashed) = (40, 30);
    (sketch.numbers("b").retried, sketch.numbers("b").crashed) = (40, 30);
    let verdict = alone(&sketch, Holdup::Retries);
    assert!(verdict.sentence.starts_with("58 % of the attempts") && verdict.sentence.contains("kind b"), "{}", verdict.sentence);
    // A quarter of them is a cause only where tasks wait.
    (sketch.activity.retried, sketch.activity.crashed) = (20, 10);
    alone(&sketch, Holdup::Nothing);
    sketch.wait("a", 4, 5, LATE_MS);
    alone(&sketch, Holdup::Retries);
}

#[test]
fn low_priorities_behind_higher_ones_that_keep_coming() {
    let mut sketch = Sketch::of(2, 4).full().flow("a", 380, 1_000.0);
    sketch.wait("a", 1, 5, 3 * LATE_MS);
    sketch.wait("a", 4, 2, 300);
    let verdict = alone(&sketch, Holdup::Starvation);
    assert!(verdict.sentence.contains("5 tasks of priority 1 wait, the oldest for 2 min"), "{}", verdict.sentence);
}

#[test]
fn gpus_that_are_out_of_use_while_tasks_wait() {
    let mut sketch = Sketch::of(3, 4).flow("a", 200, 1_000.0).full().waiting("a", 10, LATE_MS);
    alone(
        &{
            let mut usable = Sketch::of(3, 4).flow("a", 200, 1_000.0).waiting("a", 10, LATE_MS);
            each(&mut usable, |view| view.held = 2);
            usable
        },
        Holdup::Nothing,
    );
    sketch.drain(0);
    sketch.quarantine(2);
    let verdict = alone(&sketch, Holdup::UnusableGpus);
    assert!(
        verdict.sentence.starts_with("2 of 3 GPUs take no tasks") && verdict.sentence.contains("1 drained, 1 quarantined"),
        "{}",
        verdict.sentence
    );
}

#[test]
fn a_gpu_that_others_use_is_out_of_use() {
    let mut sketch = Sketch::of(2, 4).flow("a", 100, 1_000.0).waiting("a", 5, LATE_MS);
    sketch.gpus[0].held = 4;
    sketch.gpus[1].eligible = false;
    sketch.gpus[1].row.sample.memory_used_mb = 79_000;
    let verdict = alone(&sketch, Holdup::UnusableGpus);
    assert!(verdict.sentence.contains("1 over the memory threshold without a task"), "{}", verdict.sentence);
    sketch.gpus[1].row.sample.memory_used_mb = 0;
    sketch.gpus[1].row.foreign_utilization_percent = 99.0;
    let verdict = alone(&sketch, Holdup::UnusableGpus);
    assert!(verdict.sentence.contains("1 kept busy by other programs"), "{}", verdict.sentence);
}

#[test]
fn tasks_that_no_gpu_can_run() {
    let mut sketch = Sketch::of(2, 4);
    sketch.wait("ecko", 4, 3, 100);
    sketch.activity.unserved = 3;
    let verdict = alone(&sketch, Holdup::Unserved);
    assert!(verdict.sentence.starts_with("3 tasks wait for kind ecko"), "{}", verdict.sentence);
    // No worker has said so yet, and it shows only in what the living ones serve.
    sketch.activity.unserved = 0;
    alone(&sketch, Holdup::Nothing);
    sketch.wait("ecko", 4, 1, LATE_MS);
    assert!(alone(&sketch, Holdup::Unserved).sentence.starts_with("4 tasks wait for kind ecko"));
}

#[test]
fn of_several_causes_the_heaviest_comes_first_and_the_others_are_told() {
    // A fifth of the capacity is drained, half of the time is spent on loads.
    let mut sketch = Sketch::of(5, 4).full().flow("a", 800, 1_000.0).waiting("a", 60, LATE_MS);
    sketch.drain(0);
    sketch.numbers("a").load_ms = 400_000.0;
    let verdict = judge(&sketch);
    assert_eq!((verdict.holdup, verdict.also.len()), (Holdup::ModelLoads, 1), "{verdict:?}");
    assert!(verdict.also[0].starts_with("1 of 5 GPUs takes no tasks"), "{verdict:?}");

    // The same where ten times as much comes: what is wasted is little against what is lacking.
    let mut sketch = Sketch::of(5, 4).full().flow("a", 10_000, 1_000.0).waiting("a", 20_000, LATE_MS);
    sketch.drain(0);
    sketch.numbers("a").load_ms = 4_500_000.0;
    let verdict = judge(&sketch);
    assert_eq!((verdict.holdup, verdict.also.len()), (Holdup::TooFewGpus, 2), "{verdict:?}");
    assert!(verdict.also[0].contains("loading models"), "{verdict:?}");
}

#[test]
fn what_stops_everything_comes_before_what_slows_down() {
    let mut sketch = busy_and_late();
    sketch.broker_blocked = true;
    let verdict = judge(&sketch);
    assert_eq!((verdict.holdup, verdict.also.len()), (Holdup::Broker, 1), "{verdict:?}");
}
