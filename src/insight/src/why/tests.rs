use std::collections::BTreeMap;

use protocol::{ErrorCode, Health, Outcome, StepName, TaskStep, insight::Obstacle, task::ComputeCapability};

use super::*;
use crate::{
    IndexBounds,
    samples::{World, gpu, id, kind, step},
};

const NOW_MS: u64 = 100_000;

/// Two GPUs that run `echo`; a run takes a second.
fn world() -> World {
    World::new(NOW_MS, vec![gpu("a", 1, &["echo"]), gpu("b", 2, &["echo", "other"])])
}

fn index(steps: &[TaskStep]) -> TaskIndex {
    let mut index = TaskIndex::new(IndexBounds { tasks_max: 1_000, age_max_ms: u64::MAX });
    let (outcome, run_ms, attempt) = (Some(Outcome::Succeeded), Some(1_000.0), Some(1));
    index.apply(&TaskStep { outcome, run_ms, attempt, ..step("learnt", StepName::Ended, 100, "echo") });
    steps.iter().for_each(|step| index.apply(step));
    index
}

fn submitted() -> TaskStep {
    step("t", StepName::Submitted, 90_000, "echo")
}

fn began() -> TaskStep {
    TaskStep { attempt: Some(1), gpu_id: Some("a".parse().unwrap()), ..step("t", StepName::Began, 95_000, "echo") }
}

fn needing(memory_mb: u64) -> TaskStep {
    TaskStep { needs: Some(Needs { memory_mb: Some(memory_mb), ..Needs::default() }), ..submitted() }
}

fn failed() -> Option<TaskError> {
    Some(TaskError::new(ErrorCode::OutOfMemory, "no memory was left.".to_owned()))
}

fn said(world: &World, steps: &[TaskStep]) -> Why {
    why(&world.observed(), &index(steps), &id("t"), None).unwrap()
}

fn sentence_of(world: &World, steps: &[TaskStep]) -> String {
    said(world, steps).sentence
}

/// With both GPUs changed.
fn world_with(change: impl Fn(&mut protocol::gpu::GpuView)) -> World {
    let mut world = world();
    world.gpus.iter_mut().for_each(change);
    world
}

fn status(state: TaskState) -> TaskStatus {
    TaskStatus {
        task_id: id("t"),
        state,
        kind: Some(kind("echo")),
        group: None,
        gpu_id: Some("b".parse().unwrap()),
        attempt: 2,
        crashes: 0,
        waiting_for: None,
        not_before_ms: None,
        progress: None,
        items: None,
        slices: None,
        first_seen_ms: 50_000,
        changed_ms: 98_000,
        reply: None,
    }
}

#[test]
fn a_task_that_neither_index_nor_store_knows_has_no_why() {
    assert_eq!(why(&world().observed(), &index(&[]), &id("t"), None), None);
}

#[test]
fn a_task_that_nothing_keeps_begins_as_soon_as_it_is_delivered() {
    let why = said(&world(), &[submitted()]);
    assert_eq!(why.sentence, "Nothing is in its way: it begins as soon as the broker delivers it.");
    assert_eq!((why.state, why.ahead, why.begins_in_ms), (TaskState::Waiting, Some(0), Some(0.0)));
    assert_eq!(why.forecast, "by what the fleet learnt of run times: a run of kind echo takes 1.0 s");
    assert!(why.gpus.iter().all(|gpu| gpu.fits && gpu.obstacle == Obstacle::None) && why.gpus.len() == 2);
}

