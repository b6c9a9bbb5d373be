//! Claims of the asking GPU or none.

use protocol::{ClaimAnswer, Health};

use super::world::{World, ask, ask_with, claim_of, full_here, gpu_id, here, is_own, pool, row_with};

pub async fn a_gpu_with_a_free_slot_takes_its_own_task(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 1).await;
    assert!(is_own(&world.claim(&here("t", "a")).await), "though b is idle");
}

pub async fn a_full_gpu_keeps_its_own_task_waiting(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 2).await;
    assert_eq!(world.claim(&here("t", "a")).await, full_here());
}

pub async fn a_gpu_over_its_thresholds_keeps_its_own_task_waiting(world: World) {
    world.join(row_with("memory", |row| row.sample.memory_used_mb = 79_000)).await;
    world.join(row_with("busy", |row| row.foreign_utilization_percent = 99.0)).await;
    world.join(row_with("half", |row| row.sample.memory_used_mb = 40_000)).await;
    world.join(row_with("silent", |row| row.consuming = false)).await;
    assert_eq!(world.claim(&here("t", "memory")).await, full_here());
    assert_eq!(world.claim(&here("t", "busy")).await, full_here());
    let large = |request: &mut protocol::ClaimRequest| request.needs.memory_mb = Some(50_000);
    let mut request = here("t", "half");
    large(&mut request);
    assert_eq!(world.claim(&request).await, full_here(), "the memory is not there now");
    assert!(is_own(&world.claim(&here("t", "silent")).await), "who asks, consumes");
}

pub async fn a_gpu_that_cannot_run_a_task_says_not_here(world: World) {
    let world = world.with_gpus(&["a", "drained"]).await;
    world.join(row_with("sick", |row| row.health = Health::Quarantined)).await;
    world.join(row_with("probing", |row| row.health = Health::Probation)).await;
    world.join(row_with("stopping", |row| row.stopping = true)).await;
    let mut settings = world.table.settings(&pool(), &Default::default()).await.expect("settings");
    settings.draining = vec![gpu_id("drained")];
    world.table.change_settings(&pool(), &settings).await.expect("settings");
    for name in ["unknown", "drained", "sick", "probing", "stopping"] {
        assert_eq!(world.claim(&here("t", name)).await, ClaimAnswer::NotHere, "{name}");
    }
    let mut unfit = here("t", "a");
    unfit.kind = "predict".parse().expect("a kind");
    assert_eq!(world.claim(&unfit).await, ClaimAnswer::NotHere);
    let mut too_large = here("t", "a");
    too_large.needs.memory_mb = Some(75_000);
    assert_eq!(world.claim(&too_large).await, ClaimAnswer::NotHere, "more than the threshold leaves");
    let mut elsewhere = here("t", "a");
    elsewhere.specific_gpu_id = Some(gpu_id("sick"));
    assert_eq!(world.claim(&elsewhere).await, ClaimAnswer::NotHere, "it names another GPU");
}

pub async fn an_offer_to_another_gpu_is_not_taken_up_here(world: World) {
    let world = world.with_gpus(&["a", "b", "c"]).await;
    let offer = claim_of(world.claim(&ask_with("t", "a", |request| request.specific_gpu_id = Some(gpu_id("b")))).await);
    assert!(matches!(world.claim(&here("t", "c")).await, ClaimAnswer::Held { .. }));
    let mut later = here("t", "b");
    later.attempt = 2;
    assert!(matches!(world.claim(&later).await, ClaimAnswer::Held { .. }), "another attempt");
    assert!(matches!(world.claim(&ask("t", "b")).await, ClaimAnswer::Held { .. }), "an offer is taken up by asking for here");
    assert_eq!(world.claim(&here("t", "b")).await, ClaimAnswer::Own(offer));
}
