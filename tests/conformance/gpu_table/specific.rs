//! Tasks that name the only GPU that will do.

use protocol::{ClaimAnswer, ClaimMode, ClaimRequest, Health, Unplaceable};

use super::world::{HELD_SECONDS, World, ask_with, full_elsewhere, full_here, gpu_id, pool, row, row_with};

fn only(task: &str, asker: &str, name: &str) -> ClaimRequest {
    ask_with(task, asker, |request| request.specific_gpu_id = Some(gpu_id(name)))
}

fn away(name: &str) -> ClaimAnswer {
    ClaimAnswer::Unplaceable(Unplaceable::GpuAway { gpu_id: gpu_id(name) })
}

pub async fn only_the_named_gpu_will_do(world: World) {
    let world = world.with_gpus(&["a", "b", "c"]).await;
    world.occupy("b", 1).await;
    assert_eq!(world.offer(&only("t", "a", "b")).await.gpu_id, gpu_id("b"));
    assert!(matches!(world.claim(&only("u", "c", "c")).await, ClaimAnswer::Own(_)));
    let mut waiting = only("v", "a", "c");
    waiting.mode = ClaimMode::TasksWaiting;
    assert_eq!(world.offer(&waiting).await.gpu_id, gpu_id("c"));
}

pub async fn a_named_gpu_that_is_full_is_waited_for(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("b", 2).await;
    assert_eq!(world.claim(&only("t", "a", "b")).await, full_elsewhere("b"));
    assert_eq!(world.claim(&only("t", "b", "b")).await, full_here());
    world.join(row_with("c", |row| row.sample.memory_used_mb = 79_999)).await;
    assert_eq!(world.claim(&only("t", "a", "c")).await, full_elsewhere("c"));
    world.join(row_with("d", |row| row.consuming = false)).await;
    assert_eq!(world.claim(&only("t", "a", "d")).await, full_elsewhere("d"));
    let mut large = only("t", "a", "e");
    large.needs.memory_mb = Some(60_000);
    world.join(row_with("e", |row| row.sample.memory_used_mb = 30_000)).await;
    assert_eq!(world.claim(&large).await, full_elsewhere("e"), "the memory is not there now");
}

pub async fn a_named_gpu_that_does_not_fit_is_unplaceable(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    let mut request = only("t", "a", "b");
    request.needs.memory_mb = Some(100_000);
    let ClaimAnswer::Unplaceable(Unplaceable::NothingFits { wanted }) = world.claim(&request).await else { panic!("it cannot fit") };
    assert_eq!(wanted, "kind echo, 100000 MB of memory, GPU b");
}

pub async fn a_named_gpu_that_was_never_known_is_told_from_one_that_is_gone(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    let unknown = ClaimAnswer::Unplaceable(Unplaceable::GpuUnknown { gpu_id: gpu_id("z") });
    assert_eq!(world.claim(&only("t", "a", "z")).await, unknown);
    world.pass(HELD_SECONDS + 50);
    world.join(row("a")).await;
    assert_eq!(world.claim(&only("t", "a", "b")).await, away("b"));
    world.join(row("b")).await;
    world.table.leave(&pool(), &gpu_id("b"), &super::world::incarnation("b")).await.expect("it leaves");
    assert_eq!(world.claim(&only("t", "a", "b")).await, away("b"));
}

pub async fn a_named_gpu_that_takes_no_tasks_is_away(world: World) {
    let world = world.with_gpus(&["a"]).await;
    world.join(row_with("sick", |row| row.health = Health::Quarantined)).await;
    world.join(row_with("stopping", |row| row.stopping = true)).await;
    for name in ["sick", "stopping"] {
        assert_eq!(world.claim(&only("t", name, name)).await, away(name), "it must not wait in its hand");
        assert_eq!(world.claim(&only("t", "a", name)).await, away(name), "its queue would send it back");
    }
}
