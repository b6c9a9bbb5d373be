//! Rows: how GPUs join, live, die and come back.

use gpu_table::Heartbeat;
use protocol::{ClaimAnswer, ClaimRequest, Health, claim::Settings};

use super::world::{
    HELD_SECONDS, World, ask, ask_with, claim_of, full_here, gpu_id, heartbeat, here, incarnation, is_own, pool, row, row_with,
};

const WEEK_SECONDS: u64 = 7 * 24 * 3_600;

async fn names(world: &World) -> Vec<String> {
    let rows = world.table.rows(&pool()).await.expect("rows");
    rows.iter().map(|view| view.row.gpu.gpu_id.to_string()).collect()
}

pub async fn a_row_lives_for_its_lease(world: World) {
    let world = world.with_gpus(&["b"]).await;
    world.pass(HELD_SECONDS - 100).await;
    world.join(row("a")).await;
    assert_eq!(names(&world).await, ["a", "b"]);
    world.pass(200).await;
    assert_eq!(names(&world).await, ["a"]);
    assert_eq!(world.placed(&ask("t", "b")).await, "a");
    world.join(row("b")).await;
    assert_eq!(world.placed(&ask("u", "b")).await, "b", "back again");
}

pub async fn a_dead_workers_claims_end_with_its_row(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.pass(400).await;
    world.join(row("b")).await;
    let claim = claim_of(world.claim(&here("t", "a")).await);
    world.pass(300).await;
    assert!(is_own(&world.claim(&here("t", "b")).await), "a is dead, though the claim's own lease is not over");
    assert!(!world.release(&claim).await);
}

pub async fn another_incarnation_inherits_no_claims(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 2).await;
    world.join(row("a")).await;
    assert_eq!(world.claim(&here("t", "a")).await, full_here(), "the same incarnation keeps its claims");
    world.join(row_with("a", |row| row.incarnation = incarnation("second"))).await;
    assert!(is_own(&world.claim(&here("t", "a")).await));
    assert!(is_own(&world.claim(&here("filler-a-0", "b")).await), "what the first one ran may be taken up elsewhere");
}

pub async fn a_gpu_that_leaves_takes_its_claims_along(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    let claim = claim_of(world.claim(&here("t", "a")).await);
    world.table.leave(&pool(), &gpu_id("a"), &incarnation("a")).await.expect("it leaves");
    assert_eq!(names(&world).await, ["b"]);
    assert!(!world.release(&claim).await);
    assert_eq!(world.placed(&ask("t", "b")).await, "b");
    world.table.leave(&pool(), &gpu_id("a"), &incarnation("a")).await.expect("leaving twice is no error");
}

pub async fn a_stale_incarnation_cannot_remove_its_successors_row(world: World) {
    world.join(row_with("a", |row| row.incarnation = incarnation("second"))).await;
    world.table.leave(&pool(), &gpu_id("a"), &incarnation("a")).await.expect("nothing happens");
    assert_eq!(names(&world).await, ["a"]);
}

pub async fn a_gpu_stays_known_for_a_week(world: World) {
    let world = world.with_gpus(&["b", "a"]).await;
    let known = async || world.table.known(&pool()).await.expect("the known ones");
    world.pass(WEEK_SECONDS - 1_000).await;
    assert_eq!(known().await, [gpu_id("a"), gpu_id("b")], "though both are long gone");
    world.join(row("b")).await;
    world.table.leave(&pool(), &gpu_id("b"), &incarnation("b")).await.expect("it leaves");
    world.pass(2_000).await;
    assert_eq!(known().await, [gpu_id("b")], "a week after its last heartbeat");
}

pub async fn the_table_is_steady_while_workers_are_heard_of_without_a_gap(world: World) {
    // In tens of seconds: the rest is how long the test took.
    let steady = async || world.table.steady(&pool()).await.expect("a time").as_secs() / 10 * 10;
    assert_eq!(steady().await, 0, "nobody was heard of");
    for _ in 0..3 {
        world.join(row("a")).await;
        world.pass(300).await;
    }
    assert_eq!(steady().await, 900);
    world.join(row("b")).await;
    world.pass(300).await;
    assert_eq!(steady().await, 1_200, "whoever it is");
    world.pass(HELD_SECONDS).await;
    assert_eq!(steady().await, 0, "no heartbeat for longer than a lease");
    world.join(row("a")).await;
    world.pass(10).await;
    assert_eq!(steady().await, 10);
}

pub async fn rows_say_what_is_held_and_who_is_eligible(world: World) {
    let full = row_with("a", |row| {
        row.models = vec!["llama".to_owned()];
        row.sample.temperature_celsius = 71.123_456_789;
    });
    world.join(full.clone()).await;
    world.join(row_with("b", |row| row.health = Health::Quarantined)).await;
    world.occupy("a", 2).await;
    let settings = Settings { draining: vec![gpu_id("a")], ..Settings::default() };
    let rows = world.table.rows(&pool()).await.expect("rows");
    let seen: Vec<_> = rows.iter().map(|view| (view.held, view.draining, view.eligible)).collect();
    assert_eq!(seen, [(2, false, true), (0, false, false)], "a free slot aside");
    assert_eq!(rows[0].row, full, "the row as it was written");
    assert!(rows.iter().all(|view| view.expires_in_ms > (HELD_SECONDS - 100) * 1_000 && view.expires_in_ms <= HELD_SECONDS * 1_000));
    world.table.change_settings(&pool(), &settings).await.expect("settings");
    let rows = world.table.rows(&pool()).await.expect("rows");
    assert_eq!((rows[0].draining, rows[0].eligible), (true, false));
}

