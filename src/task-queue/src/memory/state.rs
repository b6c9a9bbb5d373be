//! The broker itself: queues, consumers, connections and what is unacked. Pure bookkeeping under one lock; nothing here waits.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    Shared,
    backlog::{Backlog, Message},
    receipt::MemoryReceipt,
};
use crate::{Death, DeathReason, Delivery, Inbox, Link, Queue, QueueOptions, Receipt, message::expiration_ms, topology::Plan};

/// A queue and who consumes it.
#[derive(Debug)]
pub(super) struct HeldQueue {
    pub queue: Queue,
    pub plan: Plan,
    /// The connection that an exclusive queue belongs to.
    pub owner: Option<u64>,
    pub backlog: Backlog,
    /// Whose turn it is. A consumer without credit is taken out when its turn comes and enters at the end when it acks.
    pub turns: VecDeque<u64>,
    pub consumers: BTreeSet<u64>,
}

impl HeldQueue {
    /// Whether it refuses a message with this body.
    pub(super) fn refuses(&self, body: &bytes::Bytes) -> bool {
        self.plan.bounds.refuses(self.backlog.len() + 1, self.backlog.bytes() + body.len() as u64)
    }

    /// Takes the first message out if it holds more than its bounds allow.
    fn pop_excess(&mut self) -> Option<Message> {
        let excess = self.plan.bounds.drops_oldest(self.backlog.len(), self.backlog.bytes());
        if excess { self.backlog.pop() } else { None }
    }
}

/// What enters a queue.
#[derive(Debug)]
pub(super) struct Arrival {
    pub envelope: protocol::Envelope,
    pub body: bytes::Bytes,
    /// Why it was taken out of another queue, if it was.
    pub death: Option<Death>,
}

/// One consumer.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub queue_name: String,
    pub connection: u64,
    pub prefetch: usize,
    pub unacked: BTreeSet<u64>,
    pub out_of_turns: bool,
    pub stopped: bool,
    pub inbox: Arc<Inbox>,
    pub live: watch::Sender<bool>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connected {
    pub link: watch::Sender<Link>,
    pub taken: BTreeSet<u64>,
    /// The queues that it has declared.
    pub declared: BTreeSet<Queue>,
}

/// A message in somebody's hand.
#[derive(Debug)]
pub(super) struct Unacked {
    pub queue_name: String,
    /// `None` for a message taken without a consumer.
    pub consumer: Option<u64>,
    pub connection: u64,
    pub message: Message,
}

/// Everything that the broker knows.
#[derive(Debug)]
pub(super) struct State {
    pub options: QueueOptions,
    pub blocked: Option<String>,
    pub queues: BTreeMap<String, HeldQueue>,
    pub connections: BTreeMap<u64, Connected>,
    pub(super) consumers: BTreeMap<u64, Subscriber>,
    pub(super) unacked: BTreeMap<u64, Unacked>,
    last_number: u64,
    /// When the expiry timer rings next.
    pub armed: Option<Instant>,
    shared: Weak<Shared>,
}

impl State {
    pub(super) fn new(options: QueueOptions, shared: Weak<Shared>) -> Self {
        Self {
            options,
            blocked: None,
            queues: BTreeMap::new(),
            connections: BTreeMap::new(),
            consumers: BTreeMap::new(),
            unacked: BTreeMap::new(),
            last_number: 0,
            armed: None,
            shared,
        }
    }

    /// All that is in a queue, ready or unacked.
    pub(super) fn messages(&self, name: &str) -> impl Iterator<Item = &Message> {
        let ready = self.queues.get(name).into_iter().flat_map(|queue| queue.backlog.messages());
        let unacked = self.unacked.values().filter(move |unacked| unacked.queue_name == name).map(|unacked| &unacked.message);
        ready.chain(unacked)
    }

