//! How messages reach consumers: order, bounds, and what comes again.

use bytes::Bytes;
use futures::FutureExt;
use protocol::{Envelope, Segments, envelope::Headers, frame};
use task_queue::{Outgoing, QueueError, Target};
use tests::until::until;

use super::broker::{Broker, ack_next, gpu, id_of, message, next, pool, prefetch, publish_all, ready, until_ready, with_priority};

pub async fn higher_priorities_come_first_and_equal_ones_in_order(broker: &Broker) {
    let queue = broker.connect().await;
    let sent = [("low-1", 0), ("mid-1", 5), ("high-1", 9), ("low-2", 0), ("mid-2", 5), ("high-2", 9), ("eight", 8)];
    publish_all(&*queue, sent.map(|(id, priority)| with_priority(&pool(), id, priority))).await;
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    let came = ack_next(&mut consumer, sent.len()).await;
    assert_eq!(came, ["high-1", "high-2", "eight", "mid-1", "mid-2", "low-1", "low-2"]);
}

pub async fn a_priority_above_the_highest_counts_as_the_highest(broker: &Broker) {
    let queue = broker.connect().await;
    publish_all(&*queue, [with_priority(&pool(), "nine", 9), with_priority(&pool(), "ten", 10), with_priority(&pool(), "many", 200)]).await;
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    let first = next(&mut consumer).await;
    assert_eq!((id_of(&first), first.envelope.priority), ("ten", Some(10)));
    first.receipt.ack().await.expect("acked");
    let second = next(&mut consumer).await;
    assert_eq!((id_of(&second), second.envelope.priority), ("many", Some(200)));
}

pub async fn no_more_than_the_prefetch_is_in_hand(broker: &Broker) {
    let queue = broker.connect().await;
    publish_all(&*queue, ["a", "b", "c", "d", "e"].map(|id| message(&pool(), id))).await;
    let mut consumer = queue.consume(&pool(), prefetch(2)).await.expect("consuming");
    let (first, second) = (next(&mut consumer).await, next(&mut consumer).await);
    until_ready(&*queue, &pool(), 3).await;
    assert!(consumer.next().now_or_never().is_none(), "a third delivery came with a prefetch of two");
    assert_eq!((id_of(&first), id_of(&second)), ("a", "b"));
}

pub async fn an_ack_makes_room_for_the_next_delivery(broker: &Broker) {
    let queue = broker.connect().await;
    publish_all(&*queue, ["a", "b", "c"].map(|id| message(&pool(), id))).await;
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    let first = next(&mut consumer).await;
    first.receipt.ack().await.expect("acked");
    assert_eq!(ack_next(&mut consumer, 2).await, ["b", "c"]);
    until_ready(&*queue, &pool(), 0).await;
}

pub async fn consumers_with_room_take_turns(broker: &Broker) {
    let queue = broker.connect().await;
    let mut first = queue.consume(&pool(), prefetch(10)).await.expect("consuming");
    let mut second = queue.consume(&pool(), prefetch(10)).await.expect("consuming");
    for id in ["a", "b", "c", "d"] {
        queue.publish(message(&pool(), id)).await.expect("published");
    }
    assert_eq!(ack_next(&mut first, 2).await, ["a", "c"]);
    assert_eq!(ack_next(&mut second, 2).await, ["b", "d"]);
}

pub async fn what_is_given_back_comes_again_at_its_place(broker: &Broker) {
    let queue = broker.connect().await;
    publish_all(&*queue, ["a", "b", "c"].map(|id| message(&pool(), id))).await;
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    let first = next(&mut consumer).await;
    assert_eq!((id_of(&first), first.redelivered), ("a", false));
    first.receipt.give_back().await.expect("given back");
    let again = next(&mut consumer).await;
    assert_eq!((id_of(&again), again.redelivered), ("a", true));
    again.receipt.ack().await.expect("acked");
    let second = next(&mut consumer).await;
    assert_eq!((id_of(&second), second.redelivered), ("b", false));
}

