//! What only a real server can do: be killed, run short of memory, refuse, hold queues of another shape, serve foreign clients.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::join_all};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicRejectOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use protocol::config::{QueueType, SecretUrl};
use task_queue::{
    Death, DeathReason, Link, Names, Outgoing, Presence, PublishError, Queue, QueueError, QueueOptions, RabbitMq, Target, TaskQueue,
};
use tests::{
    ports::NOBODY,
    rabbitmq::{Permissions, PrivateRabbitMq},
    until::until,
};

use super::broker::{
    ack_next, gpu, id_of, message, message_to, next, pool, prefetch, publish_all, publish_at_last, publish_together, ready, until_ready,
};

const LONG: Duration = Duration::from_secs(3_600);

pub fn options() -> QueueOptions {
    QueueOptions { names: Names::new(format!("case-{}", uuid::Uuid::new_v4().simple())), publish_timeout: LONG, ..QueueOptions::default() }
}

pub async fn connect(url: &SecretUrl, options: QueueOptions) -> Arc<RabbitMq> {
    let queue = RabbitMq::connect(url, options).await.expect("connected");
    for declared in [Queue::Expired, Queue::Returned, pool()] {
        queue.declare(&declared).await.expect("declared");
    }
    Arc::new(queue)
}

/// A client that is not ours.
pub async fn foreign(url: &SecretUrl) -> (Connection, Channel) {
    let connection = Connection::connect(url.reveal(), ConnectionProperties::default()).await.expect("connected");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_killed_broker_returns_consumers_go_on_with_their_prefetch() {
    let server = PrivateRabbitMq::start().await;
    let queue = connect(&server.url(), options()).await;
    publish_all(&*queue, ["a", "b", "c", "d", "e"].map(|id| message(&pool(), id))).await;
    let mut consumer = queue.consume(&pool(), prefetch(2)).await.expect("consuming");
    let held = [next(&mut consumer).await, next(&mut consumer).await];
    server.kill();
    until("the consumer knows that it is not live", async || !*consumer.live().borrow()).await;
    until("the link is down", async || matches!(*queue.link().borrow(), Link::Down(_))).await;
    let refused = queue.publish(message(&pool(), "lost")).await.expect_err("the broker is away");
    assert!(refused.is_transient(), "{refused}");
    for delivery in held {
        assert_eq!(delivery.receipt.ack().await, Err(QueueError::Stale));
    }
    server.start_again().await;
    until("the consumer is live", async || *consumer.live().borrow()).await;
    let again = [next(&mut consumer).await, next(&mut consumer).await];
    assert_eq!(again.each_ref().map(id_of), ["a", "b"]);
    until_ready(&*queue, &pool(), 3).await;
    assert!(consumer.next().now_or_never().is_none(), "a third delivery came with a prefetch of two");
    for delivery in again {
        delivery.receipt.ack().await.expect("acked");
    }
    assert_eq!(ack_next(&mut consumer, 3).await, ["c", "d", "e"]);
    until("publishes go through", async || queue.publish(message(&pool(), "f")).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_confirmed_before_a_kill_is_there_after_it() {
    let server = PrivateRabbitMq::start().await;
    let queue = connect(&server.url(), options()).await;
    let first = publish_together(&*queue, (0..200).map(|index| message(&pool(), &format!("before-{index}"))).collect()).await;
    assert!(first.iter().all(Result::is_ok));
    let publishing = tokio::spawn({
        let queue = queue.clone();
        async move { publish_together(&*queue, (0..5_000).map(|index| message(&pool(), &format!("{index}"))).collect()).await }
    });
    until("publishes are under way", async || ready(&*queue, &pool()).await > 200).await;
    server.kill();
    let answers = publishing.await.expect("every publish was answered");
    server.start_again().await;
    let mut consumer = None;
    until("consuming works", async || {
        consumer = queue.consume(&pool(), prefetch(500)).await.ok();
        consumer.is_some()
    })
    .await;
    let mut consumer = consumer.expect("consuming");
    let mut missing: BTreeSet<String> = (0..200).map(|index| format!("before-{index}")).collect();
    missing.extend((0_u32..).zip(&answers).filter(|(_, answer)| answer.is_ok()).map(|(index, _)| index.to_string()));
    while !missing.is_empty() {
        let delivery = next(&mut consumer).await;
        missing.remove(id_of(&delivery));
        delivery.receipt.ack().await.expect("acked");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_publishers_fail_at_once_while_acks_go_through() {
    let server = PrivateRabbitMq::start().await;
    let queue = connect(&server.url(), options()).await;
    publish_all(&*queue, ["a", "b"].map(|id| message(&pool(), id))).await;
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    let held = next(&mut consumer).await;
    server.alarm(true).await;
    // The broker blocks a connection when it publishes, so the first publish may be in flight when it does. Its time limit is an hour.
    let blocked = async || matches!(queue.publish(message(&gpu(), "c")).await, Err(PublishError::Blocked { .. }));
    until("a publish says that it is blocked", blocked).await;
    assert!(matches!(*queue.link().borrow(), Link::Blocked(_)));
    assert!(blocked().await);
    held.receipt.ack().await.expect("acked");
    assert_eq!(ack_next(&mut consumer, 1).await, ["b"]);
    server.alarm(false).await;
    until("the link is up", async || *queue.link().borrow() == Link::Up).await;
    queue.publish(message(&pool(), "d")).await.expect("published");
    assert_eq!(ack_next(&mut consumer, 1).await, ["d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_had_arrived_from_a_queue_that_is_deleted_is_there_to_be_taken() {
    let url = PrivateRabbitMq::shared().await.url();
    let queue = connect(&url, options()).await;
    let mut consumer = queue.consume(&pool(), prefetch(10)).await.expect("consuming");
    publish_all(&*queue, ["a", "b", "c"].map(|id| message(&pool(), id))).await;
    let taken = next(&mut consumer).await;
    until_ready(&*queue, &pool(), 0).await;
    let (_connection, channel) = foreign(&url).await;
    let mut live = consumer.live();
    channel.queue_delete(queue.names().queue(&pool()).as_str().into(), QueueDeleteOptions::default()).await.expect("deleted");
    live.wait_for(|live| !live).await.expect("the consumer lives on");
    assert_eq!(id_of(&taken), "a");
    for id in ["b", "c"] {
        assert_eq!(id_of(&next(&mut consumer).await), id, "nobody else has it any more");
    }
    until("the queue is back", async || queue.publish(message(&pool(), "d")).await.is_ok()).await;
    assert_eq!(ack_next(&mut consumer, 1).await, ["d"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_whose_queue_was_deleted_declares_it_and_consumes_again() {
    let url = PrivateRabbitMq::shared().await.url();
    let queue = connect(&url, options()).await;
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    let (_connection, channel) = foreign(&url).await;
    let name = queue.names().queue(&pool());
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.expect("deleted");
    until("the queue is back", async || queue.publish(message(&pool(), "a")).await.is_ok()).await;
    assert_eq!(ack_next(&mut consumer, 1).await, ["a"]);
    assert!(*consumer.live().borrow());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_arguments_are_a_mismatch_that_names_queue_and_argument() {
    let url = PrivateRabbitMq::shared().await.url();
    let options = options();
    let one = connect(&url, options.clone()).await;
    let other = RabbitMq::connect(&url, QueueOptions { length_max: Some(7), ..options }).await.expect("connected");
    let error = other.declare(&pool()).await.expect_err("another bound");
    let QueueError::Mismatch { queue, argument } = &error else { panic!("{error}") };
    assert_eq!(*queue, one.names().queue(&pool()));
    assert!(argument.starts_with("x-max-length (") || argument.starts_with("x-overflow ("), "{argument}");
    assert!(matches!(other.inspect(&pool()).await, Ok(Presence::Mismatch(_))));
    assert_eq!(other.inspect(&Queue::Expired).await, Ok(Presence::AsWanted));
    assert_eq!(other.inspect(&gpu()).await, Ok(Presence::Missing));
    assert_eq!(other.depth(&gpu()).await, Ok(None), "looking declares nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_another_user_is_read_and_forwarded_without_what_is_not_ours() {
    let server = PrivateRabbitMq::shared().await;
    let queue = connect(&server.url(), options()).await;
    queue.declare(&gpu()).await.expect("declared");
    let ann = server.url_for("ann", Permissions { configure: "^$", write: ".*", read: "^$" }).await;
    let (_connection, channel) = foreign(&ann).await;
    let mut headers = FieldTable::default();
    headers.insert("x-gpufleet-attempt".into(), AMQPValue::LongInt(2));
    headers.insert("x-foreign".into(), AMQPValue::LongString("theirs".into()));
    headers.insert("CC".into(), AMQPValue::FieldArray(vec![AMQPValue::LongString("nowhere".into())].into()));
    let properties = BasicProperties::default().with_message_id("a".into()).with_user_id("ann".into()).with_app_id("theirs".into());
    let (exchange, options) = (queue.names().exchange(), BasicPublishOptions::default());
    let publish = channel.basic_publish(exchange.as_str().into(), "default".into(), options, b"{}", properties.with_headers(headers));
    publish.await.expect("published");
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    let delivery = next(&mut consumer).await;
    assert_eq!((delivery.envelope.user_id.as_deref(), delivery.envelope.headers.attempt), (Some("ann"), Some(2)));
    let forwarded = Outgoing::new(Target::Queue(gpu()), delivery.envelope, delivery.body);
    queue.publish(forwarded).await.expect("forwarded under another login");
    delivery.receipt.ack().await.expect("acked");

    let (_connection, channel) = foreign(&server.url()).await;
    let name = queue.names().queue(&gpu());
    let got = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await.expect("an answer").expect("a message");
    got.ack(BasicAckOptions::default()).await.expect("acked");
    let properties = &got.delivery.properties;
    assert_eq!((properties.user_id(), properties.app_id(), *properties.delivery_mode()), (&None, &None, Some(2)));
    let names: Vec<&str> = properties.headers().iter().flat_map(|table| table.inner().keys().map(|name| name.as_str())).collect();
    assert_eq!(names, ["x-gpufleet-attempt"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_reaches_a_direct_reply_to() {
    let url = PrivateRabbitMq::shared().await.url();
    let queue = connect(&url, options()).await;
    let (_connection, channel) = foreign(&url).await;
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let direct = "amq.rabbitmq.reply-to";
    let mut replies = channel.basic_consume(direct.into(), "".into(), no_ack, FieldTable::default()).await.expect("consuming");
    let properties = BasicProperties::default().with_reply_to(direct.into());
    let name = queue.names().queue(&pool());
    let publish = channel.basic_publish("".into(), name.as_str().into(), BasicPublishOptions::default(), b"{}", properties);
    publish.await.expect("published");
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    let request = next(&mut consumer).await;
    let reply_to = request.envelope.reply_to.clone().expect("a reply queue");
    queue.publish(message_to(Target::ReplyTo(reply_to), "answer")).await.expect("published");
    let reply = futures::StreamExt::next(&mut replies).await.expect("a reply").expect("no error");
    assert_eq!(reply.data, b"answer");
}

/// RabbitMQ ends a connection over the reply address of another broker (3.10.8 does).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_reply_to_another_broker_is_refused_and_hurts_no_other() {
    let queue = connect(&PrivateRabbitMq::shared().await.url(), options()).await;
    let elsewhere = "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA3Nzg5OTcwMAAAA8YAAAAAawS4xg==.vSh/PrR9A4tFLlVWu8HiQw==";
    let targets = ["amq.rabbitmq.reply-to.nobody", elsewhere, "amq.rabbitmq.reply-to.nobody"];
    let mut messages: Vec<Outgoing> =
        (0..).zip(targets).map(|(index, target)| message_to(Target::ReplyTo(target.into()), &format!("direct-{index}"))).collect();
    messages.push(message(&pool(), "a"));
    let answers = publish_together(&*queue, messages).await;
    assert!(matches!(answers[1], Err(PublishError::Refused { .. })), "{answers:?}");
    assert_eq!((&answers[0], &answers[2], &answers[3]), (&Ok(()), &Ok(()), &Ok(())));
    assert_eq!(*queue.link().borrow(), Link::Up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_forbids_is_refused_and_not_retried() {
    let server = PrivateRabbitMq::shared().await;
    let queue = connect(&server.url(), options()).await;
    let reader = server.url_for("reader", Permissions { configure: "^$", write: "^$", read: ".*" }).await;
    let limited = RabbitMq::connect(&reader, QueueOptions { names: queue.names().clone(), ..options() }).await.expect("connected");
    let declared = limited.declare(&gpu()).await.expect_err("it may not declare");
    assert!(matches!(declared, QueueError::Refused { .. }), "{declared}");
    // A message that follows a refused one too closely on its channel ends the connection: transient, and the next one says what is forbidden.
    for answer in join_all(["a", "b", "c"].map(|id| publish_at_last(&limited, message(&pool(), id)))).await {
        assert!(matches!(answer, Err(PublishError::Refused { .. })), "{answer:?}");
    }
    publish_all(&*queue, [message(&pool(), "d")]).await;
    let mut consumer = limited.consume(&pool(), prefetch(1)).await.expect("it may read");
    assert_eq!(ack_next(&mut consumer, 1).await, ["d"]);

    let wrong = SecretUrl::new(reader.reveal().replace("secret", "pa55word"));
    let refused = RabbitMq::connect(&wrong, options()).await.expect_err("a wrong password");
    assert!(matches!(refused, QueueError::NotAdmitted { .. }), "{refused}");
    assert!(!format!("{refused} {refused:?}").contains("pa55word"));
    let garbled = RabbitMq::connect(&SecretUrl::new("http://user:pa55word@host"), options()).await.expect_err("no AMQP URL");
    assert!(!format!("{garbled} {garbled:?}").contains("pa55word"));
}

/// The client library never opens a channel again whose number the broker has closed, and a connection has no more than so many (2,047 by default).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_often_the_broker_closes_a_channel_the_next_one_opens() {
    let server = PrivateRabbitMq::shared().await;
    let narrow = |url: SecretUrl| SecretUrl::new(format!("{}?channel_max=64", url.reveal()));
    let asks = narrow(server.url_for("asks", Permissions { configure: ".*", write: ".*", read: ".*" }).await);
    let queue = connect(&asks, options()).await;
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    for index in 0..100 {
        until("the broker says whether the queue exists", async || matches!(queue.depth(&gpu()).await, Ok(None))).await;
        let returned = publish_at_last(&*queue, message(&gpu(), "nobody's")).await;
        assert!(matches!(returned, Err(PublishError::Unroutable { .. })), "{index}: {returned:?}");
        let id = index.to_string();
        publish_all(&*queue, [message(&pool(), &id)]).await;
        let delivery = next(&mut consumer).await;
        assert_eq!((id_of(&delivery), delivery.redelivered), (&*id, false), "no consumer ends for it");
        delivery.receipt.ack().await.expect("acked");
    }
    let reads = narrow(server.url_for("reads", Permissions { configure: "^$", write: "^$", read: ".*" }).await);
    let limited = RabbitMq::connect(&reads, QueueOptions { names: queue.names().clone(), ..options() }).await.expect("connected");
    for index in 0..100 {
        let refused = publish_at_last(&limited, message(&pool(), "forbidden")).await;
        assert!(matches!(refused, Err(PublishError::Refused { .. })), "{index}: {refused:?}");
    }
    // One to publish, one to consume, one that still has the first consumer.
    until("connections without channels are closed", async || (1..=3).contains(&server.connections_of("asks").await)).await;
    until("connections without channels are closed", async || (1..=2).contains(&server.connections_of("reads").await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_there_is_unreachable() {
    let url = SecretUrl::new(format!("amqp://guest:guest@127.0.0.1:{NOBODY}/%2f"));
    let error = RabbitMq::connect(&url, options()).await.expect_err("nobody listens");
    assert!(error.is_transient(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queues_can_be_quorum_queues() {
    let url = PrivateRabbitMq::shared().await.url();
    let options = QueueOptions { queue_type: QueueType::Quorum, length_max: Some(100), ..options() };
    let queue = connect(&url, options).await;
    queue.declare(&Queue::Unplaceable).await.expect("declared");
    publish_all(&*queue, [message(&pool(), "a"), message(&Queue::Unplaceable, "b")]).await;
    let mut consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    let first = next(&mut consumer).await;
    first.receipt.give_back().await.expect("given back");
    assert_eq!(ack_next(&mut consumer, 1).await, ["a"]);
    let mut waiting = queue.consume(&Queue::Unplaceable, prefetch(1)).await.expect("consuming");
    next(&mut waiting).await.receipt.give_back().await.expect("given back");
    assert_eq!(ack_next(&mut waiting, 1).await, ["b"]);
    assert_eq!(queue.publish(empty(&pool())).await, Ok(()));
}

/// A policy of the operator's for the pool's queue of these names. Set before the queue is declared: it holds from its first message on.
async fn policy(server: &PrivateRabbitMq, options: &QueueOptions, definition: &str) {
    let name = options.names.queue(&pool());
    let pattern = format!("^{}$", name.replace('.', "[.]"));
    server.control(&["set_policy", "--apply-to", "queues", &name, &pattern, definition]).await;
}

/// The next message in the queue of what expired.
async fn taken_out(queue: &RabbitMq) -> (String, Option<Death>) {
    until_ready(queue, &Queue::Expired, 1).await;
    let delivery = queue.take(&Queue::Expired).await.expect("connected").expect("a message");
    let (id, death) = (id_of(&delivery).to_owned(), delivery.death.clone());
    delivery.receipt.ack().await.expect("acked");
    (id, death)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operators_policy_drops_says_so() {
    // With a bound of its own the queue would refuse the publish.
    let (server, options) = (PrivateRabbitMq::shared().await, QueueOptions { length_max: None, ..options() });
    policy(server, &options, r#"{"max-length": 1}"#).await;
    let queue = connect(&server.url(), options).await;
    publish_all(&*queue, ["a", "b"].map(|id| message(&pool(), id))).await;
    let full = Death { queue: queue.names().queue(&pool()), reason: DeathReason::MaxLength };
    assert_eq!(taken_out(&queue).await, ("a".to_owned(), Some(full)));

    let kept = queue.take(&pool()).await.expect("connected").expect("a message");
    assert_eq!((id_of(&kept), kept.death.as_ref()), ("b", None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_quorum_queue_delivered_too_often_says_so() {
    let (server, options) = (PrivateRabbitMq::shared().await, QueueOptions { queue_type: QueueType::Quorum, ..options() });
    policy(server, &options, r#"{"delivery-limit": 1}"#).await;
    let queue = connect(&server.url(), options).await;
    publish_all(&*queue, [message(&pool(), "a")]).await;
    until("it was given back too often", async || {
        if let Some(delivery) = queue.take(&pool()).await.expect("connected") {
            delivery.receipt.give_back().await.expect("given back");
        }
        ready(&*queue, &Queue::Expired).await == 1
    })
    .await;
    let too_often = Death { queue: queue.names().queue(&pool()), reason: DeathReason::DeliveryLimit };
    assert_eq!(taken_out(&queue).await, ("a".to_owned(), Some(too_often)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_foreign_consumer_rejects_says_so() {
    let url = PrivateRabbitMq::shared().await.url();
    let queue = connect(&url, options()).await;
    publish_all(&*queue, [message(&pool(), "a")]).await;
    let (_connection, channel) = foreign(&url).await;
    let name = queue.names().queue(&pool());
    let got = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await.expect("connected").expect("a message");
    channel.basic_reject(got.delivery.delivery_tag, BasicRejectOptions { requeue: false }).await.expect("rejected");
    let rejected = Death { queue: name, reason: DeathReason::Rejected };
    assert_eq!(taken_out(&queue).await, ("a".to_owned(), Some(rejected)));
}

/// Asked to delete a quorum queue only if it is unused, the broker ends the connection, and every consumer with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quorum_queue_is_deleted_once_it_is_unused_and_no_consumer_ends_for_it() {
    let url = PrivateRabbitMq::shared().await.url();
    let queue = connect(&url, QueueOptions { queue_type: QueueType::Quorum, ..options() }).await;
    queue.declare(&gpu()).await.expect("declared");
    let consumer = queue.consume(&pool(), prefetch(1)).await.expect("consuming");
    publish_all(&*queue, [message(&gpu(), "a")]).await;
    until_ready(&*queue, &gpu(), 1).await;
    assert_eq!(queue.delete_if_unused(&gpu()).await, Ok(false), "a message waits");
    queue.take(&gpu()).await.expect("connected").expect("the message").receipt.ack().await.expect("acked");
    until_ready(&*queue, &gpu(), 0).await;
    assert_eq!(queue.delete_if_unused(&pool()).await, Ok(false), "it is consumed");
    // Whoever took the message by a get counts as a consumer for a moment after its ack.
    until("it is deleted", async || queue.delete_if_unused(&gpu()).await == Ok(true)).await;
    assert_eq!(queue.depth(&gpu()).await, Ok(None));
    assert!(*consumer.live().borrow(), "the connection goes on");
}

fn empty(queue: &Queue) -> Outgoing {
    let mut message = message(queue, "empty");
    message.body = Bytes::new();
    message
}

/// A cluster of two nodes. What the broker says of the queue, `404`, is what it says of a queue that does not exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_node_is_down_is_not_taken_for_missing() {
    let one = PrivateRabbitMq::start().await;
    let other = one.start_beside().await;
    let options = options();
    let there = connect(&other.url(), options.clone()).await;
    there.declare(&gpu()).await.expect("declared");
    publish_all(&*there, [message(&gpu(), "a")]).await;
    let here = RabbitMq::connect(&one.url(), options).await.expect("connected");
    until_ready(&here, &gpu(), 1).await;
    other.kill();
    let gone = async || here.depth(&gpu()).await.is_err_and(|error| matches!(error, QueueError::Inaccessible { .. }));
    until("the node is known to be down", gone).await;
    let answers = [
        here.inspect(&gpu()).await.err(),
        here.take(&gpu()).await.err(),
        here.delete_if_unused(&gpu()).await.err(),
        here.consume(&gpu(), prefetch(1)).await.err(),
        here.declare(&gpu()).await.err(),
    ];
    for answer in answers {
        let error = answer.expect("it cannot be reached");
        assert!(matches!(error, QueueError::Inaccessible { .. }) && error.is_transient(), "{error:?}");
    }
    let returned = here.publish(message(&gpu(), "b")).await.expect_err("it cannot be reached");
    assert!(matches!(returned, PublishError::Inaccessible { .. }) && returned.is_transient(), "{returned:?}");
    assert_eq!(here.inspect(&Queue::Dead).await, Ok(Presence::Missing), "what never was is still told apart");
    other.start_again().await;
    until("it can be declared again", async || here.declare(&gpu()).await.is_ok()).await;
    let taken = here.take(&gpu()).await.expect("connected").expect("the message is still there");
    assert_eq!(id_of(&taken), "a");
    taken.receipt.ack().await.expect("acked");
}
