//! What a publish answers.

use std::time::Duration;

use task_queue::{Outgoing, PublishError, Queue, QueueOptions, Target};

use super::broker::{
    Broker, ack_next, gpu, message, message_to, pool, prefetch, publish_all, publish_together, ready, until_ready, with_expiration,
};

pub async fn a_publish_to_a_missing_queue_is_unroutable(broker: &Broker) {
    let queue = broker.connect().await;
    let target = queue.names().queue(&gpu());
    assert_eq!(queue.publish(message(&gpu(), "a")).await, Err(PublishError::Unroutable { target }));
    let gone = "nobody-listens-here".to_owned();
    assert_eq!(queue.publish(message_to(Target::ReplyTo(gone.clone()), "a")).await, Err(PublishError::Unroutable { target: gone }));
}

pub async fn a_publish_to_a_full_pool_is_refused_as_full(broker: &Broker) {
    let queue = broker.fleet(|options| options.length_max = Some(3)).connect().await;
    publish_all(&*queue, ["a", "b", "c"].map(|id| message(&pool(), id))).await;
    let target = queue.names().queue(&pool());
    assert_eq!(queue.publish(message(&pool(), "d")).await, Err(PublishError::Full { target }));
    assert_eq!(ready(&*queue, &pool()).await, 3);
    let taken = queue.take(&pool()).await.expect("connected").expect("a message");
    taken.receipt.ack().await.expect("acked");
    until_ready(&*queue, &pool(), 2).await;
    queue.publish(message(&pool(), "d")).await.expect("room again");
}

pub async fn an_own_queue_of_a_gpu_has_no_bound(broker: &Broker) {
    let queue = broker.fleet(|options| options.length_max = Some(1)).connect().await;
    queue.declare(&gpu()).await.expect("declared");
    publish_all(&*queue, ["a", "b", "c"].map(|id| message(&gpu(), id))).await;
    assert_eq!(ready(&*queue, &gpu()).await, 3);
}

pub async fn more_dead_letters_than_are_kept_push_the_oldest_out(broker: &Broker) {
    let queue = broker.fleet(|options| options.dead_letters_max = 3).connect().await;
    queue.declare(&Queue::Dead).await.expect("declared");
    publish_all(&*queue, ["a", "b", "c", "d", "e"].map(|id| message(&Queue::Dead, id))).await;
    until_ready(&*queue, &Queue::Dead, 3).await;
    let mut consumer = queue.consume(&Queue::Dead, prefetch(3)).await.expect("consuming");
    assert_eq!(ack_next(&mut consumer, 3).await, ["c", "d", "e"]);
}

pub async fn more_bytes_of_dead_letters_than_are_kept_push_the_oldest_out(broker: &Broker) {
    let queue = broker.fleet(|options| options.dead_letters_bytes_max = 2_500).connect().await;
    queue.declare(&Queue::Dead).await.expect("declared");
    let large = |id: &str| Outgoing { body: vec![b'x'; 1_000].into(), ..message(&Queue::Dead, id) };
    publish_all(&*queue, ["a", "b", "c"].map(large)).await;
    until_ready(&*queue, &Queue::Dead, 2).await;
    publish_all(&*queue, [message(&Queue::Dead, "small")]).await;
    let mut consumer = queue.consume(&Queue::Dead, prefetch(3)).await.expect("consuming");
    assert_eq!(ack_next(&mut consumer, 3).await, ["b", "c", "small"]);
}

pub async fn a_message_that_cannot_be_sent_is_refused_and_hurts_no_other(broker: &Broker) {
    let queue = broker.connect().await;
    let mut too_long = message(&pool(), "long");
    too_long.envelope.correlation_id = Some("x".repeat(256));
    let mut nameless = message(&pool(), "nameless");
    nameless.envelope.message_id = None;
    let unsendable = vec![
        too_long,
        nameless,
        with_expiration(&pool(), "soon", "soon"),
        with_expiration(&pool(), "never", "99999999999999"),
        message_to(Target::ReplyTo("x".repeat(256)), "far"),
    ];
    let mut messages = vec![message(&pool(), "a")];
    messages.extend(unsendable);
    messages.push(message(&pool(), "b"));
    let answers = publish_together(&*queue, messages).await;
    let (good, bad): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(good.len(), 2);
    assert!(bad.iter().all(|answer| matches!(answer, Err(PublishError::Refused { .. }))), "{bad:?}");
    assert!(bad.iter().flat_map(|answer| answer.as_ref().err()).all(|error| !error.is_transient()));
}