pub async fn what_a_dropped_consumer_held_comes_again(broker: &Broker) {
    let queue = broker.connect().await;
    publish_all(&*queue, ["a", "b", "c"].map(|id| message(&pool(), id))).await;
    let mut dying = queue.consume(&pool(), prefetch(2)).await.expect("consuming");
    let held = next(&mut dying).await;
    drop(dying);
    until_ready(&*queue, &pool(), 3).await;
    assert_eq!(held.receipt.ack().await, Err(QueueError::Stale));
    let mut heir = queue.consume(&pool(), prefetch(3)).await.expect("consuming");
    let came = [next(&mut heir).await, next(&mut heir).await, next(&mut heir).await];
    assert_eq!(came.each_ref().map(id_of), ["a", "b", "c"]);
    assert_eq!(came.each_ref().map(|delivery| delivery.redelivered), [true, true, false]);
}

pub async fn what_a_closed_connection_held_comes_again(broker: &Broker) {
    let fleet = broker.fleet(|_| ());
    let (dying, living) = (fleet.connect().await, fleet.connect().await);
    living.declare(&gpu()).await.expect("declared");
    publish_all(&*living, [message(&pool(), "a"), message(&gpu(), "b")]).await;
    let mut consumer = dying.consume(&pool(), prefetch(1)).await.expect("consuming");
    let (consumed, taken) = (next(&mut consumer).await, dying.take(&gpu()).await.expect("connected").expect("a message"));
    dying.close().await;
    until_ready(&*living, &pool(), 1).await;
    until_ready(&*living, &gpu(), 1).await;
    assert!(consumer.next().await.is_none());
    assert_eq!(consumed.receipt.ack().await, Err(QueueError::Stale));
    assert_eq!(taken.receipt.ack().await, Err(QueueError::Stale));
    assert!(living.take(&pool()).await.expect("connected").expect("a message").redelivered);
}

pub async fn a_stopped_consumer_gives_back_what_was_not_taken_and_can_settle_what_was(broker: &Broker) {
    let queue = broker.connect().await;
    publish_all(&*queue, ["a", "b", "c", "d", "e"].map(|id| message(&pool(), id))).await;
    let mut consumer = queue.consume(&pool(), prefetch(4)).await.expect("consuming");
    let (first, second) = (next(&mut consumer).await, next(&mut consumer).await);
    until_ready(&*queue, &pool(), 1).await;
    consumer.stop();
    until_ready(&*queue, &pool(), 3).await;
    assert!(consumer.next().await.is_none());
    assert!(!*consumer.live().borrow());
    first.receipt.ack().await.expect("acked");
    second.receipt.give_back().await.expect("given back");
    until_ready(&*queue, &pool(), 4).await;
    drop(consumer);
    let mut heir = queue.consume(&pool(), prefetch(4)).await.expect("consuming");
    assert_eq!(ack_next(&mut heir, 4).await, ["b", "c", "d", "e"]);
}

