//! `gpufleet doctor` on servers that are fresh, in use, and of another shape.

use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use task_queue::{Queue, QueueOptions, RabbitMq, TaskQueue};
use tests::{
    redis::{Persistence, PrivateRedis},
    until::until,
};

use crate::servers::Servers;

fn verdicts(output: &str) -> Vec<Value> {
    let findings: Vec<Value> = serde_json::from_str(output).expect("a list of findings");
    findings.into_iter().map(|finding| finding["verdict"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fresh_servers_are_good_and_stay_as_they_are() {
    let servers = Servers::fresh().await;
    let examined = servers.run(&["doctor", "--json"]).await;
    assert_eq!(examined.code, Some(0), "{examined:?}");
    assert!(verdicts(&examined.output).iter().all(|verdict| verdict != "bad"), "{examined:?}");
    let pool = Queue::Pool(servers.configuration.worker.pool.clone());
    assert!(servers.queue().await.depth(&pool).await.unwrap().is_none(), "doctor declared a queue");

    let _fleet = servers.up(1, &[]).await;
    let examined = servers.run(&["doctor"]).await;
    assert_eq!(examined.code, Some(0), "{examined:?}");
    assert!(!examined.output.contains("does not exist") && examined.output.contains("1 in the pool default, 1 eligible"), "{examined:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_another_shape_is_named_with_its_argument_and_no_worker_starts() {
    let servers = Servers::fresh().await;
    let mut other = QueueOptions::from(&servers.configuration.amqp);
    other.length_max = Some(7);
    let queue = RabbitMq::connect(servers.amqp(), other).await.unwrap();
    queue.declare(&Queue::Pool(servers.configuration.worker.pool.clone())).await.unwrap();

    let examined = servers.run(&["doctor"]).await;
    assert_eq!(examined.code, Some(1), "{examined:?}");
    let bad = examined.output.lines().find(|line| line.starts_with("BAD")).expect("a bad finding");
    assert!(bad.contains(&servers.pool_queue()) && bad.contains("x-max-length"), "{bad}");

    let refused = servers.run(&["worker", "--simulated", "1"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let error = refused.errors.lines().find(|line| line.starts_with("error: ")).expect("an error line");
    assert!(error.contains(&servers.pool_queue()) && error.contains("x-max-length"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_and_an_exchange_that_a_living_fleet_lacks_are_bad() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(1, &[]).await;
    let until_good = async || {
        let examined = servers.run(&["doctor"]).await;
        examined.code == Some(0)
    };
    until("all is well", until_good).await;
    let (_connection, channel) = foreign(&servers).await;
    // Nobody consumes these two, so nothing declares them before a worker's next look.
    let (dead, exchange) = (format!("{}.dead", servers.prefix()), format!("{}.tasks", servers.prefix()));
    channel.queue_delete(dead.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    // The worker's look may have come just between; then it was good, and the next minute begins.
    let mut examined = servers.run(&["doctor"]).await;
    if examined.code == Some(0) {
        channel.queue_delete(dead.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
        channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
        examined = servers.run(&["doctor"]).await;
    }
    assert_eq!(examined.code, Some(1), "{examined:?}");
    for missing in [format!("BAD   queue {dead}: does not exist"), format!("BAD   exchange {exchange}: does not exist")] {
        let bad = examined.output.lines().find(|line| line.starts_with(&missing)).unwrap_or_else(|| panic!("{missing}: {examined:?}"));
        assert!(bad.contains("restart nothing") && bad.contains("GPUs consume tasks (1)"), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_of_an_earlier_version_work_and_are_warned_of_with_what_to_do() {
    let servers = Servers::fresh().await;
    let (_connection, channel) = foreign(&servers).await;
    let (dead, exchange) = (format!("{}.dead", servers.prefix()), format!("{}.tasks", servers.prefix()));
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(dead.as_str().into(), durable, arguments).await.unwrap();
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Direct, durable, FieldTable::default()).await.unwrap();

    let fleet = servers.up(1, &[]).await;
    let ran = servers.run(&["submit", "echo", "--payload", "7", "--wait"]).await;
    assert_eq!((ran.code, ran.output.as_str()), (Some(0), "7\n"), "{ran:?}");
    let examined = servers.run(&["doctor"]).await;
    assert_eq!(examined.code, Some(0), "{examined:?}");
    for (subject, lacks) in
        [(format!("warn  queue {dead}: "), "x-max-length 10000"), (format!("warn  exchange {exchange}: "), "alternate-exchange")]
    {
        let warning = examined.output.lines().find(|line| line.starts_with(&subject)).unwrap_or_else(|| panic!("{subject}: {examined:?}"));
        assert!(warning.contains(lacks) && warning.contains("rabbitmqctl set_policy"), "{warning}");
    }
    let warned = |subject: &str| fleet.log().lines().filter(|line| line.contains("WARN") && line.contains(subject)).count();
    assert_eq!((warned(&format!("queue {dead} exists without")), warned(&format!("exchange {exchange} exists without"))), (1, 1));
}

/// A client that is not ours.
async fn foreign(servers: &Servers) -> (Connection, Channel) {
    let connection = Connection::connect(servers.amqp().reveal(), ConnectionProperties::default()).await.expect("an answer");
    let channel = connection.create_channel().await.expect("an answer");
    (connection, channel)
}

/// Sets one of the server's settings.
async fn set(redis: &PrivateRedis, name: &str, value: &str) {
    let setting = redis::cmd("CONFIG").arg("SET").arg(name).arg(value).to_owned();
    setting.exec_async(&mut redis.connection().await).await.expect("the private Redis takes its settings");
}

fn bad(output: &str) -> Vec<&str> {
    output.lines().filter(|line| line.starts_with("BAD")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_would_drop_records_is_bad() {
    let redis = PrivateRedis::start(Persistence::Nothing).await;
    let servers = Servers::with_redis(redis.url()).await;
    // Every record of the store expires.
    for policy in ["allkeys-lru", "allkeys-random", "volatile-ttl"] {
        set(&redis, "maxmemory-policy", policy).await;
        let examined = servers.run(&["doctor"]).await;
        assert_eq!(examined.code, Some(1), "{policy}: {examined:?}");
        let bad = bad(&examined.output);
        assert!(bad.len() == 1 && bad[0].contains(policy) && bad[0].contains("noeviction"), "{policy}: {examined:?}");
    }
    set(&redis, "maxmemory-policy", "noeviction").await;
    let examined = servers.run(&["doctor"]).await;
    assert_eq!(examined.code, Some(0), "{examined:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_answers_and_refuses_writes_is_bad() {
    let redis = PrivateRedis::start(Persistence::Nothing).await;
    let servers = Servers::with_redis(redis.url()).await;
    for (name, refusing, taking) in [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")] {
        set(&redis, name, refusing).await;
        let examined = servers.run(&["doctor"]).await;
        assert_eq!(examined.code, Some(1), "{name}: {examined:?}");
        for part in ["the table takes no writes", "the store takes no writes"] {
            assert!(bad(&examined.output).iter().any(|line| line.contains(part)), "{name}, {part}: {examined:?}");
        }
        set(&redis, name, taking).await;
        let examined = servers.run(&["doctor"]).await;
        assert_eq!(examined.code, Some(0), "{name}: {examined:?}");
        assert!(examined.output.contains("the store takes writes"), "{examined:?}");
    }
}
