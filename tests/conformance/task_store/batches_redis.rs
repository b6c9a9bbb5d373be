//! What only the Redis back end has of batches: keys in one hash slot that expire, records of other versions, and calls that cost.

use std::collections::BTreeMap;

use redis::AsyncCommands;
use task_store::{ProgressAnswer, ProgressRequest, RedisStore, SliceRecord, SplitAnswer, TaskStore};
use tests::{
    redis::{Persistence, PrivateRedis},
    until::until,
};

use super::{slices::*, *};

const BATCH: &str = "{task:order-17}";

/// Begins a slice, for the token that the store gives out.
async fn token_of(store: &RedisStore, text: &str) -> Token {
    match store.begin(&slice_attempt(text, 1, 7)).await.expect("an answer") {
        Begin::Begun(token) => token,
        other => panic!("nothing is against it: {other:?}"),
    }
}

#[tokio::test]
async fn a_batch_lives_in_one_hash_slot_of_a_cluster() {
    let redis = PrivateRedis::start(Persistence::ClusterOfOne).await;
    let store = RedisStore::connect(&redis.url(), "cluster", OPTIONS, Duration::from_secs(30)).await.expect("it answers");
    assert!(matches!(store.split(&splitting(&[4, 4])).await.unwrap(), SplitAnswer::Split(_)));
    for text in ["0..4", "4..8"] {
        let token = token_of(&store, text).await;
        store.progress(&ProgressRequest { token, ..slice_progress(text, 7, 1) }).await.unwrap();
        assert!(!store.cancel_asked(&slice_id(text)).await.unwrap());
        assert!(matches!(store.look(&slice_looking(text, 1)).await.unwrap(), Look::Unfinished(_)));
        store.hand_back(&slice_id(text), token).await.unwrap();
        assert!(store.status(&slice_id(text)).await.unwrap().is_some());
        let end = slice_end(text, 1, Some(token.0), "results");
        assert!(matches!(store.record_slice(&end).await.unwrap(), SliceRecord::Recorded(_)));
    }
    assert_eq!(store.slice_results(&task(), 0, 100).await.unwrap().len(), 2);
    assert_eq!(store.record(&merged()).await.unwrap(), Record::Recorded);
    assert_eq!(store.totals().await.unwrap().reply_bytes, 14 + merged().reply.len() as u64);
    store.forget_slices(&task(), false);
    let mut server = redis.connection().await;
    until("the slices are forgotten", async || {
        let keys: Vec<String> = redis.connection().await.keys(format!("cluster:{BATCH}*")).await.expect("an answer");
        keys.len() == 2
    })
    .await;
    let fields: BTreeMap<String, String> = server.hgetall(format!("cluster:{BATCH}")).await.expect("an answer");
    assert!(fields.keys().all(|field| !field.starts_with("slice")), "{fields:?}");
    assert_eq!(store.reopen(&task(), &body_hash()).await.unwrap(), Reopen::Open);
}

#[tokio::test]
async fn every_key_of_a_batch_expires_by_itself() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    store.split(&splitting(&[4, 4])).await.unwrap();
    let token = token_of(&store, "0..4").await;
    store.record_slice(&slice_end("0..4", 1, Some(token.0), "results")).await.unwrap();
    let seconds = async || {
        let mut server = PrivateRedis::shared().await.connection().await;
        let mut seconds = BTreeMap::new();
        let keys: Vec<String> = server.keys(format!("{prefix}:{{task:*")).await.expect("an answer");
        for key in keys {
            let left: i64 = server.ttl(&key).await.expect("an answer");
            seconds.insert(key.trim_start_matches(&format!("{prefix}:{BATCH}")).to_owned(), left);
        }
        seconds
    };
    let most = (OUTCOME_RETENTION * 9 / 8).as_secs() as i64;
    let before = seconds().await;
    assert_eq!(before.keys().collect::<Vec<_>>(), ["", ":results", ":slice:0..4"]);
    assert!(before.values().all(|left| (OUTCOME_RETENTION.as_secs() as i64..=most).contains(left)), "{before:?}");
    store.record(&merged()).await.unwrap();
    store.forget_slices(&task(), true);
    until("the slices are forgotten", async || !seconds().await.contains_key(":slice:0..4")).await;
    let left = seconds().await[":results"];
    assert!((1..=REPLY_RETENTION.as_secs() as i64).contains(&left), "{left} s");
}

