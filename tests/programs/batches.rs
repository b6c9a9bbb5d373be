//! Batches, as their users send them: a list of texts over HTTP, and items by an AMQP client that is not ours.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::until::until;

use crate::{
    clients::{Client, Plan, Publish},
    http::{get_json, post},
    model,
    servers::Servers,
};

const ITEMS: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_texts_is_answered_in_order_by_several_gpus() {
    let folder = tempfile::tempdir().unwrap();
    model::write(folder.path());
    let servers = Servers::fresh().await;
    let fleet = servers.up(4, &["--model", folder.path().to_str().unwrap()]).await;
    let url = fleet.url().await;
    let texts: Vec<String> = (0..ITEMS).map(|number| format!("text number {number}")).collect();
    let (code, answer) = post(&format!("{url}/api/v1/predict"), &json!({"text": texts, "max_length": 4})).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(answer["items"], json!({"of": ITEMS, "done": ITEMS, "failed": 0}), "{answer}");
    let results = answer["results"].as_array().expect("a list");
    assert_eq!(results.len(), ITEMS);
    assert_eq!(answer["gpu_ids"], json!(["sim-0", "sim-1", "sim-2", "sim-3"]), "{answer}");
    for number in [0, 17, ITEMS - 1] {
        let (_, alone) = post(&format!("{url}/api/v1/predict"), &json!({"text": texts[number], "max_length": 4})).await;
        assert_eq!(results[number]["text"], alone["text"], "text {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_that_pika_sends_are_answered_in_order_and_a_bad_one_is_named() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(4, &[]).await;
    let item = |number: usize| {
        if number == 17 { json!({"duration_ms": "soon"}) } else { json!({"duration_ms": 20, "result": number}) }
    };
    let body = json!({"items": (0..ITEMS).map(item).collect::<Vec<_>>()}).to_string();
    let queue = servers.pool_queue();
    let properties = json!({"type": "simulate", "correlation_id": "c-1", "message_id": "batch-1"});
    let plan = Plan::at(servers.amqp()).publish(Publish { exchange: "", routing_key: &queue, properties, body });
    let reply = Client::Pika.talk(plan).await.remove(0);
    let body = &reply["body"];
    assert_eq!((&reply["correlation_id"], &body["outcome"]), (&json!("c-1"), &json!("succeeded")), "{body}");
    assert_eq!(body["items"], json!({"of": ITEMS, "done": ITEMS, "failed": 1}));
    let results = body["results"].as_array().expect("a list");
    for (number, result) in results.iter().enumerate().filter(|(number, _)| *number != 17) {
        assert_eq!(result, &json!({"result": number}));
    }
    assert_eq!(
        (&results[17]["error"]["code"], &results[17]["error"]["field"]),
        (&json!("invalid_payload"), &json!("items[17].duration_ms"))
    );
    let gpus: BTreeSet<&str> = body["gpu_ids"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(gpus.len(), 4, "{gpus:?}");

    let status = format!("{}/api/v1/tasks/batch-1", fleet.url().await);
    until("the status tells of its end", async || get_json(&status).await.1["state"] == "succeeded").await;
    let (code, pieces) = get_json(&format!("{status}/results?from=60")).await;
    assert_eq!(code, 200, "{pieces}");
    assert_eq!(pieces["results"], json!((60..ITEMS).map(|number| json!({"result": number})).collect::<Vec<_>>()));
}
