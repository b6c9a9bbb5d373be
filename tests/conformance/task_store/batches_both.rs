//! Both back ends side by side: random operations on a batch and its slices get the same answers from memory and from Redis.

use protocol::{ItemCounts, Progress, Slice, TaskStatus};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use task_store::{Crash, Fence, FenceRequest, ProgressAnswer, ProgressRequest, SliceRecord, SliceRecordRequest, SplitAnswer, SplitRequest};

use super::{slices::*, *};

const SEQUENCES: u64 = 30;
const STEPS: usize = 50;
/// Slices of two cuts of one batch.
const SLICES: [&str; 4] = ["0..4", "4..8", "4..6", "6..8"];

/// One operation, made once and asked of both.
#[derive(Debug, Clone)]
enum Step {
    Split(SplitRequest),
    Look(LookRequest),
    Begin(BeginRequest),
    Fence(FenceRequest),
    Progress(ProgressRequest),
    Retry(RetryRequest),
    HandBack(TaskId, Token),
    RecordSlice(SliceRecordRequest),
    Record(RecordRequest),
    Cancel(TaskId),
    CancelAsked(TaskId),
    Results(u32, usize),
    Wait(TaskId),
    Reopen,
    Pass(Duration),
}

/// One answer of any operation, without times: the clocks of the two back ends differ.
#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    Split(SplitAnswer),
    Looked(Look),
    Began(Begin),
    Fenced(Fence),
    Progressed(ProgressAnswer),
    Retried(RetryAnswer),
    RecordedSlice(SliceRecord),
    Recorded(Record),
    Cancelled(Cancel),
    Asked(bool),
    Results(Vec<(Slice, Bytes)>),
    Reopened(Reopen),
    Statuses(Vec<Option<TaskStatus>>),
}

/// A slice, an attempt, and a token that no other slice is given.
fn some_slice(random: &mut ChaCha8Rng) -> (&'static str, u32, u64) {
    let index = random.random_range(0..SLICES.len());
    (SLICES[index], random.random_range(1..3), 10 * (index as u64 + 1) + random.random_range(1..4))
}

fn step(random: &mut ChaCha8Rng) -> Step {
    let (text, number, token) = some_slice(random);
    match random.random_range(0..33) {
        0..=2 => Step::Split(splitting([&[4, 4][..], &[4, 2, 2]][random.random_range(0..2)])),
        3..=4 => Step::Look(slice_looking(text, number)),
        5 => Step::Look(looking(1)),
        6..=12 => Step::Begin(begin(random, slice_attempt(text, number, token))),
        13 => Step::Begin(attempt_by_another(1, 5)),
        14 => Step::Fence(FenceRequest { verdict: verdict(random, token), ..slice_fence(text) }),
        15..=17 => {
            let items = ItemCounts { of: 4, done: random.random_range(0..6), failed: random.random_bool(0.5).then_some(1) };
            let items = random.random_bool(0.8).then_some(items);
            Step::Progress(ProgressRequest { items, ..slice_progress(text, token, 1) })
        }
        18..=19 => Step::Retry(slice_failed(text, number, token)),
        20 => Step::HandBack(slice_id(text), Token(token)),
        21..=24 => {
            let token = random.random_bool(0.8).then_some(token);
            Step::RecordSlice(SliceRecordRequest { items_failed: random.random_range(0..6), ..slice_end(text, number, token, "results") })
        }
        25 => Step::Record(merged()),
        26 => Step::Cancel(if random.random_bool(0.5) { task() } else { slice_id(text) }),
        27..=28 => Step::CancelAsked(slice_id(text)),
        29 => Step::Results(random.random_range(0..9), random.random_range(0..20)),
        30 => Step::Reopen,
        31 => Step::Wait(slice_id(text)),
        _ => Step::Pass([REPLY_RETENTION, OUTCOME_RETENTION * 3 / 4][random.random_range(0..2)]),
    }
}

