//! What only a server can do to its clients: lose the scripts, fall silent, go and come back.

use std::time::Duration;

use gpu_table::{GpuTable, Heartbeat, RedisTable, TableError};
use protocol::{GpuRow, Holding, config::SecretUrl};
use tests::redis::{Persistence, PrivateRedis};

use super::{
    tensors::{copy, tensor_name},
    world::{
        HELD_SECONDS, LEASES, OFFERED_SECONDS, World, ask, ask_with, ask_without_slot, full_here, gpu_id, heartbeat, incarnation, is_own,
        pool, row, row_with,
    },
};

async fn table_on(redis: &PrivateRedis, timeout: Duration) -> RedisTable {
    RedisTable::connect(&redis.url(), &PrivateRedis::fresh_prefix(), LEASES, timeout).expect("a valid URL")
}

/// A heartbeat of a worker that holds one slot.
fn holding_one(row: GpuRow) -> Heartbeat {
    Heartbeat { holding: Holding { slots: 1, number: 1 }, ..heartbeat(row) }
}

async fn held_on(table: &RedisTable) -> u32 {
    table.rows(&pool()).await.expect("rows")[0].held
}

#[tokio::test]
async fn a_server_that_lost_the_scripts_is_given_them_again() {
    let redis = PrivateRedis::start(Persistence::Nothing).await;
    let table = table_on(&redis, Duration::from_secs(30)).await;
    table.heartbeat(&heartbeat(row("a"))).await.expect("a heartbeat");
    redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut redis.connection().await).await.expect("the scripts go");
    assert!(is_own(&table.claim(&ask("t", "a")).await.expect("an answer")));
}

#[tokio::test]
async fn a_restarted_server_is_found_again_and_filled_by_the_next_heartbeat() {
    let mut redis = PrivateRedis::start(Persistence::Nothing).await;
    let table = table_on(&redis, Duration::from_secs(30)).await;
    table.heartbeat(&heartbeat(row("a"))).await.expect("a heartbeat");
    assert!(is_own(&table.claim(&ask("t", "a")).await.expect("an answer")));
    redis.kill();
    let error = table.claim(&ask("u", "a")).await.expect_err("nobody answers");
    assert!(error.is_transient() && error.to_string().contains("claim a GPU"), "{error}");
    redis.restart().await;
    table.heartbeat(&holding_one(row("a"))).await.expect("found again at once");
    assert_eq!(held_on(&table).await, 1, "told again");
}

#[tokio::test]
async fn a_worker_may_start_before_its_server() {
    let mut redis = PrivateRedis::start(Persistence::Nothing).await;
    redis.stop();
    let table = table_on(&redis, Duration::from_secs(30)).await;
    assert!(table.ping().await.expect_err("nobody answers").is_transient());
    redis.restart().await;
    table.ping().await.expect("it answers now");
}

