use protocol::{GpuId, Kind, Outcome, StepName, TaskError, TaskId, TaskState, TaskStep, insight::TaskFilter};

use super::*;
use crate::Activity;

fn id(name: &str) -> TaskId {
    TaskId::read(name).unwrap()
}

fn step(name: &str, step: StepName, at_ms: u64) -> TaskStep {
    TaskStep { kind: Some("echo".parse().unwrap()), ..TaskStep::new(step, id(name), Default::default(), at_ms) }
}

fn submitted(name: &str, priority: u8, at_ms: u64) -> TaskStep {
    TaskStep { priority: Some(priority), ..step(name, StepName::Submitted, at_ms) }
}

fn began(name: &str, attempt: u32, at_ms: u64) -> TaskStep {
    TaskStep { attempt: Some(attempt), gpu_id: Some("gpu".parse().unwrap()), waited_ms: Some(5.0), ..step(name, StepName::Began, at_ms) }
}

fn retrying(name: &str, attempt: u32, at_ms: u64) -> TaskStep {
    let error = Some(TaskError::new(protocol::ErrorCode::ExecutorFailed, "it broke".to_owned()));
    TaskStep { attempt: Some(attempt), after_ms: Some(1_000), run_ms: Some(10.0), error, ..step(name, StepName::Retrying, at_ms) }
}

fn ended(name: &str, attempt: u32, outcome: Outcome, at_ms: u64) -> TaskStep {
    TaskStep { attempt: Some(attempt), outcome: Some(outcome), run_ms: Some(10.0), ..step(name, StepName::Ended, at_ms) }
}

fn index_of(steps: &[TaskStep]) -> TaskIndex {
    bounded(1_000, steps)
}

fn bounded(tasks_max: usize, steps: &[TaskStep]) -> TaskIndex {
    let mut index = TaskIndex::new(IndexBounds { tasks_max, age_max_ms: 1_000_000 });
    steps.iter().for_each(|step| index.apply(step));
    index
}

fn state(index: &TaskIndex, name: &str) -> TaskState {
    index.get(&id(name)).unwrap().state
}

fn names(index: &TaskIndex, filter: &TaskFilter) -> Vec<String> {
    index.list(filter, None, 1_000, 1_000).tasks.into_iter().map(|task| task.task_id.to_string()).collect()
}

fn last_minute(index: &TaskIndex) -> Activity {
    index.activity(60_000, 60_000)
}

/// All orders of some things.
fn orders<T: Clone>(things: &[T]) -> Vec<Vec<T>> {
    if things.is_empty() {
        return vec![Vec::new()];
    }
    let mut orders_of_all = Vec::new();
    for first in 0..things.len() {
        let mut rest = things.to_vec();
        let chosen = rest.remove(first);
        orders_of_all.extend(orders(&rest).into_iter().map(|order| [vec![chosen.clone()], order].concat()));
    }
    orders_of_all
}

#[test]
fn a_task_ends_up_the_same_in_whatever_order_and_how_often_its_steps_are_told() {
    let steps =
        [submitted("t", 3, 100), began("t", 1, 200), retrying("t", 1, 300), began("t", 2, 1_400), ended("t", 2, Outcome::Succeeded, 1_500)];
    let right = index_of(&steps).get(&id("t")).unwrap();
    assert_eq!((right.state, right.attempt, right.began_ms, right.ended_ms), (TaskState::Succeeded, 2, Some(1_400), Some(1_500)));
    assert_eq!((right.priority, right.published_ms, right.first_seen_ms, right.error.is_none()), (Some(3), Some(100), 100, true));
    for order in orders(&steps) {
        let index = index_of(&[order.clone(), order.clone()].concat());
        assert_eq!(index.get(&id("t")).unwrap(), right, "{order:?}");
        assert_eq!(index.log(&id("t")).unwrap().steps, steps, "{order:?}");
        let activity = last_minute(&index);
        assert_eq!((activity.arrived, activity.began, activity.retried, activity.succeeded), (1, 2, 1, 1));
        assert_eq!(activity.kinds[&"echo".parse::<Kind>().unwrap()].run.count, 2);
    }
}

