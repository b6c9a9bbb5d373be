//! Rows: how GPUs join, live, die and come back.

use std::collections::BTreeMap;

use gpu_table::Heartbeat;
use protocol::{ClaimAnswer, ClaimRequest, Health, Kind, claim::Settings};

use super::world::{
    HELD_SECONDS, World, ask, ask_with, ask_without_slot, full_elsewhere, full_here, gpu_id, heartbeat, incarnation, is_own, pool, row,
    row_with, task_id,
};

const WEEK_SECONDS: u64 = 7 * 24 * 3_600;

async fn names(world: &World) -> Vec<String> {
    let rows = world.table.rows(&pool()).await.expect("rows");
    rows.iter().map(|view| view.row.gpu.gpu_id.to_string()).collect()
}

pub async fn a_row_lives_for_its_lease(world: World) {
    let world = world.with_gpus(&["b"]).await;
    world.pass(HELD_SECONDS - 100);
    world.join(row("a")).await;
    assert_eq!(names(&world).await, ["a", "b"]);
    world.pass(200);
    assert_eq!(names(&world).await, ["a"]);
    assert_eq!(world.placed(&ask("t", "b")).await, "a");
    world.join(row("b")).await;
    assert_eq!(world.placed(&ask("u", "b")).await, "b", "back again");
}

pub async fn slots_and_offers_end_with_a_dead_workers_row(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.pass(400);
    world.join(row("b")).await;
    world.occupy("b", 1).await;
    world.occupy("a", 1).await;
    let named = ask_with("t", "b", |request| request.specific_gpu_id = Some(gpu_id("a")));
    world.offer(&named).await;
    world.pass(300);
    assert!(is_own(&world.claim(&ask("t", "b")).await), "a is dead, though the lease of its offer is not over");
    world.beat(&heartbeat(row("a"))).await;
    assert_eq!(world.held("a").await, 0);
}

pub async fn another_incarnation_inherits_nothing(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("b", 1).await;
    world.offer(&ask_with("t", "b", |request| request.specific_gpu_id = Some(gpu_id("a")))).await;
    world.occupy("a", 1).await;
    world.join(row("a")).await;
    assert_eq!(world.held("a").await, 2, "the same incarnation keeps its slots, and its offers");
    world.join(row_with("a", |row| row.incarnation = incarnation("second"))).await;
    assert_eq!(world.held("a").await, 0);
    let named = ask_with("t", "b", |request| request.specific_gpu_id = Some(gpu_id("b")));
    assert!(is_own(&world.claim(&named).await), "what was offered to the first one is offered no more");
    let second = |request: &mut ClaimRequest| request.incarnation = incarnation("second");
    assert!(is_own(&world.claim(&ask_with("u", "a", second)).await), "its numbers begin anew");
    assert_eq!(world.held("a").await, 1);
}

pub async fn a_gpu_that_leaves_takes_its_slots_and_offers_along(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 1).await;
    let offer = world.offer(&ask_with("t", "b", |request| request.specific_gpu_id = Some(gpu_id("a")))).await;
    world.table.leave(&pool(), &gpu_id("a"), &incarnation("a")).await.expect("it leaves");
    assert_eq!(names(&world).await, ["b"]);
    assert_eq!(world.placed(&ask("t", "b")).await, "b");
    world.withdraw(&offer).await;
    world.table.leave(&pool(), &gpu_id("a"), &incarnation("a")).await.expect("leaving twice is no error");
    world.join(row("a")).await;
    assert_eq!(world.held("a").await, 1, "what it tells when it comes back");
}

pub async fn a_stale_incarnation_cannot_remove_its_successors_row(world: World) {
    world.join(row_with("a", |row| row.incarnation = incarnation("second"))).await;
    world.table.leave(&pool(), &gpu_id("a"), &incarnation("a")).await.expect("nothing happens");
    assert_eq!(names(&world).await, ["a"]);
}

pub async fn a_probe_changes_nothing(world: World) {
    let world = world.with_gpus(&["a"]).await;
    world.occupy("a", 1).await;
    let before = world.table.rows(&pool()).await.expect("rows");
    for _ in 0..2 {
        world.table.probe(&pool()).await.expect("it takes writes");
    }
    let after = world.table.rows(&pool()).await.expect("rows");
    assert_eq!((names(&world).await, after[0].held), (vec!["a".to_owned()], before[0].held));
    assert_eq!(world.table.known(&pool()).await.expect("the known ones"), [gpu_id("a")]);
}

pub async fn a_gpu_stays_known_for_a_week(world: World) {
    let world = world.with_gpus(&["b", "a"]).await;
    let known = async || world.table.known(&pool()).await.expect("the known ones");
    world.pass(WEEK_SECONDS - 1_000);
    assert_eq!(known().await, [gpu_id("a"), gpu_id("b")], "though both are long gone");
    world.join(row("b")).await;
    world.table.leave(&pool(), &gpu_id("b"), &incarnation("b")).await.expect("it leaves");
    world.pass(2_000);
    assert_eq!(known().await, [gpu_id("b")], "a week after its last heartbeat");
}

pub async fn the_table_is_steady_while_workers_are_heard_of_without_a_gap(world: World) {
    // In tens of seconds: the rest is how long the test took.
    let steady = async || world.table.steady(&pool()).await.expect("a time").as_secs() / 10 * 10;
    assert_eq!(steady().await, 0, "nobody was heard of");
    for _ in 0..3 {
        world.join(row("a")).await;
        world.pass(300);
    }
    assert_eq!(steady().await, 900);
    world.join(row("b")).await;
    world.pass(300);
    assert_eq!(steady().await, 1_200, "whoever it is");
    world.pass(HELD_SECONDS);
    assert_eq!(steady().await, 0, "no heartbeat for longer than a lease");
    world.join(row("a")).await;
    world.pass(10);
    assert_eq!(steady().await, 10);
}

