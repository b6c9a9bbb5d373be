//! Batches: a list of texts for `predict`, tasks with items, and their events.

use std::collections::BTreeSet;

use protocol::{ItemCounts, ItemResult, Outcome, TaskError};
use reqwest::StatusCode;
use serde_json::{Value, json};
use task_queue::TaskQueue;

use crate::{
    fleet::{Fleet, json as read, pool, problem},
    streaming::{Hand, Listener},
};

const PREDICT: &str = "/api/v1/predict";
const TASKS: &str = "/api/v1/tasks";

fn of(result: Value) -> ItemResult {
    ItemResult::succeeded(result.into())
}

/// What `predict` gives for a text, or its refusal of a text that has no letter.
fn continued(index: u32, payload: &Value) -> Result<Value, TaskError> {
    let text = payload["text"].as_str().expect("text");
    if text.chars().any(char::is_alphabetic) {
        return Ok(json!({"text": format!("{text} and on"), "tokens": 2}));
    }
    Err(TaskError::new("invalid_payload", "must have a letter").at(format!("items[{index}].text")))
}

#[tokio::test]
async fn a_list_of_texts_is_one_task_with_an_item_for_each_and_is_answered_in_order() {
    let fleet = Fleet::start().await;
    fleet.work_on_items(|index, item| continued(index, &item.to().expect("JSON"))).await;
    let response = fleet.post(PREDICT, &json!({"text": ["one", "2", "three"], "seed": 7})).await;
    assert_eq!(response.status(), StatusCode::OK, "an item that fails does so alone");
    let answer = read(response).await;
    let failed = json!({"error": {"code": "invalid_payload", "message": "must have a letter", "field": "text[1]"}});
    let results = json!([{"text": "one and on", "tokens": 2}, failed, {"text": "three and on", "tokens": 2}]);
    assert_eq!(answer["results"], results);
    assert_eq!((&answer["items"], &answer["gpu_ids"]), (&json!({"of": 3, "done": 3, "failed": 1}), &json!(["sim-0", "sim-1"])));
    assert!(answer["task_id"].is_string() && answer["timings"]["run_ms"].is_number() && answer["attempt"] == 1, "{answer}");
}

#[tokio::test]
async fn what_is_asked_of_a_list_is_asked_of_each_of_its_texts() {
    let fleet = Fleet::start().await;
    let request = json!({"text": ["a", "b"], "max_length": 9, "seed": 7, "on_error": "fail", "gpu_options": {"batch_split": true}});
    let asking = fleet.post(PREDICT, &request);
    let taking = async {
        let hand = fleet.take().await;
        fleet.begin(&hand).await;
        let body = hand.body();
        fleet.finish_batch(hand, &[of(json!({"text": "c"})), of(json!({"text": "d"}))]).await;
        body
    };
    let (answer, body) = tokio::join!(asking, taking);
    let items = json!([{"text": "a", "max_length": 9, "seed": 7}, {"text": "b", "max_length": 9, "seed": 7}]);
    assert_eq!(body, json!({"items": items, "on_error": "fail", "gpu_options": {"batch_split": true}}));
    assert_eq!(read(answer).await["results"], json!([{"text": "c"}, {"text": "d"}]));
}

#[tokio::test]
async fn a_list_that_fails_as_a_whole_is_a_problem_that_names_the_text() {
    let cases = [
        ("invalid_payload", Some("items[1].text"), StatusCode::UNPROCESSABLE_ENTITY, json!("text[1]")),
        ("invalid_payload", Some("items[1].max_length"), StatusCode::UNPROCESSABLE_ENTITY, json!("max_length")),
        ("out_of_memory", Some("items[1]"), StatusCode::BAD_GATEWAY, json!("text[1]")),
        ("reply_too_large", None, StatusCode::BAD_GATEWAY, Value::Null),
        ("reply_too_large", Some("items"), StatusCode::BAD_GATEWAY, json!("text")),
    ];
    for (code, field, status, named) in cases {
        let fleet = Fleet::start().await;
        let error = TaskError { field: field.map(str::to_owned), ..TaskError::new(code, "because") };
        fleet.work(move |_| Err((Outcome::Failed, error.clone()))).await;
        let document = problem(fleet.post(PREDICT, &json!({"text": ["a", "b"], "on_error": "fail"})).await, status).await;
        assert_eq!((&document["code"], &document["field"]), (&json!(code), &named), "{document}");
        let hint = format!("{}/results", document["status_url"].as_str().expect("a place"));
        let ran = code == "reply_too_large" && named.is_null();
        assert_eq!(document["detail"].as_str().expect("text").contains(&hint), ran, "{document}");
    }
}

