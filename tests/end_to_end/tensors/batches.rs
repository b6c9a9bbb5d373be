//! Batches whose items name tensors and keep some.

use producer::NewTask;
use protocol::{Json, Outcome, TaskBody};
use serde_json::{Value, json};
use tests::tasks::{on, reply, result, task};

use super::{bytes, error, fleet, keeping, name, passing, putting, read, reading, steady, told, waiting};

#[tokio::test(start_paused = true)]
async fn the_outputs_of_items_are_kept_under_their_numbers_wherever_they_ran() {
    let fleet = fleet(4).start().await;
    let content = bytes(10_000, 1);
    result(&reply(&fleet.producer, putting("x", &content)).await);
    let items: Vec<Json> = vec![json!({"inputs": [{"tensor": "x"}]}).into(); 40];
    let batch = task("passing", json!(null));
    let batch = NewTask { body: TaskBody { items: Some(items), ..batch.body }, ..batch };
    let reply_of_all = reply(&fleet.producer, keeping(&["y"], batch)).await;
    assert_eq!(reply_of_all.outcome, Outcome::Succeeded, "{reply_of_all:?}");
    let numbered: Vec<String> = (0..40).map(|item| name("y").of_item(item).unwrap().to_string()).collect();
    let names: Vec<&str> = numbered.iter().map(String::as_str).collect();
    let read_back = read(&reply(&fleet.producer, on("gpu-2", reading(&names))).await);
    assert_eq!(read_back, vec![content; 40]);
}

#[tokio::test(start_paused = true)]
async fn an_item_whose_tensor_is_nowhere_fails_alone() {
    let fleet = fleet(1).start().await;
    result(&reply(&fleet.producer, putting("x", &bytes(10, 1))).await);
    let items: [Json; 3] = ["x", "nowhere", "x"].map(|tensor| json!({"inputs": [{ "tensor": tensor }]}).into());
    let batch = task("passing", json!(null));
    let batch = NewTask { body: TaskBody { items: Some(items.to_vec()), ..batch.body }, ..batch };
    steady(&fleet).await;
    let ended = reply(&fleet.producer, keeping(&["y"], batch)).await;
    assert_eq!(ended.outcome, Outcome::Succeeded, "{ended:?}");
    let results = ended.results.elements().unwrap();
    let codes: Vec<Value> = results.iter().map(|item| item.to::<Value>().unwrap()["error"]["code"].clone()).collect();
    assert_eq!(codes, [json!(null), json!("tensor_missing"), json!(null)]);
    let kept: Vec<String> = told(&fleet).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(kept, ["x", "y.0", "y.2"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_waits_for_its_tensors_waits_as_a_whole() {
    let fleet = fleet(1).start().await;
    let items: [Json; 2] = ["x", "later"].map(|tensor| json!({"inputs": [{ "tensor": tensor }]}).into());
    let batch = task("passing", json!(null));
    let batch = waiting(NewTask { body: TaskBody { items: Some(items.to_vec()), ..batch.body }, ..batch });
    result(&reply(&fleet.producer, putting("x", &bytes(10, 1))).await);
    let pending = fleet.producer.pending(batch, std::time::Duration::from_secs(3_600)).await.unwrap();
    result(&reply(&fleet.producer, passing(&["x"], &["later"])).await);
    let ended = pending.await.unwrap();
    assert_eq!((ended.outcome, ended.error.is_none()), (Outcome::Succeeded, true), "{ended:?}");
    let nowhere = reply(&fleet.producer, passing(&["nowhere"], &["y"])).await;
    assert_eq!(error(&nowhere).0, "tensor_missing");
}
