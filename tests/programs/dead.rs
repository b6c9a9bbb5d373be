//! `gpufleet dead`: what it shows of messages that could not be read, and how it gets rid of many.

use futures::future::join_all;
use protocol::Envelope;
use serde_json::{Value, json};
use task_queue::{Outgoing, Queue, Target, TaskQueue};
use tests::{
    raw_amqp::{RawProperties, RawPublisher},
    until::until,
};

use crate::servers::Servers;

/// More than a connection may have channels.
const MANY: usize = 2_100;

async fn ready(queue: &dyn TaskQueue) -> usize {
    queue.depth(&Queue::Dead).await.expect("the broker answers").map_or(0, |depth| depth.ready as usize)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_could_not_be_read_is_shown_with_its_reason_and_its_original_properties() {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(1, &[]).await;
    let properties = RawProperties::task("hostile-1", "echo").text(RawProperties::TYPE, b"ec\xffho");
    let mut raw = RawPublisher::connect(servers.amqp()).await;
    raw.publish(&servers.pool_queue(), &properties, b"{}").await;
    let queue = servers.queue().await;
    until("it is among the dead letters", async || ready(&*queue).await == 1).await;

    let listed = servers.run(&["dead", "ls", "--json"]).await;
    let letters: Value = serde_json::from_str(&listed.output).expect("JSON");
    let hexadecimal: String = properties.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let letter = &letters[0];
    assert_eq!((&letter["task_id"], &letter["body"]), (&json!("hostile-1"), &json!("{}")), "{listed:?}");
    assert_eq!((&letter["unreadable"], &letter["properties_hex"]), (&json!("type: is not UTF-8 text"), &json!(hexadecimal)));
    let shown = servers.run(&["dead", "show", "hostile-1"]).await;
    assert_eq!((shown.code, serde_json::from_str::<Value>(&shown.output).expect("JSON")), (Some(0), letter.clone()));
    let purged = servers.run(&["dead", "purge", "hostile-1"]).await;
    assert_eq!((purged.code, ready(&*queue).await), (Some(0), 0), "{purged:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_dead_letters_than_a_connection_has_channels_are_shown_and_purged() {
    let servers = Servers::fresh().await;
    let queue = servers.queue().await;
    queue.declare(&Queue::Dead).await.expect("declared");
    let letters = (0..MANY).map(|n| {
        let envelope = Envelope { message_id: Some(format!("letter-{n}")), ..Envelope::default() };
        queue.publish(Outgoing::new(Target::Queue(Queue::Dead), envelope, b"{}"[..].into()))
    });
    assert!(join_all(letters).await.iter().all(Result::is_ok));

    let shown = servers.run(&["dead", "show", "letter-7"]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    until("all letters are back in their queue", async || ready(&*queue).await == MANY).await;
    let missing = servers.run(&["dead", "show", "nobody"]).await;
    assert_eq!((missing.code, missing.errors.contains("among the first 1000")), (Some(4), true), "{missing:?}");
    let refused = servers.run(&["dead", "purge"]).await;
    assert_eq!((refused.code, ready(&*queue).await), (Some(2), MANY), "{refused:?}");
    assert!(refused.errors.contains("would delete all 2100 dead letters") && refused.errors.contains("--all"), "{refused:?}");
    let purged = servers.run(&["dead", "purge", "--all", "--json"]).await;
    assert_eq!((purged.code, purged.output.trim()), (Some(0), "{\"purged\":2100}"), "{purged:?}");
    assert_eq!(ready(&*queue).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_requeued_once_what_killed_it_is_mended() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(1, &[]).await;
    let queue = servers.queue().await;
    let publish = async |id: &str, body: &'static [u8]| {
        let envelope = Envelope { message_id: Some(id.to_owned()), kind: Some("echo".to_owned()), ..Envelope::default() };
        let pool = Target::Queue(Queue::Pool(protocol::PoolName::default()));
        queue.publish(Outgoing::new(pool, envelope, body.into())).await.expect("published");
    };
    // The first breaks the contract; the second uses the id of another task.
    publish("wrong", br#"{"payload": 1, "prioritee": 9}"#).await;
    publish("twice", br#"{"payload": "first"}"#).await;
    until("the first of both ended", async || servers.run(&["status", "twice", "--json"]).await.output.contains("succeeded")).await;
    publish("twice", br#"{"payload": "second"}"#).await;
    until("both are among the dead letters", async || ready(&*queue).await == 2).await;

    let missing = servers.run(&["dead", "requeue", "nobody"]).await;
    assert_eq!(missing.code, Some(4), "{missing:?}");
    let requeued = servers.run(&["dead", "requeue", "--all", "--json"]).await;
    let told: Value = serde_json::from_str(&requeued.output).expect("JSON");
    assert_eq!((requeued.code, &told["requeued"], &told["kept"][0]["task_id"]), (Some(1), &json!(1), &json!("twice")), "{requeued:?}");
    assert!(told["kept"][0]["why"].as_str().is_some_and(|why| why.contains("another body")), "{told}");
    // It is as wrong as before, so it is refused again, in a second life of its own.
    until("it is back among the dead letters", async || ready(&*queue).await == 2).await;
    let first = servers.run(&["status", "twice", "--json"]).await;
    assert!(first.output.contains("\"first\""), "the other task keeps its record: {first:?}");
    drop(fleet);
}
