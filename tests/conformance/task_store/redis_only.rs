//! What only the Redis back end has: a server that forgets scripts, holds keys, and can be away.

use std::collections::BTreeMap;

use protocol::{GroupName, config::SecretUrl};
use redis::AsyncCommands;
use task_store::{Counted, GroupStore, Join, RedisStore, ServerFacts, StoreError, TaskStore};
use tests::{
    redis::{Persistence, PrivateRedis},
    until::until,
};

use super::*;

/// A store whose tokens the test names.
fn named(store: RedisStore) -> named::NamedTokens {
    named::NamedTokens::new(std::sync::Arc::new(store))
}

#[tokio::test]
async fn a_server_that_lost_the_scripts_gets_them_again() {
    let store = named(redis_store(&PrivateRedis::fresh_prefix(), OPTIONS).await);
    let mut server = PrivateRedis::shared().await.connection().await;
    store.begin(&attempt(1, 7)).await.expect("an answer");
    let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut server).await.expect("an answer");
    assert_eq!(store.record(&success(1, 7)).await.expect("an answer"), Record::Recorded);
}

/// A record as version 0.1.0 wrote it, with these fields beside those that every record has.
async fn older_record(prefix: &str, fields: &[(&str, &str)]) {
    let mut server = PrivateRedis::shared().await.connection().await;
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(&mut server).await.expect("an answer");
    let now_ms = seconds * 1_000;
    let expires = (now_ms + 86_400_000).to_string();
    let now = now_ms.to_string();
    let hash = body_hash();
    let common = [
        ("first_seen", now.as_str()),
        ("changed", now.as_str()),
        ("expires", expires.as_str()),
        ("kept", expires.as_str()),
        ("kind", "echo"),
        ("hash", hash.as_str()),
    ];
    let () = server.hset_multiple(format!("{prefix}:{{task:order-17}}"), &[&common[..], fields].concat()).await.expect("an answer");
}

#[tokio::test]
async fn a_record_of_an_older_version_is_read_and_gone_on_with() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    let attempt_of =
        [("attempt", "1"), ("token", "1700000000000001"), ("gpu", "gpu-0"), ("incarnation", "one"), ("delivery", "5"), ("alone", "0")];
    older_record(&prefix, &attempt_of).await;
    let status = store.status(&task()).await.expect("an answer").expect("known");
    assert_eq!(
        (status.state, status.attempt, status.gpu_id.map(|gpu_id| gpu_id.to_string())),
        (TaskState::Running, 1, Some("gpu-0".to_owned()))
    );
    let Look::Unfinished(holder) = store.look(&looking(1)).await.expect("an answer") else { panic!("its attempt goes on") };
    assert_eq!((holder.token.0, holder.delivery.0, holder.incarnation.as_str()), (1_700_000_000_000_001, 5, "one"));
    let ended = outcome(Outcome::Succeeded, 1, Some(1_700_000_000_000_001), "done");
    assert_eq!(store.record(&ended).await.expect("an answer"), Record::Recorded);

    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    let ended_so = [
        ("outcome", "failed"),
        ("ended_attempt", "3"),
        ("ended_token", "9"),
        ("digest", "none"),
        ("reply_until", "0"),
        ("published", "here"),
    ];
    older_record(&prefix, &[&attempt_of[..], &ended_so].concat()).await;
    let Look::Ended(stored) = store.look(&looking(1)).await.expect("an answer") else { panic!("it ended") };
    assert_eq!((stored.outcome, stored.attempt, stored.token.map(|token| token.0), stored.body), (Outcome::Failed, 3, Some(9), None));
    assert_eq!(stored.published_to.as_deref(), Some("here"));
}

#[tokio::test]
async fn two_stores_on_one_server_see_the_same_records() {
    let prefix = PrivateRedis::fresh_prefix();
    let (one, other) = (redis_store(&prefix, OPTIONS).await, redis_store(&prefix, OPTIONS).await);
    one.record(&success(1, 7)).await.expect("an answer");
    drop(one);
    assert_eq!(other.look(&looking(1)).await.expect("an answer"), Look::Ended(stored(&success(1, 7))));
}

