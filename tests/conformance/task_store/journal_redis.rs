//! The fleet's course on Redis alone: what it costs the server, what it writes there, and what becomes of it while the server is away.

use protocol::{StepName, TaskStep};
use redis::AsyncCommands;
use task_store::{JournalBounds, RedisStore, StepCursor, TaskStore};
use tests::{
    redis::{Persistence, PrivateRedis},
    until::until,
};

use super::{
    journal::{all, page, step, steps, tell},
    *,
};

/// Far above what the cases tell.
const MANY: StoreOptions = StoreOptions { journal: JournalBounds { steps_max: 200_000, ..OPTIONS.journal }, ..OPTIONS };

async fn on(server: &PrivateRedis, timeout: Duration) -> RedisStore {
    RedisStore::connect(&server.url(), "test", MANY, timeout).await.expect("the private Redis answers")
}

/// How many scripts a server has run.
async fn scripts(server: &PrivateRedis) -> u64 {
    let text: String = redis::cmd("INFO").arg("commandstats").query_async(&mut server.connection().await).await.expect("an answer");
    let calls = text.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next()?.parse().ok());
    calls.unwrap_or(0)
}

#[tokio::test]
async fn one_call_carries_what_gathers_within_a_moment() {
    let server = PrivateRedis::start(Persistence::Nothing).await;
    let store = on(&server, Duration::from_secs(10)).await;
    tell(&store, &[step(0)]).await;
    let before = scripts(&server).await;
    // At once: the job that sends them has no turn between two of them.
    steps(1..1_001).into_iter().for_each(|step| store.journal().tell(step));
    let mut connection = server.connection().await;
    until("they are there", async || connection.clone().xlen::<_, u64>("test:store:{steps}:told").await.expect("an answer") >= 6).await;
    assert_eq!(scripts(&server).await - before, 1);
    let entries: u64 = connection.xlen("test:store:{steps}:told").await.expect("an answer");
    assert_eq!(entries, 6, "some 200 steps share an entry");
    assert_eq!(all(&store).await, steps(0..1_001));
}

#[tokio::test]
async fn what_is_counted_beside_the_steps_is_what_is_there() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    let mut connection = PrivateRedis::shared().await.connection().await;
    for first in (0..2_400).step_by(300) {
        tell(&store, &steps(first..first + 300)).await;
        let [told, sizes, state] = ["told", "sizes", "state"].map(|part| format!("{prefix}:store:{{steps}}:{part}"));
        let counted: u64 = connection.hget(state, "steps").await.expect("an answer");
        assert_eq!(counted, all(&store).await.len() as u64);
        assert!(counted <= OPTIONS.journal.steps_max, "{counted}");
        let (entries, sizes): (u64, u64) =
            (connection.xlen(told).await.expect("an answer"), connection.llen(sizes).await.expect("an answer"));
        assert_eq!(entries, sizes);
    }
}

#[tokio::test]
async fn every_key_of_the_journal_expires_by_itself() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    tell(&store, &steps(0..10)).await;
    let at_ms = std::time::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_millis() as u64;
    for span in protocol::HistorySpan::ALL {
        let point = protocol::HistoryPoint { at_ms, ..protocol::HistoryPoint::default() };
        assert_eq!(store.journal().note_point(span, &point).await, Ok(true));
    }
    let action = r#"{"at_ms":1,"who":"a","via":"cli","action":"drain"}"#;
    store.journal().note_action(&serde_json::from_str(action).expect("an action")).await.expect("an answer");
    let mut server = PrivateRedis::shared().await.connection().await;
    let keys: Vec<String> = server.keys(format!("{prefix}:*")).await.expect("an answer");
    assert_eq!(keys.len(), 7, "{keys:?}");
    for key in keys {
        let left: i64 = server.ttl(&key).await.expect("an answer");
        assert!((1..=90 * 86_400).contains(&left), "{key}: {left} s");
    }
}

#[tokio::test]
async fn where_no_steps_are_kept_no_key_is_written() {
    let prefix = PrivateRedis::fresh_prefix();
    let journal = JournalBounds { steps_max: 0, ..OPTIONS.journal };
    let store = redis_store(&prefix, StoreOptions { journal, ..OPTIONS }).await;
    steps(0..500).into_iter().for_each(|step| store.journal().tell(step));
    store.journal().flush().await;
    // What is told later is there.
    store.probe().await.expect("an answer");
    let keys: Vec<String> = PrivateRedis::shared().await.connection().await.keys(format!("{prefix}:*")).await.expect("an answer");
    assert_eq!(keys, [format!("{prefix}:store:probe")]);
}

