//! `/api/v1/groups`: what is shown of groups, what cancels them, and what the bounds answer.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use protocol::{GroupName, Outcome, TaskId};
use reqwest::StatusCode;
use serde_json::{Value, json};
use task_queue::TaskQueue;
use task_store::{Arrival, Counted, MemoryStore, StoreOptions};
use tokio::sync::Semaphore;

use crate::{
    down::DownStore,
    fleet::{Fleet, Setup, environment, json, pool, problem},
    streaming::Hand,
};

const TASKS: &str = "/api/v1/tasks";
const GROUPS: &str = "/api/v1/groups";

async fn submit(fleet: &Fleet, group: &str, task_id: &str) {
    let response = fleet.post(TASKS, &json!({"kind": "echo", "task_id": task_id, "payload": 1, "group": group})).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
}

async fn cancel(fleet: &Fleet, group: &str) -> Value {
    let response = fleet.http.delete(format!("{}{GROUPS}/{group}", fleet.url)).send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    json(response).await
}

fn group(name: &str) -> GroupName {
    name.parse().expect("a valid name")
}

fn id(id: &str) -> TaskId {
    id.parse().expect("a valid id")
}

/// Ends the task in hand, as a worker does: record, group, reply.
async fn finish(fleet: &Fleet, name: &str, hand: Hand) {
    let (task_id, groups) = (hand.task_id.clone(), fleet.store.clone());
    fleet.finish(hand, json!("done")).await;
    assert_eq!(groups.groups().note_ended(&group(name), &task_id, Outcome::Succeeded).await, Ok(Counted::Yes));
}

#[tokio::test]
async fn tasks_of_a_group_are_counted_listed_and_named_by_their_group() {
    let fleet = Fleet::start().await;
    for task_id in ["b", "a", "c"] {
        submit(&fleet, "nightly:7", task_id).await;
    }
    let shown = json(fleet.get(&format!("{GROUPS}/nightly%3A7")).await).await;
    let counts = json!({"waiting": 3, "running": 0, "retrying": 0, "succeeded": 0, "failed": 0, "cancelled": 0, "expired": 0});
    assert_eq!(
        (&shown["group"], &shown["counts"], &shown["total"], &shown["ended"]),
        (&json!("nightly:7"), &counts, &json!(3), &json!(false))
    );
    assert_eq!(json(fleet.get(&format!("{TASKS}/a")).await).await["group"], "nightly:7");
    let hand = fleet.take().await;
    assert_eq!(hand.envelope().headers.group, Some(group("nightly:7")), "its workers know");

    fleet.begin(&hand).await;
    finish(&fleet, "nightly:7", hand).await;
    let path = format!("{GROUPS}/nightly:7/tasks");
    let page = json(fleet.get(&format!("{path}?limit=2")).await).await;
    assert_eq!(page, json!({"tasks": [{"task_id": "a", "state": "waiting"}, {"task_id": "b", "state": "succeeded"}], "next": "b"}));
    let page = json(fleet.get(&format!("{path}?limit=2&after=b")).await).await;
    assert_eq!(page, json!({"tasks": [{"task_id": "c", "state": "waiting"}]}));
    let page = json(fleet.get(&format!("{path}?state=succeeded")).await).await;
    assert_eq!(page, json!({"tasks": [{"task_id": "b", "state": "succeeded"}]}));
    assert!(fleet.get("/metrics").await.text().await.expect("a body").lines().any(|line| line == "gateway_groups 1"));
}

#[tokio::test]
async fn groups_are_listed_the_newest_first_page_by_page() {
    let fleet = Fleet::start().await;
    assert_eq!(json(fleet.get(GROUPS).await).await, json!({"groups": []}));
    for (number, name) in ["one", "two", "three"].into_iter().enumerate() {
        submit(&fleet, name, &number.to_string()).await;
        // The clock is the system's: the next one is made at a later time.
        let made = json(fleet.get(&format!("{GROUPS}/{name}")).await).await["first_seen_ms"].as_u64().expect("a time");
        while environment().clock.now_ms() <= made {
            tokio::task::yield_now().await;
        }
    }
    let names = |list: &Value| -> Vec<String> {
        list["groups"].as_array().expect("groups").iter().map(|group| group["group"].as_str().expect("a name").to_owned()).collect()
    };
    let first = json(fleet.get(&format!("{GROUPS}?limit=2")).await).await;
    assert_eq!((names(&first), &first["next"]), (vec!["three".to_owned(), "two".to_owned()], &json!("two")));
    let second = json(fleet.get(&format!("{GROUPS}?limit=2&after=two")).await).await;
    assert_eq!((names(&second), &second["next"]), (vec!["one".to_owned()], &Value::Null));
}

