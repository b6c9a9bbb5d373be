//! What waits in line, and what of it goes together.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{Answer, Item};
use crate::hash_slot::hash_slot;

/// Most operations of one call: more are no cheaper.
pub(super) const ITEMS_MAX: usize = 32;
/// Most bytes that one call takes of what somebody waits for, and of what nobody waits for, unless a single operation has more.
pub(super) const BYTES_MAX: usize = 1 << 20;
/// As soon as so many operations are put aside that nobody waits for, they go by themselves.
pub(super) const QUIET_MANY: usize = 64;
/// How many of them are put aside at most; the oldest make way for more.
pub(super) const QUIET_MAX: usize = 1_024;

/// Who hears the answer to an operation; `None`: nobody waits for it.
pub(super) type Caller = Option<oneshot::Sender<Answer>>;

/// The operations of one call, and who hears the answer to each.
pub(super) type NextCall = (Vec<Item>, Vec<Caller>);

/// Which operations may share a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Together {
    /// Any: one server has all keys.
    #[default]
    Anything,
    /// Those whose keys lie in one hash slot: the server is a Redis Cluster.
    SameSlot,
}

impl Together {
    /// Operations with the same number may share a call.
    fn number(self, item: &Item) -> u16 {
        match self {
            Self::Anything => 0,
            Self::SameSlot => item.keys.first().map_or(0, |key| hash_slot(key)),
        }
    }
}

/// An operation in line.
struct Queued {
    item: Item,
    /// By [`Together::number`].
    number: u16,
    caller: Caller,
}