pub async fn every_property_of_the_envelope_arrives(broker: &Broker) {
    let queue = broker.connect().await;
    let headers = Headers {
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        tracestate: Some("rojo=00f067aa0ba902b7".into()),
        links: protocol::traces::SpanLinks::read("b7ad6b7169203331,00f067aa0ba902b7"),
        attempt: Some(3),
        hops: Some(1),
        strategy: Some("round_robin".into()),
        memory_mb: Some(40_000),
        start_before_ms: Some(1_900_000_000_000),
        end_before_ms: Some(1_900_000_100_000),
        not_before_ms: Some(1_900_000_000_003),
        delay_ms: Some(2_592_000_000),
        unserved_since_ms: Some(1_800_000_000_000),
        user: Some("ann".into()),
        pool: Some("default".into()),
        copy: true,
        slice: "16..32".parse().ok(),
        batch_hash: Some(protocol::BodyHash::of(b"the batch")),
        returned: true,
        progress: true,
        group: Some("nightly:2026-11.a_b".parse().expect("a valid name")),
        outcome: Some("succeeded".into()),
        token: Some(1_700_000_000_000_000),
        published_before: Some(16),
        reason: Some("ü".into()),
        history: Some("attempt 1 on gpu-0 failed: ü\n".repeat(80)),
        reply_to: Some("answers-of-ann".into()),
        first_try_ms: Some(1_700_000_000_001),
        due_ms: Some(1_700_000_000_002),
        unreadable: Some("type: is not UTF-8 text".into()),
        properties: Some(vec![0, 0xff]),
        published_ms: None,
        traceparent_dropped: false,
        invalid: Vec::new(),
    };
    let envelope = Envelope {
        message_id: Some("order-17".into()),
        kind: Some("echo".into()),
        priority: Some(7),
        reply_to: Some("answers".into()),
        correlation_id: Some("c-1".into()),
        expiration: Some("600000".into()),
        content_type: Some("application/json".into()),
        content_encoding: Some("utf-8".into()),
        timestamp: Some(1_700_000_000),
        user_id: None,
        headers,
    };
    let sent = Outgoing::new(Target::Queue(pool()), envelope.clone(), Bytes::from_static(b"{}"));
    queue.publish(sent).await.expect("published");
    let delivery = queue.take(&pool()).await.expect("connected").expect("a message");
    assert_eq!(delivery.envelope, envelope);
    assert_eq!((delivery.queue, &delivery.body[..], delivery.redelivered, delivery.death), (pool(), &b"{}"[..], false, None));
}

pub async fn what_is_found_by_reading_a_message_does_not_travel(broker: &Broker) {
    let queue = broker.connect().await;
    let mut found = message(&pool(), "a");
    let plain = found.envelope.clone();
    found.envelope.headers.published_ms = Some(1_700_000_000_000);
    found.envelope.headers.traceparent_dropped = true;
    queue.publish(found).await.expect("published");
    let delivery = queue.take(&pool()).await.expect("connected").expect("a message");
    assert_eq!(delivery.envelope, plain);
}

pub async fn a_body_of_a_mebibyte_and_an_empty_one_arrive(broker: &Broker) {
    let queue = broker.connect().await;
    let mut large = message(&pool(), "large");
    large.body = (0..1_u32 << 20).map(|index| (index % 251) as u8).collect();
    let mut empty = message(&pool(), "empty");
    empty.body = Bytes::new();
    publish_all(&*queue, [large.clone(), empty]).await;
    let mut consumer = queue.consume(&pool(), prefetch(2)).await.expect("consuming");
    assert_eq!(next(&mut consumer).await.body, large.body);
    assert!(next(&mut consumer).await.body.is_empty());
}

pub async fn a_frame_arrives_to_the_last_byte_and_as_a_frame(broker: &Broker) {
    let queue = broker.connect().await;
    let segments = Segments::of(vec![Bytes::from_static(b"\0\xff\xfe\0"), Bytes::new(), (0..=255_u8).rev().collect()]);
    let body = frame::of(br#"{"payload": {"$segment": 2}}"#.to_vec(), &segments).expect("a short one");
    let mut framed = message(&pool(), "framed");
    framed.envelope.content_type = Some(frame::FRAME.to_owned());
    framed.body = body.clone();
    queue.publish(framed).await.expect("published");
    let delivery = queue.take(&pool()).await.expect("connected").expect("a message");
    assert_eq!((delivery.envelope.content_type.as_deref(), &delivery.body), (Some(frame::FRAME), &body));
    assert_eq!(frame::read(&delivery.body).expect("a frame").1, segments);
}

pub async fn consuming_a_queue_that_does_not_exist_is_refused(broker: &Broker) {
    let queue = broker.connect().await;
    let refused = queue.consume(&gpu(), prefetch(1)).await.expect_err("no such queue");
    assert!(matches!(refused, QueueError::Refused { .. }), "{refused}");
    queue.declare(&gpu()).await.expect("declared");
    let consumer = queue.consume(&gpu(), prefetch(1)).await.expect("consuming");
    until("the consumer is live", async || *consumer.live().borrow()).await;
    assert_eq!(ready(&*queue, &gpu()).await, 0);
}