#[test]
fn later_attempts_win_over_what_clocks_say() {
    let index = index_of(&[began("t", 1, 1_000), retrying("t", 1, 1_200), began("t", 2, 1_100)]);
    assert_eq!(state(&index, "t"), TaskState::Running);
    let forwarded = TaskStep { gpu_id: Some("b".parse().unwrap()), ..step("t", StepName::Forwarded, 1_050) };
    let index = index_of(&[began("t", 1, 1_000), forwarded.clone()]);
    assert_eq!(state(&index, "t"), TaskState::Running, "who forwarded it has a clock that is ahead");
    let index = index_of(&[forwarded, began("t", 1, 1_000)]);
    assert_eq!(state(&index, "t"), TaskState::Running);
}

#[test]
fn a_task_whose_first_step_is_its_begin_is_known_from_then_on() {
    let index = index_of(&[began("t", 1, 500)]);
    let task = index.get(&id("t")).unwrap();
    assert_eq!((task.state, task.first_seen_ms, task.published_ms, task.waited_ms), (TaskState::Running, 500, None, Some(5.0)));
    assert_eq!((last_minute(&index).arrived, index.get(&id("u"))), (1, None));
}

#[test]
fn a_worker_that_died_leaves_a_task_that_waits_and_runs_again() {
    let crashed = TaskStep { attempt: Some(1), ..step("t", StepName::Crashed, 9_000) };
    let mut index = index_of(&[began("t", 1, 500), crashed]);
    assert_eq!(state(&index, "t"), TaskState::Retrying);
    index.apply(&began("t", 1, 9_500));
    assert_eq!((state(&index, "t"), index.get(&id("t")).unwrap().began_ms), (TaskState::Running, Some(9_500)));
    // No step tells that its worker died; that it waits does.
    index.apply(&step("t", StepName::Waits, 60_000));
    assert_eq!(state(&index, "t"), TaskState::Waiting);
}

#[test]
fn an_end_stays_but_for_a_requeue_and_a_later_submit() {
    let end = [submitted("t", 3, 100), began("t", 1, 200), ended("t", 1, Outcome::Failed, 300), step("t", StepName::Buried, 301)];
    let mut index = index_of(&end);
    for late in [began("t", 1, 9_000), retrying("t", 1, 9_000), step("t", StepName::Waits, 9_000), ended("t", 1, Outcome::Succeeded, 9_000)]
    {
        index.apply(&late);
        assert_eq!(state(&index, "t"), TaskState::Failed, "{late:?}");
    }
    assert!(index.get(&id("t")).unwrap().dead);
    index.apply(&step("t", StepName::Requeued, 10_000));
    let task = index.get(&id("t")).unwrap();
    assert_eq!((task.state, task.attempt, task.dead, task.outcome), (TaskState::Waiting, 0, false, None));
    index.apply(&ended("t", 1, Outcome::Failed, 250));
    assert_eq!(state(&index, "t"), TaskState::Waiting, "that was its earlier life");
    index.apply(&began("t", 1, 10_100));
    assert_eq!((state(&index, "t"), last_minute(&index).arrived), (TaskState::Running, 2));
    index.apply(&ended("t", 1, Outcome::Succeeded, 10_200));
    index.apply(&submitted("t", 3, 20_000));
    assert_eq!(state(&index, "t"), TaskState::Waiting);
}

#[test]
fn the_submit_of_a_short_task_that_comes_after_its_end_by_a_clock_that_is_ahead_begins_no_life() {
    let index = index_of(&[began("t", 1, 1_000), ended("t", 1, Outcome::Succeeded, 1_010), submitted("t", 1, 1_500)]);
    assert_eq!((state(&index, "t"), last_minute(&index).arrived), (TaskState::Succeeded, 1));
}