#[tokio::test]
async fn a_server_that_answers_and_refuses_writes_fails_the_probe() {
    let redis = PrivateRedis::start(Persistence::Nothing).await;
    let table = table_on(&redis, Duration::from_secs(30)).await;
    let set = async |name: &str, value: &str| {
        let setting = redis::cmd("CONFIG").arg("SET").arg(name).arg(value).to_owned();
        setting.exec_async(&mut redis.connection().await).await.expect("the private Redis takes its settings");
    };
    table.probe(&pool()).await.expect("it takes writes");
    for (name, refusing, taking) in [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")] {
        set(name, refusing).await;
        table.ping().await.expect("it answers");
        assert!(table.probe(&pool()).await.expect_err(name).is_transient());
        set(name, taking).await;
        table.probe(&pool()).await.expect("it takes writes again");
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up_after_the_response_timeout() {
    let redis = PrivateRedis::start(Persistence::Nothing).await;
    let table = table_on(&redis, Duration::from_millis(300)).await;
    tests::until::until("the table answers", async || table.ping().await.is_ok()).await;
    redis.pause();
    let error = table.heartbeat(&heartbeat(row("a"))).await.expect_err("nothing answers");
    assert!(error.is_transient(), "{error}");
    redis.resume();
    tests::until::until("the table answers again", async || table.ping().await.is_ok()).await;
}

#[tokio::test]
async fn a_large_answer_may_take_as_long_as_any_other() {
    let redis = PrivateRedis::start(Persistence::Nothing).await;
    let table = table_on(&redis, Duration::from_secs(30)).await;
    table.rows(&pool()).await.expect("it answers");
    // Longer than the client library waits of itself, which gives up this script, too.
    let busy = redis::cmd("EVAL").arg("local began = os.clock() while os.clock() - began < 0.9 do end").arg(0).to_owned();
    let (mut connection, pool) = (redis.connection().await, pool());
    let (_, rows) = tokio::join!(busy.exec_async(&mut connection), table.rows(&pool));
    assert!(rows.expect("it waits").is_empty());
}

#[tokio::test]
async fn a_table_survives_a_crash_of_a_server_that_keeps_its_data() {
    let mut redis = PrivateRedis::start(Persistence::AppendOnly).await;
    let table = table_on(&redis, Duration::from_secs(30)).await;
    table.heartbeat(&heartbeat(row("a"))).await.expect("a heartbeat");
    assert!(is_own(&table.claim(&ask("t", "a")).await.expect("an answer")));
    redis.kill();
    redis.restart().await;
    assert_eq!(held_on(&table).await, 1, "found again at once");
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_without_showing_its_password() {
    let url = SecretUrl::new("rediss+nonsense://:secret@host:1/0");
    let error = RedisTable::connect(&url, "p", LEASES, Duration::from_secs(1)).expect_err("no URL");
    assert!(matches!(error, TableError::BadUrl { .. }) && !error.is_transient());
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_flood_of_dead_rows_and_offers_is_swept_in_bounded_steps() {
    let world = World::redis().await;
    for n in 0..300 {
        world.join(row(&format!("gpu-{n:03}"))).await;
    }
    for n in 0..300 {
        world.occupy(&format!("gpu-{n:03}"), 1).await;
        world.offer(&ask_without_slot(&format!("t{n}"), &format!("gpu-{n:03}"))).await;
    }
    world.pass(HELD_SECONDS + 50);
    world.beat(&heartbeat(row("alive"))).await;
    assert_eq!(world.placed(&ask("t299", "alive")).await, "alive", "the dead that are not swept yet are passed over");
    assert_eq!(world.placed(&ask_without_slot("t298", "elsewhere")).await, "alive");
    for n in 0..4 {
        assert_eq!(world.claim(&ask_without_slot(&format!("u{n}"), "alive")).await, full_here());
    }
    let rows = world.table.rows(&pool()).await.expect("rows");
    assert_eq!((rows.len(), rows[0].held), (1, rows[0].row.slots), "and what was given anew stays given");
}

#[tokio::test]
async fn a_server_that_evicted_some_of_the_keys_leaves_no_slot_offered() {
    let (redis, prefix) = (PrivateRedis::shared().await, PrivateRedis::fresh_prefix());
    let table = RedisTable::connect(&redis.url(), &prefix, LEASES, Duration::from_secs(30)).expect("a valid URL");
    table.heartbeat(&heartbeat(row("a"))).await.expect("a heartbeat");
    for task in ["t", "u"] {
        assert!(!is_own(&table.claim(&ask(task, "stranger")).await.expect("an answer")));
    }
    assert_eq!(held_on(&table).await, 2);
    for key in ["slots:row*", "slots:offers", "slots:due"] {
        redis.delete(&format!("{prefix}:{{default}}:{key}")).await;
    }
    table.claim(&ask("v", "a")).await.expect("an answer, and no half of a row");
    table.heartbeat(&heartbeat(row("a"))).await.expect("a heartbeat");
    assert_eq!(held_on(&table).await, 0);
}

#[tokio::test]
async fn what_others_wrote_where_tensors_are_is_passed_over_and_removed() {
    let (redis, prefix) = (PrivateRedis::shared().await, PrivateRedis::fresh_prefix());
    let table = RedisTable::connect(&redis.url(), &prefix, LEASES, Duration::from_secs(30)).expect("a valid URL");
    for name in ["a", "b", "c"] {
        table.heartbeat(&heartbeat(row(name))).await.expect("a heartbeat");
    }
    table.announce_tensors(&pool(), &[copy("x", 1, "a"), copy("y", 1, "a")]).await.expect("told");
    let (key, mut connection) = (format!("{prefix}:{{default}}:slots:tensor:x"), redis.connection().await);
    for (gpu, text) in [("b", "nonsense"), ("c", "9999999999999 1 c.1 {\"name\": \"x\"}"), ("d", "")] {
        redis::cmd("HSET").arg(&key).arg(gpu).arg(text).exec_async(&mut connection).await.expect("it is written");
    }
    for _ in 0..2 {
        assert_eq!(table.find_tensors(&pool(), &[tensor_name("x")]).await.expect("an answer"), [copy("x", 1, "a")]);
        assert_eq!(table.tensors(&pool(), None, 1).await.expect("a list"), [copy("x", 1, "a")]);
    }
    let left: Vec<String> = redis::cmd("HKEYS").arg(&key).query_async(&mut connection).await.expect("an answer");
    assert_eq!(left.len(), 2, "what a later version may have written stays: {left:?}");
    // A record that only this version does not understand is told anew over it.
    table.announce_tensors(&pool(), &[copy("x", 2, "c")]).await.expect("told");
    let found = table.find_tensors(&pool(), &[tensor_name("x")]).await.expect("an answer");
    assert_eq!(found, [copy("x", 1, "a"), copy("x", 2, "c")]);
    redis.delete(&key).await;
    assert_eq!(table.tensors(&pool(), None, 9).await.expect("a list"), [copy("y", 1, "a")], "a name without its copies");
}

#[tokio::test]
async fn nothing_that_workers_told_of_tensors_stays_for_ever() {
    let (redis, prefix) = (PrivateRedis::shared().await, PrivateRedis::fresh_prefix());
    let table = RedisTable::connect(&redis.url(), &prefix, LEASES, Duration::from_secs(30)).expect("a valid URL");
    table.announce_tensors(&pool(), &[copy("x", 1, "a")]).await.expect("told");
    for key in ["slots:tensor:x", "slots:tensors", "slots:tensors:told"] {
        let lives_s: i64 = redis::cmd("TTL")
            .arg(format!("{prefix}:{{default}}:{key}"))
            .query_async(&mut redis.connection().await)
            .await
            .expect("an answer");
        assert!((80_000..=86_400).contains(&lives_s), "{key}: {lives_s} s");
    }
}

#[tokio::test]
async fn tensors_are_told_and_found_on_a_cluster() {
    let redis = PrivateRedis::start(Persistence::ClusterOfOne).await;
    let table = table_on(&redis, Duration::from_secs(30)).await;
    table.heartbeat(&heartbeat(row("a"))).await.expect("a heartbeat");
    table.announce_tensors(&pool(), &[copy("x", 1, "a"), copy("y", 1, "a")]).await.expect("told");
    table.withdraw_tensors(&pool(), &gpu_id("a"), &incarnation("a"), &[(tensor_name("y"), 1)]).await.expect("told");
    let found = table.find_tensors(&pool(), &[tensor_name("x"), tensor_name("y")]).await.expect("an answer");
    assert_eq!(found, [copy("x", 1, "a")]);
    assert_eq!(table.tensors(&pool(), None, 9).await.expect("a list"), found);
}

/// More than one call sweeps.
#[tokio::test]
async fn a_dead_offer_that_is_replaced_gives_its_slot_back() {
    let world = World::redis().await.with_gpus(&["old", "new"]).await;
    world.join(row_with("busy", |row| row.slots = 400)).await;
    let only = |task: &str, name: &str| ask_with(task, "stranger", |request| request.specific_gpu_id = Some(gpu_id(name)));
    for n in 0..300 {
        world.offer(&only(&format!("b{n:03}"), "busy")).await;
    }
    world.offer(&only("t", "old")).await;
    world.pass(OFFERED_SECONDS + 50);
    assert_eq!(world.placed(&only("t", "new")).await, "new", "the first offer is dead");
    assert_eq!((world.held("old").await, world.held("new").await), (0, 1));
}
