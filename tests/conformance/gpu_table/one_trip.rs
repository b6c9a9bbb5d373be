//! A claim and the beginning of the task's attempt in one trip, where table and store are one server.

use std::time::Duration;

use gpu_table::{GpuTable, RedisTable};
use protocol::{BodyHash, ClaimAnswer, DeliveryId, Slice, config::SecretUrl};
use task_store::{Begin, BeginRequest, Look, LookRequest, Reach, RedisStore, SliceState, SplitRequest, StoreOptions, TaskStore};
use tests::redis::{Persistence, PrivateRedis};

use super::world::{LEASES, ask, gpu_id, heartbeat, incarnation, is_own, pool, row, task_id};

const LIMIT: Duration = Duration::from_secs(30);

struct Servers {
    table: RedisTable,
    store: RedisStore,
    redis: PrivateRedis,
}

/// A table in the server's first database and a store in the given one, and the GPUs `a` and `b`.
async fn servers(persistence: Persistence, database: u8) -> Servers {
    let redis = PrivateRedis::start(persistence).await;
    let url = redis.url();
    let store_url = SecretUrl::new(url.reveal().replace("/0", &format!("/{database}")));
    let table = RedisTable::connect(&url, "one-trip", LEASES, LIMIT).expect("a valid URL");
    let store = RedisStore::connect(&store_url, "one-trip", StoreOptions::default(), LIMIT).await.expect("it answers");
    for name in ["a", "b"] {
        table.heartbeat(&heartbeat(row(name))).await.expect("a heartbeat");
    }
    Servers { table, store, redis }
}

fn body_hash() -> BodyHash {
    BodyHash::of(b"{}")
}

fn beginning(task: &str, worker: &str) -> BeginRequest {
    BeginRequest {
        task_id: task_id(task),
        body_hash: body_hash(),
        kind: "echo".parse().expect("a kind"),
        attempt: 1,
        gpu_id: gpu_id(worker),
        incarnation: incarnation(worker),
        delivery: DeliveryId(7),
        alone: false,
        verdict: None,
        crashes_max: 3,
        published_s: None,
    }
}

impl Servers {
    /// `worker` claims for a task and takes its beginning along.
    async fn claim_and_begin(&self, task: &str, worker: &str) -> (ClaimAnswer, Option<Begin>) {
        let rider = self.store.begin_rider(&beginning(task, worker)).expect("a store on Redis can ride along");
        let (answer, ridden) = self.table.claim_with(&ask(task, worker), Some(&rider)).await.expect("an answer");
        let begun = match ridden {
            Some(ridden) => Some(self.store.begin_ridden(&task_id(task), ridden).await.expect("an answer")),
            None => None,
        };
        (answer, begun)
    }

    async fn look(&self, task: &str) -> Look {
        let request = LookRequest { task_id: task_id(task), body_hash: body_hash(), attempt: 1, published_s: None };
        self.store.look(&request).await.expect("an answer")
    }

    /// How many scripts the server has run.
    async fn calls(&self) -> u64 {
        let about: String =
            redis::cmd("INFO").arg("commandstats").query_async(&mut self.redis.connection().await).await.expect("an answer");
        let line = about.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")).expect("scripts have run");
        line.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number")
    }
}

#[tokio::test]
async fn who_gets_the_slot_begins_in_the_same_trip_and_again_under_the_same_token() {
    let servers = servers(Persistence::Nothing, 0).await;
    // The first call of a script may take two.
    servers.claim_and_begin("first", "a").await;
    let before = servers.calls().await;
    let (answer, begun) = servers.claim_and_begin("t", "b").await;
    assert_eq!(servers.calls().await, before + 1);
    assert!(is_own(&answer), "{answer:?}");
    let Some(Begin::Begun(token)) = begun else { panic!("{begun:?}") };
    assert!(matches!(servers.look("t").await, Look::Unfinished(holder) if holder.token == token));
    assert_eq!(servers.claim_and_begin("t", "b").await.1, Some(Begin::Begun(token)), "the answer may have got lost");
    let held: u32 = servers.table.rows(&pool()).await.expect("rows").iter().map(|view| view.held).sum();
    assert_eq!(held, 2);
}

#[tokio::test]
async fn a_task_whose_slot_is_another_gpus_does_not_begin() {
    let servers = servers(Persistence::Nothing, 0).await;
    let claim = protocol::ClaimRequest { specific_gpu_id: Some(gpu_id("b")), ..ask("t", "a") };
    let rider = servers.store.begin_rider(&beginning("t", "a")).expect("a store on Redis can ride along");
    let (answer, ridden) = servers.table.claim_with(&claim, Some(&rider)).await.expect("an answer");
    assert!(matches!(answer, ClaimAnswer::Other(_)) && ridden.is_none(), "{answer:?}");
    assert_eq!(servers.look("t").await, Look::Open);
}

#[tokio::test]
async fn what_stands_against_the_task_is_told_with_the_slot() {
    let servers = servers(Persistence::Nothing, 0).await;
    servers.store.cancel(&task_id("t"), Reach::Published).await.expect("an answer");
    let (answer, begun) = servers.claim_and_begin("t", "a").await;
    assert!(is_own(&answer));
    assert_eq!(begun, Some(Begin::Not(Look::Cancelled)));
}

#[tokio::test]
async fn a_slice_begins_in_the_trip_of_its_claim() {
    let servers = servers(Persistence::Nothing, 0).await;
    let slices = Slice::of_lengths(&[4, 4]);
    let (kind, task_id) = ("echo".parse().expect("a kind"), task_id("t"));
    let request = SplitRequest { task_id, body_hash: body_hash(), kind, attempt: 1, published_s: None, slices: slices.clone() };
    servers.store.split(&request).await.expect("an answer");
    let begin = BeginRequest { task_id: request.task_id.of_slice(slices[1]), ..beginning("t", "a") };
    let rider = servers.store.begin_rider(&begin).expect("a store on Redis can ride along");
    let (answer, ridden) = servers.table.claim_with(&ask("t", "a"), Some(&rider)).await.expect("an answer");
    assert!(is_own(&answer), "{answer:?}");
    let begun = servers.store.begin_ridden(&begin.task_id, ridden.expect("it ran")).await.expect("an answer");
    assert!(matches!(begun, Begin::Begun(_)), "{begun:?}");
    let Look::Split(split) = servers.look("t").await else { panic!("it was split") };
    assert_eq!(split.slices, [(slices[0], SliceState::Waiting), (slices[1], SliceState::Running)]);
}

#[tokio::test]
async fn a_store_in_another_database_is_asked_by_itself() {
    let servers = servers(Persistence::Nothing, 1).await;
    let (answer, begun) = servers.claim_and_begin("t", "a").await;
    assert!(is_own(&answer) && begun.is_none());
    assert_eq!(servers.look("t").await, Look::Open);
}

#[tokio::test]
async fn on_a_cluster_where_their_keys_live_apart_the_claim_goes_alone() {
    let servers = servers(Persistence::ClusterOfOne, 0).await;
    for task in ["t", "u"] {
        let (answer, begun) = servers.claim_and_begin(task, "a").await;
        assert!(is_own(&answer) && begun.is_none(), "{answer:?} {begun:?}");
        assert_eq!(servers.look(task).await, Look::Open);
    }
}