#[test]
fn a_requeue_that_is_told_late_leaves_what_came_after_it() {
    let steps = [began("t", 1, 100), ended("t", 1, Outcome::Failed, 200), step("t", StepName::Requeued, 5_000), began("t", 1, 5_100)];
    for order in orders(&steps) {
        assert_eq!(state(&index_of(&order), "t"), TaskState::Running, "{order:?}");
    }
}

#[test]
fn a_delayed_task_waits_once_its_time_has_come() {
    let delayed = TaskStep { not_before_ms: Some(5_000), ..submitted("t", 0, 100) };
    let mut index = index_of(&[delayed]);
    index.forget_old(4_999);
    assert_eq!(state(&index, "t"), TaskState::Delayed);
    index.forget_old(5_000);
    assert_eq!((state(&index, "t"), index.activity(6_000, 60_000).priorities[0].oldest_ms), (TaskState::Waiting, 1_000));
}

#[test]
fn ended_tasks_are_forgotten_first_and_those_that_changed_longest_ago_before_others() {
    let mut index = bounded(
        3,
        &[submitted("old", 0, 1), submitted("a", 0, 2), ended("a", 1, Outcome::Succeeded, 3), ended("b", 1, Outcome::Failed, 4)],
    );
    index.apply(&submitted("c", 0, 5));
    assert_eq!(names(&index, &TaskFilter::default()), ["c", "b", "old"]);
    index.apply(&submitted("d", 0, 6));
    index.apply(&submitted("e", 0, 7));
    assert_eq!((names(&index, &TaskFilter::default()), index.len()), (vec!["e".to_owned(), "d".to_owned(), "c".to_owned()], 3));
    index.forget_old(1_000_006);
    assert_eq!(names(&index, &TaskFilter::default()), ["e", "d"]);
    index.forget_old(2_000_000);
    assert!(index.is_empty() && index.log(&id("e")).is_none());
}

#[test]
fn pages_follow_each_other_while_tasks_come_and_go() {
    let mut index = TaskIndex::new(IndexBounds { tasks_max: 1_000, age_max_ms: u64::MAX });
    (0..10).for_each(|number| index.apply(&submitted(&format!("t{number}"), 0, 100 + number / 3)));
    let page = index.list(&TaskFilter::default(), None, 4, 1_000);
    assert_eq!((page.tasks.len(), page.matching, page.indexed, page.since_ms), (4, 10, 10, Some(100)));
    let last = page.tasks[3].task_id.clone();
    assert_eq!(last, id("t6"));
    index.apply(&ended("t6", 1, Outcome::Succeeded, 500));
    index.apply(&submitted("new", 0, 600));
    let rest = index.list(&TaskFilter::default(), page.next.as_deref(), 100, 1_000);
    let seen: Vec<String> = rest.tasks.iter().map(|task| task.task_id.to_string()).collect();
    assert_eq!((seen, rest.next), (["t5", "t4", "t3", "t2", "t1", "t0"].map(str::to_owned).to_vec(), None));
    assert_eq!(index.list(&TaskFilter::default(), Some("nonsense"), 1, 1_000).tasks[0].task_id, id("new"));
}