#[test]
fn a_task_behind_others_says_how_many_and_on_how_many_slots() {
    let mut steps: Vec<TaskStep> = (0..12)
        .map(|number| TaskStep { priority: Some(5), ..step(&format!("w{number}"), StepName::Submitted, 80_000 + number, "echo") })
        .collect();
    steps.push(submitted());
    let world = world_with(|view| {
        view.held = view.row.slots;
        view.row.running = (0..view.row.slots).map(|slot| id(&format!("r{}-{slot}", view.row.gpu.gpu_id))).collect();
    });
    let why = said(&world, &steps);
    assert_eq!(why.sentence, "It waits its turn: 12 tasks are before it, on 3 slots of 2 GPUs.");
    assert_eq!((why.ahead, why.first_ahead.len(), &why.first_ahead[0]), (Some(12), Why::AHEAD_MAX, &id("w0")));
    assert!(why.begins_in_ms.is_some_and(|ms| (ms - 4_500.0).abs() < 1.0), "{why:?}");
    assert_eq!((why.gpus[1].obstacle, why.gpus[1].words.as_str()), (Obstacle::Full, "2 of its 2 slots are busy"));
    let first = sentence_of(&world, &[submitted()]);
    assert_eq!(first, "It is the next of those that wait: it begins with the first of 3 slots of 2 GPUs that is free.");
}

#[test]
fn where_no_gpu_fits_it_says_which_need_fails_where() {
    let cases = [
        (needing(90_000), "needs 90,000 MB, and tasks may use 72,000 MB of its 80,000 MB (GPU b).", Obstacle::TooSmall),
        (step("t", StepName::Submitted, 90_000, "ecko"), "none runs kind ecko.", Obstacle::Kind),
        (
            TaskStep {
                needs: Some(Needs { compute_capability: Some(ComputeCapability { major: 9, minor: 0 }), ..Needs::default() }),
                ..submitted()
            },
            "needs compute capability 9.0, and it has 8.6 (GPU b).",
            Obstacle::Capability,
        ),
    ];
    for (step, ends, obstacle) in cases {
        let why = said(&world(), &[step]);
        assert_eq!(why.sentence, format!("None of the 2 living GPUs of its pool can run it: {ends}"));
        assert!(why.gpus.iter().all(|gpu| !gpu.fits && gpu.obstacle == obstacle), "{why:?}");
        assert_eq!(
            (why.begins_in_ms, why.forecast.as_str()),
            (None, "no GPU that could run it takes tasks now, so that no time can be told")
        );
    }
    let gone = TaskStep { specific_gpu_id: Some("gone".parse().unwrap()), ..submitted() };
    assert_eq!(sentence_of(&world(), std::slice::from_ref(&gone)), "It names GPU gone, which does not live now: it is waited for.");
    assert_eq!(said(&world(), &[gone]).gpus[0].words, "the task names GPU gone");
    let only_a = TaskStep { specific_gpu_id: Some("a".parse().unwrap()), ..step("t", StepName::Submitted, 90_000, "other") };
    let said_of_a = "None of the 2 living GPUs of its pool can run it: its worker does not run kind other; it runs echo (GPU a).";
    assert_eq!(sentence_of(&world(), &[only_a]), said_of_a);
    let unserved = TaskStep { reason: Some("unserved: nobody runs ecko.".to_owned()), ..step("t", StepName::Waits, 91_000, "ecko") };
    let empty = World::new(NOW_MS, Vec::new());
    assert_eq!(sentence_of(&empty, &[unserved]), "No GPU of its pool lives. A worker said: nobody runs ecko.");
}

#[test]
fn memory_that_is_not_free_now_is_said_with_figures() {
    let world = world_with(|view| view.row.sample.memory_used_mb = 60_000);
    let why = said(&world, &[needing(40_000)]);
    assert_eq!(why.gpus[0].words, "needs 40,000 MB, 12,000 MB are free of 80,000 MB");
    let sentence = "2 GPUs could run it, and none takes it now: all are without the memory free (GPU a: needs 40,000 MB, 12,000 MB are free of 80,000 MB).";
    assert_eq!(why.sentence, sentence);
}

#[test]
fn a_kind_that_is_down_is_said_with_its_reason() {
    let world = world_with(|view| {
        view.row.kinds.retain(|there| *there != kind("echo"));
        view.row.kinds_down = BTreeMap::from([(kind("echo"), "handler mine: no such model".to_owned())]);
    });
    let why = said(&world, &[submitted()]);
    let words = "kind echo is down there: handler mine: no such model";
    assert_eq!(why.sentence, format!("2 GPUs could run it, and none takes it now: all are with its kind down (GPU a: {words})."));
    assert!(why.gpus.iter().all(|gpu| gpu.fits && gpu.obstacle == Obstacle::KindDown));
}