#[tokio::test]
async fn a_text_that_is_none_is_named_and_nothing_is_submitted() {
    let fleet = Fleet::start().await;
    fleet.queue.declare(&pool()).await.expect("declare");
    let mut texts = vec!["a"; 18];
    texts[17] = "";
    let document = problem(fleet.post(PREDICT, &json!({"text": texts})).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(document["field"], "text[17]", "{document}");
    assert_eq!(fleet.queue.depth(&pool()).await.expect("a broker").expect("a queue").ready, 0);
}

#[tokio::test]
async fn a_streamed_list_tells_each_text_once_and_then_the_whole() {
    let fleet = Fleet::start().await;
    let request = json!({"text": ["a", "b", "c", "d"], "stream": true});
    let mut events = Listener::new(fleet.post(PREDICT, &request).await);
    events.expect("accepted").await;
    let mut hand = fleet.take().await;
    fleet.begin(&hand).await;
    let failed = ItemResult::failed(TaskError::new("invalid_payload", "because").at("items[3].text"));
    let all = [of(json!({"text": "A"})), of(json!({"text": "B"})), of(json!({"text": "C"})), failed.clone()];
    hand.say_items("2..4", 1, &[(3, failed)]).await;
    assert_eq!(events.expect("progress").await, json!({"fraction": 0.25, "items": {"of": 4, "done": 1}}));
    let error = json!({"code": "invalid_payload", "message": "because", "field": "text[3]"});
    assert_eq!(events.expect("item").await, json!({"index": 3, "error": error}));
    hand.say_items("0..2", 2, &[(0, all[0].clone())]).await;
    assert_eq!(events.expect("progress").await["items"]["done"], 2);
    assert_eq!(events.expect("item").await, json!({"index": 0, "text": "A"}));

    fleet.finish_batch(hand, &all).await;
    assert_eq!(events.expect("item").await, json!({"index": 1, "text": "B"}));
    assert_eq!(events.expect("item").await, json!({"index": 2, "text": "C"}));
    let reply = events.expect("reply").await;
    assert_eq!(reply["results"], json!([{"text": "A"}, {"text": "B"}, {"text": "C"}, {"error": error}]));
    assert_eq!(reply["items"], json!({"of": 4, "done": 4, "failed": 1}));
    assert_eq!(events.next().await, None);
}

async fn submit(fleet: &Fleet, progress: bool) -> (String, Hand) {
    let response = fleet.post(TASKS, &json!({"kind": "echo", "task_id": "b", "items": [1, 2, 3, 4], "progress": progress})).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let hand = fleet.take().await;
    assert_eq!(hand.body(), json!({"items": [1, 2, 3, 4]}));
    fleet.begin(&hand).await;
    (format!("{TASKS}/b/events"), hand)
}

fn results(numbers: impl IntoIterator<Item = u32>) -> Vec<ItemResult> {
    numbers.into_iter().map(|number| of(json!(number))).collect()
}

#[tokio::test]
async fn slices_that_speak_at_once_are_all_heard_and_each_item_is_told_once() {
    let fleet = Fleet::start().await;
    let (path, mut hand) = submit(&fleet, true).await;
    let mut events = fleet.listen(&path).await;
    assert_eq!(events.expect("status").await["state"], "running");
    // The slice that speaks second has the lower token: it is no earlier attempt of the one that spoke first.
    hand.say_items("2..4", 1, &[(2, of(json!(3)))]).await;
    hand.say_items("0..2", 2, &[(0, of(json!(1)))]).await;
    hand.say_items("2..4", 2, &[(2, of(json!("again"))), (3, of(json!(4)))]).await;
    fleet.finish_batch(hand, &results(1..=4)).await;

    let (mut told, mut done) = (Vec::new(), Vec::new());
    let reply = loop {
        let heard = events.next().await.expect("the stream ends with the reply");
        match heard.name.as_str() {
            "item" => told.push((heard.data["index"].clone(), heard.data["result"].clone())),
            "progress" => done.extend(heard.data["items"]["done"].as_u64()),
            "reply" => break heard.data,
            other => assert_eq!(other, "status"),
        }
    };
    assert_eq!(told, [2, 0, 3, 1].map(|index| (json!(index), json!(index + 1))), "the last one out of the reply");
    assert!(done.is_sorted() && done.contains(&2), "{done:?}");
    assert_eq!(reply["results"], json!([{"result": 1}, {"result": 2}, {"result": 3}, {"result": 4}]));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_batch_of_another_gateway_shows_its_counts_and_its_results_at_the_end() {
    let fleet = Fleet::start().await;
    let (path, hand) = submit(&fleet, false).await;
    let mut events = fleet.listen(&path).await;
    assert_eq!(events.expect("status").await["state"], "running");
    fleet.note_items(&hand, 0.5, Some(ItemCounts { of: 4, done: 2, failed: None })).await;
    let progress = events.expect("progress").await;
    assert_eq!((&progress["fraction"], &progress["items"]["done"]), (&json!(0.5), &json!(2)), "{progress}");
    fleet.finish_batch(hand, &results(1..=4)).await;
    let mut indices = BTreeSet::new();
    loop {
        let heard = events.next().await.expect("the stream ends with the reply");
        match heard.name.as_str() {
            "item" => assert!(indices.insert(heard.data["index"].as_u64().expect("a number")), "{heard:?}"),
            "reply" => break,
            other => assert!(["status", "progress"].contains(&other), "{heard:?}"),
        }
    }
    assert_eq!(indices, BTreeSet::from([0, 1, 2, 3]));
}

#[tokio::test]
async fn a_client_that_comes_back_is_not_told_again_of_the_items_it_had() {
    let fleet = Fleet::start().await;
    let (path, mut hand) = submit(&fleet, true).await;
    hand.say_items("0..4", 2, &[(1, of(json!(2))), (0, of(json!(1)))]).await;
    let mut first = fleet.listen(&path).await;
    first.expect("status").await;
    first.expect("progress").await;
    let last = first.next().await.expect("an item");
    assert_eq!(last.data, json!({"index": 1, "result": 2}));
    drop(first);
    let id = last.id.expect("an id").to_string();
    let again = fleet.http.get(format!("{}{path}", fleet.url)).header("Last-Event-ID", id).send().await.expect("an answer");
    let mut again = Listener::new(again);
    again.expect("status").await;
    assert_eq!(again.expect("item").await["index"], 0);
    fleet.finish_batch(hand, &results(1..=4)).await;
    let mut indices = Vec::new();
    loop {
        let heard = again.next().await.expect("the stream ends with the reply");
        match heard.name.as_str() {
            "item" => indices.push(heard.data["index"].clone()),
            "reply" => break,
            _ => {}
        }
    }
    assert_eq!(indices, [2, 3]);
}