#[test]
fn each_field_of_a_filter_keeps_tasks_out() {
    let other = TaskStep {
        kind: Some("other".parse().unwrap()),
        group: Some("g".parse().unwrap()),
        error: Some(TaskError::new(protocol::ErrorCode::OutOfMemory, "No Memory left".to_owned())),
        gpu_id: Some(GpuId::new("gpu-7").unwrap()),
        priority: Some(9),
        ..ended("b-2", 1, Outcome::Failed, 900)
    };
    let index = index_of(&[
        submitted("a-1", 1, 100),
        other,
        TaskStep { kind: None, ..step("b-2", StepName::Buried, 901) },
        submitted("a-1{0..2}", 1, 950),
    ]);
    let with = |change: &dyn Fn(&mut TaskFilter)| {
        let mut filter = TaskFilter::default();
        change(&mut filter);
        let page = index.list(&filter, None, 10, 1_000);
        assert_eq!(page.matching, page.tasks.len() as u64);
        names(&index, &filter)
    };
    assert_eq!(with(&|_| {}), ["b-2", "a-1"]);
    assert_eq!(with(&|filter| filter.slices = true), ["a-1{0..2}", "b-2", "a-1"]);
    assert_eq!(with(&|filter| filter.state = vec![TaskState::Waiting]), ["a-1"]);
    assert_eq!(with(&|filter| filter.kind = vec!["other".parse().unwrap()]), ["b-2"]);
    assert_eq!(with(&|filter| filter.priority = vec![1, 2]), ["a-1"]);
    assert_eq!(with(&|filter| filter.group = Some("g".parse().unwrap())), ["b-2"]);
    assert_eq!(with(&|filter| filter.gpu_id = Some("gpu-7".parse().unwrap())), ["b-2"]);
    assert_eq!(with(&|filter| filter.id_prefix = Some("a-".to_owned())), ["a-1"]);
    assert_eq!(with(&|filter| filter.error = Some("no memory".to_owned())), ["b-2"]);
    assert_eq!(with(&|filter| filter.error = Some("OUT_OF".to_owned())), ["b-2"]);
    assert_eq!(with(&|filter| filter.older_than_ms = Some(101)), ["a-1"]);
    assert_eq!(with(&|filter| filter.newer_than_ms = Some(100)), ["b-2"]);
    assert_eq!(with(&|filter| filter.dead = Some(true)), ["b-2"]);
    assert_eq!(with(&|filter| filter.dead = Some(false)), ["a-1"]);
}

#[test]
fn a_task_keeps_its_first_and_last_steps_and_counts_the_others() {
    let steps: Vec<TaskStep> = (1..=100).map(|attempt| began("t", attempt, u64::from(attempt))).collect();
    let log = index_of(&steps).log(&id("t")).unwrap();
    let kept: Vec<u64> = log.steps.iter().map(|step| step.at_ms).collect();
    assert_eq!((kept.len(), log.forgotten), (40, 60));
    assert_eq!((&kept[..8], kept[8]), (&[1, 2, 3, 4, 5, 6, 7, 8][..], 69));
}

#[test]
fn the_log_of_a_batch_has_the_steps_of_its_slices() {
    let index = index_of(&[
        submitted("b", 0, 1),
        submitted("b1", 0, 2),
        step("b", StepName::Split, 3),
        began("b{0..10}", 1, 4),
        began("b{10..20}", 1, 5),
        ended("b{0..10}", 1, Outcome::Succeeded, 6),
    ]);
    let log: Vec<u64> = index.log(&id("b")).unwrap().steps.iter().map(|step| step.at_ms).collect();
    assert_eq!((log, index.log(&id("b{0..10}")).unwrap().steps.len()), (vec![1, 3, 4, 5, 6], 2));
    // The batch holds no slot: its slices do.
    assert_eq!((last_minute(&index).kinds[&"echo".parse::<Kind>().unwrap()].running, state(&index, "b")), (1, TaskState::Running));
}

#[test]
fn those_ahead_are_of_higher_priority_or_older() {
    let mut steps: Vec<TaskStep> = (0..20).map(|number| submitted(&format!("t{number}"), 5, 100 + number)).collect();
    steps.extend([submitted("high", 9, 900), submitted("low", 1, 1), step("unknown", StepName::Submitted, 1), began("t3", 1, 950)]);
    steps.push(TaskStep { reason: Some("unserved: nobody runs it".to_owned()), ..step("t4", StepName::Waits, 960) });
    let other_pool = TaskStep { pool: "other".parse().unwrap(), ..submitted("away", 9, 1) };
    let index = index_of(&[steps, vec![other_pool]].concat());
    let ahead = |name: &str| index.ahead_of(&id(name), 3);
    assert_eq!(ahead("t6"), Some((5, vec![id("high"), id("t0"), id("t1")])));
    assert_eq!((ahead("high"), ahead("t3"), ahead("nobody")), (Some((0, Vec::new())), None, None));
    assert_eq!((ahead("low").unwrap().0, ahead("unknown").unwrap().0), (19, 20));
}

