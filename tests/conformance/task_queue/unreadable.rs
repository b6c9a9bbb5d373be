//! Messages that no client library can read: they arrive, marked, at their own places, and hurt no other.

use std::sync::Arc;

use protocol::Envelope;
use task_queue::{Consumer, Delivery, Link, Queue, TaskQueue};
use tests::{
    rabbitmq::PrivateRabbitMq,
    raw_amqp::{RawProperties, RawPublisher, long, nested, short},
};

use super::broker::{Broker, id_of, message, next, pool, prefetch, publish_all};

/// What a broker takes and the client library cannot read: its message id, its properties, and what must be said of it.
fn unreadable() -> Vec<(&'static str, RawProperties, &'static str)> {
    let task = |id| RawProperties::task(id, "echo");
    let entry = |name: &[u8], value: &[u8]| [short(name), value.to_vec()].concat();
    vec![
        ("type", task("type").text(RawProperties::TYPE, b"ec\xffho"), "type: is not UTF-8 text"),
        ("app-id", task("app-id").text(RawProperties::APP_ID, b"\xc3\x28"), "app_id: is not UTF-8 text"),
        ("header-name", task("header-name").headers(&entry(b"\xfe", b"t\x01")), "headers: has a name that is not UTF-8 text"),
        (
            "header-in-table",
            task("header-in-table").headers(&entry(b"a", &[b"F", &long(&entry(b"\xff", b"V"))[..]].concat())),
            "headers: has a name that is not UTF-8 text",
        ),
        ("deep", task("deep").headers(&nested(40)), "headers: is nested deeper than 32 levels"),
        ("abyss", task("abyss").headers(&nested(8_000)), "headers: is nested deeper than 32 levels"),
        (
            "large",
            task("large").text(RawProperties::TYPE, b"\xff").headers(&entry(b"x", &[b"S", &long(&[b'x'; 60_000])[..]].concat())),
            "type: is not UTF-8 text",
        ),
    ]
}

fn problem(delivery: &Delivery) -> &str {
    delivery.envelope.headers.unreadable.as_deref().unwrap_or_default()
}

async fn raw() -> (Arc<dyn TaskQueue>, RawPublisher) {
    let queue = Broker::rabbitmq().await.connect().await;
    (queue, RawPublisher::connect(&PrivateRabbitMq::shared().await.url()).await)
}

async fn ack(delivery: Delivery) {
    assert!(!delivery.redelivered, "it was delivered before: {delivery:?}");
    delivery.receipt.ack().await.expect("acked");
}

async fn expect_good(consumer: &mut Consumer, id: &str) {
    let good = next(consumer).await;
    let expected = Envelope { message_id: Some(id.to_owned()), ..Envelope::default() };
    assert_eq!((&good.envelope, &good.body[..]), (&expected, id.as_bytes()));
    ack(good).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_arrives_marked_at_its_place_and_its_neighbours_unharmed() {
    let (queue, mut raw) = raw().await;
    let name = queue.names().queue(&pool());
    for (id, properties, _) in unreadable() {
        publish_all(&*queue, [message(&pool(), &format!("before-{id}"))]).await;
        raw.publish(&name, &properties, format!("body of {id}").as_bytes()).await;
    }
    publish_all(&*queue, [message(&pool(), "last")]).await;
    let mut consumer = queue.consume(&pool(), prefetch(3)).await.expect("consuming");
    for (id, properties, expected) in unreadable() {
        expect_good(&mut consumer, &format!("before-{id}")).await;
        let marked = next(&mut consumer).await;
        assert_eq!((id_of(&marked), problem(&marked)), (id, expected));
        assert_eq!(&marked.body[..], format!("body of {id}").as_bytes());
        let original = properties.bytes();
        let kept = marked.envelope.headers.properties.as_deref().expect("the original properties");
        assert_eq!(kept, &original[..original.len().min(16 * 1024)]);
        ack(marked).await;
    }
    expect_good(&mut consumer, "last").await;
    assert_eq!(*queue.link().borrow(), Link::Up);
    assert!(*consumer.live().borrow());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_can_be_taken_without_a_consumer() {
    let (queue, mut raw) = raw().await;
    let dead = Queue::Dead;
    queue.declare(&dead).await.expect("declared");
    raw.publish(&queue.names().queue(&dead), &RawProperties::task("a", "\u{1F980}").text(RawProperties::TYPE, b"\xf0\x9f"), b"{}").await;
    publish_all(&*queue, [message(&dead, "b")]).await;
    let first = queue.take(&dead).await.expect("an answer").expect("a message");
    assert_eq!((id_of(&first), problem(&first)), ("a", "type: is not UTF-8 text"));
    let second = queue.take(&dead).await.expect("an answer").expect("a message");
    assert_eq!(id_of(&second), "b");
    ack(first).await;
    ack(second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_routing_key_that_is_no_text_hurts_nobody() {
    let (queue, mut raw) = raw().await;
    let (_connection, channel) = super::servers::foreign(&PrivateRabbitMq::shared().await.url()).await;
    let (exchange, name) = (format!("{}.fanout", queue.names().exchange()), queue.names().queue(&pool()));
    let (kind, none) = (lapin::ExchangeKind::Fanout, lapin::types::FieldTable::default);
    channel.exchange_declare(exchange.as_str().into(), kind, Default::default(), none()).await.expect("declared");
    channel.queue_bind(name.as_str().into(), exchange.as_str().into(), "".into(), Default::default(), none()).await.expect("bound");
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    raw.publish_to(exchange.as_bytes(), b"\xff\xfe", &RawProperties::task("a", "echo"), b"a").await;
    let delivery = next(&mut consumer).await;
    assert_eq!((id_of(&delivery), problem(&delivery)), ("a", ""));
    ack(delivery).await;
}
