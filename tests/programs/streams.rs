//! Streams of events, from real processes.

use serde_json::{Value, json};
use tests::program::Program;

use crate::{model, servers::Servers};

/// Name and data of every event of a stream, once it ended.
async fn events(answer: reqwest::Response) -> Vec<(String, Value)> {
    assert_eq!((answer.status().as_u16(), answer.headers()["content-type"].to_str().expect("text")), (200, "text/event-stream"));
    let text = answer.text().await.expect("a whole stream");
    let field = |event: &str, name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned);
    let named = |event| Some((field(event, "event")?, serde_json::from_str(&field(event, "data")?).expect("JSON")));
    text.split("\n\n").filter_map(named).collect()
}

fn of<'a>(events: &'a [(String, Value)], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|(event, _)| event == name).map(|(_, data)| data).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn predict_streams_its_text_and_the_pieces_joined_are_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    model::write(folder.path());
    let model = folder.path().to_str().unwrap();
    let fleet = Program::start(["up", "--simulated", "1", "--listen", "127.0.0.1:0", "--model", model], &[]);
    let url = format!("{}/api/v1/predict", fleet.url().await);
    let request = json!({"text": "the way of a task", "max_length": 60, "temperature": 1.0, "seed": 4, "stream": true});
    let answer = reqwest::Client::new().post(&url).json(&request).send().await.unwrap();
    let events = events(answer).await;
    let (first, last) = (events.first().unwrap(), events.last().unwrap());
    assert_eq!((first.0.as_str(), last.0.as_str()), ("accepted", "reply"), "{events:?}");
    let pieces = of(&events, "partial");
    let text: String = pieces.iter().map(|piece| piece["value"].as_str().unwrap()).collect();
    assert_eq!((&last.1["text"], &last.1["task_id"]), (&json!(text), &first.1["task_id"]));
    assert!(pieces.len() > 1 && !of(&events, "progress").is_empty(), "{events:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_is_followed_where_it_was_submitted_with_its_parts_and_elsewhere_without() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(1, &[]).await;
    let elsewhere = servers.start(&["gateway", "--listen", "127.0.0.1:0"]);
    let (here, elsewhere) = (fleet.url().await, elsewhere.url().await);
    let payload = json!({"duration_ms": 3_000, "progress_every_ms": 100, "result": "done"});
    let task = json!({"kind": "simulate", "payload": payload, "task_id": "followed", "progress": true});
    let accepted = reqwest::Client::new().post(format!("{here}/api/v1/tasks")).json(&task).send().await.unwrap();
    assert_eq!(accepted.status(), 202);
    let follow = async |url: &str| events(reqwest::get(format!("{url}/api/v1/tasks/followed/events")).await.unwrap()).await;
    let (here, elsewhere) = tokio::join!(follow(&here), follow(&elsewhere));
    for events in [&here, &elsewhere] {
        let states: Vec<&Value> = of(events, "status").into_iter().map(|status| &status["state"]).collect();
        assert_eq!(states.last(), Some(&&json!("succeeded")));
        assert_eq!(events.last().map(|(name, reply)| (name.as_str(), &reply["result"])), Some(("reply", &json!("done"))));
        let fractions: Vec<f64> = of(events, "progress").into_iter().map(|progress| progress["fraction"].as_f64().unwrap()).collect();
        assert!(fractions.len() > 1 && fractions.is_sorted(), "{fractions:?}");
    }
    let numbers: Vec<u64> = of(&here, "partial").into_iter().map(|part| part["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=29).collect::<Vec<_>>());
    assert_eq!(of(&elsewhere, "partial"), Vec::<&Value>::new());
}
