//! What operations on dead letters promise where the broker fails half-way: no letter stays in hand.

use std::{
    num::NonZeroU16,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use producer::{DeadLetters, Producer, ProducerOptions};
use protocol::{Envelope, TaskId};
use task_queue::{
    Consumer, Delivery, Depth, Link, MemoryBroker, MemoryQueue, Names, Outgoing, PublishError, Queue, QueueError, QueueOptions, Target,
    TaskQueue,
};
use task_store::{MemoryStore, StoreOptions};
use tokio::sync::watch;

use crate::fleet::{environment, pool};

/// A queue whose broker is away after so many messages that were taken and so many tasks that were published.
struct Faltering {
    inner: MemoryQueue,
    takes: AtomicU32,
    publishes: AtomicU32,
}

fn one_less(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

#[async_trait]
impl TaskQueue for Faltering {
    fn names(&self) -> &Names {
        self.inner.names()
    }
    async fn declare(&self, queue: &Queue) -> Result<(), QueueError> {
        self.inner.declare(queue).await
    }
    async fn publish(&self, message: Outgoing) -> Result<(), PublishError> {
        if message.target == Target::Queue(pool()) && !one_less(&self.publishes) {
            return Err(PublishError::Blocked { target: "the pool".to_owned(), reason: "as the test wants it".to_owned() });
        }
        self.inner.publish(message).await
    }
    async fn consume(&self, queue: &Queue, prefetch: NonZeroU16) -> Result<Consumer, QueueError> {
        self.inner.consume(queue, prefetch).await
    }
    async fn take(&self, queue: &Queue) -> Result<Option<Delivery>, QueueError> {
        if !one_less(&self.takes) {
            return Err(QueueError::Unreachable { url: "amqp://nowhere".to_owned(), reason: "as the test wants it".to_owned() });
        }
        self.inner.take(queue).await
    }
    async fn depth(&self, queue: &Queue) -> Result<Option<Depth>, QueueError> {
        self.inner.depth(queue).await
    }
    async fn delete_if_unused(&self, queue: &Queue) -> Result<bool, QueueError> {
        self.inner.delete_if_unused(queue).await
    }
    fn link(&self) -> watch::Receiver<Link> {
        self.inner.link()
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}

/// Three dead letters, `a`, `b` and `c`, in front of a broker that falters.
async fn letters(takes: u32, publishes: u32) -> DeadLetters {
    let inner = MemoryBroker::new(QueueOptions::default()).connect();
    for queue in [Queue::Dead, pool()] {
        inner.declare(&queue).await.expect("declared");
    }
    for id in ["a", "b", "c"] {
        let envelope = Envelope { message_id: Some(id.to_owned()), ..Envelope::default() };
        inner.publish(Outgoing::new(Target::Queue(Queue::Dead), envelope, b"{}"[..].into())).await.expect("published");
    }
    let queue = Arc::new(Faltering { inner, takes: AtomicU32::new(takes), publishes: AtomicU32::new(publishes) });
    let store = Arc::new(MemoryStore::new(environment().clock, StoreOptions::default()));
    Producer::new(queue, store, environment(), ProducerOptions::default()).dead_letters()
}

#[tokio::test]
async fn letters_go_back_when_the_broker_goes_away_while_they_are_taken() {
    let letters = letters(2, 0).await;
    let failed = letters.list(3).await.expect_err("it is away");
    assert!(failed.is_transient(), "{failed}");
    assert_eq!(letters.count().await, Ok(3));
}

#[tokio::test]
async fn letters_go_back_when_the_broker_blocks_while_they_are_requeued() {
    let letters = letters(100, 1).await;
    let failed = letters.requeue(None).await.expect_err("it blocks");
    assert!(failed.is_transient() && failed.to_string().contains("as the test wants it"), "{failed}");
    assert_eq!(letters.count().await, Ok(2), "the first one is a task again");
}

#[tokio::test]
async fn no_more_bodies_are_in_hand_than_may_be() {
    let letters = letters(100, 100).await.with_bytes_max(3);
    let listed = letters.list(3).await.expect("listed");
    let ids: Vec<&str> = listed.iter().map(|letter| letter.task_id.as_str()).collect();
    assert_eq!((ids, letters.count().await), (vec!["a", "b"], Ok(3)), "two bytes each");
    assert_eq!(letters.of(&TaskId::new("c").expect("valid")).await, Ok(Vec::new()), "it is out of reach");
    assert_eq!(letters.of(&TaskId::new("b").expect("valid")).await.map(|found| found.len()), Ok(1));
}
