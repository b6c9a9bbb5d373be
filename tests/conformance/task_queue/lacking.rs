//! Queues and exchanges that exist without something that this version gives them, or with something else.

use std::time::Duration;

use lapin::{
    BasicProperties, ExchangeKind,
    options::{BasicPublishOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use task_queue::{Presence, Queue, QueueError, QueueOptions, RabbitMq, TaskQueue};
use tests::rabbitmq::PrivateRabbitMq;

use super::{
    broker::{gpu, message, pool, publish_all, until_ready},
    servers::{connect, foreign, options},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_exists_without_its_bounds_is_used_as_it_is_until_it_is_deleted() {
    let url = PrivateRabbitMq::shared().await.url();
    let options = options();
    // As an earlier version has declared them.
    let earlier = connect(&url, QueueOptions { length_max: None, ..options.clone() }).await;
    let (_connection, channel) = foreign(&url).await;
    let (durable, dead) = (QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }, earlier.names().queue(&Queue::Dead));
    let waiting = Queue::Undelivered(Duration::from_millis(60_000));
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    channel.queue_declare(dead.as_str().into(), durable, arguments.clone()).await.expect("declared");
    let name = earlier.names().queue(&waiting);
    channel.queue_declare(name.as_str().into(), durable, arguments).await.expect("declared");

    let bounded = QueueOptions { length_max: Some(2), dead_letters_max: 2, undelivered_max: 2, ..options };
    let later = RabbitMq::connect(&url, bounded).await.expect("connected");
    for queue in [pool(), Queue::Dead, waiting] {
        for _ in 0..2 {
            later.declare(&queue).await.expect("used as it is, however often");
        }
        publish_all(&later, ["a", "b", "c", "d"].map(|id| message(&queue, id))).await;
        until_ready(&later, &queue, 4).await;
        let Ok(Presence::Lacking(lack)) = later.inspect(&queue).await else { panic!("{queue:?} lacks its bounds") };
        assert!(lack.contains("x-max-length 2") && lack.contains("rabbitmqctl set_policy"), "{lack}");
        let name = later.names().queue(&queue);
        channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.expect("deleted");
        publish_all(&later, [message(&queue, "e")]).await;
        assert_eq!(later.inspect(&queue).await, Ok(Presence::AsWanted), "declared again, with its bounds");
    }
    publish_all(&later, ["f", "g"].map(|id| message(&Queue::Dead, id))).await;
    until_ready(&later, &Queue::Dead, 2).await;
    let mismatch = earlier.declare(&pool()).await.expect_err("it has a bound now, and none is wanted");
    assert!(matches!(mismatch, QueueError::Mismatch { .. }), "{mismatch}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_of_another_bound_are_a_mismatch() {
    let url = PrivateRabbitMq::shared().await.url();
    let options = options();
    let one = connect(&url, options.clone()).await;
    one.declare(&Queue::Dead).await.expect("declared");
    let others = [
        (QueueOptions { dead_letters_max: 7, ..options.clone() }, "x-max-length ("),
        (QueueOptions { dead_letters_bytes_max: 7, ..options.clone() }, "x-max-length-bytes ("),
        (QueueOptions { dead_letters_ttl: Duration::from_secs(7), ..options }, "x-message-ttl ("),
    ];
    for (other, argument) in others {
        let other = RabbitMq::connect(&url, other).await.expect("connected");
        let error = other.declare(&Queue::Dead).await.expect_err(argument);
        assert!(matches!(error, QueueError::Mismatch { .. }) && error.to_string().contains(argument), "{error}");
        let Ok(Presence::Mismatch(found)) = other.inspect(&Queue::Dead).await else { panic!("{argument}") };
        assert!(found.starts_with(argument), "{found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_exists_without_its_alternate_one_is_used_as_it_is_until_it_is_deleted() {
    let url = PrivateRabbitMq::shared().await.url();
    let options = options();
    let (_connection, channel) = foreign(&url).await;
    let exchange = options.names.exchange();
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declare = channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Direct, durable, FieldTable::default());
    declare.await.expect("declared as by an earlier version");

    let queue = connect(&url, options).await;
    let presence = async || queue.inspect_exchange_of(&pool()).await.expect("connected").expect("an exchange");
    let (name, Presence::Lacking(lack)) = presence().await else { panic!("it lacks its alternate exchange") };
    assert!(name == exchange && lack.contains("alternate-exchange"), "{name}: {lack}");
    queue.declare(&pool()).await.expect("used as it is");
    let properties = || BasicProperties::default().with_message_id("a".into());
    let publish = async |routing_key: &str| {
        let options = BasicPublishOptions::default();
        channel.basic_publish(exchange.as_str().into(), routing_key.into(), options, b"{}", properties()).await.expect("published");
    };
    publish("default").await;
    until_ready(&*queue, &pool(), 1).await;

    channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await.expect("deleted");
    assert_eq!(presence().await.1, Presence::Missing, "a look declares nothing");
    queue.declare(&pool()).await.expect("declared again");
    assert_eq!(presence().await.1, Presence::AsWanted);
    publish("default").await;
    until_ready(&*queue, &pool(), 2).await;
    publish("defualt").await;
    until_ready(&*queue, &Queue::Unrouted, 1).await;
    assert_eq!(queue.inspect_exchange_of(&gpu()).await, Ok(None), "a GPU's own queue is reached by its name alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_with_another_alternate_one_is_refused_by_its_name() {
    let url = PrivateRabbitMq::shared().await.url();
    let options = options();
    let (_connection, channel) = foreign(&url).await;
    let exchange = options.names.exchange();
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), AMQPValue::LongString("amq.fanout".into()));
    let declare = channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Direct, durable, arguments);
    declare.await.expect("declared");
    let queue = RabbitMq::connect(&url, options).await.expect("connected");
    let error = queue.declare(&pool()).await.expect_err("another alternate exchange").to_string();
    assert!(error.contains(&format!("declare exchange {exchange}")) && error.contains("another alternate-exchange"), "{error}");
    let found = queue.inspect_exchange_of(&pool()).await;
    assert!(matches!(found, Ok(Some((_, Presence::Mismatch(_))))), "{found:?}");
}