#[test]
fn an_activity_tells_of_its_window_by_kind_priority_and_gpu() {
    let mut index = index_of(&[]);
    for number in 0..100_u64 {
        let (name, at_ms) = (format!("t{number}"), 10_000 + number);
        index.apply(&submitted(&name, 2, at_ms));
        index.apply(&TaskStep { waited_ms: Some(number as f64), ..began(&name, 1, at_ms + 100) });
        let outcome = if number < 10 { Outcome::Failed } else { Outcome::Succeeded };
        let run = TaskStep {
            run_ms: Some(200.0),
            load_ms: Some(50.0),
            gpu_id: Some("gpu".parse().unwrap()),
            ..ended(&name, 1, outcome, at_ms + 300)
        };
        index.apply(&run);
    }
    index.apply(&submitted("waits", 7, 11_000));
    let echo: Kind = "echo".parse().unwrap();
    let activity = index.activity(20_000, 15_000);
    let kind = &activity.kinds[&echo];
    assert_eq!((activity.arrived, activity.began, activity.succeeded, activity.failed), (101, 100, 90, 10));
    assert_eq!((kind.began, kind.ended, kind.failed, kind.waiting, kind.wait.count), (100, 100, 10, 1, 100));
    assert_eq!((kind.slot_ms, kind.load_ms, kind.learnt_run_ms), (20_000.0, 5_000.0, 200.0));
    assert!((kind.wait.p95_ms / 94.0 - 1.0).abs() < 0.05 && (kind.run.p50_ms / 200.0 - 1.0).abs() < 0.05, "{kind:?}");
    let (two, seven) = (&activity.priorities[2], &activity.priorities[7]);
    assert_eq!((two.arrived, two.began, two.longest_wait_ms, two.oldest_ms), (100, 100, 99.0, 0));
    assert_eq!((seven.waiting[&echo], seven.oldest_ms), (1, 9_000));
    let gpu = &activity.gpus[&GpuId::new("gpu").unwrap()];
    assert_eq!((gpu.began, gpu.ended, gpu.failed, gpu.slot_ms, gpu.load_ms), (100, 100, 10, 20_000.0, 5_000.0));
    let later = index.activity(40_000, 15_000);
    assert_eq!((later.arrived, later.kinds[&echo].run.count, later.kinds[&echo].learnt_run_ms), (0, 0, 200.0));
}

#[test]
fn waiting_tasks_are_counted_by_the_memory_and_by_the_gpu_that_they_need() {
    let mut index = index_of(&[submitted("plain", 3, 100)]);
    let gpu = GpuId::new("gpu").unwrap();
    for name in ["large", "larger"] {
        let needs = Some(protocol::Needs { memory_mb: Some(30_000), ..Default::default() });
        index.apply(&TaskStep { needs, specific_gpu_id: Some(gpu.clone()), ..submitted(name, 3, 100) });
    }
    let activity = last_minute(&index);
    assert_eq!(activity.waiting_memory, [(("echo".parse().unwrap(), 30_000), 2)].into());
    assert_eq!(activity.waiting_for_gpu, [(gpu, 2)].into());
    index.apply(&began("large", 1, 200));
    assert_eq!(last_minute(&index).waiting_memory.values().sum::<u64>(), 1);
}

#[test]
fn what_is_usual_follows_a_change_much_later_than_what_was_learnt_last() {
    let mut index = index_of(&[]);
    for number in 0..400_u64 {
        let (name, at_ms) = (format!("t{number}"), number * 100);
        let run_ms = Some(if number < 200 { 100.0 } else { 1_000.0 });
        index.apply(&TaskStep { run_ms, ..ended(&name, 1, Outcome::Succeeded, at_ms) });
    }
    let kind = last_minute(&index).kinds[&"echo".parse::<Kind>().unwrap()];
    assert!(kind.learnt_run_ms > 900.0 && kind.usual_run_ms < 120.0, "{kind:?}");
}

