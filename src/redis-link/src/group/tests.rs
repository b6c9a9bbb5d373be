use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_probe::poll_once;
use tokio::{sync::Semaphore, task::JoinHandle, time::Instant};

use super::{
    queue::{BYTES_MAX, ITEMS_MAX, QUIET_MANY},
    *,
};
use crate::hash_slot::hash_slot;

const LIMIT: Duration = Duration::from_secs(60);

/// Polls a future once.
mod futures_probe {
    use std::{future::Future, pin::Pin, task::Context};

    pub fn poll_once<F: Future>(future: Pin<&mut F>) -> bool {
        future.poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }
}

/// Answers each item with its first key; lets a call through only when told to. Panics where it is asked for the function `panics`.
struct Gate {
    open: Semaphore,
    calls: Mutex<Vec<Vec<&'static str>>>,
    failing: AtomicUsize,
}

#[async_trait]
impl Call for Arc<Gate> {
    async fn call(&self, items: &[Item]) -> Result<Vec<Answer>, LinkError> {
        self.calls.lock().unwrap().push(items.iter().map(|item| item.function).collect());
        self.open.acquire().await.unwrap().forget();
        assert!(!items.iter().any(|item| item.function == "panics"), "as it was asked to");
        if self.failing.load(Ordering::SeqCst) > 0 {
            return Err(LinkError::Away("gone".to_owned()));
        }
        let answer = |item: &Item| match item.function {
            "fails" => Err(LinkError::Garbled("ERR".to_owned())),
            _ => Ok(Value::SimpleString(item.keys[0].clone())),
        };
        Ok(items.iter().map(answer).collect())
    }
}

fn gate() -> (Arc<Gate>, Group<Arc<Gate>>) {
    let gate = Arc::new(Gate { open: Semaphore::new(0), calls: Mutex::default(), failing: AtomicUsize::new(0) });
    (Arc::clone(&gate), Group::new(gate, LIMIT))
}

/// Refuses what a Redis Cluster refuses: a call whose keys lie in several hash slots. Answers each other item with its first key; lets a call through only when told to.
struct Cluster {
    open: Semaphore,
    calls: Mutex<Vec<Vec<String>>>,
}

#[async_trait]
impl Call for Arc<Cluster> {
    async fn call(&self, items: &[Item]) -> Result<Vec<Answer>, LinkError> {
        let keys: Vec<String> = items.iter().flat_map(|item| item.keys.clone()).collect();
        let hash_slots: BTreeSet<u16> = keys.iter().map(|key| hash_slot(key)).collect();
        self.calls.lock().unwrap().push(keys);
        self.open.acquire().await.unwrap().forget();
        if hash_slots.len() > 1 {
            return Err(scattered());
        }
        Ok(items.iter().map(|item| Ok(Value::SimpleString(item.keys[0].clone()))).collect())
    }
}

fn cluster() -> (Arc<Cluster>, Group<Arc<Cluster>>) {
    let cluster = Arc::new(Cluster { open: Semaphore::new(0), calls: Mutex::default() });
    (Arc::clone(&cluster), Group::new(cluster, LIMIT))
}

fn scattered() -> LinkError {
    LinkError::Scattered("CROSSSLOT".to_owned())
}

fn item(function: &'static str, key: &str) -> Item {
    Item { function, keys: vec![key.to_owned()], arguments: Vec::new() }
}

fn start<C: Call>(group: &Group<C>, item: Item) -> JoinHandle<Answer> {
    let group = group.clone();
    tokio::spawn(async move { group.run(item).await })
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn text(answer: Answer) -> String {
    match answer {
        Ok(Value::SimpleString(text)) => text,
        other => format!("{other:?}"),
    }
}

#[tokio::test]
async fn what_gathers_while_a_call_is_under_way_goes_together_and_each_gets_its_own_answer() {
    let (gate, group) = gate();
    let first = start(&group, item("a", "one"));
    settle().await;
    let (second, failing, third) = (start(&group, item("b", "two")), start(&group, item("fails", "x")), start(&group, item("c", "three")));
    group.run_quietly(item("quiet", "q"));
    settle().await;
    assert_eq!(*gate.calls.lock().unwrap(), [["a"]], "an operation that finds the line idle goes at once");
    gate.open.add_permits(2);
    assert_eq!(text(first.await.unwrap()), "one");
    assert_eq!((text(second.await.unwrap()), text(third.await.unwrap())), ("two".to_owned(), "three".to_owned()));
    assert_eq!(failing.await.unwrap(), Err(LinkError::Garbled("ERR".to_owned())), "and nobody else's");
    assert_eq!(gate.calls.lock().unwrap()[1], ["quiet", "b", "fails", "c"]);
}

#[tokio::test]
async fn a_caller_that_is_dropped_strands_nobody_and_is_not_sent_if_it_stood_in_line() {
    let (gate, group) = gate();
    let mut dropped = Box::pin(group.run(item("a", "one")));
    assert!(!poll_once(dropped.as_mut()));
    drop(dropped);
    let second = start(&group, item("b", "two"));
    gate.open.add_permits(2);
    assert_eq!(text(second.await.unwrap()), "two");
    assert_eq!(*gate.calls.lock().unwrap(), [["b"]]);
}

#[tokio::test]
async fn a_call_that_fails_fails_for_all_of_it_and_the_next_one_goes() {
    let (gate, group) = gate();
    gate.failing.store(1, Ordering::SeqCst);
    gate.open.add_permits(9);
    assert_eq!(group.run(item("a", "one")).await, Err(LinkError::Away("gone".to_owned())));
    gate.failing.store(0, Ordering::SeqCst);
    assert_eq!(text(group.run(item("a", "one")).await), "one");
}

#[tokio::test]
async fn a_call_is_bounded_in_operations_and_in_bytes() {
    let (gate, group) = gate();
    let run = |bytes: usize| start(&group, Item { arguments: vec![vec![0; bytes]], ..item("a", "one") });
    let mut all = vec![run(0)];
    settle().await;
    all.extend((0..40).map(|_| run(1)));
    all.extend([run(BYTES_MAX / 2), run(BYTES_MAX), run(2 * BYTES_MAX), run(0)]);
    settle().await;
    gate.open.add_permits(99);
    for one in all {
        assert_eq!(text(one.await.unwrap()), "one");
    }
    let sizes: Vec<usize> = gate.calls.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 32, 9, 1, 1, 1]);
}

