//! Tasks that nobody serves, as workers tell of them; and who lives, as those see it who ask often.

use std::{sync::Arc, time::Duration};

use gpu_table::{Living, PoolView, Sighting, UNSERVED_MAX, Wanted};
use protocol::{Needs, Unserved};

use super::world::{HELD_SECONDS, World, pool, row, row_with};

/// How long an entry lives.
const LIVES_SECONDS: u64 = 180;

fn sighting(kind: &str, times: u64) -> Sighting {
    Sighting {
        wanted: format!("kind {kind}"),
        kind: kind.parse().expect("a kind"),
        reason: format!("nobody serves \"{kind}\""),
        served: ["echo", "simulate"].map(|kind| kind.parse().expect("a kind")).to_vec(),
        times,
    }
}

async fn note(world: &World, sighting: &Sighting) {
    world.table.note_unserved(&pool(), sighting).await.expect("noted");
}

async fn unserved(world: &World) -> Vec<Unserved> {
    world.table.unserved(&pool()).await.expect("a list")
}

async fn kinds(world: &World) -> Vec<String> {
    unserved(world).await.iter().map(|entry| entry.kind.to_string()).collect()
}

pub async fn what_is_unserved_is_kept_as_it_was_told_and_counted(world: World) {
    assert_eq!(unserved(&world).await, Vec::<Unserved>::new());
    note(&world, &sighting("llama", 2)).await;
    note(&world, &sighting("ecko", 1)).await;
    world.pass(60);
    note(&world, &Sighting { reason: "still nobody".to_owned(), ..sighting("ecko", 5) }).await;
    let found = unserved(&world).await;
    let [ecko, llama] = found.as_slice() else { panic!("two things are unserved: {found:?}") };
    assert_eq!((ecko.kind.as_str(), ecko.wanted.as_str(), ecko.reason.as_str(), ecko.sightings), ("ecko", "kind ecko", "still nobody", 6));
    assert!(ecko.last_ms - ecko.first_ms >= 60_000, "{ecko:?}");
    assert_eq!((llama.sightings, &llama.reason), (2, &sighting("llama", 0).reason));
    assert!(llama.last_ms - llama.first_ms < 60_000, "{llama:?}");
    assert_eq!(llama.served, sighting("llama", 0).served);
}

pub async fn what_nobody_tells_of_any_more_lapses(world: World) {
    note(&world, &sighting("llama", 1)).await;
    world.pass(LIVES_SECONDS - 60);
    note(&world, &sighting("ecko", 1)).await;
    assert_eq!(kinds(&world).await, ["ecko", "llama"]);
    world.pass(120);
    assert_eq!(kinds(&world).await, ["ecko"]);
    note(&world, &sighting("llama", 1)).await;
    assert_eq!(unserved(&world).await[1].sightings, 1, "what lapsed counts no more");
}

pub async fn what_is_served_again_is_forgotten_at_once(world: World) {
    note(&world, &sighting("ecko", 1)).await;
    note(&world, &sighting("llama", 1)).await;
    for _ in 0..2 {
        world.table.forget_unserved(&pool(), "kind ecko").await.expect("forgotten");
        assert_eq!(kinds(&world).await, ["llama"]);
    }
}

pub async fn what_is_unserved_is_bounded_and_the_oldest_goes(world: World) {
    for n in 0..UNSERVED_MAX {
        note(&world, &sighting(&format!("k{n:03}"), 1)).await;
    }
    world.pass(60);
    note(&world, &sighting("k000", 1)).await;
    note(&world, &sighting("one-more", 1)).await;
    let kinds = kinds(&world).await;
    assert_eq!(kinds.len(), UNSERVED_MAX);
    let has = |kind: &str| kinds.iter().any(|known| known == kind);
    assert_eq!((has("k000"), has("k001"), has("k002"), has("one-more")), (true, false, true, true));
}

pub async fn what_is_unserved_in_one_pool_is_of_no_concern_to_another(world: World) {
    note(&world, &sighting("ecko", 1)).await;
    let other = "other".parse().expect("a pool");
    assert_eq!(world.table.unserved(&other).await.expect("a list"), Vec::<Unserved>::new());
    world.table.forget_unserved(&other, "kind ecko").await.expect("nothing to forget");
    assert_eq!(kinds(&world).await, ["ecko"]);
}

pub async fn who_lives_and_what_is_served_is_seen_with_how_steady_the_table_is(world: World) {
    let wanted = |kind: &str| Wanted { kind: kind.parse().expect("a kind"), needs: Needs::default(), specific_gpu_id: None };
    let look = async || Living::look(&*world.table, &pool()).await.expect("a look");
    let nobody = look().await;
    assert!(nobody.is_empty() && !nobody.serves(&wanted("echo"), 1.0));
    world.join(row("a")).await;
    world.join(row_with("b", |row| row.kinds = vec!["predict".parse().expect("a kind")])).await;
    world.pass(HELD_SECONDS - 100);
    world.join(row("a")).await;
    let both = look().await;
    assert_eq!(both.kinds().iter().map(|kind| kind.as_str()).collect::<Vec<_>>(), ["echo", "predict"]);
    assert!(both.steady() >= Duration::from_secs(HELD_SECONDS - 101), "{:?}", both.steady());
    world.pass(200);
    let alone = look().await;
    assert_eq!(alone.kinds().len(), 1);
    assert!(alone.serves(&wanted("echo"), 1.0) && alone.lack(&wanted("predict"), 1.0).is_some());
    world.forget().await;
    world.join(row("a")).await;
    assert!(look().await.steady() < Duration::from_secs(100), "it begins anew");
}

#[tokio::test(start_paused = true)]
async fn a_view_asks_the_table_again_only_when_it_is_old() {
    let world = World::memory();
    let view = PoolView::new(Arc::clone(&world.table), pool());
    let is_empty = async || view.living().await.expect("memory answers").is_empty();
    assert!(is_empty().await);
    world.join(row("a")).await;
    assert!(is_empty().await, "it is as it was a moment ago");
    tokio::time::advance(PoolView::AGE_MAX).await;
    assert!(!is_empty().await);
}
