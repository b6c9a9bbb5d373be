//! The life of queues and connections.

use task_queue::{Depth, Link, PublishError, Queue, QueueError};
use tests::until::until;

use super::broker::{Broker, gpu, id_of, message, pool, prefetch, publish_all, until_ready};

pub async fn declaring_twice_changes_nothing(broker: &Broker) {
    let fleet = broker.fleet(|_| ());
    let (one, other) = (fleet.connect().await, fleet.connect().await);
    publish_all(&*one, [message(&pool(), "a")]).await;
    let waiting = [Queue::retry_after(std::time::Duration::ZERO), Queue::undelivered_for(std::time::Duration::ZERO)];
    let waiting = waiting.into_iter().chain(Queue::where_tasks_are_delayed());
    for queue in [pool(), gpu(), Queue::Dead, Queue::Unplaceable, Queue::Parked].into_iter().chain(waiting) {
        one.declare(&queue).await.expect("declared");
        other.declare(&queue).await.expect("declared again");
    }
    until_ready(&*other, &pool(), 1).await;
}

pub async fn one_message_can_be_taken_without_a_consumer(broker: &Broker) {
    let queue = broker.connect().await;
    assert!(queue.take(&pool()).await.expect("connected").is_none(), "an empty queue");
    assert!(queue.take(&gpu()).await.expect("connected").is_none(), "no such queue");
    publish_all(&*queue, ["a", "b"].map(|id| message(&pool(), id))).await;
    let first = queue.take(&pool()).await.expect("connected").expect("a message");
    assert_eq!(id_of(&first), "a");
    first.receipt.give_back().await.expect("given back");
    until_ready(&*queue, &pool(), 2).await;
    let again = queue.take(&pool()).await.expect("connected").expect("a message");
    assert_eq!((id_of(&again), again.redelivered), ("a", true));
    again.receipt.ack().await.expect("acked");
    let last = queue.take(&pool()).await.expect("connected").expect("a message");
    assert_eq!(id_of(&last), "b");
    last.receipt.ack().await.expect("acked");
    assert!(queue.take(&pool()).await.expect("connected").is_none());
}

pub async fn the_depth_counts_ready_messages_and_consumers(broker: &Broker) {
    let queue = broker.connect().await;
    assert_eq!(queue.depth(&gpu()).await.expect("connected"), None);
    publish_all(&*queue, ["a", "b", "c"].map(|id| message(&pool(), id))).await;
    assert_eq!(queue.depth(&pool()).await.expect("connected"), Some(Depth { ready: 3, consumers: 0 }));
    let consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    let wanted = Some(Depth { ready: 2, consumers: 1 });
    until("one of three messages is held", async || queue.depth(&pool()).await.expect("connected") == wanted).await;
    drop(consumer);
    let wanted = Some(Depth { ready: 3, consumers: 0 });
    until("all three are back", async || queue.depth(&pool()).await.expect("connected") == wanted).await;
}

pub async fn a_queue_is_deleted_only_when_empty_and_unused(broker: &Broker) {
    let queue = broker.connect().await;
    assert!(queue.delete_if_unused(&gpu()).await.expect("connected"), "what never was is gone");
    queue.declare(&gpu()).await.expect("declared");
    publish_all(&*queue, [message(&gpu(), "a")]).await;
    assert!(!queue.delete_if_unused(&gpu()).await.expect("connected"), "a message waits in it");
    queue.take(&gpu()).await.expect("connected").expect("a message").receipt.ack().await.expect("acked");
    let consumer = queue.consume(&gpu(), prefetch(1)).await.expect("consuming");
    assert!(!queue.delete_if_unused(&gpu()).await.expect("connected"), "it has a consumer");
    drop(consumer);
    until("the queue is gone", async || queue.delete_if_unused(&gpu()).await.expect("connected")).await;
    assert_eq!(queue.depth(&gpu()).await.expect("connected"), None);
}

pub async fn a_reply_queue_belongs_to_one_connection_and_ends_with_it(broker: &Broker) {
    let fleet = broker.fleet(|_| ());
    let (owner, other) = (fleet.connect().await, fleet.connect().await);
    let replies = Queue::Reply("mine".into());
    owner.declare(&replies).await.expect("declared");
    let _consumer = owner.consume(&replies, prefetch(1)).await.expect("consuming");
    let refused = other.consume(&replies, prefetch(1)).await.expect_err("it belongs to another");
    assert!(matches!(refused, QueueError::Refused { .. }), "{refused}");
    publish_all(&*other, [message(&replies, "a")]).await;
    owner.close().await;
    let publish = async || matches!(other.publish(message(&replies, "b")).await, Err(PublishError::Unroutable { .. }));
    until("the queue went with its connection", publish).await;
}

pub async fn a_closed_queue_says_so(broker: &Broker) {
    let queue = broker.connect().await;
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    queue.close().await;
    queue.close().await;
    assert!(consumer.next().await.is_none());
    assert!(!*consumer.live().borrow());
    assert!(matches!(*queue.link().borrow(), Link::Down(_)));
    assert_eq!(queue.declare(&pool()).await, Err(QueueError::Closed));
    assert_eq!(queue.depth(&pool()).await, Err(QueueError::Closed));
    assert!(queue.consume(&pool(), prefetch(1)).await.is_err());
    assert!(matches!(queue.publish(message(&pool(), "a")).await, Err(PublishError::Disconnected { .. })));
}

pub async fn a_link_that_is_up_says_so(broker: &Broker) {
    let queue = broker.connect().await;
    until("the link is up", async || *queue.link().borrow() == Link::Up).await;
}