#[tokio::test]
async fn every_key_of_a_task_expires_by_itself() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = named(redis_store(&prefix, OPTIONS).await);
    store.submitted(&TaskId::new("submitted").expect("a valid name"), &kind(), &body_hash()).await.expect("an answer");
    store.waits_for(&TaskId::new("waits").expect("a valid name"), &kind(), "a GPU").await.expect("an answer");
    store.begin(&attempt(1, 7)).await.expect("an answer");
    store.record(&success(1, 7)).await.expect("an answer");
    store.note_published(&task(), "here");

    let mut server = PrivateRedis::shared().await.connection().await;
    let keys: Vec<String> = server.keys(format!("{prefix}:{{task:*")).await.expect("an answer");
    let mut seconds = BTreeMap::new();
    for key in keys {
        let left: i64 = server.ttl(&key).await.expect("an answer");
        seconds.insert(key.trim_start_matches(&format!("{prefix}:")).to_owned(), left);
    }
    assert_eq!(seconds.len(), 4, "{seconds:?}");
    let within = |key: &str, retention: Duration| {
        let left = seconds[key];
        assert!((1..=retention.as_secs() as i64).contains(&left), "{key}: {left} s");
    };
    within("{task:order-17}:reply", REPLY_RETENTION);
    for key in ["{task:order-17}", "{task:submitted}", "{task:waits}"] {
        // The key lives an eighth longer than the record counts, so that not every change of it has to say it anew.
        within(key, OUTCOME_RETENTION * 9 / 8);
    }
}

#[tokio::test]
async fn every_key_of_a_group_expires_by_itself() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    let group = "nightly".parse().expect("a valid name");
    for id in ["a", "b"] {
        store.arrive(&group, &TaskId::new(id).expect("a valid id"), None).await.expect("an answer");
    }
    // The key of the ends is made by a later change than the others.
    store.note_ended(&group, &TaskId::new("a").expect("a valid id"), Outcome::Succeeded).await.expect("an answer");
    let mut server = PrivateRedis::shared().await.connection().await;
    let keys: Vec<String> = server.keys(format!("{prefix}:{{group:*")).await.expect("an answer");
    assert_eq!(keys.len(), 4, "{keys:?}");
    for key in keys {
        let left: i64 = server.ttl(&key).await.expect("an answer");
        assert!((1..=(OUTCOME_RETENTION * 9 / 8).as_secs() as i64).contains(&left), "{key}: {left} s");
    }
}

#[tokio::test]
async fn on_a_cluster_a_group_lies_elsewhere_than_its_tasks() {
    let redis = PrivateRedis::start(Persistence::ClusterOfOne).await;
    let store = RedisStore::connect(&redis.url(), "cluster", OPTIONS, Duration::from_secs(30)).await.expect("it answers");
    let group: GroupName = "nightly".parse().expect("a valid name");
    let one = |n: u32| {
        let (store, group) = (&store, &group);
        async move {
            let id = TaskId::new(format!("task-{n}")).expect("a valid id");
            let submission = store.submitted(&id, &kind(), &body_hash()).await.expect("an answer");
            assert_eq!(store.join(group, &id, submission).await, Ok(Join::Member));
            store.note_begun(group, &id, 1);
            let failed = RecordRequest { task_id: id.clone(), ..outcome(Outcome::Failed, 1, None, "no") };
            store.record(&failed).await.expect("an answer");
            assert_eq!(store.note_ended(group, &id, Outcome::Failed).await, Ok(Counted::Yes));
            // Its reply is none of this task, and not looked at.
            assert!(store.cancel(&id, Reach::Published).await == Ok(Cancel::Ended(Outcome::Failed)));
        }
    };
    futures::future::join_all((0..50).map(one)).await;
    let status = store.show(&group).await.expect("an answer").expect("known");
    assert_eq!((status.counts.failed, status.total, status.ended), (50, 50, true));
    assert_eq!(store.names(None, 10).await, Ok(Some(vec![group])));
}

#[tokio::test]
async fn a_task_marked_as_cancelled_before_it_began_does_not_begin() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    let () = PrivateRedis::shared()
        .await
        .connection()
        .await
        .hset(format!("{prefix}:{{task:order-17}}"), "cancelled", "1700000000000")
        .await
        .unwrap();
    assert_eq!(store.look(&looking(1)).await.expect("an answer"), Look::Cancelled);
    assert_eq!(store.begin(&attempt(1, 7)).await.expect("an answer"), Begin::Not(Look::Cancelled));
    assert_eq!(store.status(&task()).await.expect("an answer").map(|status| status.state), Some(TaskState::Cancelled));
    let cancelled = outcome(Outcome::Cancelled, 1, None, "cancelled");
    assert_eq!(store.record(&cancelled).await.expect("an answer"), Record::Recorded);
    assert_eq!(store.look(&looking(1)).await.expect("an answer"), Look::Ended(stored(&cancelled)));
}