#[test]
fn gpus_that_take_no_tasks_say_why() {
    let mut world = world();
    world.gpus = ["a", "b", "c", "d", "e", "f"].map(|name| gpu(name, 1, &["echo"])).to_vec();
    world.settings.draining = vec!["a".parse().unwrap()];
    (world.gpus[1].row.health, world.gpus[1].row.health_reason) = (Health::Quarantined, "Xid 79".to_owned());
    world.gpus[2].row.stopping = true;
    world.gpus[3].row.consuming = false;
    world.gpus[4].row.sample.memory_used_mb = 75_000;
    world.gpus[5].row.foreign_utilization_percent = 97.0;
    let why = said(&world, &[submitted()]);
    let found: Vec<(Obstacle, &str)> = why.gpus.iter().map(|gpu| (gpu.obstacle, gpu.words.as_str())).collect();
    let expected = [
        (Obstacle::Draining, "an operator drains it"),
        (Obstacle::Health, "it is quarantined: Xid 79"),
        (Obstacle::Stopping, "its worker is stopping"),
        (Obstacle::NotConsuming, "its worker does not reach the broker"),
        (Obstacle::Threshold, "75,000 MB of its 80,000 MB are in use, and the threshold is 90 %"),
        (Obstacle::Threshold, "others use 97 % of its time, and the threshold is 95 %"),
    ];
    assert_eq!(found, expected);
    let sentence = "6 GPUs could run it, and none takes it now: 1 drained by an operator, 2 over a threshold, 1 quarantined or on probation, 1 stopping, 1 without the broker.";
    assert_eq!(why.sentence, sentence);
    world.gpus.truncate(1);
    assert_eq!(sentence_of(&world, &[submitted()]), "The only GPU that could run it, a, does not take it now: an operator drains it.");
}

#[test]
fn delayed_and_retried_tasks_say_when_they_are_due() {
    let why = said(&world(), &[TaskStep { not_before_ms: Some(112_300), ..submitted() }]);
    assert_eq!(why.sentence, "It is delayed: it must not start before a time that comes in 12.3 s.");
    assert!(why.begins_in_ms.is_some_and(|ms| (ms - 12_300.0).abs() < 1.0));
    let retrying = TaskStep { attempt: Some(2), after_ms: Some(3_000), error: failed(), ..step("t", StepName::Retrying, 99_000, "echo") };
    let why = said(&world(), &[submitted(), retrying]);
    assert_eq!(why.sentence, "Attempt 2 failed (out_of_memory: no memory was left), and the next one is due in 2.0 s.");
    assert!(why.begins_in_ms.is_some_and(|ms| (ms - 2_000.0).abs() < 1.0), "{why:?}");
}

#[test]
fn a_task_in_the_hand_of_a_gpu_a_running_one_and_those_that_ended_say_so() {
    let forwarded = TaskStep { gpu_id: Some("b".parse().unwrap()), ..step("t", StepName::Forwarded, 91_000, "echo") };
    let busy = world_with(|view| view.held = view.row.slots);
    let in_hand = "It was forwarded to GPU b, and takes the next free slot there. Now 2 of its 2 slots are busy.";
    assert_eq!(sentence_of(&busy, &[submitted(), forwarded]), in_hand);
    let why = said(&world(), &[submitted(), began()]);
    assert_eq!(why.sentence, "It runs on GPU a: attempt 1 began 5.0 s ago.");
    assert!(why.gpus.is_empty() && why.begins_in_ms.is_none() && why.ahead.is_none());
    let ended = |outcome, error| {
        let (gpu_id, attempt, outcome) = (Some("a".parse().unwrap()), Some(1), Some(outcome));
        sentence_of(&world(), &[began(), TaskStep { gpu_id, attempt, outcome, error, ..step("t", StepName::Ended, 98_000, "echo") }])
    };
    assert_eq!(ended(Outcome::Succeeded, None), "It succeeded on GPU a, 2.0 s ago.");
    assert_eq!(ended(Outcome::Failed, failed()), "It failed on GPU a, 2.0 s ago: out_of_memory: no memory was left.");
    assert_eq!(ended(Outcome::Cancelled, None), "It was cancelled, 2.0 s ago.");
    assert_eq!(ended(Outcome::Expired, None), "Its deadline passed, 2.0 s ago.");
}

