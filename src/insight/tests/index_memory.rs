//! What an index of 100,000 tasks takes, in a process of its own.

use std::time::Instant;

use insight::{IndexBounds, TaskIndex};
use protocol::{Kind, Outcome, StepName, TaskState, TaskStep, insight::TaskFilter};

const TASKS: u64 = 100_000;

/// The memory of this process, in MB (10^6 bytes).
fn memory_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    kib * 1.024 / 1_000.0
}

/// Submitted, begun and ended: with trace, group and priority; one in twenty fails.
fn steps(number: u64) -> [TaskStep; 3] {
    let at_ms = 1_700_000_000_000 + number * 10;
    let told = |step, at_ms| TaskStep {
        kind: Some(format!("kind-{}", number % 20).parse().expect("valid")),
        priority: Some((number % 10) as u8),
        group: Some(format!("group-{}", number / 100).parse().expect("valid")),
        published_ms: Some(1_700_000_000_000 + number * 10),
        trace_id: Some(format!("{number:032x}")),
        ..TaskStep::new(step, format!("550e8400-e29b-41d4-a716-{number:012}").parse().expect("valid"), Default::default(), at_ms)
    };
    let gpu_id = Some(format!("GPU-00000000-0000-0000-0000-{:012}", number % 64).parse().expect("valid"));
    let has_failed = number.is_multiple_of(20);
    let error = has_failed.then(|| {
        protocol::TaskError::new(protocol::ErrorCode::ExecutorFailed, "a sentence of some length that says what went wrong".to_owned())
    });
    let outcome = Some(if has_failed { Outcome::Failed } else { Outcome::Succeeded });
    [
        told(StepName::Submitted, at_ms),
        TaskStep { gpu_id: gpu_id.clone(), attempt: Some(1), waited_ms: Some(5.25), ..told(StepName::Began, at_ms + 5) },
        TaskStep { gpu_id, attempt: Some(1), run_ms: Some(17.5), outcome, error, ..told(StepName::Ended, at_ms + 23) },
    ]
}

#[test]
fn an_index_of_a_hundred_thousand_tasks_takes_at_most_a_hundred_megabytes() {
    let before_mb = memory_mb();
    let mut index = TaskIndex::new(IndexBounds { tasks_max: TASKS as usize, age_max_ms: u64::MAX });
    let began = Instant::now();
    for number in 0..TASKS + TASKS / 4 {
        steps(number).iter().for_each(|step| index.apply(step));
    }
    let (taken_mb, apply_us) = (memory_mb() - before_mb, began.elapsed().as_micros() as f64 / (3.75 * TASKS as f64));
    println!("{TASKS} tasks of 3 steps: {taken_mb:.1} MB; a step, made and applied: {apply_us:.2} us");
    let now_ms = 1_700_002_000_000;
    for (name, filter) in [
        ("all", TaskFilter::default()),
        ("failed", TaskFilter { state: vec![TaskState::Failed], ..TaskFilter::default() }),
        ("a kind", TaskFilter { kind: vec!["kind-7".parse::<Kind>().unwrap()], ..TaskFilter::default() }),
        ("an error", TaskFilter { error: Some("went WRONG".to_owned()), ..TaskFilter::default() }),
    ] {
        let began = Instant::now();
        let page = index.list(&filter, None, 100, now_ms);
        println!("100 of {} by {name}: {:?}", page.matching, began.elapsed());
        assert_eq!(page.tasks.len(), 100);
    }
    let began = Instant::now();
    let activity = index.activity(now_ms, 60_000);
    println!("activity: {:?}", began.elapsed());
    assert_eq!((index.len() as u64, activity.states.succeeded + activity.states.failed), (TASKS, TASKS));
    assert!(taken_mb <= 100.0, "{taken_mb} MB");
}