#[tokio::test]
async fn a_cancel_reaches_all_members_and_what_no_worker_has_seen() {
    let fleet = Fleet::start().await;
    for task_id in ["ended", "runs", "waits"] {
        submit(&fleet, "g", task_id).await;
    }
    let (ended, runs) = (fleet.take().await, fleet.take().await);
    fleet.begin(&ended).await;
    finish(&fleet, "g", ended).await;
    fleet.begin(&runs).await;
    let answer = json!({"group": "g", "waiting": 1, "running": 1, "ended": 1});
    assert_eq!(cancel(&fleet, "g").await, answer);
    assert_eq!(cancel(&fleet, "g").await, answer, "asking again changes nothing");
    assert!(fleet.store.cancel_asked(&id("runs")).await.expect("a store"), "its worker finds the mark");
    assert_eq!(json(fleet.get(&format!("{TASKS}/waits")).await).await["state"], "cancelled");
    assert_eq!(fleet.store.groups().arrive(&group("g"), &id("unseen"), Some(1)).await, Ok(Arrival::Cancelled));
    submit(&fleet, "g", "later").await;
    assert_eq!(fleet.store.groups().arrive(&group("g"), &id("later"), None).await, Ok(Arrival::Open));
    // A group of which nobody has seen a task yet.
    assert_eq!(cancel(&fleet, "published").await, json!({"group": "published", "waiting": 0, "running": 0, "ended": 0}));
    assert_eq!(fleet.store.groups().arrive(&group("published"), &id("first"), Some(1)).await, Ok(Arrival::Cancelled));
}

#[tokio::test]
async fn a_cancel_of_a_group_of_many_tells_all_of_them() {
    let fleet = Fleet::start().await;
    let groups = fleet.store.groups();
    for number in 0..450 {
        groups.arrive(&group("many"), &id(&format!("task-{number}")), None).await.expect("a store");
    }
    assert_eq!(cancel(&fleet, "many").await, json!({"group": "many", "waiting": 450, "running": 0, "ended": 0}));
}

#[tokio::test]
async fn a_group_is_followed_with_its_replies_until_all_have_ended() {
    let fleet = Fleet::start().await;
    for task_id in ["a", "b"] {
        submit(&fleet, "g", task_id).await;
    }
    let mut counts = fleet.listen(&format!("{GROUPS}/g/events")).await;
    assert_eq!(counts.expect("counts").await["counts"]["waiting"], 2);
    let hands = [fleet.take().await, fleet.take().await];
    for hand in hands {
        fleet.begin(&hand).await;
        finish(&fleet, "g", hand).await;
    }
    // At a bounded pace: what happened in between may be told at once.
    let last = loop {
        let event = counts.expect("counts").await;
        if event["ended"] == true {
            break event;
        }
    };
    assert_eq!((&last["counts"]["succeeded"], &last["total"]), (&json!(2), &json!(2)));
    assert_eq!(counts.next().await, None);

    let mut replies = fleet.listen(&format!("{GROUPS}/g/events?replies=true")).await;
    for (number, task_id) in [(1, "a"), (2, "b")] {
        let event = replies.next().await.expect("a reply");
        assert_eq!((event.name.as_str(), event.id, &event.data["task_id"]), ("reply", Some(number), &json!(task_id)));
        assert_eq!(event.data["result"], "done");
    }
    assert_eq!(replies.expect("counts").await["ended"], true);
    assert_eq!(replies.next().await, None);

    let again = fleet.http.get(format!("{}{GROUPS}/g/events?replies=true", fleet.url)).header("Last-Event-ID", "1");
    let mut again = crate::streaming::Listener::new(again.send().await.expect("an answer"));
    assert_eq!(again.expect("reply").await["task_id"], "b");
    assert_eq!(again.expect("counts").await["ended"], true);
}

#[tokio::test]
async fn large_replies_of_a_group_are_told_one_after_the_other_and_each_once() {
    let fleet = Fleet::start().await;
    for task_id in ["a", "b", "c", "d"] {
        submit(&fleet, "g", task_id).await;
    }
    let large = "x".repeat(700_000);
    for task_id in ["a", "b", "c", "d"] {
        let hand = fleet.take().await;
        fleet.begin(&hand).await;
        fleet.finish(hand, json!(large)).await;
        assert_eq!(fleet.store.groups().note_ended(&group("g"), &id(task_id), Outcome::Succeeded).await, Ok(Counted::Yes));
    }
    let mut replies = fleet.listen(&format!("{GROUPS}/g/events?replies=true")).await;
    let mut told = Vec::new();
    loop {
        let event = replies.next().await.expect("an event");
        if event.name == "counts" && event.data["ended"] == true {
            break;
        }
        if event.name == "reply" {
            assert_eq!(event.data["result"], large.as_str());
            told.push((event.id, event.data["task_id"].as_str().expect("an id").to_owned()));
        }
    }
    assert_eq!(told, [(Some(1), "a".to_owned()), (Some(2), "b".to_owned()), (Some(3), "c".to_owned()), (Some(4), "d".to_owned())]);
}

