//! The fleet's settings, changed while it runs.

use futures::future::join_all;
use gpu_table::{Heartbeat, WishFailed, change_settings, wish_for_model};
use protocol::{ClaimAnswer, ModelAction, ModelWish, ModelWishes, Strategy, claim::Settings};

use super::world::{World, ask, full_elsewhere, gpu_id, pool, row, row_with};

async fn change(world: &World, change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = world.table.settings(&pool(), &Settings::default()).await.expect("settings");
    change(&mut settings);
    world.table.change_settings(&pool(), &settings).await.expect("settings")
}

pub async fn the_first_settings_are_kept(world: World) {
    let first = Settings { memory_threshold: 0.123_456_789_012_345_67, ..Settings::default() };
    assert_eq!(world.table.settings(&pool(), &first).await.expect("settings"), first);
    assert_eq!(world.table.settings(&pool(), &Settings::default()).await.expect("settings"), first);
}

pub async fn reading_the_settings_writes_none(world: World) {
    let current = async || world.table.current_settings(&pool()).await.expect("settings");
    assert_eq!((current().await, current().await), (None, None));
    let first = Settings { default_strategy: Strategy::TaskSpecific, ..Settings::default() };
    world.table.settings(&pool(), &first).await.expect("settings");
    assert_eq!(current().await, Some(first), "a reading before has left nothing in their place");
    let changed = change(&world, |settings| settings.draining = vec![gpu_id("a")]).await;
    assert_eq!(current().await, Some(changed));
}

pub async fn changes_at_the_same_time_are_all_applied(world: World) {
    let initial = Settings { default_strategy: Strategy::RoundRobin, ..Settings::default() };
    let gpus = ["a", "b", "c", "d"].map(gpu_id);
    let (table, name) = (&*world.table, pool());
    let drains = gpus.iter().map(|gpu_id| change_settings(table, &name, &initial, move |settings| settings.with_drained(gpu_id)));
    assert!(join_all(drains).await.iter().all(Result::is_ok));
    let settings = table.current_settings(&name).await.expect("settings").expect("some");
    assert_eq!((settings.default_strategy, settings.draining.as_slice()), (Strategy::RoundRobin, &gpus[..]));
    let version = settings.version;
    let again = change_settings(table, &name, &initial, |settings| settings.with_drained(&gpus[0])).await.expect("settings");
    assert_eq!(again.version, version, "what is so already is not written");
}

pub async fn a_change_needs_the_current_version(world: World) {
    let first = world.table.settings(&pool(), &Settings::default()).await.expect("settings");
    let mine = Settings { default_strategy: Strategy::RoundRobin, ..first.clone() };
    let theirs = Settings { default_strategy: Strategy::TaskSpecific, ..first };
    let changed = world.table.change_settings(&pool(), &mine).await.expect("settings");
    assert_eq!((changed.version, changed.default_strategy), (1, Strategy::RoundRobin));
    let refused = world.table.change_settings(&pool(), &theirs).await.expect("settings");
    assert_eq!(refused, changed, "who was slower sees what is in force");
    let again = Settings { default_strategy: Strategy::TaskSpecific, ..refused };
    assert_eq!(world.table.change_settings(&pool(), &again).await.expect("settings").version, 2);
}

pub async fn a_drained_gpu_gets_nothing_until_it_is_undrained(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    change(&world, |settings| settings.draining = vec![gpu_id("a")]).await;
    let beat = world.beat(&world.heartbeat(row("a"))).await;
    assert!(beat.draining, "its worker is told");
    assert!(!world.beat(&world.heartbeat(row("b"))).await.draining);
    for task in ["t", "u"] {
        assert_eq!(world.placed(&ask(task, "a")).await, "b");
    }
    assert_eq!(world.claim(&ask("v", "a")).await, full_elsewhere("b"), "it waits in no draining hand");
    change(&world, |settings| settings.draining.clear()).await;
    assert_eq!(world.placed(&ask("v", "a")).await, "a", "without another heartbeat");
    assert!(!world.beat(&world.heartbeat(row("a"))).await.draining);
}

pub async fn new_thresholds_count_at_once_for_every_row(world: World) {
    world.join(row_with("a", |row| row.sample.memory_used_mb = 40_000)).await;
    world.join(row_with("b", |row| row.foreign_utilization_percent = 50.0)).await;
    assert_eq!(world.placed(&ask("t", "a")).await, "a");
    change(&world, |settings| settings.memory_threshold = 0.5).await;
    assert_eq!(world.placed(&ask("u", "a")).await, "b", "at the threshold is over it");
    change(&world, |settings| settings.utilization_threshold = 0.5).await;
    assert!(matches!(world.claim(&ask("v", "a")).await, ClaimAnswer::Full { fits_here: true, .. }));
    change(&world, |settings| settings.memory_threshold = 0.9).await;
    assert_eq!(world.placed(&ask("v", "b")).await, "a");
}