/// What became of another holder of the same slice, perhaps.
fn verdict(random: &mut ChaCha8Rng, token: u64) -> Option<Verdict> {
    let former = token / 10 * 10 + random.random_range(1..4);
    random.random_bool(0.7).then_some(Verdict { token: Token(former), gone: random.random_bool(0.6) })
}

fn begin(random: &mut ChaCha8Rng, request: BeginRequest) -> BeginRequest {
    let verdict = verdict(random, request.delivery.0);
    BeginRequest { verdict, alone: random.random_bool(0.6), crashes_max: 3, ..request }
}

async fn take(subject: &Subject, step: &Step) -> Answer {
    let store = &subject.store;
    // Slices that begin at one moment may get the same token.
    subject.pass(Duration::from_millis(1));
    match step {
        Step::Split(request) => Answer::Split(store.split(request).await.expect("an answer")),
        Step::Look(request) => Answer::Looked(store.look(request).await.expect("an answer")),
        Step::Begin(request) => Answer::Began(timeless(store.begin(request).await.expect("an answer"))),
        Step::Fence(request) => Answer::Fenced(store.fence(request).await.expect("an answer")),
        Step::Progress(request) => Answer::Progressed(store.progress(request).await.expect("an answer")),
        Step::Retry(request) => Answer::Retried(store.retry(request).await.expect("an answer")),
        Step::RecordSlice(request) => Answer::RecordedSlice(store.record_slice(request).await.expect("an answer")),
        Step::Record(request) => Answer::Recorded(store.record(request).await.expect("an answer")),
        Step::Cancel(task_id) => Answer::Cancelled(store.cancel(task_id, Reach::Published).await.expect("an answer")),
        Step::CancelAsked(task_id) => Answer::Asked(store.cancel_asked(task_id).await.expect("an answer")),
        Step::Results(from, bytes_max) => Answer::Results(store.slice_results(&task(), *from, *bytes_max).await.expect("an answer")),
        Step::Reopen => Answer::Reopened(store.reopen(&task(), &body_hash()).await.expect("an answer")),
        Step::HandBack(task_id, token) => {
            store.hand_back(task_id, *token).await.expect("an answer");
            Answer::Done
        }
        Step::Wait(task_id) => {
            store.waits_for(task_id, &kind(), "a GPU").await.expect("an answer");
            Answer::Done
        }
        Step::Pass(duration) => {
            subject.pass(*duration);
            Answer::Done
        }
    }
}

/// The answer without the times at which crashes were found.
fn timeless(answer: Begin) -> Begin {
    match answer {
        Begin::Condemned(crashes) => Begin::Condemned(crashes.into_iter().map(|crash| Crash { found_ms: 0, ..crash }).collect()),
        answer => answer,
    }
}

/// The statuses of the batch and of every slice.
async fn statuses(subject: &Subject) -> Answer {
    let ids = [task()].into_iter().chain(SLICES.map(slice_id));
    let mut statuses = Vec::new();
    for task_id in ids {
        let status = subject.store.status(&task_id).await.expect("an answer");
        statuses.push(status.map(|status| {
            let progress = status.progress.clone().map(|progress| Progress { at_ms: 0, ..progress });
            TaskStatus { first_seen_ms: 0, changed_ms: 0, progress, ..status }
        }));
    }
    Answer::Statuses(statuses)
}

#[tokio::test]
async fn memory_and_redis_say_the_same_of_a_batch_whatever_is_asked() {
    for seed in 0..SEQUENCES {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (memory, redis) = (BackEnd::Memory.start().await, BackEnd::Redis.start().await);
        let mut steps = Vec::new();
        for _ in 0..STEPS {
            let next = step(&mut random);
            steps.push(next.clone());
            assert_eq!(take(&memory, &next).await, take(&redis, &next).await, "seed {seed}, after {steps:#?}");
            assert_eq!(statuses(&memory).await, statuses(&redis).await, "seed {seed}, after {steps:#?}");
        }
    }
}
