//! How tensors come, and are replaced.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_tensor_is_found_once_it_is_all_there() {
    let world = World::new(BOUNDS);
    let arriving = world.store.begin(about("x", 1, 8), IfExists::Replace).await.unwrap();
    arriving.write(4, HostBytes::Own(content("x", 1, 8).slice(4..))).await.unwrap();
    assert!(world.get("x").await.is_none() && world.here().is_empty());
    assert_eq!(world.store.bytes(), (8, 0), "its room is taken");
    arriving.write(0, HostBytes::Own(content("x", 1, 8).slice(..4))).await.unwrap();
    world.assert_whole(&arriving.finish().unwrap());
    world.assert_whole(&world.get("x").await.unwrap());
    assert!(world.store.get(&name("x"), Some(2)).await.unwrap().is_none(), "that version is not here");
    assert!(world.store.get(&name("x"), Some(1)).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn one_that_never_arrives_leaves_nothing() {
    let world = World::new(TensorBounds { tensors: 1, ..BOUNDS });
    drop(world.store.begin(about("x", 1, 100), IfExists::Replace).await.unwrap());
    assert_eq!((world.store.bytes(), world.gpu.resident_bytes()), ((0, 0), 0));
    world.put("y", 100).await.unwrap();
    assert_eq!(world.here(), ["y1"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_gpus_memory_already_is_adopted() {
    let world = World::new(BOUNDS);
    let buffer = world.gpu.allocate(16).await.unwrap();
    world.gpu.write(&buffer, 0, HostBytes::Own(content("x", 1, 8))).await.unwrap();
    let tensor = world.store.adopt(about("x", 1, 8), IfExists::Replace, buffer).await.unwrap();
    world.assert_whole(&tensor);
    assert_eq!(world.store.bytes(), (16, 0), "all of the buffer counts");
    let small = world.gpu.allocate(4).await.unwrap();
    let refused = world.store.adopt(about("y", 1, 8), IfExists::Replace, small).await.unwrap_err();
    assert_eq!(refused.to_string(), "keep a tensor: bytes 0 to 8 of a buffer of 4 on GPU test-0");
    let large = world.gpu.allocate(200).await.unwrap();
    assert!(matches!(world.store.adopt(about("y", 1, 8), IfExists::Replace, large).await, Err(KeepError::Full { .. })));
    assert_eq!(world.gpu.resident_bytes(), 16, "what is refused is given back");
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_a_name_that_is_written_again() {
    use IfExists::{Fail, Replace};
    // There: version 5 of the task "one". What comes, and what is here after: `None`, it is refused.
    let table = [
        ("two", 6, Replace, Some(6)),
        ("two", 6, Fail, None),
        ("one", 6, Fail, Some(6)),
        ("one", 6, Replace, Some(6)),
        ("two", 4, Replace, Some(5)),
        ("one", 4, Fail, Some(5)),
        ("two", 4, Fail, None),
        ("one", 5, Fail, Some(5)),
        ("two", 5, Fail, None),
    ];
    for (owner, version, if_exists, after) in table {
        let world = World::new(BOUNDS);
        let of = |owner: &str, version| TensorAbout { owner: owner.to_owned(), ..about("x", version, 8) };
        world.store.begin(of("one", 5), Fail).await.unwrap().finish().unwrap();
        let came_out = match world.store.begin(of(owner, version), if_exists).await {
            Ok(arriving) => arriving.finish(),
            Err(refused) => Err(refused),
        };
        let case = format!("{owner} {version} {if_exists:?}");
        match after {
            Some(after) => {
                assert_eq!(came_out.unwrap().about().version, version, "{case}: who made it has it");
                assert_eq!(world.store.look(&name("x")).unwrap().about.version, after, "{case}");
                let gone: Vec<u64> = world.store.gone().iter().map(|(_, version)| *version).collect();
                let other = if after == version { 5 } else { version };
                assert_eq!(gone, if after == 5 && version == 5 { vec![] } else { vec![other] }, "{case}: what is not here is told");
            }
            None => assert_eq!(came_out.unwrap_err(), KeepError::Exists { name: name("x"), version: 5 }, "{case}"),
        }
        assert_eq!(world.gpu.resident_bytes(), 8, "{case}: nothing else remains");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_not_to_be_replaced_may_come_while_another_arrives() {
    let world = World::new(BOUNDS);
    let arriving = world.store.begin(about("x", 2, 8), IfExists::Fail).await.unwrap();
    world.put("x", 8).await.unwrap();
    assert_eq!(arriving.finish().unwrap_err(), KeepError::Exists { name: name("x"), version: 1 });
    assert_eq!((world.here(), world.gpu.resident_bytes()), (vec!["x1".to_owned()], 8));
}

#[tokio::test(start_paused = true)]
async fn who_reads_an_old_version_keeps_it_and_its_memory_counts() {
    let world = World::new(BOUNDS);
    let old = world.put("x", 50).await.unwrap();
    world.put_version("x", 2, 50).await.unwrap();
    world.assert_whole(&old);
    world.assert_whole(&world.get("x").await.unwrap());
    assert!(world.store.get(&name("x"), Some(1)).await.unwrap().is_none(), "it is not found");
    assert_eq!(world.store.bytes(), (100, 0));
    drop(old);
    assert_eq!((world.store.bytes(), world.gpu.resident_bytes()), ((50, 0), 50));
    assert_eq!((world.here(), world.gone()), (vec!["x2".to_owned()], vec!["x1".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn the_same_tensor_twice_is_one() {
    let world = World::new(BOUNDS);
    let (first, second) = (world.put("x", 10).await.unwrap(), world.put("x", 10).await.unwrap());
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!((world.gpu.resident_bytes(), world.gone()), (10, vec![]));
    drop((first, second));
    assert!(world.store.make_room(10).await);
    world.put("x", 10).await.unwrap();
    assert_eq!((world.here(), world.store.bytes(), world.gone()), (vec!["x1".to_owned()], (10, 0), vec![]), "it is no longer evicted");
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_than_there_may_be() {
    let world = World::new(TensorBounds { tensors: 2, ..BOUNDS });
    world.put("a", 1).await.unwrap();
    world.put("b", 1).await.unwrap();
    world.get("a").await.unwrap();
    world.put("b", 1).await.unwrap();
    world.put_version("b", 2, 1).await.unwrap();
    assert_eq!(world.here(), ["a1", "b2"], "a name that is there needs no other place");
    let c = world.put("c", 1).await.unwrap();
    assert_eq!((world.here(), world.store.counts().away), (vec!["b2".to_owned(), "c1".to_owned()], 1));
    let b = world.get("b").await.unwrap();
    assert_eq!(world.put("d", 1).await.unwrap_err(), KeepError::TooMany { bound: 2 });
    drop((b, c));
    let (d, e) = tokio::join!(world.store.begin(about("d", 1, 1), IfExists::Fail), world.store.begin(about("e", 1, 1), IfExists::Fail));
    assert_eq!((world.here().len(), world.put("f", 1).await.unwrap_err()), (0, KeepError::TooMany { bound: 2 }), "those that arrive count");
    drop(d);
    e.unwrap().finish().unwrap();
    world.put("f", 1).await.unwrap();
    assert_eq!(world.here(), ["e1", "f1"]);
}

#[tokio::test(start_paused = true)]
async fn a_tensor_without_bytes_is_one_too() {
    let world = World::new(TensorBounds { gpu_bytes: 0, host_bytes: 0, tensors: 1 });
    world.put("x", 0).await.unwrap();
    assert!(!world.store.make_room(1).await);
    world.assert_whole(&world.get("x").await.unwrap());
}