#[test]
fn a_cancel_that_was_asked_for_is_said() {
    let cancel = step("t", StepName::CancelAsked, 96_000, "echo");
    assert_eq!(
        sentence_of(&world(), &[submitted(), cancel.clone()]),
        "It is cancelled; its reply goes out as soon as a worker has it in hand."
    );
    let running = "It runs on GPU a: attempt 1 began 5.0 s ago; somebody asked for its end.";
    assert_eq!(sentence_of(&world(), &[began(), cancel]), running);
}

#[test]
fn a_batch_that_was_split_says_what_its_slices_do() {
    let of_slice = |name, what| TaskStep { attempt: Some(1), outcome: Some(Outcome::Succeeded), ..step(name, what, 95_000, "echo") };
    let steps = [
        submitted(),
        step("t", StepName::Split, 91_000, "echo"),
        of_slice("t{0..1}", StepName::Began),
        of_slice("t{1..2}", StepName::Ended),
        of_slice("t{2..3}", StepName::Submitted),
    ];
    assert_eq!(sentence_of(&world(), &steps), "It was split, and its slices run in its place: 1 run, 1 wait, 1 ended.");
}

#[test]
fn a_broker_that_does_not_answer_is_what_a_waiting_task_waits_for() {
    let mut world = world();
    world.ready = None;
    assert!(sentence_of(&world, &[submitted()]).starts_with("The broker does not answer"));
    assert!(sentence_of(&world, &[began()]).starts_with("It runs"));
}

#[test]
fn what_the_store_says_counts_above_the_index() {
    let index = index(&[submitted(), began()]);
    let said = |status: TaskStatus| why(&world().observed(), &index, &id("t"), Some(&status)).unwrap();
    let waiting = TaskStatus { waiting_for: Some("the tensor x is not there yet.".to_owned()), ..status(TaskState::Waiting) };
    let waiting = said(waiting);
    assert_eq!(waiting.sentence, "A worker has had it in hand, and said why it waits: the tensor x is not there yet.");
    assert_eq!(said(status(TaskState::Running)).sentence, "It runs on GPU b: attempt 2 began 2.0 s ago.");
    assert_eq!(said(status(TaskState::Failed)).state, TaskState::Failed);
}

#[test]
fn a_task_that_only_the_store_knows_is_forecast_as_the_last_of_all() {
    let mut world = world();
    let index = index(&[]);
    world.activity = index.activity(NOW_MS, 60_000);
    world.activity.kinds.entry(kind("echo")).or_default().learnt_run_ms = 1_000.0;
    world.ready = Some(30);
    let why = why(&world.observed(), &index, &id("t"), Some(&status(TaskState::Waiting))).unwrap();
    assert_eq!(why.sentence, "It waits its turn on 3 slots of 2 GPUs; how many tasks are before it is not known.");
    assert!(why.begins_in_ms.is_some_and(|ms| (ms - 10_000.0).abs() < 1.0) && why.forecast.contains("priority 0"), "{why:?}");
}

#[test]
fn a_large_fleet_is_told_of_in_part_those_first_that_fit() {
    let mut world = world();
    world.gpus = (0..100).map(|number| gpu(&format!("g{number:03}"), 1, if number < 60 { &["other"] } else { &["echo"] })).collect();
    let why = said(&world, &[submitted()]);
    assert_eq!((why.gpus.len(), why.more_gpus), (Why::GPUS_MAX, 36));
    assert!(why.gpus[..40].iter().all(|gpu| gpu.fits) && !why.gpus[40].fits);
}