pub async fn heartbeats_rebuild_a_lost_table(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    let held = claim_of(world.claim(&here("t", "a")).await);
    let initial = world.table.settings(&pool(), &Settings::default()).await.expect("settings");
    let drained = Settings { draining: vec![gpu_id("b")], ..initial };
    let settings = world.table.change_settings(&pool(), &drained).await.expect("settings");
    world.forget().await;
    assert!(matches!(world.claim(&ask("u", "a")).await, ClaimAnswer::Unplaceable(_)), "placement pauses");
    let beat_of = |name: &str, held: &[&protocol::Claim]| Heartbeat { settings: settings.clone(), ..heartbeat(row(name), held) };
    assert!(world.beat(&beat_of("a", &[&held])).await.lost.is_empty());
    assert!(world.beat(&beat_of("b", &[])).await.draining, "the drain survives");
    assert!(matches!(world.claim(&ask("t", "b")).await, ClaimAnswer::Held { .. }), "the claim is restored");
    assert_eq!(world.claim(&ask("t", "a")).await, ClaimAnswer::Own(held.clone()), "to the delivery that had it");
    assert_eq!(world.placed(&ask("u", "b")).await, "a");
    assert_eq!(world.claim(&here("v", "a")).await, full_here(), "and it counts");
    assert!(world.release(&held).await);
}

pub async fn restored_claims_count_even_beyond_the_slots(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    let claims = world.occupy("a", 2).await;
    world.forget().await;
    world.join(row("a")).await;
    let early = claim_of(world.claim(&here("early", "a")).await);
    world.beat(&heartbeat(row("a"), &[&claims[0], &claims[1], &early])).await;
    assert_eq!(world.table.rows(&pool()).await.expect("rows")[0].held, 3, "its worker really holds them");
    world.release(&early).await;
    assert_eq!(world.claim(&here("t", "a")).await, full_here());
    world.release(&claims[0]).await;
    assert!(is_own(&world.claim(&here("t", "a")).await));
}

pub async fn a_lost_table_gives_no_token_twice(world: World) {
    let world = world.with_gpus(&["a"]).await;
    let mut claim = claim_of(world.claim(&ask("t", "a")).await);
    claim.token.0 += 1_000_000_000_000;
    world.forget().await;
    world.beat(&heartbeat(row("a"), &[&claim])).await;
    assert!(claim_of(world.claim(&ask("u", "a")).await).token > claim.token, "even if the clock went back");
}

pub async fn a_worker_learns_which_claims_it_lost(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    let claims = world.occupy("a", 2).await;
    world.forget().await;
    world.join(row("b")).await;
    let taken = claim_of(world.claim(&here("filler-a-1", "b")).await);
    let beat = world.beat(&heartbeat(row("a"), &[&claims[0], &claims[1]])).await;
    assert_eq!(beat.lost, std::slice::from_ref(&claims[1].task_id), "the other one is restored");
    assert!(world.release(&claims[0]).await);
    assert!(world.release(&taken).await);
    let again = world.beat(&heartbeat(row("a"), &[&claims[1]])).await;
    assert!(again.lost.is_empty(), "nobody else holds it any more");
}

pub async fn a_gpu_that_changes_its_models_and_kinds_is_found_by_the_new_ones(world: World) {
    let with = |kinds: &[&str], models: &[&str]| {
        row_with("b", |row| {
            row.kinds = kinds.iter().map(|kind| kind.parse().expect("a kind")).collect();
            row.models = models.iter().map(|model| (*model).to_owned()).collect();
            row.sample.memory_used_mb = 50_000;
        })
    };
    let llama = |task: &str| {
        ask_with(task, "a", |request: &mut ClaimRequest| {
            request.strategy = Some("task_specific".to_owned());
            request.needs.model = Some("llama".to_owned());
        })
    };
    world.join(row_with("a", |row| row.slots = 8)).await;
    world.join(with(&["echo"], &["llama"])).await;
    assert_eq!(world.placed(&llama("t")).await, "b");
    world.join(with(&["echo"], &["other"])).await;
    assert_eq!(world.placed(&llama("u")).await, "a");
    world.join(with(&["echo", "predict"], &["llama"])).await;
    assert_eq!(world.placed(&llama("v")).await, "b");
    world.join(with(&["predict"], &["llama"])).await;
    assert_eq!(world.placed(&llama("w")).await, "a", "it runs no echo any more");
}

pub async fn pools_are_apart(world: World) {
    let world = world.with_gpus(&["a"]).await;
    let other: protocol::PoolName = "other".parse().expect("a pool");
    world.join(row_with("z", |row| row.pool = other.clone())).await;
    let elsewhere = ask_with("t", "a", |request| request.pool = other.clone());
    let claim = claim_of(world.claim(&elsewhere).await);
    assert_eq!((claim.gpu_id.as_str(), claim.pool), ("z", other.clone()));
    assert!(is_own(&world.claim(&ask("t", "a")).await), "the same task in another pool is another claim");
    assert_eq!(world.table.known(&other).await.expect("the known ones"), [gpu_id("z")]);
}
