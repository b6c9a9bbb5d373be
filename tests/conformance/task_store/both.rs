//! Both back ends side by side: random operations get the same answers from memory and from Redis.

use protocol::{Progress, TaskStatus, Token};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use task_store::{Crash, ProgressAnswer, ProgressRequest};

use super::*;

const SEQUENCES: u64 = 30;
const STEPS: usize = 40;

/// One answer of any operation, without times: the clocks of the two back ends differ.
#[derive(Debug, PartialEq)]
enum Answer {
    Done,
    Submitted(Submission),
    Looked(Look),
    Cancelled(Cancel),
    Began(Begin),
    Progressed(ProgressAnswer),
    Recorded(Record),
    Status(Option<Box<TaskStatus>>),
}

/// One operation, made once and asked of both.
#[derive(Debug, Clone)]
enum Step {
    Submit(BodyHash),
    Forget,
    Look(BodyHash, When),
    Cancel(Reach),
    Begin(BeginRequest, When),
    Progress(ProgressRequest),
    Record(RecordRequest),
    HandBack(Token),
    Publish,
    Wait,
    Pass(Duration),
}

/// When a message was published. The clocks of the two back ends differ.
#[derive(Debug, Clone, Copy)]
enum When {
    NobodyKnows,
    LongAgo,
    InAMinute,
}

impl When {
    async fn published_s(self, subject: &Subject) -> Option<u64> {
        match self {
            Self::NobodyKnows => None,
            Self::LongAgo => Some(1),
            Self::InAMinute => Some(subject.now_s().await + 60),
        }
    }
}

fn step(random: &mut ChaCha8Rng) -> Step {
    let hash = if random.random_ratio(1, 8) { BodyHash::of(b"another body") } else { body_hash() };
    let (number, token) = (random.random_range(1..4), random.random_range(1..6));
    let when = [When::NobodyKnows, When::LongAgo, When::InAMinute, When::InAMinute][random.random_range(0..4)];
    match random.random_range(0..16) {
        0 => Step::Submit(hash),
        1 => Step::Forget,
        2 => Step::Look(hash, when),
        3..=5 => Step::Begin(begin(random, BeginRequest { body_hash: hash, ..attempt_by_another(number, token) }), when),
        6 => {
            let how = [Outcome::Succeeded, Outcome::Failed, Outcome::Expired][random.random_range(0..3)];
            let token = random.random_bool(0.7).then_some(token);
            Step::Record(RecordRequest { body_hash: hash, ..outcome(how, number, token, "done") })
        }
        7 => Step::Publish,
        8 => Step::Wait,
        9 => Step::HandBack(Token(token)),
        10..=11 => Step::Progress(progress(token, f64::from(number) / 7.0, Some("goes on"))),
        12..=13 => Step::Cancel(if random.random_bool(0.2) { Reach::Ahead } else { Reach::Published }),
        _ => Step::Pass([REPLY_RETENTION, OUTCOME_RETENTION * 3 / 4][random.random_range(0..2)]),
    }
}

/// Some come with a verdict on a former holder, some take the GPU alone.
fn begin(random: &mut ChaCha8Rng, request: BeginRequest) -> BeginRequest {
    let verdict = Verdict { token: Token(random.random_range(1..6)), gone: random.random_bool(0.7) };
    let verdict = random.random_bool(0.6).then_some(verdict);
    BeginRequest { verdict, alone: random.random_bool(0.5), crashes_max: 2, ..request }
}

async fn take(subject: &Subject, step: &Step) -> Answer {
    let store = &subject.store;
    match step {
        Step::Forget => store.forget(&task()).await.expect("an answer"),
        Step::Publish => store.note_published(&task(), "here"),
        Step::HandBack(token) => store.hand_back(&task(), *token).await.expect("an answer"),
        Step::Wait => store.waits_for(&task(), &kind(), "a GPU").await.expect("an answer"),
        Step::Pass(duration) => subject.pass(*duration),
        Step::Submit(hash) => return Answer::Submitted(store.submitted(&task(), &kind(), hash).await.expect("an answer")),
        Step::Look(hash, when) => {
            let request = LookRequest { body_hash: hash.clone(), published_s: when.published_s(subject).await, ..looking(1) };
            return Answer::Looked(store.look(&request).await.expect("an answer"));
        }
        Step::Cancel(reach) => return Answer::Cancelled(store.cancel(&task(), *reach).await.expect("an answer")),
        Step::Begin(request, when) => {
            let request = BeginRequest { published_s: when.published_s(subject).await, ..request.clone() };
            return Answer::Began(timeless(store.begin(&request).await.expect("an answer")));
        }
        Step::Progress(request) => return Answer::Progressed(store.progress(request).await.expect("an answer")),
        Step::Record(request) => return Answer::Recorded(store.record(request).await.expect("an answer")),
    }
    Answer::Done
}

/// The answer without the times at which crashes were found.
fn timeless(answer: Begin) -> Begin {
    match answer {
        Begin::Condemned(crashes) => Begin::Condemned(crashes.into_iter().map(|crash| Crash { found_ms: 0, ..crash }).collect()),
        answer => answer,
    }
}

async fn status(subject: &Subject) -> Answer {
    let status = subject.store.status(&task()).await.expect("an answer");
    let timeless = |progress: Progress| Progress { at_ms: 0, ..progress };
    Answer::Status(status.map(|status| {
        let progress = status.progress.clone().map(timeless);
        Box::new(TaskStatus { first_seen_ms: 0, changed_ms: 0, progress, ..status })
    }))
}

#[tokio::test]
async fn memory_and_redis_answer_alike_whatever_is_asked() {
    for seed in 0..SEQUENCES {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (memory, redis) = (BackEnd::Memory.start().await, BackEnd::Redis.start().await);
        let mut steps = Vec::new();
        for _ in 0..STEPS {
            let next = step(&mut random);
            steps.push(next.clone());
            assert_eq!(take(&memory, &next).await, take(&redis, &next).await, "seed {seed}, after {steps:#?}");
            assert_eq!(status(&memory).await, status(&redis).await, "seed {seed}, after {steps:#?}");
        }
    }
}