pub async fn a_heartbeat_restores_lost_settings_but_never_older_ones(world: World) {
    let world = world.with_gpus(&["a"]).await;
    let changed = change(&world, |settings| settings.draining = vec![gpu_id("b")]).await;
    let stale = world.beat(&world.heartbeat(row("a"))).await;
    assert_eq!(stale.settings, changed, "older ones change nothing");
    world.forget().await;
    let beat = world.beat(&Heartbeat { settings: changed.clone(), ..world.heartbeat(row("a")) }).await;
    assert_eq!(beat.settings, changed, "lost ones come back");
    world.forget().await;
    world.join(row("b")).await;
    world.join(row("a")).await;
    world.beat(&Heartbeat { settings: changed.clone(), ..world.heartbeat(row("a")) }).await;
    assert_eq!(world.table.settings(&pool(), &Settings::default()).await.expect("settings"), changed, "newer ones win");
    assert_eq!(world.placed(&ask("t", "b")).await, "a", "and their drain counts for rows that were there before");
}

pub async fn a_new_default_strategy_counts_at_once(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    change(&world, |settings| settings.default_strategy = Strategy::RoundRobin).await;
    let given = [world.place(&ask("t", "a")).await, world.place(&ask("u", "a")).await, world.place(&ask("v", "a")).await];
    assert_eq!(given.each_ref().map(|placed| placed.gpu.as_str()), ["a", "b", "a"]);
    assert!(given.iter().all(|placed| placed.choice.used == Strategy::RoundRobin));
}

pub async fn a_wish_for_a_model_gets_a_number_once_and_outlives_the_table(world: World) {
    let world = world.with_gpus(&["a"]).await;
    let (table, name, initial) = (&*world.table, pool(), Settings::default());
    let wish = ModelWish::new("a model", ModelAction::Pin, 7).on(&[gpu_id("a")]);
    let taken = wish_for_model(table, &name, &initial, &wish).await.expect("taken");
    assert_eq!(taken, ModelWish { number: 1, ..wish.clone() });
    let again = wish_for_model(table, &name, &initial, &wish).await.expect("taken");
    assert_eq!(again.number, 1, "whoever does not hear the answer asks again");
    let beat = world.beat(&world.heartbeat(row("a"))).await;
    let pinned = |settings: &Settings| settings.models.pinned_on(&gpu_id("a")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(pinned(&beat.settings), ["a model"], "the heartbeat's answer brings it");
    world.forget().await;
    world.beat(&Heartbeat { settings: beat.settings.clone(), ..world.heartbeat(row("a")) }).await;
    let restored = table.current_settings(&name).await.expect("settings").expect("some");
    assert_eq!(restored, beat.settings, "a heartbeat brings it back");
}

pub async fn wishes_at_the_same_time_all_get_numbers_of_their_own(world: World) {
    let (table, name, initial) = (&*world.table, pool(), Settings::default());
    let wishes = ["a", "b", "c", "d"].map(|model| ModelWish::new(model, ModelAction::Load, 7));
    let taken = join_all(wishes.iter().map(|wish| wish_for_model(table, &name, &initial, wish))).await;
    let mut numbers: Vec<u64> = taken.into_iter().map(|taken| taken.expect("taken").number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

pub async fn a_wish_that_cannot_be_kept_changes_nothing(world: World) {
    let world = world.with_gpus(&["a"]).await;
    let (table, name, initial) = (&*world.table, pool(), Settings::default());
    for n in 0..ModelWishes::PINS_MAX {
        wish_for_model(table, &name, &initial, &ModelWish::new(format!("m{n}"), ModelAction::Pin, 7)).await.expect("taken");
    }
    let before = table.current_settings(&name).await.expect("settings").expect("some");
    for wish in [ModelWish::new("one more", ModelAction::Pin, 7), ModelWish::new("a\nb", ModelAction::Load, 7)] {
        let refused = wish_for_model(table, &name, &initial, &wish).await;
        assert!(matches!(refused, Err(WishFailed::Refused(_))), "{refused:?}");
    }
    assert_eq!(table.current_settings(&name).await.expect("settings"), Some(before));
}