    pub(super) fn message_ids(&self, name: &str) -> Vec<String> {
        let mut ids: Vec<String> = self.messages(name).filter_map(|message| message.envelope.message_id.clone()).collect();
        ids.sort();
        ids
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn connect(&mut self) -> u64 {
        let connection = self.number();
        let link = self.blocked.clone().map_or(Link::Up, Link::Blocked);
        self.connections
            .insert(connection, Connected { link: watch::Sender::new(link), taken: BTreeSet::new(), declared: BTreeSet::new() });
        connection
    }

    /// Adds a new message to an existing queue.
    pub(super) fn enqueue(&mut self, name: &str, routing_key: String, arrival: Arrival) {
        let Arrival { envelope, body, death } = arrival;
        let place = self.number();
        let Some(queue) = self.queues.get(name) else { return };
        let own = envelope.expiration.as_deref().and_then(expiration_ms).map(Duration::from_millis);
        let lives = [queue.plan.lifetime(), own].into_iter().flatten().min();
        let expires_at = lives.map(|lives| Instant::now() + lives);
        let message = Message { place, routing_key, envelope, body, redelivered: false, death, expires_at };
        // As on the broker, what a consumer can take at once is delivered however short its life.
        if queue.backlog.is_empty()
            && let Some(consumer) = self.whose_turn(name)
        {
            return self.hand_over(name, consumer, message);
        }
        self.put(name, message);
        self.dispatch(name);
    }

    fn put(&mut self, name: &str, message: Message) {
        if let Some(queue) = self.queues.get_mut(name) {
            queue.backlog.insert(message);
        }
        while let Some(first) = self.queues.get_mut(name).and_then(HeldQueue::pop_excess) {
            self.dead_letter(name, first, DeathReason::MaxLength);
        }
    }

    /// Dead-letters what expired, delivers what can be delivered, and sets the timer for what comes next.
    pub(super) fn dispatch(&mut self, name: &str) {
        loop {
            self.expire(name);
            if self.queues.get(name).is_none_or(|queue| queue.backlog.is_empty()) {
                return;
            }
            let Some(consumer) = self.whose_turn(name) else { break };
            let Some(message) = self.queues.get_mut(name).and_then(|queue| queue.backlog.pop()) else { break };
            self.hand_over(name, consumer, message);
        }
        let next = self.queues.get(name).and_then(|queue| queue.backlog.expires_at());
        if let Some(next) = next.filter(|next| self.armed.is_none_or(|armed| *next < armed)) {
            self.armed = Some(next);
            if let Some(shared) = self.shared.upgrade() {
                shared.rearm.notify_one();
            }
        }
    }

    /// Dead-letters what expired.
    fn expire(&mut self, name: &str) {
        let now = Instant::now();
        while let Some(queue) = self.queues.get_mut(name) {
            let Some(message) = queue.backlog.pop_expired(now) else { return };
            self.dead_letter(name, message, DeathReason::Expired);
        }
    }

    /// Moves a message that was taken out of a queue to the one that takes its dead letters, without its `expiration`; without such a queue it is gone, as on the broker.
    fn dead_letter(&mut self, name: &str, message: Message, reason: DeathReason) {
        let Some(target) = self.queues.get(name).and_then(|queue| queue.plan.dead_letters_to.clone()) else { return };
        let Message { mut envelope, body, .. } = message;
        envelope.expiration = None;
        let death = Some(Death { queue: name.to_owned(), reason });
        self.enqueue(&target, target.clone(), Arrival { envelope, body, death });
    }

    /// Expires what is due in every queue and sets the timer anew.
    pub(super) fn expire_all(&mut self) {
        self.armed = None;
        let names: Vec<String> = self.queues.keys().cloned().collect();
        for name in names {
            self.dispatch(&name);
        }
    }

    /// The consumer whose turn it is and who has credit.
    fn whose_turn(&mut self, name: &str) -> Option<u64> {
        let queue = self.queues.get_mut(name)?;
        while let Some(number) = queue.turns.pop_front() {
            let Some(consumer) = self.consumers.get_mut(&number) else { continue };
            if consumer.unacked.len() < consumer.prefetch {
                queue.turns.push_back(number);
                return Some(number);
            }
            consumer.out_of_turns = true;
        }
        None
    }

    fn hand_over(&mut self, name: &str, number: u64, message: Message) {
        let Some(connection) = self.consumers.get(&number).map(|consumer| consumer.connection) else { return };
        let (tag, delivery) = self.deliver(name, connection, Some(number), message);
        if let (Some(consumer), Some(delivery)) = (self.consumers.get_mut(&number), delivery) {
            consumer.unacked.insert(tag);
            consumer.inbox.push(tag, delivery);
        }
    }

    /// Books a message as unacked.
    fn deliver(&mut self, name: &str, connection: u64, consumer: Option<u64>, message: Message) -> (u64, Option<Delivery>) {
        let tag = self.number();
        let delivery = self.queues.get(name).map(|queue| Delivery {
            queue: queue.queue.clone(),
            routing_key: message.routing_key.clone(),
            envelope: message.envelope.clone(),
            body: message.body.clone(),
            redelivered: message.redelivered,
            death: message.death.clone(),
            receipt: Receipt::new(Box::new(MemoryReceipt::new(self.shared.clone(), tag))),
        });
        self.unacked.insert(tag, Unacked { queue_name: name.to_owned(), consumer, connection, message });
        (tag, delivery)
    }

    /// Takes one ready message for a connection.
    pub(super) fn take(&mut self, connection: u64, name: &str) -> Option<Delivery> {
        self.expire(name);
        let message = self.queues.get_mut(name)?.backlog.pop()?;
        let (tag, delivery) = self.deliver(name, connection, None, message);
        self.connections.get_mut(&connection)?.taken.insert(tag);
        self.dispatch(name);
        delivery
    }

    /// Removes a delivery from the unacked ones; false if it is none.
    pub(super) fn ack(&mut self, tag: u64) -> bool {
        self.settle(tag).is_some_and(|settled| {
            self.dispatch(&settled.queue_name);
            true
        })
    }

    /// Puts an unacked delivery back at its place; false if it is none.
    pub(super) fn give_back(&mut self, tag: u64) -> bool {
        self.settle(tag).is_some_and(|settled| {
            self.put_back(settled.queue_name.as_str(), settled.message);
            self.dispatch(&settled.queue_name);
            true
        })
    }

    pub(super) fn put_back(&mut self, name: &str, mut message: Message) {
        message.redelivered = true;
        self.put(name, message);
    }

    pub(super) fn settle(&mut self, tag: u64) -> Option<Unacked> {
        let settled = self.unacked.remove(&tag)?;
        match settled.consumer {
            Some(number) => self.credit(number, tag),
            None => {
                if let Some(connection) = self.connections.get_mut(&settled.connection) {
                    connection.taken.remove(&tag);
                }
            }
        }
        Some(settled)
    }

    /// A consumer has one unacked delivery less; if it had lost its turns, it is last in line now.
    fn credit(&mut self, number: u64, tag: u64) {
        let Some(consumer) = self.consumers.get_mut(&number) else { return };
        consumer.unacked.remove(&tag);
        if consumer.out_of_turns && !consumer.stopped {
            consumer.out_of_turns = false;
            if let Some(queue) = self.queues.get_mut(&consumer.queue_name) {
                queue.turns.push_back(number);
            }
        }
    }

    pub(super) fn delete_if_unused(&mut self, name: &str) -> bool {
        let unused = self.queues.get(name).is_none_or(|queue| queue.backlog.is_empty() && queue.consumers.is_empty());
        if unused {
            self.queues.remove(name);
        }
        unused
    }
}