#[tokio::test]
async fn what_is_not_understood_is_passed_over() {
    let prefix = PrivateRedis::fresh_prefix();
    let store = redis_store(&prefix, OPTIONS).await;
    tell(&store, &[step(1)]).await;
    let mut server = PrivateRedis::shared().await.connection().await;
    let newer = r#"{"at_ms":2,"task_id":"task-2","step":"teleported","strategy":"by_the_stars","colour":{"red":1}}"#;
    let lines = format!("no step\n\n{newer}\n{{\"at_ms\":3}}\n\u{0}");
    for fields in [&[("n", "5"), ("s", &lines)][..], &[("n", "many"), ("other", "x")], &[("s", "[]")]] {
        let _id: String = server.xadd(format!("{prefix}:store:{{steps}}:told"), "*", fields).await.expect("an answer");
    }
    let expected = [step(1), TaskStep { step: StepName::Other, ..step(2) }];
    assert_eq!(all(&store).await, expected);
    assert_eq!(page(&store, &StepCursor("not a cursor".to_owned()), 10).await.steps, expected, "it is read as the beginning");
}

#[tokio::test]
async fn a_store_that_is_dropped_sends_what_it_was_told() {
    let prefix = PrivateRedis::fresh_prefix();
    let (one, other) = (redis_store(&prefix, OPTIONS).await, redis_store(&prefix, OPTIONS).await);
    steps(0..3).into_iter().for_each(|step| one.journal().tell(step));
    drop(one);
    until("the steps are there", async || all(&other).await == steps(0..3)).await;
}

#[tokio::test]
async fn what_is_told_while_the_server_is_away_arrives_when_it_is_back() {
    let mut server = PrivateRedis::start(Persistence::AppendOnly).await;
    let store = on(&server, Duration::from_secs(2)).await;
    tell(&store, &steps(0..10)).await;
    server.kill();
    steps(10..1_000).into_iter().for_each(|step| store.journal().tell(step));
    // It gives up, and loses nothing.
    store.journal().flush().await;
    store.journal().tell(step(1_000));
    server.restart().await;
    until("the steps are there", async || store.journal().steps_after(&StepCursor::default(), 1).await.is_ok()).await;
    until("the last step is there", async || all(&store).await.last() == Some(&step(1_000))).await;
    assert_eq!(all(&store).await, steps(0..1_001));
    assert_eq!(store.journal().steps_lost(), 0);
}

#[tokio::test]
async fn of_too_many_steps_the_oldest_are_lost_and_counted() {
    let mut server = PrivateRedis::start(Persistence::Nothing).await;
    let store = on(&server, Duration::from_secs(2)).await;
    server.kill();
    for first in (0..15_000).step_by(100) {
        steps(first..first + 100).into_iter().for_each(|step| store.journal().tell(step));
        tokio::task::yield_now().await;
    }
    server.restart().await;
    until("the server is found again", async || store.ping().await.is_ok()).await;
    until("the last step is there", async || all(&store).await.last() == Some(&step(14_999))).await;
    let (there, lost) = (all(&store).await, store.journal().steps_lost());
    assert!(lost > 0, "no more than 10,000 wait, and one packet");
    assert_eq!(there.len() as u64 + lost, 15_000);
    assert!(there.ends_with(&steps(5_000..15_000)), "the latest ones are there: {}", there.len());
}

#[tokio::test]
async fn steps_whose_answer_came_too_late_are_taken_once() {
    let server = PrivateRedis::start(Persistence::Nothing).await;
    let store = on(&server, Duration::from_millis(500)).await;
    tell(&store, &[step(0)]).await;
    // It takes what is sent once it goes on, and what is sent again too.
    server.pause();
    store.journal().tell(step(1));
    store.journal().flush().await;
    let failed = store.ping().await.expect_err("frozen");
    assert!(failed.is_transient(), "{failed}");
    server.resume();
    until("the server is found again", async || store.ping().await.is_ok()).await;
    until("the step is there", async || all(&store).await.last() == Some(&step(1))).await;
    tell(&store, &[step(2)]).await;
    assert_eq!(all(&store).await, steps(0..3));
}

#[tokio::test]
async fn on_a_cluster_steps_lie_elsewhere_than_their_tasks() {
    let redis = PrivateRedis::start(Persistence::ClusterOfOne).await;
    let store = RedisStore::connect(&redis.url(), "cluster", MANY, Duration::from_secs(30)).await.expect("it answers");
    let one = |n: u64| {
        let store = &store;
        async move {
            let request = BeginRequest { task_id: TaskId::new(format!("task-{n}")).expect("a valid id"), ..attempt(1, 7) };
            assert!(matches!(store.begin(&request).await, Ok(Begin::Begun(_))));
            store.journal().tell(step(n));
        }
    };
    for some in 0..4 {
        futures::future::join_all((some * 50..some * 50 + 50).map(one)).await;
    }
    until("all steps are there", async || all(&store).await.len() == 200).await;
    assert_eq!(store.journal().steps_lost(), 0);
}