#[test]
fn a_wait_that_no_gpu_can_end_counts_as_unserved_until_it_ends() {
    let mut index = index_of(&[TaskStep { reason: Some("unserved: no GPU runs echo".to_owned()), ..step("t", StepName::Waits, 100) }]);
    assert_eq!(last_minute(&index).unserved, 1);
    index.apply(&began("t", 1, 200));
    assert_eq!(last_minute(&index).unserved, 0);
}

#[test]
fn clocks_far_ahead_push_nothing_out() {
    let mut index = index_of(&[submitted("t", 0, 30_000)]);
    for number in 0..1_000 {
        index.apply(&submitted(&format!("future{number}"), 0, 90_000_000 + number * 5_000));
        index.forget_old(31_000);
    }
    assert_eq!(index.activity(31_000, 15_000).arrived, 1);
}

#[test]
fn every_change_and_only_a_change_raises_the_revision() {
    let mut index = index_of(&[submitted("t", 0, 1)]);
    let before = index.revision();
    index.apply(&submitted("t", 0, 1));
    assert_eq!(index.revision(), before);
    index.apply(&began("t", 1, 2));
    assert!(index.revision() > before);
}

#[test]
fn what_is_to_be_cancelled_leaves_out_those_whose_end_was_asked_for() {
    let mut steps: Vec<TaskStep> = (1..=5).map(|number| submitted(&format!("t-{number}"), 4, number)).collect();
    steps.push(step("t-5", StepName::CancelAsked, 9));
    let index = index_of(&steps);
    let waiting = TaskFilter { state: vec![TaskState::Waiting], ..TaskFilter::default() };
    let (first, matching) = index.to_cancel(&waiting, 2, 1_000, |task_id| *task_id == id("t-3"));
    assert_eq!((first, matching), (vec![id("t-4"), id("t-2")], 3));
    let running = TaskFilter { state: vec![TaskState::Running], ..TaskFilter::default() };
    assert_eq!(index.to_cancel(&running, 2, 1_000, |_| false), (Vec::new(), 0));
}

#[test]
fn thousands_of_kinds_that_somebody_makes_up_are_counted_and_not_told_apart() {
    let made_up =
        |number: u64| TaskStep { kind: Some(format!("made-up-{number}").parse().unwrap()), ..submitted(&format!("m-{number}"), 4, 1_000) };
    let mut steps: Vec<TaskStep> = (0..2_000).map(made_up).collect();
    steps.extend((0..3).map(|number| submitted(&format!("t-{number}"), 4, 1_000)));
    let activity = last_minute(&bounded(10_000, &steps));
    let priority = &activity.priorities[4];
    assert_eq!((priority.waiting_tasks(), activity.arrived), (2_003, 2_003));
    assert_eq!(priority.waiting[&"echo".parse::<Kind>().unwrap()], 3, "those that most tasks wait of are told");
    assert!(priority.waiting.len() <= 256 && activity.kinds.len() <= 256, "{} and {}", priority.waiting.len(), activity.kinds.len());
}

#[test]
fn a_waiting_task_whose_end_was_asked_for_is_cancelled_before_its_turn_and_a_running_one_is_not() {
    let asked = |name: &str| step(name, StepName::CancelAsked, 1_002);
    let mut index =
        index_of(&[submitted("waits", 0, 1_000), asked("waits"), submitted("runs", 0, 1_000), began("runs", 1, 1_001), asked("runs")]);
    assert_eq!((state(&index, "waits"), state(&index, "runs")), (TaskState::Cancelled, TaskState::Running));
    assert_eq!(index.get(&id("waits")).unwrap().ended_ms, None, "its reply goes out when its turn comes");
    index.apply(&ended("waits", 0, Outcome::Cancelled, 2_000));
    assert_eq!(index.get(&id("waits")).unwrap().ended_ms, Some(2_000));
}
