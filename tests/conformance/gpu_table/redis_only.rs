//! What only a server can do to its clients: lose the scripts, fall silent, go and come back.

use std::time::Duration;

use gpu_table::{GpuTable, RedisTable, TableError};
use protocol::{ClaimAnswer, config::SecretUrl};
use tests::redis::{Persistence, PrivateRedis};

use super::world::{LEASES, World, ask, claim_of, gpu_id, heartbeat, here, is_own, row, row_with};

async fn table_on(redis: &PrivateRedis, timeout: Duration) -> RedisTable {
    RedisTable::connect(&redis.url(), &PrivateRedis::fresh_prefix(), LEASES, timeout).expect("a valid URL")
}

#[tokio::test]
async fn a_server_that_lost_the_scripts_is_given_them_again() {
    let redis = PrivateRedis::start(Persistence::Nothing).await;
    let table = table_on(&redis, Duration::from_secs(30)).await;
    table.heartbeat(&heartbeat(row("a"), &[])).await.expect("a heartbeat");
    redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut redis.connection().await).await.expect("the scripts go");
    assert!(is_own(&table.claim(&ask("t", "a")).await.expect("an answer")));
}

#[tokio::test]
async fn a_restarted_server_is_found_again_and_filled_by_the_next_heartbeat() {
    let mut redis = PrivateRedis::start(Persistence::Nothing).await;
    let table = table_on(&redis, Duration::from_secs(30)).await;
    table.heartbeat(&heartbeat(row("a"), &[])).await.expect("a heartbeat");
    let held = claim_of(table.claim(&ask("t", "a")).await.expect("an answer"));
    redis.kill();
    let error = table.claim(&ask("u", "a")).await.expect_err("nobody answers");
    assert!(error.is_transient() && error.to_string().contains("claim a GPU"), "{error}");
    redis.restart().await;
    table.heartbeat(&heartbeat(row("a"), &[&held])).await.expect("found again at once");
    assert!(table.release(&held).await.expect("an answer"), "restored");
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
async fn a_silent_server_is_given_up_after_the_response_timeout() {
    let redis = PrivateRedis::start(Persistence::Nothing).await;
    let table = table_on(&redis, Duration::from_millis(300)).await;
    tests::until::until("the table answers", async || table.ping().await.is_ok()).await;
    redis.pause();
    let error = table.heartbeat(&heartbeat(row("a"), &[])).await.expect_err("nothing answers");
    assert!(error.is_transient(), "{error}");
    redis.resume();
    tests::until::until("the table answers again", async || table.ping().await.is_ok()).await;
}

#[tokio::test]
async fn a_table_survives_a_crash_of_a_server_that_keeps_its_data() {
    let mut redis = PrivateRedis::start(Persistence::AppendOnly).await;
    let table = table_on(&redis, Duration::from_secs(30)).await;
    table.heartbeat(&heartbeat(row("a"), &[])).await.expect("a heartbeat");
    let held = claim_of(table.claim(&ask("t", "a")).await.expect("an answer"));
    redis.kill();
    redis.restart().await;
    assert!(table.release(&held).await.expect("found again at once"));
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_without_showing_its_password() {
    let url = SecretUrl::new("rediss+nonsense://:secret@host:1/0");
    let error = RedisTable::connect(&url, "p", LEASES, Duration::from_secs(1)).expect_err("no URL");
    assert!(matches!(error, TableError::BadUrl { .. }) && !error.is_transient());
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_flood_of_dead_claims_and_rows_is_swept_in_bounded_steps() {
    let world = World::redis().await;
    for n in 0..300 {
        world.join(row(&format!("gpu-{n:03}"))).await;
    }
    for n in 0..300 {
        world.claim(&ask(&format!("t{n}"), &format!("gpu-{n:03}"))).await;
    }
    world.pass(super::world::HELD_SECONDS + 50).await;
    world.join(row("alive")).await;
    assert_eq!(world.placed(&ask("t299", "alive")).await, "alive", "the dead that are not swept yet are passed over");
    for n in 0..3 {
        world.claim(&ask(&format!("u{n}"), "alive")).await;
    }
    let rows = world.table.rows(&super::world::pool()).await.expect("rows");
    assert_eq!((rows.len(), rows[0].held), (1, rows[0].row.slots), "and what was claimed anew stays claimed");
    assert!(matches!(world.claim(&ask("t299", "elsewhere")).await, ClaimAnswer::Held { .. }));
}

#[tokio::test]
async fn a_server_that_evicted_some_of_the_keys_leaves_no_slot_held() {
    let (redis, prefix) = (PrivateRedis::shared().await, PrivateRedis::fresh_prefix());
    let table = RedisTable::connect(&redis.url(), &prefix, LEASES, Duration::from_secs(30)).expect("a valid URL");
    table.heartbeat(&heartbeat(row("a"), &[])).await.expect("a heartbeat");
    for task in ["t", "u"] {
        assert!(is_own(&table.claim(&ask(task, "a")).await.expect("an answer")));
    }
    for key in ["row*", "claims", "deadlines"] {
        redis.delete(&format!("{prefix}:{{default}}:{key}")).await;
    }
    table.heartbeat(&heartbeat(row("a"), &[])).await.expect("a heartbeat");
    assert_eq!(table.rows(&super::world::pool()).await.expect("rows")[0].held, 0);
}

/// More than one call sweeps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_claim_that_is_replaced_gives_its_slot_back() {
    let world = World::redis().await.with_gpus(&["old", "new"]).await;
    world.join(row_with("busy", |row| row.slots = 400)).await;
    for n in 0..300 {
        world.claim(&here(&format!("b{n:03}"), "busy")).await;
    }
    world.claim(&here("t", "old")).await;
    world.pass(super::world::HELD_SECONDS - 50).await;
    for name in ["old", "new", "busy"] {
        world.join(row(name)).await;
    }
    world.pass(100).await;
    assert!(is_own(&world.claim(&here("t", "new")).await), "its first claim is dead");
    let rows = world.table.rows(&super::world::pool()).await.expect("rows");
    let held = |name: &str| rows.iter().find(|view| view.row.gpu.gpu_id == gpu_id(name)).expect("a row").held;
    assert_eq!((held("old"), held("new")), (0, 1));
}