#[tokio::test]
async fn what_is_left_of_a_slice_of_which_its_batch_knows_nothing_is_no_end() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    store.split(&splitting(&[4, 4])).await.unwrap();
    let token = token_of(&store, "0..4").await;
    store.record_slice(&slice_end("0..4", 1, Some(token.0), "results")).await.unwrap();
    // Of a life of the batch that somebody deleted by hand.
    let () = PrivateRedis::shared().await.connection().await.del(format!("{prefix}:{BATCH}")).await.unwrap();
    assert_eq!(store.look(&slice_looking("0..4", 1)).await.unwrap(), Look::Unwanted);
    store.split(&splitting(&[4, 4])).await.unwrap();
    assert_eq!(store.look(&slice_looking("0..4", 1)).await.unwrap(), Look::Open);
    assert!(store.slice_results(&task(), 0, 100).await.unwrap().is_empty());
    assert!(token_of(&store, "0..4").await > token);
}

#[tokio::test]
async fn a_record_of_a_version_that_knew_no_batches_is_understood() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    let key = format!("{prefix}:{BATCH}");
    let mut server = PrivateRedis::shared().await.connection().await;
    let hash = body_hash();
    let known = [("first_seen", "1700000000000"), ("changed", "1700000000000"), ("kind", "echo"), ("hash", hash.as_str())];
    let () = server.hset_multiple(&key, &known).await.unwrap();
    assert_eq!(store.look(&looking(1)).await.unwrap(), Look::Open);
    assert_eq!(store.look(&slice_looking("0..4", 1)).await.unwrap(), Look::Unwanted);
    let status = store.status(&task()).await.unwrap().expect("known");
    assert_eq!((status.state, status.items, status.slices), (TaskState::Waiting, None, None));
    assert!(matches!(store.split(&splitting(&[4, 4])).await.unwrap(), SplitAnswer::Split(_)));
    let left: i64 = server.ttl(&key).await.unwrap();
    assert!(left > 0, "the key expires from now on");

    let () = server.del(&key).await.unwrap();
    let began = [("attempt", "1"), ("token", "7"), ("gpu", "GPU-7"), ("incarnation", "incarnation")];
    let () = server.hset_multiple(&key, &[&known[..], &began[..]].concat()).await.unwrap();
    assert_eq!(store.split(&splitting(&[4, 4])).await.unwrap(), SplitAnswer::Whole);
    assert_eq!(store.progress(&progress(7, 0.5, None)).await.unwrap(), ProgressAnswer::Noted(None));
}

#[tokio::test]
async fn a_tasks_beginning_takes_one_key_and_a_slices_what_it_needs_of_its_batch() {
    let store = redis_store(&PrivateRedis::fresh_prefix(), OPTIONS).await;
    let keys = |request: &BeginRequest| {
        let rider = store.begin_rider(request).expect("a store on Redis can ride along");
        (rider.item.keys.len(), rider.item.arguments.len())
    };
    assert_eq!(keys(&attempt(1, 7)), (1, 13));
    assert_eq!(keys(&slice_attempt("0..4", 1, 7)), (3, 13));
}

/// How often the server has run each command.
async fn commands(redis: &PrivateRedis) -> BTreeMap<String, u64> {
    let text: String = redis::cmd("INFO").arg("commandstats").query_async(&mut redis.connection().await).await.expect("an answer");
    let read = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    text.lines().filter_map(read).collect()
}

#[tokio::test]
async fn a_task_without_items_costs_the_commands_that_it_always_cost() {
    let redis = PrivateRedis::start(Persistence::Nothing).await;
    let store = RedisStore::connect(&redis.url(), "cost", OPTIONS, Duration::from_secs(30)).await.expect("it answers");
    // The first call loads the script.
    store.ping().await.unwrap();
    store.look(&looking(1)).await.unwrap();
    let before = commands(&redis).await;
    let Begin::Begun(token) = store.begin(&attempt(1, 7)).await.unwrap() else { panic!("nothing is against it") };
    store.progress(&ProgressRequest { token, ..progress(7, 0.5, None) }).await.unwrap();
    // Nothing of it is counted, so that no exchange of counts comes in between.
    store.record(&RecordRequest { token: Some(token), reply: Bytes::new(), ..success(1, 7) }).await.unwrap();
    let after = commands(&redis).await;
    let grown = |name: &str| after.get(name).copied().unwrap_or_default() - before.get(name).copied().unwrap_or_default();
    // Each a script that asks for the time, reads the record and writes it once. The key's life is told once, and the reply is kept.
    assert_eq!(["evalsha", "time", "hgetall", "hset", "pexpire", "set"].map(grown), [3, 3, 3, 3, 1, 1]);
    assert_eq!(["hmget", "hget", "hdel", "exists", "del"].map(grown), [0; 5]);
}
