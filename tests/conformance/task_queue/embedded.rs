//! What only the broker in memory offers: simulated faults.

use std::time::Duration;

use task_queue::{Link, MemoryBroker, PublishError, Queue, QueueOptions, TaskQueue};

use super::broker::{id_of, message, next, pool, prefetch, publish_all, ready, with_expiration};

#[tokio::test(start_paused = true)]
async fn a_blocked_broker_refuses_publishes_at_once_and_takes_acks() {
    let broker = MemoryBroker::new(QueueOptions::default());
    let queue = broker.connect();
    queue.declare(&pool()).await.expect("declared");
    publish_all(&queue, ["a", "b"].map(|id| message(&pool(), id))).await;
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    let held = next(&mut consumer).await;
    broker.block_publishers("low on memory");
    assert!(matches!(queue.publish(message(&pool(), "c")).await, Err(PublishError::Blocked { .. })));
    assert_eq!(*queue.link().borrow(), Link::Blocked("low on memory".into()));
    assert!(matches!(*broker.connect().link().borrow(), Link::Blocked(_)), "new connections are blocked too");
    held.receipt.ack().await.expect("acked");
    assert_eq!(id_of(&next(&mut consumer).await), "b");
    broker.unblock_publishers();
    publish_all(&queue, [message(&pool(), "c")]).await;
    assert_eq!(*queue.link().borrow(), Link::Up);
}

#[tokio::test(start_paused = true)]
async fn a_queue_can_be_bounded_and_refuses_then() {
    let broker = MemoryBroker::new(QueueOptions::default());
    let (queue, replies) = (broker.connect(), Queue::Reply("mine".to_owned()));
    queue.declare(&replies).await.expect("declared");
    broker.bound(&replies, Some(1));
    publish_all(&queue, [message(&replies, "a")]).await;
    assert!(matches!(queue.publish(message(&replies, "b")).await, Err(PublishError::Full { .. })));
    broker.bound(&replies, None);
    publish_all(&queue, [message(&replies, "b")]).await;
    assert_eq!(ready(&queue, &replies).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_connection_gives_back_what_it_held() {
    let broker = MemoryBroker::new(QueueOptions::default());
    let (dying, living) = (broker.connect(), broker.connect());
    living.declare(&pool()).await.expect("declared");
    publish_all(&living, ["a", "b", "c"].map(|id| message(&pool(), id))).await;
    let mut consumer = dying.consume(&pool(), prefetch(2)).await.expect("consuming");
    let held = next(&mut consumer).await;
    drop(dying);
    assert_eq!(ready(&living, &pool()).await, 3);
    assert!(consumer.next().await.is_none());
    assert!(held.receipt.ack().await.is_err());
}

/// As on the broker: only the first message of a queue can expire.
#[tokio::test(start_paused = true)]
async fn what_expires_behind_another_message_expires_when_it_gets_there() {
    let queue = MemoryBroker::new(QueueOptions::default()).connect();
    queue.declare(&pool()).await.expect("declared");
    publish_all(&queue, [message(&pool(), "patient"), with_expiration(&pool(), "late", "50")]).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(ready(&queue, &pool()).await, 2);
    let first = queue.take(&pool()).await.expect("connected").expect("a message");
    assert_eq!((id_of(&first), ready(&queue, &pool()).await), ("patient", 0));
}
