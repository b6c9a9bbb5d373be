//! The group commit: while a call is under way, further operations gather, and go together as the next one.
//!
//! There is no timer, and an operation that finds the line idle goes at once. Nothing bounds the queue but its callers, each of whom waits for the answer to one operation.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use redis::Value;
use tokio::sync::oneshot;

use crate::LinkError;

/// Most operations of one call: more are no cheaper.
const ITEMS_MAX: usize = 32;
/// Most bytes of one call, unless a single operation has more.
const BYTES_MAX: usize = 1 << 20;
/// How many operations that nobody waits for are put aside at most, before they go by themselves.
const QUIET_MAX: usize = 64;

/// One operation: a function of a script library, its keys and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The function's name.
    pub function: &'static str,
    /// Its keys.
    pub keys: Vec<String>,
    /// Its arguments.
    pub arguments: Vec<Vec<u8>>,
}

impl Item {
    fn bytes(&self) -> usize {
        let keys: usize = self.keys.iter().map(String::len).sum();
        keys + self.arguments.iter().map(Vec::len).sum::<usize>()
    }
}

/// Carries operations to their server.
#[async_trait]
pub trait Call: Send + Sync + 'static {
    /// One call with all of `items`; the answer to each, in their order. An error of one item is its own; an error of the call is everybody's.
    async fn call(&self, items: &[Item]) -> Result<Vec<Result<Value, LinkError>>, LinkError>;
}

type Answer = Result<Value, LinkError>;

/// Where the answer to each item of a call goes; `None`: nobody waits for it.
type Callers = Vec<Option<oneshot::Sender<Answer>>>;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Item, oneshot::Sender<Answer>)>,
    /// Operations whose answer nobody waits for: they travel with what goes anyway.
    quiet: Vec<Item>,
    under_way: bool,
}

/// See the module's text. Cheap to clone; clones share the queue.
pub struct Group<C> {
    shared: Arc<(C, Mutex<Queue>)>,
}

impl<C> Clone for Group<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<C> fmt::Debug for Group<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Group").finish_non_exhaustive()
    }
}

impl<C: Call> Group<C> {
    /// A group whose calls go by `call`.
    pub fn new(call: C) -> Self {
        Self { shared: Arc::new((call, Mutex::default())) }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one operation, together with what else goes at this moment. Where the caller is dropped, the operation happens all the same.
    ///
    /// # Errors
    /// The operation's own, or that of the whole call.
    pub async fn run(&self, item: Item) -> Answer {
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.lock();
            queue.waiting.push_back((item, answer));
            self.start(&mut queue);
        }
        answered.await.unwrap_or_else(|_| Err(LinkError::Away("the process is ending".to_owned())))
    }

    /// Puts an operation aside whose answer nobody waits for: it travels with the next call that goes anyway. It may get lost.
    pub fn run_quietly(&self, item: Item) {
        let mut queue = self.lock();
        queue.quiet.push(item);
        if queue.quiet.len() >= QUIET_MAX {
            self.start(&mut queue);
        }
    }

    /// Starts the driver, unless it is at work: a job of its own, so that a caller that is dropped strands nobody.
    fn start(&self, queue: &mut Queue) {
        if !std::mem::replace(&mut queue.under_way, true) {
            let group = self.clone();
            tokio::spawn(async move { group.drive().await });
        }
    }

    async fn drive(self) {
        // The callers that run at this moment have more to say.
        tokio::task::yield_now().await;
        while let Some((items, answers)) = self.next_call() {
            let answered = self.shared.0.call(&items).await;
            match answered {
                Ok(each) => {
                    // A caller without an answer hears that it was dropped.
                    for (answer, to) in each.into_iter().zip(answers) {
                        let _unheard = to.map(|to| to.send(answer));
                    }
                }
                Err(error) => {
                    for to in answers.into_iter().flatten() {
                        let _unheard = to.send(Err(error.clone()));
                    }
                }
            }
        }
    }

    /// What goes next, up to the bounds; `None`: nothing does, and the driver is needed no more.
    fn next_call(&self) -> Option<(Vec<Item>, Callers)> {
        let mut queue = self.lock();
        let (mut items, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0);
        if !queue.waiting.is_empty() || queue.quiet.len() >= QUIET_MAX {
            // In the order in which they came: what is said quietly was said before.
            let some = queue.quiet.len().min(ITEMS_MAX / 2);
            items.extend(queue.quiet.drain(..some));
            answers.resize_with(items.len(), || None);
        }
        while items.len() < ITEMS_MAX {
            let Some((item, _)) = queue.waiting.front() else { break };
            bytes += item.bytes();
            if bytes > BYTES_MAX && !items.is_empty() {
                break;
            }
            let Some((item, answer)) = queue.waiting.pop_front() else { break };
            items.push(item);
            answers.push(Some(answer));
        }
        queue.under_way = !items.is_empty();
        queue.under_way.then_some((items, answers))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_probe::poll_once;
    use tokio::sync::Semaphore;

    use super::*;

    /// Polls a future once.
    mod futures_probe {
        use std::{future::Future, pin::Pin, task::Context};

        pub fn poll_once<F: Future>(future: Pin<&mut F>) -> bool {
            future.poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
        }
    }

    /// Answers each item with its first key; lets a call through only when told to.
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
        (Arc::clone(&gate), Group::new(gate))
    }

    fn item(function: &'static str, key: &str) -> Item {
        Item { function, keys: vec![key.to_owned()], arguments: Vec::new() }
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
        let first = tokio::spawn({
            let group = group.clone();
            async move { group.run(item("a", "one")).await }
        });
        settle().await;
        let run = |function, key: &'static str| {
            let group = group.clone();
            tokio::spawn(async move { group.run(item(function, key)).await })
        };
        let (second, failing, third) = (run("b", "two"), run("fails", "x"), run("c", "three"));
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
    async fn a_caller_that_is_dropped_strands_nobody() {
        let (gate, group) = gate();
        let mut dropped = Box::pin(group.run(item("a", "one")));
        assert!(!poll_once(dropped.as_mut()));
        drop(dropped);
        let second = tokio::spawn({
            let group = group.clone();
            async move { group.run(item("b", "two")).await }
        });
        gate.open.add_permits(2);
        assert_eq!(text(second.await.unwrap()), "two");
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
        let run = |bytes: usize| {
            let group = group.clone();
            tokio::spawn(async move { group.run(Item { arguments: vec![vec![0; bytes]], ..item("a", "one") }).await })
        };
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
        (1..QUIET_MAX).for_each(|_| group.run_quietly(item("quiet", "q")));
        settle().await;
        assert!(gate.calls.lock().unwrap().is_empty());
        group.run_quietly(item("quiet", "q"));
        settle().await;
        assert_eq!(gate.calls.lock().unwrap().len(), 1);
        assert_eq!(gate.calls.lock().unwrap()[0].len(), ITEMS_MAX / 2, "the rest waits for the next call");
    }
}
