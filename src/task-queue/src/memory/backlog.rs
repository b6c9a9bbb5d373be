//! The ready messages of one queue, in the order in which they will be delivered.

use std::collections::VecDeque;

use bytes::Bytes;
use protocol::Envelope;
use tokio::time::Instant;

use crate::{Death, topology::PRIORITY_LEVELS_MAX};

/// A message in a queue or unacked.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// Its place: grows with each message that enters any queue.
    pub place: u64,
    pub routing_key: String,
    pub envelope: Envelope,
    pub body: Bytes,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// Why it was taken out of another queue, if it was.
    pub death: Option<Death>,
    pub expires_at: Option<Instant>,
}

/// Messages by priority, and by place within a priority.
#[derive(Debug)]
pub(super) struct Backlog {
    /// One level without priorities.
    levels: Vec<VecDeque<Message>>,
    length: usize,
    /// What their bodies have together.
    bytes: u64,
}

impl Backlog {
    pub(super) fn new(by_priority: bool) -> Self {
        let levels = if by_priority { usize::from(PRIORITY_LEVELS_MAX) + 1 } else { 1 };
        Self { levels: vec![VecDeque::new(); levels], length: 0, bytes: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The bytes of all bodies.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All of them, in no promised order.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.levels.iter().flatten()
    }

    /// Puts a message at its place: the end for a new one, where it was for a returned one.
    pub(super) fn insert(&mut self, message: Message) {
        let highest = self.levels.len() - 1;
        let level = &mut self.levels[usize::from(message.envelope.priority.unwrap_or(0)).min(highest)];
        let index = level.partition_point(|waiting| waiting.place < message.place);
        self.bytes += message.body.len() as u64;
        level.insert(index, message);
        self.length += 1;
    }

    /// When the first message expires. As on the broker, only the first one can: what waits behind it expires when it gets there.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.levels.iter().rev().find_map(VecDeque::front)?.expires_at
    }

    /// Takes the first message.
    pub(super) fn pop(&mut self) -> Option<Message> {
        let message = self.levels.iter_mut().rev().find_map(VecDeque::pop_front)?;
        self.length -= 1;
        self.bytes -= message.body.len() as u64;
        Some(message)
    }

    /// Takes the first message if its time is over.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Message> {
        self.expires_at().filter(|at| *at <= now)?;
        self.pop()
    }
}
