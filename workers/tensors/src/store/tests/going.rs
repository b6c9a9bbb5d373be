//! How tensors go, and come back.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_used_longest_ago_makes_room_and_comes_back_as_it_was() {
    let world = World::new(BOUNDS);
    for of in ["a", "b"] {
        world.put(of, 50).await.unwrap();
    }
    world.get("a").await.unwrap();
    world.put("c", 50).await.unwrap();
    assert_eq!((world.here(), world.store.bytes()), (vec!["a1".to_owned(), "b1h".to_owned(), "c1".to_owned()], (100, 50)));
    world.assert_whole(&world.get("b").await.unwrap());
    assert_eq!((world.here(), world.store.bytes()), (vec!["a1h".to_owned(), "b1".to_owned(), "c1".to_owned()], (100, 50)));
    assert_eq!(world.store.counts(), StoreCounts { to_host: 2, away: 0, expired: 0 });
    assert!(world.gone().is_empty(), "they are all here");
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_never_goes_and_nothing_goes_in_vain() {
    let world = World::new(BOUNDS);
    let a = world.put("a", 60).await.unwrap();
    world.put("b", 30).await.unwrap();
    let refused = world.put("c", 50).await.unwrap_err();
    let full = KeepError::Full { wanted_bytes: 50, used_bytes: 90, bound_bytes: 100, what: "the tensors of the GPU (data.gpu_mb)" };
    assert_eq!((&refused, refused.is_transient(), world.here()), (&full, true, vec!["a1".to_owned(), "b1".to_owned()]));
    world.put("c", 40).await.unwrap();
    assert_eq!(world.here(), ["a1", "b1h", "c1"]);
    world.assert_whole(&a);
    drop(a);
    world.put("d", 100).await.unwrap();
    assert_eq!(world.here(), ["b1h", "c1h", "d1"], "a was asked for before the others, and the host has no room for the three");
}

#[tokio::test(start_paused = true)]
async fn a_tensor_larger_than_the_bound_is_refused_with_the_numbers() {
    let world = World::new(BOUNDS);
    world.put("a", 10).await.unwrap();
    let refused = world.put("b", 101).await.unwrap_err().to_string();
    assert_eq!(
        refused,
        "no room for 101 bytes among the tensors of the GPU (data.gpu_mb): 10 of 100 bytes are used, and what may go is not enough"
    );
    let largest = TensorAbout { shape: TensorShape { dtype: DType::U8, shape: vec![usize::MAX] }, ..about("b", 1, 0) };
    assert!(matches!(world.store.begin(largest, IfExists::Fail).await, Err(KeepError::Full { wanted_bytes: u64::MAX, .. })));
    assert_eq!(world.here(), ["a1"]);
}

#[tokio::test(start_paused = true)]
async fn for_what_would_not_fit_all_the_same_nothing_goes() {
    let world = World::new(BOUNDS);
    let used = world.put("a", 20).await.unwrap();
    world.put("b", 30).await.unwrap();
    assert!(!world.store.make_room_for(u64::MAX, 10).await && !world.store.make_room_for(41, 10).await, "a is in use");
    assert_eq!(world.here(), ["a1", "b1"]);
    assert!(world.store.make_room_for(40, 10).await);
    assert_eq!(world.here(), ["a1", "b1h"]);
    world.assert_whole(&used);
}