pub async fn a_reply_reaches_the_queue_that_reply_to_names(broker: &Broker) {
    let fleet = broker.fleet(|_| ());
    let (asking, answering) = (fleet.connect().await, fleet.connect().await);
    let replies = Queue::Reply("gateway-1".into());
    asking.declare(&replies).await.expect("declared");
    let mut consumer = asking.consume(&replies, prefetch(10)).await.expect("consuming");
    let reply_to = asking.names().queue(&replies);
    answering.publish(message_to(Target::ReplyTo(reply_to), "answer")).await.expect("published");
    assert_eq!(ack_next(&mut consumer, 1).await, ["answer"]);
}

pub async fn a_direct_reply_to_nobody_is_taken_and_lost(broker: &Broker) {
    let queue = broker.connect().await;
    let gone = "amq.rabbitmq.reply-to.garbage";
    assert_eq!(queue.publish(message_to(Target::ReplyTo(gone.into()), "a")).await, Ok(()));
    queue.publish(message(&pool(), "b")).await.expect("the channel lives");
}

/// The confirms of a channel are the broker's word about a message, and its returned messages arrive apart from them: they must not be mixed up.
pub async fn concurrent_publishes_are_each_settled_right(broker: &Broker) {
    let queue = broker.connect().await;
    for round in 0..10 {
        let is_lost = |index: u32| index % 7 == 3;
        let messages = (0..500).map(|index| {
            let target = if is_lost(index) { gpu() } else { pool() };
            message(&target, &format!("{round}-{index}"))
        });
        let answers = publish_together(&*queue, messages.collect()).await;
        for (index, answer) in (0..).zip(answers) {
            let right = if is_lost(index) { matches!(answer, Err(PublishError::Unroutable { .. })) } else { answer.is_ok() };
            assert!(right, "message {round}-{index}: {answer:?}");
        }
    }
    let routed = 10 * (0..500).filter(|index| index % 7 != 3).count();
    assert_eq!(ready(&*queue, &pool()).await as usize, routed);
}

pub async fn copies_of_one_message_are_each_settled(broker: &Broker) {
    let queue = broker.connect().await;
    let messages = (0..40).map(|index| message(if index % 2 == 0 { &LOST } else { &KEPT }, "same")).collect();
    queue.declare(&KEPT).await.expect("declared");
    for (index, answer) in publish_together(&*queue, messages).await.into_iter().enumerate() {
        assert_eq!(answer.is_err(), index % 2 == 0, "copy {index}: {answer:?}");
    }
    assert_eq!(ready(&*queue, &KEPT).await, 20);
}

const LOST: Queue = Queue::Retry(Duration::from_millis(60_000));
const KEPT: Queue = Queue::Dead;

pub async fn the_queues_in_which_replies_wait_are_bounded_in_number_and_in_bytes(broker: &Broker) {
    let bounds = |options: &mut QueueOptions| (options.undelivered_max, options.undelivered_bytes_max) = (2, 1_000);
    let queue = broker.fleet(bounds).connect().await;
    // The longest waits: nothing leaves them meanwhile.
    let [_, by_bytes, by_number] = Queue::UNDELIVERED_DELAYS_MS.map(|ms| Queue::Undelivered(Duration::from_millis(ms)));
    for waiting in [&by_number, &by_bytes] {
        queue.declare(waiting).await.expect("declared");
    }
    publish_all(&*queue, [message(&by_number, "a"), message(&by_number, "b")]).await;
    let target = queue.names().queue(&by_number);
    assert_eq!(queue.publish(message(&by_number, "c")).await, Err(PublishError::Full { target }));
    let large = |id: &str| Outgoing { body: vec![b'x'; 600].into(), ..message(&by_bytes, id) };
    publish_all(&*queue, [large("a")]).await;
    let target = queue.names().queue(&by_bytes);
    assert_eq!(queue.publish(large("b")).await, Err(PublishError::Full { target }));
    publish_all(&*queue, [message(&by_bytes, "small")]).await;
}

pub async fn every_queue_of_delayed_tasks_is_bounded_in_number(broker: &Broker) {
    let queue = broker.fleet(|options| options.delayed_max = 2).connect().await;
    for waiting in Queue::where_tasks_are_delayed() {
        queue.declare(&waiting).await.expect("declared");
        publish_all(&*queue, [message(&waiting, "a"), message(&waiting, "b")]).await;
        let target = queue.names().queue(&waiting);
        assert_eq!(queue.publish(message(&waiting, "c")).await, Err(PublishError::Full { target }));
    }
}

pub async fn a_foreign_user_id_is_left_behind(broker: &Broker) {
    let queue = broker.connect().await;
    let mut foreign = message(&pool(), "a");
    foreign.envelope.user_id = Some("somebody-else".into());
    queue.publish(foreign).await.expect("published");
    let delivery = queue.take(&pool()).await.expect("connected").expect("a message");
    assert_eq!(delivery.envelope.user_id, None);
}
