//! A store of either back end, the hand on its clock, and requests to ask it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use protocol::{BodyHash, DeliveryId, GpuId, Kind, Outcome, Reply, TaskId, TaskState, Token, config::SecretUrl, environment::Clock};
use task_store::{
    BeginRequest, JournalBounds, LookRequest, MemoryStore, RecordRequest, RedisStore, StoreOptions, Stored, TaskStore, Totals,
};
use tests::redis::PrivateRedis;

use super::named::NamedTokens;

pub const REPLY_RETENTION: Duration = Duration::from_secs(600);
pub const OUTCOME_RETENTION: Duration = Duration::from_secs(86_400);
pub const OPTIONS: StoreOptions = StoreOptions {
    reply_retention: REPLY_RETENTION,
    outcome_retention: OUTCOME_RETENTION,
    reply_bytes_max: 1 << 20,
    group_members_max: 100,
    groups_max: 10,
    journal: JournalBounds { steps_max: 1_000, age_max: Duration::from_secs(7_200), actions_max: 5 },
};

/// A store, the hand on its clock, and what only its back end tells.
pub struct Subject {
    pub store: Arc<dyn TaskStore>,
    behind: Behind,
}

/// The store itself.
enum Behind {
    Memory(Arc<MemoryStore>, Arc<SimulatedClock>),
    /// The store, and what its keys begin with.
    Redis(Arc<RedisStore>, String),
}

struct SimulatedClock(AtomicU64);

impl Clock for SimulatedClock {
    fn now_us(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Subject {
    pub fn pass(&self, duration: Duration) {
        match &self.behind {
            Behind::Memory(_, clock) => _ = clock.0.fetch_add(duration.as_micros() as u64, Relaxed),
            Behind::Redis(store, _) => store.move_time(duration),
        }
    }

    /// Makes the store forget everything, as a server does that loses its data.
    pub async fn empty(&self) {
        match &self.behind {
            Behind::Memory(store, _) => store.clear(),
            Behind::Redis(_, prefix) => PrivateRedis::shared().await.delete(&format!("{prefix}:*")).await,
        }
    }

    /// The store's clock, in Unix seconds.
    pub async fn now_s(&self) -> u64 {
        let probe = TaskId::new("what-time-is-it").expect("a valid id");
        self.store.waits_for(&probe, &kind(), "the time").await.expect("the store answers");
        self.store.status(&probe).await.expect("the store answers").expect("just written").changed_ms / 1_000
    }

    /// What the store has counted and holds.
    pub async fn totals(&self) -> Totals {
        match &self.behind {
            Behind::Memory(store, _) => store.totals(),
            Behind::Redis(store, _) => store.totals().await.expect("an answer"),
        }
    }
}

#[derive(Clone, Copy)]
pub enum BackEnd {
    Memory,
    Redis,
}

impl BackEnd {
    pub async fn start(self) -> Subject {
        self.start_with(OPTIONS).await
    }

    pub async fn start_with(self, options: StoreOptions) -> Subject {
        match self {
            Self::Memory => {
                let clock = Arc::new(SimulatedClock(AtomicU64::new(1_700_000_000_000_000)));
                let store = Arc::new(MemoryStore::new(clock.clone(), options));
                Subject { store: Arc::new(NamedTokens::new(store.clone())), behind: Behind::Memory(store, clock) }
            }
            Self::Redis => {
                let prefix = PrivateRedis::fresh_prefix();
                let store = Arc::new(redis_store(&prefix, options).await);
                Subject { store: Arc::new(NamedTokens::new(store.clone())), behind: Behind::Redis(store, prefix) }
            }
        }
    }
}

pub async fn redis_url() -> SecretUrl {
    PrivateRedis::shared().await.url()
}

pub async fn redis_store(prefix: &str, options: StoreOptions) -> RedisStore {
    RedisStore::connect(&redis_url().await, prefix, options, Duration::from_secs(10)).await.expect("the private Redis answers")
}

pub fn task() -> TaskId {
    TaskId::new("order-17").expect("a valid id")
}

pub fn kind() -> Kind {
    Kind::new("echo").expect("a valid kind")
}

pub fn body_hash() -> BodyHash {
    BodyHash::of(b"the body")
}

/// A look for an attempt, of which is not known when it was published.
pub fn looking(attempt: u32) -> LookRequest {
    LookRequest { task_id: task(), body_hash: body_hash(), attempt, published_s: None }
}

/// An attempt that begins for the delivery of this number, which names its token.
pub fn attempt(attempt: u32, token: u64) -> BeginRequest {
    BeginRequest {
        task_id: task(),
        body_hash: body_hash(),
        kind: kind(),
        attempt,
        gpu_id: GpuId::new(format!("GPU-{token}")).expect("a valid id"),
        incarnation: "incarnation".parse().expect("a valid id"),
        delivery: DeliveryId(token),
        alone: false,
        verdict: None,
        crashes_max: 3,
        published_s: None,
    }
}

/// An attempt by another incarnation for every token.
pub fn attempt_by_another(number: u32, token: u64) -> BeginRequest {
    BeginRequest { incarnation: format!("incarnation-{token}").parse().expect("a valid id"), ..attempt(number, token) }
}

/// A reply of `outcome` that says `word`.
pub fn reply(outcome: Outcome, word: &str) -> Reply {
    Reply { kind: Some(kind()), result: protocol::Json::of(word), ..Reply::ended(task(), outcome, 1) }
}

pub fn outcome(outcome: Outcome, attempt: u32, token: Option<u64>, word: &str) -> RecordRequest {
    RecordRequest {
        task_id: task(),
        body_hash: body_hash(),
        kind: Some(kind()),
        outcome,
        attempt,
        token: token.map(Token),
        reply: serde_json::to_vec(&reply(outcome, word)).expect("a reply is JSON").into(),
    }
}

pub fn success(attempt: u32, token: u64) -> RecordRequest {
    outcome(Outcome::Succeeded, attempt, Some(token), "done")
}

pub fn stored(request: &RecordRequest) -> Stored {
    Stored {
        outcome: request.outcome,
        body: Some(request.reply.clone()),
        attempt: request.attempt,
        token: request.token,
        published_to: None,
    }
}

pub async fn state_of(subject: &Subject) -> Option<TaskState> {
    subject.store.status(&task()).await.expect("the store answers").map(|status| status.state)
}
