//! How queues, consumers and connections begin and end.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;

use super::{
    backlog::Backlog,
    state::{HeldQueue, State, Subscriber},
};
use crate::{Inbox, Link, Queue};

impl State {
    /// Declares a queue for a connection, after those that take what it cannot keep. Consumers that lost a queue of this name go on with the new one.
    pub(super) fn declare(&mut self, connection: u64, queue: &Queue) {
        for before in queue.declared_before() {
            self.declare_one(connection, &before);
        }
        self.declare_one(connection, queue);
    }

    fn declare_one(&mut self, connection: u64, queue: &Queue) {
        if let Some(connected) = self.connections.get_mut(&connection) {
            connected.declared.insert(queue.clone());
        }
        let plan = self.options.plan(queue);
        if self.queues.contains_key(&plan.name) {
            return;
        }
        let mut consumers = BTreeSet::new();
        for (number, consumer) in &mut self.consumers {
            if consumer.queue_name == plan.name && !consumer.stopped {
                consumers.insert(*number);
                consumer.live.send_replace(true);
            }
        }
        let held = HeldQueue {
            queue: queue.clone(),
            owner: plan.exclusive.then_some(connection),
            backlog: Backlog::new(plan.by_priority),
            turns: consumers.iter().copied().collect(),
            consumers,
            plan,
        };
        self.queues.insert(held.plan.name.clone(), held);
    }

    /// Whether a connection has declared the queue, and has not deleted it since.
    pub(super) fn has_declared(&self, connection: u64, queue: &Queue) -> bool {
        self.connections.get(&connection).is_some_and(|connected| connected.declared.contains(queue))
    }

    /// Deletes a queue with all that is in it, or was delivered from it. Its consumers end; where their connection had declared it, it is declared again at once.
    pub(super) fn delete(&mut self, name: &str) {
        let Some(held) = self.queues.remove(name) else { return };
        self.unacked.retain(|_, unacked| unacked.queue_name != name);
        let mut connections = BTreeSet::new();
        for number in &held.consumers {
            let Some(consumer) = self.consumers.get_mut(number) else { continue };
            consumer.live.send_replace(false);
            consumer.inbox.clear();
            consumer.unacked.clear();
            consumer.out_of_turns = false;
            connections.insert(consumer.connection);
        }
        let declared = connections.into_iter().find(|connection| self.has_declared(*connection, &held.queue));
        if let Some(connection) = declared {
            self.declare(connection, &held.queue);
        }
    }

    /// Adds a consumer to an existing queue.
    pub(super) fn consume(&mut self, connection: u64, name: &str, prefetch: usize, inbox: Arc<Inbox>) -> (u64, watch::Receiver<bool>) {
        let number = self.number();
        let live = watch::Sender::new(true);
        let watched = live.subscribe();
        self.consumers.insert(
            number,
            Subscriber {
                queue_name: name.to_owned(),
                connection,
                prefetch,
                unacked: BTreeSet::new(),
                out_of_turns: false,
                stopped: false,
                inbox,
                live,
            },
        );
        if let Some(queue) = self.queues.get_mut(name) {
            queue.turns.push_back(number);
            queue.consumers.insert(number);
        }
        self.dispatch(name);
        (number, watched)
    }

    /// See [`crate::Feed::stop`].
    pub(super) fn stop_consumer(&mut self, number: u64) {
        let Some(consumer) = self.consumers.get_mut(&number) else { return };
        if std::mem::replace(&mut consumer.stopped, true) {
            return;
        }
        consumer.live.send_replace(false);
        let untaken = consumer.inbox.close();
        let name = consumer.queue_name.clone();
        let Some(queue) = self.queues.get_mut(&name) else { return };
        queue.turns.retain(|turn| *turn != number);
        queue.consumers.remove(&number);
        let abandoned = queue.plan.exclusive && queue.consumers.is_empty();
        self.put_all_back(untaken);
        if abandoned {
            self.queues.remove(&name);
        }
    }

    /// See [`crate::Feed::end`].
    pub(super) fn end_consumer(&mut self, number: u64) {
        self.stop_consumer(number);
        let Some(consumer) = self.consumers.get(&number) else { return };
        self.put_all_back(consumer.unacked.iter().copied().collect());
        self.consumers.remove(&number);
    }

    /// Puts deliveries back before any is delivered again, so that their order does not depend on who has credit.
    fn put_all_back(&mut self, tags: Vec<u64>) {
        let mut names = BTreeSet::new();
        for tag in tags {
            if let Some(settled) = self.settle(tag) {
                self.put_back(&settled.queue_name, settled.message);
                names.insert(settled.queue_name);
            }
        }
        for name in names {
            self.dispatch(&name);
        }
    }

    /// Ends a connection with its consumers, its unacked deliveries and its exclusive queues.
    pub(super) fn disconnect(&mut self, number: u64) {
        let Some(connection) = self.connections.remove(&number) else { return };
        connection.link.send_replace(Link::Down("closed".to_owned()));
        self.queues.retain(|_, queue| queue.owner != Some(number));
        let consumers: Vec<u64> = self.consumers.iter().filter(|(_, consumer)| consumer.connection == number).map(|(id, _)| *id).collect();
        // All stop before any gives back: what one gives back must not go to its neighbour on the same dead connection.
        for consumer in &consumers {
            self.stop_consumer(*consumer);
        }
        for consumer in consumers {
            self.end_consumer(consumer);
        }
        self.put_all_back(connection.taken.into_iter().collect());
    }
}