#[tokio::test]
async fn what_nobody_waits_for_goes_by_itself_only_when_there_is_much_of_it() {
    let (gate, group) = gate();
    gate.open.add_permits(99);
    (1..QUIET_MANY).for_each(|_| group.run_quietly(item("quiet", "q")));
    settle().await;
    assert!(gate.calls.lock().unwrap().is_empty());
    group.run_quietly(item("quiet", "q"));
    settle().await;
    assert_eq!(gate.calls.lock().unwrap().len(), 1);
    assert_eq!(gate.calls.lock().unwrap()[0].len(), ITEMS_MAX / 2, "the rest waits for the next call");
}

#[tokio::test]
async fn a_call_that_panics_is_answered_to_everybody_who_waits_and_the_next_operation_goes_through() {
    let (gate, group) = gate();
    let under_way = start(&group, item("panics", "one"));
    settle().await;
    let in_line = start(&group, item("b", "two"));
    settle().await;
    gate.open.add_permits(9);
    assert_eq!(under_way.await.unwrap(), Err(LinkError::broken_off()));
    assert_eq!(in_line.await.unwrap(), Err(LinkError::broken_off()));
    assert_eq!(text(group.run(item("c", "three")).await), "three");
    assert_eq!(*gate.calls.lock().unwrap(), [["panics"], ["c"]]);
}

#[test]
fn a_group_outlives_the_runtime_that_its_call_was_under_way_on() {
    let (gate, group) = gate();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let calls = || gate.calls.lock().unwrap().len();
    first.block_on(async {
        start(&group, item("a", "one"));
        settle().await;
    });
    assert_eq!(calls(), 1, "it is under way");
    drop(first);
    gate.open.add_permits(9);
    assert_eq!(text(runtime().block_on(group.run(item("b", "two")))), "two");
    assert_eq!(calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn time_in_line_counts_towards_the_limit_and_what_was_given_up_there_is_not_sent() {
    let (gate, group) = gate();
    let slow = start(&group, item("a", "one"));
    settle().await;
    tokio::time::advance(LIMIT / 2).await;
    let (began, in_line) = (Instant::now(), start(&group, item("b", "two")));
    assert_eq!(slow.await.unwrap(), Err(LinkError::late(LIMIT)));
    assert!(began.elapsed() < LIMIT);
    assert_eq!(in_line.await.unwrap(), Err(LinkError::late(LIMIT)));
    assert!(began.elapsed() < LIMIT + Duration::from_secs(1));
    gate.open.add_permits(9);
    assert_eq!(text(group.run(item("c", "three")).await), "three");
    assert_eq!(*gate.calls.lock().unwrap(), [["a"], ["c"]]);
}

#[tokio::test]
async fn what_a_cluster_refuses_for_its_many_hash_slots_goes_again_by_hash_slot() {
    let (cluster, group) = cluster();
    let first = start(&group, item("f", "{a}1"));
    settle().await;
    let keys = ["{a}2", "{b}1", "{a}3", "{b}2", "{c}1"];
    let others = keys.map(|key| start(&group, item("f", key)));
    settle().await;
    cluster.open.add_permits(99);
    assert_eq!(text(first.await.unwrap()), "{a}1");
    for (key, other) in keys.into_iter().zip(others) {
        assert_eq!(text(other.await.unwrap()), key);
    }
    let calls = cluster.calls.lock().unwrap().clone();
    assert_eq!(calls, vec![vec!["{a}1"], keys.to_vec(), vec!["{a}2", "{a}3"], vec!["{b}1", "{b}2"], vec!["{c}1"]]);
}

#[tokio::test]
async fn after_one_refusal_no_call_has_several_hash_slots() {
    let (cluster, group) = cluster();
    cluster.open.add_permits(999);
    for round in 0..10 {
        let keys: Vec<String> = (0..20).map(|number| format!("{{{}}}{round}", number % 7)).collect();
        let all: Vec<_> = keys.iter().map(|key| start(&group, item("f", key))).collect();
        for (key, one) in keys.iter().zip(all) {
            assert_eq!(text(one.await.unwrap()), *key);
        }
    }
    let calls = cluster.calls.lock().unwrap().clone();
    let is_mixed = |call: &&Vec<String>| call.iter().map(|key| hash_slot(key)).collect::<BTreeSet<_>>().len() > 1;
    assert_eq!(calls.iter().filter(is_mixed).count(), 1);
}

#[tokio::test]
async fn an_operation_whose_own_keys_lie_in_several_hash_slots_fails_and_is_not_tried_for_ever() {
    let (cluster, group) = cluster();
    cluster.open.add_permits(9);
    let keys = ["{a}", "{b}"].map(str::to_owned).to_vec();
    assert_eq!(group.run(Item { keys, ..item("f", "") }).await, Err(scattered()));
    assert_eq!(text(group.run(item("f", "{a}")).await), "{a}");
    assert_eq!(cluster.calls.lock().unwrap().len(), 3);
}