pub async fn rows_say_how_long_an_item_of_a_batch_takes(world: World) {
    let item_ms = async || -> BTreeMap<Kind, f64> { world.table.rows(&pool()).await.expect("rows").remove(0).row.item_ms };
    world.join(row("a")).await;
    assert_eq!(item_ms().await, BTreeMap::new(), "no batch has run");
    let learnt: BTreeMap<Kind, f64> =
        BTreeMap::from([("embed".parse().expect("a kind"), 0.213), ("predict".parse().expect("a kind"), 48.5)]);
    world.join(row_with("a", |row| row.item_ms = learnt.clone())).await;
    assert_eq!(item_ms().await, learnt);
    let seen = world.table.seen(&pool(), &gpu_id("a")).await.expect("it answers");
    assert_eq!(seen.row.map(|row| row.item_ms), Some(learnt));
    world.join(row("a")).await;
    assert_eq!(item_ms().await, BTreeMap::new(), "a new heartbeat says it all anew");
}

pub async fn rows_say_how_long_runs_take_and_which_kinds_are_down(world: World) {
    let learnt: BTreeMap<Kind, f64> =
        BTreeMap::from([("echo".parse().expect("a kind"), 0.213), ("embed".parse().expect("a kind"), 12_300.0)]);
    let down: BTreeMap<Kind, String> = BTreeMap::from([("embed".parse().expect("a kind"), "its handler \"starts\", 3rd try".to_owned())]);
    let changed = row_with("a", |row| (row.run_ms, row.kinds_down) = (learnt.clone(), down.clone()));
    world.join(changed.clone()).await;
    let shown = world.table.rows(&pool()).await.expect("rows").remove(0).row;
    assert_eq!((&shown, &shown.run_ms, &shown.kinds_down), (&changed, &learnt, &down));
    let seen = world.table.seen(&pool(), &gpu_id("a")).await.expect("it answers");
    assert_eq!(seen.row, Some(changed));
    world.join(row("a")).await;
    let shown = world.table.rows(&pool()).await.expect("rows").remove(0).row;
    assert!(shown.run_ms.is_empty() && shown.kinds_down.is_empty(), "a new heartbeat says it all anew");
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

pub async fn seen_says_what_is_known_of_one_worker(world: World) {
    let full = row_with("a", |row| row.running = vec![task_id("t"), task_id("u")]);
    let seen = async |name: &str| world.table.seen(&pool(), &gpu_id(name)).await.expect("an answer");
    assert_eq!((seen("a").await.row, seen("a").await.steady.as_secs()), (None, 0));
    world.join(full.clone()).await;
    world.join(row("b")).await;
    world.pass(300);
    assert_eq!(seen("a").await.row, Some(full), "as it was written, with what runs there");
    assert_eq!(seen("z").await.row, None);
    assert_eq!(seen("z").await.steady.as_secs() / 10 * 10, 300, "whether or not it is there");
    world.join(row("b")).await;
    world.pass(400);
    assert_eq!(seen("a").await.row, None, "dead");
    assert_eq!(seen("a").await.steady.as_secs() / 10 * 10, 700);
    world.pass(HELD_SECONDS);
    assert_eq!(seen("b").await.steady.as_secs(), 0);
}

pub async fn heartbeats_rebuild_a_lost_table(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 1).await;
    let initial = world.table.settings(&pool(), &Settings::default()).await.expect("settings");
    let drained = Settings { draining: vec![gpu_id("b")], ..initial };
    let settings = world.table.change_settings(&pool(), &drained).await.expect("settings");
    world.forget().await;
    assert!(matches!(world.claim(&ask("u", "a")).await, ClaimAnswer::Unplaceable(_)), "placement pauses");
    world.beat(&Heartbeat { settings: settings.clone(), ..world.heartbeat(row("a")) }).await;
    let beat = world.beat(&Heartbeat { settings, ..world.heartbeat(row("b")) }).await;
    assert!(beat.draining, "the drain survives");
    assert_eq!([world.held("a").await, world.held("b").await], [1, 0]);
    assert_eq!(world.placed(&ask("u", "b")).await, "a");
    assert_eq!(world.claim(&ask("v", "a")).await, full_here(), "what is held counts");
}

pub async fn numbers_count_even_beyond_the_slots(world: World) {
    let world = world.with_gpus(&["a"]).await;
    world.occupy("a", 3).await;
    assert_eq!(world.held("a").await, 3, "its worker really holds them");
    world.tell("a", -1, &[]).await;
    assert_eq!(world.claim(&ask("t", "stranger")).await, full_elsewhere("a"));
    world.tell("a", -1, &[]).await;
    assert_eq!(world.placed(&ask("t", "stranger")).await, "a");
}

pub async fn an_offer_that_a_lost_table_forgot_is_made_anew(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 2).await;
    let offer = world.offer(&ask_without_slot("t", "a")).await;
    world.forget().await;
    world.withdraw(&offer).await;
    for name in ["a", "b"] {
        world.join(row(name)).await;
    }
    assert_eq!(world.held("b").await, 0);
    assert_eq!(world.offer(&ask_without_slot("t", "a")).await, offer);
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
    let offer = world.offer(&elsewhere).await;
    assert_eq!((offer.gpu_id.as_str(), offer.pool), ("z", other.clone()));
    assert!(is_own(&world.claim(&ask("t", "a")).await), "an offer in another pool is of no concern");
    assert_eq!(world.table.known(&other).await.expect("the known ones"), [gpu_id("z")]);
}