#[tokio::test]
async fn a_cancel_of_a_version_that_knew_no_reach_counts_for_every_task() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    let fields = [("first_seen", "1700000000000"), ("changed", "1700000000000"), ("cancelled", "1700000000000")];
    let () = PrivateRedis::shared().await.connection().await.hset_multiple(format!("{prefix}:{{task:order-17}}"), &fields).await.unwrap();
    let later = LookRequest { published_s: Some(1_700_000_060), ..looking(1) };
    assert_eq!(store.look(&later).await.expect("an answer"), Look::Cancelled);
    assert_eq!(store.cancel(&task(), Reach::Published).await.expect("an answer"), Cancel::Unseen);
    assert_eq!(store.look(&later).await.expect("an answer"), Look::Cancelled, "it is not made to reach less far");
}

#[tokio::test]
async fn a_note_of_a_version_that_wrote_no_hash_takes_whatever_comes_first() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    let () = PrivateRedis::shared().await.connection().await.hdel(format!("{prefix}:{{task:order-17}}"), "hash").await.unwrap();
    let other = BodyHash::of(b"another body");
    assert_eq!(store.submitted(&task(), &kind(), &other).await.expect("an answer"), Submission::Known);
    assert!(matches!(store.begin(&attempt(1, 7)).await.expect("an answer"), Begin::Begun(_)));
    assert_eq!(store.submitted(&task(), &kind(), &other).await.expect("an answer"), Submission::Other);
}

#[tokio::test]
async fn a_record_of_a_version_that_wrote_less_is_understood() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    store.begin(&attempt(1, 7)).await.expect("an answer");
    let mut server = PrivateRedis::shared().await.connection().await;
    let () = server.hdel(format!("{prefix}:{{task:order-17}}"), &["delivery", "kept", "alone"]).await.unwrap();

    let Begin::Unfinished(holder) = store.begin(&attempt_by_another(1, 8)).await.expect("an answer") else { panic!("it has no end") };
    assert_eq!((holder.gpu_id.as_str(), holder.delivery.0), ("GPU-7", 0));
    let verdict = Some(Verdict { token: holder.token, gone: false });
    let next = store.begin(&BeginRequest { verdict, ..attempt_by_another(1, 8) }).await.expect("an answer");
    assert!(matches!(next, Begin::Begun(token) if token > holder.token), "{next:?}");
    let left: i64 = server.ttl(format!("{prefix}:{{task:order-17}}")).await.unwrap();
    assert!(left > 0, "the key goes on expiring");
}

#[tokio::test]
async fn on_a_cluster_what_many_tasks_have_to_say_at_once_is_all_answered() {
    let redis = PrivateRedis::start(Persistence::ClusterOfOne).await;
    let store = RedisStore::connect(&redis.url(), "cluster", OPTIONS, Duration::from_secs(30)).await.expect("it answers");
    let begin = |n: u32| {
        let request = BeginRequest { task_id: TaskId::new(format!("task-{n}")).expect("a valid id"), ..attempt(1, 7) };
        let store = &store;
        async move { store.begin(&request).await }
    };
    // Their keys lie in as many hash slots: what gathers is refused once, and goes again slot by slot.
    let begun = futures::future::join_all((0..50).map(begin)).await;
    assert!(begun.iter().all(|begin| matches!(begin, Ok(Begin::Begun(_)))), "{begun:?}");
}

#[tokio::test]
async fn clients_learn_of_each_others_replies_when_they_exchange_counts() {
    let prefix = PrivateRedis::fresh_prefix();
    let (one, other) = (redis_store(&prefix, FOR_REPLIES).await, redis_store(&prefix, FOR_REPLIES).await);
    one.record(&large("a", 1_000)).await.expect("an answer");
    one.totals().await.expect("an answer");
    assert_eq!(other.totals().await.expect("an answer").reply_bytes, 1_000);
    other.record(&large("b", 1)).await.expect("an answer");
    assert_eq!(other.totals().await.expect("an answer"), Totals { reply_bytes: 1_000, replies_not_kept: 1 });
}

#[tokio::test]
async fn counts_are_exchanged_without_being_asked() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    store.record(&large("a", 500)).await.expect("an answer");
    let mut server = PrivateRedis::shared().await.connection().await;
    let exchanged = async {
        while !server.exists::<_, bool>(format!("{prefix}:store:reply_bytes")).await.expect("an answer") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), exchanged).await.expect("the counts arrive");
}