#[tokio::test(start_paused = true)]
async fn from_the_hosts_memory_it_goes_away_what_was_used_longest_ago_first() {
    let world = World::new(TensorBounds { host_bytes: 60, ..BOUNDS });
    for of in ["a", "b", "c"] {
        world.put(of, 30).await.unwrap();
    }
    world.put("d", 100).await.unwrap();
    assert_eq!((world.here(), world.gone()), (vec!["b1h".to_owned(), "c1h".to_owned(), "d1".to_owned()], vec!["a1".to_owned()]));
    world.put("e", 100).await.unwrap();
    assert_eq!((world.here(), world.gone()), (vec!["b1h".to_owned(), "c1h".to_owned(), "e1".to_owned()], vec!["d1".to_owned()]));
    assert_eq!((world.store.counts(), world.store.bytes()), (StoreCounts { to_host: 3, away: 2, expired: 0 }, (100, 60)));
    assert!(world.get("a").await.is_none() && world.gone().is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_room_on_the_host_it_is_gone_when_it_is_evicted() {
    let world = World::new(TensorBounds { host_bytes: 0, ..BOUNDS });
    world.put("a", 60).await.unwrap();
    world.put("b", 60).await.unwrap();
    assert_eq!((world.here(), world.gone(), world.gpu.moves().0), (vec!["b1".to_owned()], vec!["a1".to_owned()], 0));
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_before_the_table_heard_of_it_is_not_gone() {
    let world = World::new(TensorBounds { host_bytes: 0, ..BOUNDS });
    world.put("a", 60).await.unwrap();
    world.put("b", 60).await.unwrap();
    world.put("a", 60).await.unwrap();
    assert_eq!((world.here(), world.gone()), (vec!["a1".to_owned()], vec!["b1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_gpu_that_is_full_although_the_bound_has_room_is_freed_of_what_nobody_uses() {
    let world = World::new(BOUNDS);
    let a = world.put("a", 20).await.unwrap();
    world.put("b", 20).await.unwrap();
    world.gpu.set_capacity(50);
    let refused = world.put("c", 31).await.unwrap_err();
    assert_eq!((refused, world.here().len()), (MemoryError::Full { wanted_bytes: 31, free_bytes: 10 }.into(), 2), "nothing goes in vain");
    world.put("c", 30).await.unwrap();
    assert_eq!((world.here(), world.gpu.resident_bytes()), (vec!["a1".to_owned(), "b1h".to_owned(), "c1".to_owned()], 50));
    world.assert_whole(&a);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_lost_and_makes_room_all_the_same() {
    let world = World::new(BOUNDS);
    world.put("a", 60).await.unwrap();
    world.gpu.inject("read", 1, crate::doubles::Fault::Fails);
    world.put("b", 60).await.unwrap();
    assert_eq!((world.here(), world.gone(), world.store.counts().away), (vec!["b1".to_owned()], vec!["a1".to_owned()], 1));
    assert_eq!(world.store.bytes(), (60, 0));
}

#[tokio::test(start_paused = true)]
async fn room_is_made_for_those_who_need_it_for_something_else() {
    let world = World::new(BOUNDS);
    for of in ["a", "b", "c"] {
        world.put(of, 30).await.unwrap();
    }
    let c = world.get("c").await.unwrap();
    assert!(!world.store.make_room(0).await, "none is asked for");
    assert!(world.store.make_room(31).await);
    assert_eq!((world.here(), world.gpu.resident_bytes()), (vec!["a1h".to_owned(), "b1h".to_owned(), "c1".to_owned()], 30));
    assert!(!world.store.make_room(1).await, "what is left is in use");
    drop(c);
    assert!(world.store.make_room(u64::MAX).await);
    assert_eq!(world.store.bytes(), (0, 90));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_for_its_time_goes() {
    let world = World::new(BOUNDS);
    for of in ["a", "b", "c", "d"] {
        world.put(of, 20).await.unwrap();
    }
    assert!(world.store.make_room(1).await, "a goes to the host");
    let b = world.get("b").await.unwrap();
    world.pass(59_999);
    assert!(world.store.sweep().is_empty());
    world.get("c").await.unwrap();
    world.pass(1);
    assert_eq!(world.store.sweep(), [(name("a"), 1), (name("d"), 1)]);
    assert_eq!((world.here(), world.gone()), (vec!["b1".to_owned(), "c1".to_owned()], vec!["a1".to_owned(), "d1".to_owned()]));
    assert_eq!((world.store.counts().expired, world.store.bytes()), (2, (40, 0)));
    drop(b);
    world.pass(59_999);
    assert_eq!(world.store.sweep(), [(name("c"), 1)], "b was in use when it was looked at last");
    world.pass(1);
    assert_eq!(world.store.sweep(), [(name("b"), 1)]);
    assert_eq!(world.gpu.resident_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_freed_is_not_found_and_goes_when_nobody_uses_it() {
    let world = World::new(BOUNDS);
    let a = world.put("a", 60).await.unwrap();
    assert_eq!(world.store.free(&name("a"), Some(2)), None, "that version is not here");
    assert_eq!(world.store.free(&name("a"), None), Some(1));
    assert_eq!(world.store.free(&name("a"), None), None);
    assert!(world.get("a").await.is_none());
    world.assert_whole(&a);
    assert!(matches!(world.put("b", 60).await, Err(KeepError::Full { .. })), "its memory counts");
    drop(a);
    world.put("b", 60).await.unwrap();
    assert!(world.store.make_room(1).await);
    assert_eq!((world.store.free(&name("b"), Some(1)), world.store.bytes()), (Some(1), (0, 0)), "from the host's memory too");
    assert!(world.gone().is_empty(), "who frees knows");
}
