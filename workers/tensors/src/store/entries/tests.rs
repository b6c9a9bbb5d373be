use std::sync::Arc;

use devices::DeviceBuffer;
use protocol::{DType, GpuId, TensorShape};

use super::*;
use crate::store::room::Held;

fn name(name: &str) -> TensorName {
    TensorName::new(name).expect("a name")
}

fn tensor(of: &str, bytes: u64) -> Arc<Tensor> {
    let shape = TensorShape { dtype: DType::U8, shape: vec![bytes as usize] };
    let about = TensorAbout { name: name(of), version: 1, shape, owner: "task".to_owned(), made_ms: 0, ttl_ms: 100 };
    Arc::new(Tensor::new(about, DeviceBuffer::new(GpuId::new("g").expect("an id"), bytes, Arc::new(()))))
}

fn evicted(bytes: u64) -> Arc<Evicted> {
    let room = Room::take(&Arc::<Held>::default(), TensorPlace::Host, bytes, bytes).expect("room");
    Arc::new(Evicted { bytes: vec![0; bytes as usize].into(), _room: room })
}

/// These tensors in this order, each used at its place of the list.
fn entries(tensors: &[(&str, u64)]) -> Entries {
    let mut entries = Entries::default();
    for (at, (name, bytes)) in tensors.iter().enumerate() {
        entries.put(&tensor(name, *bytes), IfExists::Replace, at as u64).expect("nothing is there");
    }
    entries
}

/// What leaves next.
fn next(entries: &mut Entries) -> Option<Arc<Tensor>> {
    match entries.next_to_leave() {
        Next::Leaves(tensor) => Some(tensor),
        Next::IsLeaving | Next::Nothing => None,
    }
}

/// Evicts what goes next to the host's memory.
fn evict(entries: &mut Entries) -> String {
    let tensor = next(entries).expect("one may go");
    let bytes = tensor.buffer().len();
    assert!(entries.left(&tensor, Some(&evicted(bytes))).is_some());
    entries.eviction_ended(bytes, bytes);
    tensor.about().name.to_string()
}

/// What is there, in the order of its use; what is in use; what is used again; the order in which they go.
type Case<'a> = (&'a [(&'a str, u64)], &'a [&'a str], &'a [&'a str], &'a [&'a str]);

#[test]
fn the_one_goes_next_that_was_used_longest_ago_and_that_nobody_uses() {
    let table: [Case<'_>; 5] = [
        (&[("b", 1), ("a", 1), ("c", 1)], &[], &[], &["b", "a", "c"]),
        (&[("b", 1), ("a", 1), ("c", 1)], &["b"], &[], &["a", "c"]),
        (&[("b", 1), ("a", 1), ("c", 1)], &[], &["b"], &["a", "c", "b"]),
        (&[("b", 0), ("a", 1)], &[], &[], &["a"]),
        (&[("a", 1)], &["a"], &[], &[]),
    ];
    for (there, in_use, again, order) in table {
        let mut entries = entries(there);
        let held: Vec<Found> = in_use.iter().map(|of| entries.find(&name(of), None, 0)).collect();
        again.iter().for_each(|of| drop(entries.find(&name(of), None, 9)));
        let gone: Vec<String> = std::iter::from_fn(|| next(&mut entries)).map(|tensor| tensor.about().name.to_string()).collect();
        assert_eq!(gone, order, "{there:?} {in_use:?} {again:?}");
        drop(held);
    }
}

#[test]
fn what_leaves_counts_as_room_until_its_eviction_is_over() {
    let mut entries = entries(&[("a", 5), ("b", 7)]);
    let a = next(&mut entries).expect("a");
    assert_eq!(entries.idle_bytes(), 12);
    assert!(entries.left(&a, None).is_some());
    assert_eq!((entries.idle_bytes(), entries.given_back()), (12, 0));
    entries.eviction_ended(5, 5);
    assert_eq!((entries.idle_bytes(), entries.given_back()), (7, 5));
    let b = next(&mut entries).expect("b");
    assert!(matches!(entries.next_to_leave(), Next::IsLeaving));
    entries.stays(&b);
    entries.eviction_ended(7, 0);
    drop(b);
    assert!(matches!(entries.next_to_leave(), Next::Leaves(_)));
    assert_eq!(entries.take_gone(), [(name("a"), 1)]);
}

#[test]
fn on_the_host_only_what_was_used_before_makes_room() {
    let mut entries = entries(&[("a", 1), ("b", 2), ("c", 4)]);
    let b_in_use = entries.find(&name("b"), None, 1);
    assert_eq!((evict(&mut entries), evict(&mut entries)), ("a".to_owned(), "c".to_owned()));
    drop(b_in_use);
    entries.find(&name("a"), None, 1);
    entries.stays_on_host(&name("a"), &evicted(1));
    let b = next(&mut entries).expect("b");
    // a returns, and c was used before b's last use.
    assert_eq!((entries.older_on_host(&b), entries.next_off_host(&b).map(|entry| entry.about.name)), (Some(0), None));

    let mut entries = self::entries(&[("a", 1), ("b", 2), ("c", 4)]);
    assert_eq!((evict(&mut entries), evict(&mut entries)), ("a".to_owned(), "b".to_owned()));
    let c = next(&mut entries).expect("c");
    assert_eq!(entries.older_on_host(&c), Some(3));
    assert_eq!(entries.next_off_host(&c).map(|entry| entry.about.name), Some(name("a")));
    assert_eq!(entries.older_on_host(&c), Some(2));
    entries.find(&name("c"), None, 9);
    assert_eq!(entries.older_on_host(&c), None, "it stays");
}

#[test]
fn what_moves_is_found_by_what_it_is_and_not_by_its_name() {
    let mut entries = entries(&[("a", 1)]);
    let a = next(&mut entries).expect("a");
    entries.free(&name("a"), None);
    let other = tensor("a", 1);
    entries.put(&other, IfExists::Replace, 1).expect("nothing is there");
    assert!(entries.left(&a, None).is_none(), "the other one is not leaving");
    entries.stays(&a);
    let Found::OnGpu(found) = entries.find(&name("a"), None, 2) else { panic!("it is there") };
    assert!(Arc::ptr_eq(&found, &other));
}