#[tokio::test]
async fn a_server_that_is_away_is_a_transient_error_without_its_password() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = SecretUrl::new(format!("redis://:s3cret@{}/0", taken.local_addr().expect("an address")));
    // It accepts and never answers.
    let error = RedisStore::connect(&url, "test", OPTIONS, Duration::from_millis(50)).await.expect_err("nobody answers");
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("50 ms") && !error.to_string().contains("s3cret"), "{error}");
}

#[tokio::test]
async fn a_url_of_something_else_is_refused_for_good() {
    let url = SecretUrl::new("http://example");
    let error = RedisStore::connect(&url, "test", OPTIONS, Duration::from_secs(1)).await.expect_err("not Redis");
    assert!(matches!(error, StoreError::BadUrl { .. }) && !error.is_transient(), "{error}");
}

#[tokio::test]
async fn a_server_says_how_it_is_set_up() {
    let facts = ServerFacts::ask(&redis_url().await, Duration::from_secs(10)).await.expect("an answer");
    assert!(facts.version.contains('.'), "{facts:?}");
    assert!(!facts.maxmemory_policy.is_empty(), "{facts:?}");
}

#[tokio::test]
async fn outcomes_survive_a_killed_server_and_the_store_finds_it_again() {
    let mut server = PrivateRedis::start(Persistence::AppendOnly).await;
    let store = named(RedisStore::connect(&server.url(), "test", OPTIONS, Duration::from_secs(2)).await.expect("an answer"));
    let facts = ServerFacts::ask(&server.url(), Duration::from_secs(10)).await.expect("an answer");
    assert!(facts.append_only);
    store.begin(&attempt(1, 7)).await.expect("an answer");
    store.record(&success(1, 7)).await.expect("an answer");

    server.kill();
    let away = store.look(&looking(1)).await.expect_err("the server is away");
    assert!(away.is_transient(), "{away}");

    server.restart().await;
    until("the store finds its server", async || store.ping().await.is_ok()).await;
    assert_eq!(store.record(&success(1, 7)).await.expect("an answer"), Record::Recorded);
    assert_eq!(store.look(&looking(1)).await.expect("an answer"), Look::Ended(stored(&success(1, 7))));
}

#[tokio::test]
async fn a_frozen_server_costs_one_response_time_and_no_answer_is_mixed_up_later() {
    let server = PrivateRedis::start(Persistence::Nothing).await;
    let store = named(RedisStore::connect(&server.url(), "test", OPTIONS, Duration::from_millis(200)).await.expect("an answer"));
    store.begin(&attempt(1, 7)).await.expect("an answer");
    server.pause();
    let error = store.record(&success(1, 7)).await.expect_err("frozen");
    assert!(error.is_transient() && error.to_string().contains("record an outcome"), "{error}");
    server.resume();
    until("the store finds its server", async || store.ping().await.is_ok()).await;
    assert_eq!(store.record(&success(1, 7)).await.expect("an answer"), Record::Recorded);
    assert_eq!(store.look(&looking(1)).await.expect("an answer"), Look::Ended(stored(&success(1, 7))));
}

#[tokio::test]
async fn a_server_that_answers_and_refuses_writes_fails_the_probe_and_every_submit_alike() {
    let server = PrivateRedis::start(Persistence::Nothing).await;
    let store = RedisStore::connect(&server.url(), "test", OPTIONS, Duration::from_secs(10)).await.expect("an answer");
    let set = async |name: &str, value: &str| {
        let setting = redis::cmd("CONFIG").arg("SET").arg(name).arg(value).to_owned();
        setting.exec_async(&mut server.connection().await).await.expect("the private Redis takes its settings");
    };
    store.probe().await.expect("it takes writes");
    for (name, refusing, taking) in [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")] {
        set(name, refusing).await;
        store.ping().await.expect("it answers");
        let refused = store.probe().await.expect_err(name);
        assert!(refused.is_transient() && refused.to_string().contains("try a write"), "{refused}");
        assert!(
            store.submitted(&task(), &kind(), &BodyHash::of(b"body")).await.is_err(),
            "{name}: the probe is asked the way that a submit goes"
        );
        set(name, taking).await;
        store.probe().await.expect("it takes writes again");
    }
}

#[tokio::test]
async fn the_mark_of_a_probe_expires_by_itself() {
    let prefix = PrivateRedis::fresh_prefix();
    redis_store(&prefix, OPTIONS).await.probe().await.expect("it takes writes");
    let left: i64 = PrivateRedis::shared().await.connection().await.ttl(format!("{prefix}:store:probe")).await.expect("an answer");
    assert!((0..=10).contains(&left), "{left} s");
}
