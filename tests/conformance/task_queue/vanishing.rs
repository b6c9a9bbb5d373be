//! Queues that somebody deletes, and messages that find none.

use std::time::Duration;

use protocol::PoolName;
use task_queue::{PublishError, Queue};
use tests::until::until;

use super::broker::{
    Broker, ack_next, gpu, id_of, message, next, pool, prefetch, publish_all, publish_together, ready, until_ready, with_expiration,
};

pub async fn a_publish_to_a_queue_that_was_deleted_declares_it_again_where_it_was_declared(broker: &Broker) {
    let fleet = broker.fleet(|_| ());
    let (owner, other) = (fleet.connect().await, fleet.connect().await);
    for queue in [gpu(), Queue::Dead, Queue::retry_after(Duration::from_secs(60))] {
        owner.declare(&queue).await.expect("declared");
        publish_all(&*owner, [message(&queue, "before")]).await;
        fleet.delete(&queue).await;
        assert_eq!(owner.depth(&queue).await, Ok(None));
        let target = other.names().queue(&queue);
        assert_eq!(other.publish(message(&queue, "a stranger's")).await, Err(PublishError::Unroutable { target }), "it never declared it");
        publish_all(&*owner, [message(&queue, "after")]).await;
        assert_eq!(ready(&*owner, &queue).await, 1);
        publish_all(&*other, [message(&queue, "a stranger's")]).await;
        until_ready(&*owner, &queue, 2).await;
    }
    owner.declare(&Queue::Parked).await.expect("declared");
    assert!(owner.delete_if_unused(&Queue::Parked).await.expect("connected"));
    let target = owner.names().queue(&Queue::Parked);
    assert_eq!(owner.publish(message(&Queue::Parked, "a")).await, Err(PublishError::Unroutable { target }), "it has deleted it itself");
}

pub async fn publishes_at_one_moment_to_a_queue_that_was_deleted_all_arrive(broker: &Broker) {
    let fleet = broker.fleet(|_| ());
    let queue = fleet.connect().await;
    fleet.delete(&pool()).await;
    let messages = (0..200).map(|index| message(&pool(), &index.to_string())).collect();
    for answer in publish_together(&*queue, messages).await {
        assert_eq!(answer, Ok(()));
    }
    until_ready(&*queue, &pool(), 200).await;
}

pub async fn what_takes_what_expires_in_a_queue_comes_back_with_it(broker: &Broker) {
    let fleet = broker.fleet(|_| ());
    let queue = fleet.connect().await;
    fleet.delete(&Queue::Expired).await;
    fleet.delete(&pool()).await;
    publish_all(&*queue, [with_expiration(&pool(), "late", "20")]).await;
    let mut expired = queue.consume(&Queue::Expired, prefetch(1)).await.expect("consuming");
    assert_eq!(ack_next(&mut expired, 1).await, ["late"]);
}

pub async fn a_consumer_whose_queue_was_deleted_goes_on(broker: &Broker) {
    let fleet = broker.fleet(|_| ());
    let (queue, other) = (fleet.connect().await, fleet.bare().await);
    publish_all(&*queue, ["held", "waits"].map(|id| message(&pool(), id))).await;
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    let held = next(&mut consumer).await;
    fleet.delete(&Queue::Expired).await;
    fleet.delete(&Queue::Unrouted).await;
    fleet.delete(&pool()).await;
    until("it consumes again", async || {
        *consumer.live().borrow() && other.depth(&pool()).await.expect("connected").is_some_and(|depth| depth.consumers == 1)
    })
    .await;
    assert!(held.receipt.ack().await.is_err(), "its queue is gone");
    publish_all(&*other, ["a", "b"].map(|id| message(&pool(), id))).await;
    assert_eq!(ack_next(&mut consumer, 2).await, ["a", "b"]);
    for queue in [Queue::Expired, Queue::Unrouted] {
        assert!(other.depth(&queue).await.expect("connected").is_some(), "{queue:?} takes what the pool cannot keep");
    }
    fleet.publish_to_exchange("default", "bound again").await;
    assert_eq!(ack_next(&mut consumer, 1).await, ["bound again"]);
}

pub async fn what_the_exchange_leads_to_no_pool_arrives_with_its_routing_key(broker: &Broker) {
    let fleet = broker.fleet(|_| ());
    let queue = fleet.bare().await;
    queue.declare(&pool()).await.expect("declared");
    let mut unrouted = queue.consume(&Queue::Unrouted, prefetch(10)).await.expect("consuming");
    for routing_key in ["defualt", "no pool's name at all", "", "second"] {
        fleet.publish_to_exchange(routing_key, "astray").await;
        let delivery = next(&mut unrouted).await;
        assert_eq!((delivery.routing_key.as_str(), id_of(&delivery)), (routing_key, "astray"));
        assert_eq!((&delivery.queue, &delivery.body[..]), (&Queue::Unrouted, &b"astray"[..]));
        delivery.receipt.ack().await.expect("acked");
    }
    queue.declare(&Queue::Pool(PoolName::new("second").expect("valid"))).await.expect("declared");
    for (routing_key, name) in [("default", pool()), ("second", Queue::Pool(PoolName::new("second").expect("valid")))] {
        fleet.publish_to_exchange(routing_key, "right").await;
        let mut consumer = queue.consume(&name, prefetch(1)).await.expect("consuming");
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.routing_key.as_str(), id_of(&delivery)), (routing_key, "right"));
    }
}