impl Queued {
    fn is_given_up(&self) -> bool {
        self.caller.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

/// The operations of a group that were not sent yet.
#[derive(Default)]
pub(super) struct Queue {
    together: Together,
    waiting: VecDeque<Queued>,
    /// Operations whose answer nobody waits for: they travel with what goes anyway.
    quiet: VecDeque<Queued>,
    /// Whether the last call was made for the quiet ones.
    quiet_led: bool,
    /// Whether a driver is at work, or about to be.
    under_way: bool,
}

impl Queue {
    /// Puts an operation in line. Says whether a driver must be started.
    pub(super) fn push(&mut self, item: Item, caller: oneshot::Sender<Answer>) -> bool {
        let queued = self.queued(item, Some(caller));
        self.waiting.push_back(queued);
        self.needs_driver()
    }

    /// Puts an operation aside whose answer nobody waits for. Says whether a driver must be started.
    pub(super) fn push_quietly(&mut self, item: Item) -> bool {
        while self.quiet.len() >= QUIET_MAX {
            self.quiet.pop_front();
        }
        let queued = self.queued(item, None);
        self.quiet.push_back(queued);
        self.quiet.len() >= QUIET_MANY && self.needs_driver()
    }

    /// What goes next, up to the bounds; `None`: nothing needs to, and the driver is at its end.
    pub(super) fn next_call(&mut self) -> Option<NextCall> {
        self.waiting.retain(|queued| !queued.is_given_up());
        let Some(number) = self.first_in_line() else {
            self.under_way = false;
            return None;
        };
        // In the order in which they came: what is said quietly was said before.
        let mut call = take(&mut self.quiet, number, ITEMS_MAX / 2);
        let room = ITEMS_MAX - call.len();
        call.extend(take(&mut self.waiting, number, room));
        Some(call.into_iter().map(|queued| (queued.item, queued.caller)).unzip())
    }

    /// The number of the operation that the next call is made for. Many quiet ones, which on a cluster may find no call to travel with, get every second call at most, so that they
    /// hold up those who wait by one call and no more.
    fn first_in_line(&mut self) -> Option<u16> {
        let many = self.quiet.len() >= QUIET_MANY;
        self.quiet_led = many && (self.waiting.is_empty() || !self.quiet_led);
        let line = if self.quiet_led { &self.quiet } else { &self.waiting };
        line.front().map(|queued| queued.number)
    }

    /// From now on a call keeps to one hash slot. Says whether that is new.
    pub(super) fn keep_to_one_hash_slot(&mut self) -> bool {
        let is_new = self.together == Together::Anything;
        self.together = Together::SameSlot;
        if is_new {
            for queued in self.waiting.iter_mut().chain(&mut self.quiet) {
                queued.number = self.together.number(&queued.item);
            }
        }
        is_new
    }

    /// Puts a call that did not happen back to the head of the line, in its order.
    pub(super) fn put_back(&mut self, items: Vec<Item>, callers: Vec<Caller>) {
        for (item, caller) in items.into_iter().zip(callers).rev() {
            let queued = self.queued(item, caller);
            let line = if queued.caller.is_some() { &mut self.waiting } else { &mut self.quiet };
            line.push_front(queued);
        }
    }

    /// The driver ended before its time. Gives back everybody who waits; what nobody waits for stays.
    pub(super) fn break_off(&mut self) -> Vec<Caller> {
        self.under_way = false;
        self.waiting.drain(..).map(|queued| queued.caller).collect()
    }

    fn queued(&self, item: Item, caller: Caller) -> Queued {
        Queued { number: self.together.number(&item), item, caller }
    }

    fn needs_driver(&mut self) -> bool {
        !std::mem::replace(&mut self.under_way, true)
    }
}

/// Takes the first operations with that number out of a line, up to `most` of them. The others keep their places.
fn take(line: &mut VecDeque<Queued>, number: u16, most: usize) -> Vec<Queued> {
    let (mut taken, mut bytes, mut place) = (Vec::new(), 0, 0);
    while taken.len() < most
        && let Some(next) = line.get(place)
    {
        if next.number != number {
            place += 1;
            continue;
        }
        bytes += next.item.bytes();
        if bytes > BYTES_MAX && !taken.is_empty() {
            break;
        }
        taken.extend(line.remove(place));
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: &str) -> Item {
        Item { function: "f", keys: vec![key.to_owned()], arguments: Vec::new() }
    }

    /// Puts operations in line; they are given up when what this gives is dropped.
    fn push(queue: &mut Queue, keys: &[&str]) -> Vec<oneshot::Receiver<Answer>> {
        let mut answers = Vec::new();
        for key in keys {
            let (caller, answer) = oneshot::channel();
            queue.push(item(key), caller);
            answers.push(answer);
        }
        answers
    }

    fn on_a_cluster() -> Queue {
        let mut queue = Queue::default();
        assert!(queue.keep_to_one_hash_slot(), "that is new");
        assert!(!queue.keep_to_one_hash_slot(), "and then it is not");
        queue
    }

    fn next(queue: &mut Queue) -> Option<Vec<String>> {
        let (items, _callers) = queue.next_call()?;
        Some(items.into_iter().flat_map(|item| item.keys).collect())
    }

    fn calls(queue: &mut Queue) -> Vec<Vec<String>> {
        std::iter::from_fn(|| next(queue)).collect()
    }

    #[test]
    fn on_one_server_anything_goes_together() {
        let mut queue = Queue::default();
        queue.push_quietly(item("{q}"));
        let _answers = push(&mut queue, &["{a}1", "{b}1", "{a}2"]);
        assert_eq!(calls(&mut queue), vec![vec!["{q}", "{a}1", "{b}1", "{a}2"]]);
    }

    #[test]
    fn on_a_cluster_a_call_keeps_to_the_hash_slot_of_the_first_in_line_and_the_others_keep_their_places() {
        let mut queue = on_a_cluster();
        let _answers = push(&mut queue, &["{a}1", "{b}1", "{a}2", "{c}1", "{b}2", "{a}3"]);
        assert_eq!(calls(&mut queue), vec![vec!["{a}1", "{a}2", "{a}3"], vec!["{b}1", "{b}2"], vec!["{c}1"]]);
    }

    #[test]
    fn a_busy_hash_slot_holds_up_no_other_one() {
        let mut queue = on_a_cluster();
        let many = ["{a}"; ITEMS_MAX + 1];
        let _answers = [push(&mut queue, &many), push(&mut queue, &["{b}"]), push(&mut queue, &many)];
        assert_eq!(next(&mut queue), Some(vec!["{a}".to_owned(); ITEMS_MAX]));
        let _more = push(&mut queue, &many);
        assert_eq!(next(&mut queue).map(|call| call.len()), Some(ITEMS_MAX), "the last that came before, and others of its kind");
        assert_eq!(next(&mut queue), Some(vec!["{b}".to_owned()]));
    }

    #[test]
    fn what_nobody_waits_for_travels_only_with_its_own_hash_slot() {
        let mut queue = on_a_cluster();
        for key in ["{a}quiet", "{b}quiet"] {
            queue.push_quietly(item(key));
        }
        let _answers = push(&mut queue, &["{b}1", "{c}1"]);
        assert_eq!(calls(&mut queue), vec![vec!["{b}quiet", "{b}1"], vec!["{c}1"]]);
    }

    #[test]
    fn many_that_nobody_waits_for_get_every_second_call_at_most() {
        let mut queue = on_a_cluster();
        for number in 0..QUIET_MANY + 2 {
            queue.push_quietly(item(&format!("{{q{number}}}")));
        }
        let _answers = push(&mut queue, &["{a}", "{b}", "{c}"]);
        assert_eq!(calls(&mut queue), vec![vec!["{q0}"], vec!["{a}"], vec!["{q1}"], vec!["{b}"], vec!["{q2}"], vec!["{c}"]]);
    }

    #[test]
    fn of_too_many_that_nobody_waits_for_the_oldest_are_dropped() {
        let mut queue = Queue::default();
        for number in 0..QUIET_MAX + 3 {
            queue.push_quietly(item(&number.to_string()));
        }
        assert_eq!(queue.quiet.len(), QUIET_MAX);
        assert_eq!(next(&mut queue).and_then(|call| call.first().cloned()), Some("3".to_owned()));
    }

    #[test]
    fn a_call_that_did_not_happen_goes_back_to_its_places() {
        let mut queue = Queue::default();
        queue.push_quietly(item("{a}quiet"));
        let _answers = push(&mut queue, &["{a}1", "{b}1", "{a}2"]);
        let (items, callers) = queue.next_call().expect("a call");
        let _later = push(&mut queue, &["{a}3"]);
        assert!(queue.keep_to_one_hash_slot());
        queue.put_back(items, callers);
        assert_eq!(calls(&mut queue), vec![vec!["{a}quiet", "{a}1", "{a}2", "{a}3"], vec!["{b}1"]]);
    }

    #[test]
    fn what_was_given_up_in_line_is_not_sent() {
        let mut queue = Queue::default();
        drop(push(&mut queue, &["a"]));
        let _answers = push(&mut queue, &["b"]);
        assert_eq!(calls(&mut queue), vec![vec!["b"]]);
        drop(push(&mut queue, &["c"]));
        assert_eq!(next(&mut queue), None);
        assert!(!queue.under_way);
    }
}