#[tokio::test]
async fn a_task_beyond_a_bound_is_a_conflict_and_leaves_nothing_behind() {
    let options = StoreOptions { group_members_max: 1, groups_max: 1, ..StoreOptions::default() };
    let store = Arc::new(MemoryStore::new(environment().clock, options));
    let fleet = Setup { store, ..Setup::default() }.start().await;
    submit(&fleet, "g", "first").await;
    for (name, key) in [("g", "store.group_members_max"), ("other", "store.groups_max")] {
        let request = json!({"kind": "echo", "task_id": "second", "group": name});
        let document = problem(fleet.post(TASKS, &request).await, StatusCode::CONFLICT).await;
        assert_eq!((&document["type"], &document["field"]), (&json!("urn:gpufleet:problem:group-full"), &json!("group")));
        assert!(document["detail"].as_str().expect("text").contains(key), "{document}");
        problem(fleet.get(&format!("{TASKS}/second")).await, StatusCode::NOT_FOUND).await;
    }
    let response = fleet.http.delete(format!("{}{GROUPS}/other", fleet.url)).send().await.expect("an answer");
    problem(response, StatusCode::CONFLICT).await;
    assert_eq!(fleet.queue.depth(&pool()).await.expect("a broker").expect("a queue").ready, 1);
    submit(&fleet, "g", "first").await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named() {
    let fleet = Fleet::start().await;
    submit(&fleet, "g", "a").await;
    for (query, field) in [
        ("?limit=0", "limit"),
        ("?limit=101", "limit"),
        ("?limit=many", "limit"),
        ("?after=a%20b", "after"),
        ("?after=never", "after"),
        ("?colour=red", "query"),
    ] {
        let document = problem(fleet.get(&format!("{GROUPS}{query}")).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(document["field"], field, "{query}: {document}");
    }
    for (path, field) in [
        ("tasks?limit=1001", "limit"),
        ("tasks?state=gone", "state"),
        ("tasks?after=a%20b", "after"),
        ("tasks?limit=1&limit=2", "query"),
        ("events?replies=perhaps", "replies"),
        ("events?reply=true", "replies"),
    ] {
        let document = problem(fleet.get(&format!("{GROUPS}/g/{path}")).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(document["field"], field, "{path}: {document}");
    }
    for path in ["never", "a%20b", "%FF", "never/tasks", "never/events"] {
        let document = problem(fleet.get(&format!("{GROUPS}/{path}")).await, StatusCode::NOT_FOUND).await;
        assert_eq!(document["field"], "group", "{path}");
    }
    let document = problem(fleet.post(TASKS, &json!({"kind": "echo", "group": "a b"})).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(document["field"], "group");
}

#[tokio::test]
async fn without_the_store_nothing_is_known_of_groups_and_the_answer_is_503() {
    let store = Arc::new(DownStore::default());
    let fleet = Setup { store: store.clone(), ..Setup::default() }.start().await;
    for path in ["", "/g", "/g/tasks", "/g/events"] {
        problem(fleet.get(&format!("{GROUPS}{path}")).await, StatusCode::SERVICE_UNAVAILABLE).await;
    }
    let response = fleet.http.delete(format!("{}{GROUPS}/g", fleet.url)).send().await.expect("an answer");
    problem(response, StatusCode::SERVICE_UNAVAILABLE).await;
    // A scrape does not wait for it, and not each one asks it.
    for _ in 0..3 {
        let metrics = tokio::time::timeout(Duration::from_secs(30), fleet.get("/metrics")).await.expect("an answer in time");
        assert_eq!(metrics.status(), StatusCode::OK);
    }
    assert_eq!(store.counts.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_cancel_of_a_group_goes_on_without_its_client() {
    let store = Arc::new(DownStore { cancels_held: Some(Semaphore::new(0)), ..DownStore::default() });
    let fleet = Setup { store: store.clone(), ..Setup::default() }.start().await;
    let [began, ended] = &store.cancels;
    let asking = tokio::spawn(fleet.http.delete(format!("{}{GROUPS}/g", fleet.url)).send());
    while began.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    asking.abort();
    // Until the gateway has seen that its client is gone: this request has the only connection.
    while !fleet.get("/metrics").await.text().await.expect("a body").lines().any(|line| line == "gateway_connections 1") {}
    store.cancels_held.as_ref().expect("held").add_permits(1);
    let goes_on = async {
        while ended.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), goes_on).await.expect("it goes on");
}
