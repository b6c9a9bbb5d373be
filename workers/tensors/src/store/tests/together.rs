//! Many at once, and futures that are dropped half-way.

use proptest::{collection::vec, prelude::*};

use super::*;

/// A store whose `a` lies in the host's memory, and which has nothing else.
async fn evicted() -> World {
    let world = World::new(BOUNDS);
    world.put("a", 60).await.unwrap();
    assert!(world.store.make_room(1).await);
    world
}

#[tokio::test(start_paused = true)]
async fn those_who_want_the_same_one_bring_it_back_once() {
    let world = evicted().await;
    let (_, writes) = world.gpu.moves();
    let (one, other, third) = tokio::join!(world.get("a"), world.get("a"), world.get("a"));
    let one = one.unwrap();
    assert!(Arc::ptr_eq(&one, &other.unwrap()) && Arc::ptr_eq(&one, &third.unwrap()));
    assert_eq!((world.gpu.moves().1 - writes, world.store.bytes()), (1, (60, 0)));
}

#[tokio::test(start_paused = true)]
async fn where_one_gives_up_to_bring_it_back_the_next_one_does() {
    let world = evicted().await;
    world.gpu.stall();
    let mut second = pin!(world.get("a"));
    {
        let mut first = pin!(world.get("a"));
        assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
        assert_eq!((world.store.bytes(), world.here()), ((60, 60), vec!["a1h".to_owned()]));
    }
    assert_eq!((world.store.bytes(), world.gpu.resident_bytes()), ((0, 60), 0), "it is on the host, and nowhere else");
    world.gpu.go_on();
    world.assert_whole(&second.await.unwrap());
    assert_eq!(world.here(), ["a1"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_while_it_is_evicted_stays() {
    let world = World::new(BOUNDS);
    world.put("a", 60).await.unwrap();
    world.gpu.stall();
    let mut put = pin!(world.put("b", 60));
    assert!(poll(put.as_mut()).is_pending());
    let Poll::Ready(Some(a)) = poll(pin!(world.get("a"))) else { panic!("it is there at once") };
    world.gpu.go_on();
    assert!(matches!(put.await, Err(KeepError::Full { .. })));
    world.assert_whole(&a);
    assert_eq!((world.here(), world.store.bytes(), world.store.counts().to_host), (vec!["a1".to_owned()], (60, 0), 0));
    drop(a);
    world.put("b", 60).await.unwrap();
    assert_eq!(world.here(), ["a1h", "b1"]);
}

#[tokio::test(start_paused = true)]
async fn an_eviction_that_is_given_up_leaves_everything_where_it_was() {
    let world = World::new(BOUNDS);
    world.put("a", 60).await.unwrap();
    world.gpu.stall();
    let mut second = pin!(world.put("c", 70));
    {
        let mut first = pin!(world.put("b", 60));
        assert!(poll(first.as_mut()).is_pending());
        assert!(poll(second.as_mut()).is_pending(), "it waits for the eviction of the other one");
        assert_eq!(world.store.bytes(), (60, 60));
    }
    assert_eq!((world.here(), world.store.bytes()), (vec!["a1".to_owned()], (60, 0)));
    world.gpu.go_on();
    world.assert_whole(&second.await.unwrap());
    assert_eq!((world.here(), world.store.bytes()), (vec!["a1h".to_owned(), "c1".to_owned()], (70, 60)));
}

#[tokio::test(start_paused = true)]
async fn what_is_freed_while_it_moves_is_gone() {
    let world = World::new(BOUNDS);
    world.put("a", 60).await.unwrap();
    world.gpu.stall();
    let mut put = pin!(world.put("b", 60));
    assert!(poll(put.as_mut()).is_pending());
    assert_eq!(world.store.free(&name("a"), None), Some(1));
    world.gpu.go_on();
    put.await.unwrap();
    assert_eq!((world.here(), world.store.bytes()), (vec!["b1".to_owned()], (60, 0)));

    let world = evicted().await;
    world.gpu.stall();
    let mut get = pin!(world.get("a"));
    let mut other = pin!(world.get("a"));
    assert!(poll(get.as_mut()).is_pending() && poll(other.as_mut()).is_pending());
    world.store.free(&name("a"), None);
    assert!(matches!(poll(other.as_mut()), Poll::Ready(None)), "it is not here any more");
    world.gpu.go_on();
    let a = get.await.unwrap();
    world.assert_whole(&a);
    drop(a);
    assert_eq!((world.here().len(), world.store.bytes()), (0, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_newer_version_is_had_at_once_while_the_old_one_comes_back() {
    let world = evicted().await;
    let arriving = world.store.begin(about("a", 2, 10), IfExists::Replace).await.unwrap();
    world.gpu.stall();
    let (mut get, mut other) = (pin!(world.get("a")), pin!(world.get("a")));
    assert!(poll(get.as_mut()).is_pending() && poll(other.as_mut()).is_pending());
    arriving.finish().unwrap();
    let Poll::Ready(Some(newer)) = poll(other.as_mut()) else { panic!("it is there") };
    world.gpu.go_on();
    assert_eq!((newer.about().version, get.await.unwrap().about().version), (2, 1));
    assert_eq!((world.here(), world.store.bytes(), world.gone()), (vec!["a2".to_owned()], (10, 0), vec!["a1".to_owned()]));
}

/// What somebody does to a store.
#[derive(Debug, Clone)]
enum Step {
    Put {
        name: usize,
        bytes: usize,
    },
    Get(usize),
    /// Lets go of what it has got.
    LetGo,
    Free(usize),
    MakeRoom(u64),
    Sweep,
    /// Gives up on a tensor before it is there, or on one that comes back.
    GiveUp {
        name: usize,
        bytes: usize,
        polls: usize,
    },
    FailRead,
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn step() -> impl Strategy<Value = Step> {
    let (name, bytes) = (0..NAMES.len(), 0_usize..70);
    prop_oneof![
        6 => (name.clone(), bytes.clone()).prop_map(|(name, bytes)| Step::Put { name, bytes }),
        6 => name.clone().prop_map(Step::Get),
        3 => Just(Step::LetGo),
        1 => name.clone().prop_map(Step::Free),
        1 => (0_u64..150).prop_map(Step::MakeRoom),
        1 => Just(Step::Sweep),
        2 => (name, bytes, 0_usize..6).prop_map(|(name, bytes, polls)| Step::GiveUp { name, bytes, polls }),
        1 => Just(Step::FailRead),
    ]
}

impl World {
    fn assert_bounded(&self, bounds: TensorBounds) {
        let (gpu, host) = self.store.bytes();
        assert!(
            gpu <= bounds.gpu_bytes && host <= bounds.host_bytes && self.here().len() <= bounds.tensors,
            "{gpu} {host} {:?}",
            self.here()
        );
        assert!(self.gpu.resident_bytes() <= gpu, "memory is given back before the room for it");
    }

    /// Does the steps, one after the other, and has what it has got to the end.
    async fn walk(&self, steps: Vec<Step>, bounds: TensorBounds, versions: &AtomicU64) {
        let mut got: Vec<Arc<Tensor>> = Vec::new();
        for step in steps {
            match step {
                Step::Put { name, bytes } => {
                    let version = versions.fetch_add(1, Ordering::SeqCst);
                    got.extend(self.put_version(NAMES[name], version, bytes).await.ok());
                }
                Step::Get(of) => got.extend(self.store.get(&name(NAMES[of]), None).await.ok().flatten()),
                Step::LetGo => drop(got.pop()),
                Step::Free(of) => drop(self.store.free(&name(NAMES[of]), None)),
                Step::MakeRoom(bytes) => drop(self.store.make_room(bytes).await),
                Step::Sweep => {
                    self.pass(30_000);
                    self.store.sweep();
                }
                Step::GiveUp { name: of, bytes, polls } => {
                    let version = versions.fetch_add(1, Ordering::SeqCst);
                    let mut put = pin!(self.put_version(NAMES[of], version, bytes));
                    let of = name(NAMES[of]);
                    let mut get = pin!(self.store.get(&of, None));
                    for _ in 0..polls {
                        let is_over = poll(put.as_mut()).is_ready() || poll(get.as_mut()).is_ready();
                        if is_over {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                }
                Step::FailRead => self.gpu.inject("read", 1, crate::doubles::Fault::Fails),
            }
            self.assert_bounded(bounds);
        }
        got.iter().for_each(|tensor| self.assert_whole(tensor));
    }
}

/// Walks of several at once end, within the bounds; what they have is whole; and nothing remains of what is gone.
async fn walks(steps: Vec<Vec<Step>>, yields: usize) {
    let bounds = TensorBounds { gpu_bytes: 100, host_bytes: 80, tensors: 4 };
    let (world, versions) = (World::new(bounds), AtomicU64::new(1));
    world.gpu.set_yields(yields);
    world.gpu.set_capacity(130);
    futures::future::join_all(steps.into_iter().map(|steps| world.walk(steps, bounds, &versions))).await;
    for stored in world.store.list() {
        if let Ok(Some(tensor)) = world.store.get(&stored.about.name, None).await {
            world.assert_whole(&tensor);
        }
        world.store.free(&stored.about.name, None);
    }
    assert_eq!((world.store.bytes(), world.gpu.resident_bytes(), world.here().len()), ((0, 0), 0, 0));
    world.put("z", 100).await.expect("all of the room is free");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn bounds_hold_and_what_is_in_use_stays_whatever_is_done(steps in vec(vec(step(), 0..25), 1..5), yields in 0_usize..5) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let walked = runtime.block_on(async { tokio::time::timeout(std::time::Duration::from_secs(60), walks(steps, yields)).await });
        prop_assert!(walked.is_ok(), "somebody waits for ever");
    }
}
