//! Lists of tasks, and what is done over a filter: listed, cancelled, requeued; the log of one, and why it waits.

use std::{collections::BTreeSet, sync::Arc};

use gateway::GatewayOptions;
use protocol::{Kind, Needs, Outcome, PoolName, StepName, TaskError, TaskId, TaskStep, config::Operate, envelope::PRIORITY_MAX};
use reqwest::StatusCode;
use serde_json::{Value, json};
use task_queue::TaskQueue;
use task_store::{JournalBounds, MemoryStore, StoreOptions};

use crate::{
    down::{DownStore, DownTable},
    fleet::{Fleet, Setup, environment, heartbeat, json as read, pool, problem, until},
};

const TASKS: &str = "/api/v1/tasks";

/// A step of a task, just now.
pub fn step(task_id: &str, name: StepName) -> TaskStep {
    TaskStep::new(name, TaskId::new(task_id).expect("valid"), PoolName::default(), environment().clock.now_ms())
}

/// A task was submitted.
pub fn submitted(task_id: &str, kind: &str, priority: u8) -> TaskStep {
    let submitted = step(task_id, StepName::Submitted);
    let (kind, published_ms) = (Some(Kind::new(kind).expect("valid")), Some(submitted.at_ms));
    TaskStep { kind, published_ms, priority: Some(priority), ..submitted }
}

impl Fleet {
    /// Tells steps to the journal, as workers and producers do.
    pub fn tell(&self, steps: impl IntoIterator<Item = TaskStep>) {
        for step in steps {
            self.store.journal().tell(step);
        }
    }

    /// A list, once so many tasks pass its filter.
    async fn listed(&self, query: &str, matching: u64) -> Value {
        let path = format!("{TASKS}?{query}");
        until(&format!("{matching} tasks with {query}"), async || read(self.get(&path).await).await, |page| page["matching"] == matching)
            .await
    }
}

fn ids(page: &Value) -> Vec<&str> {
    page["tasks"].as_array().expect("a list").iter().map(|task| task["task_id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn tasks_are_listed_by_what_they_are() {
    let fleet = Fleet::start().await;
    fleet.tell([submitted("a-1", "echo", 0), submitted("a-2", "embed", 9), submitted("b-1", "echo", 9)]);
    let error = Some(TaskError::new("out_of_memory", "The GPU has no room"));
    let began = TaskStep { gpu_id: Some("sim-0".parse().expect("valid")), attempt: Some(1), ..step("a-1", StepName::Began) };
    fleet.tell([began, TaskStep { outcome: Some(Outcome::Failed), error, ..step("a-1", StepName::Ended) }]);
    fleet.tell([step("a-1", StepName::Buried)]);
    let all = fleet.listed("dead=true", 1).await;
    assert_eq!((ids(&all), &all["tasks"][0]["state"], &all["indexed"]), (vec!["a-1"], &json!("failed"), &json!(3)), "{all}");
    for (query, wanted) in [
        ("kind=echo", vec!["a-1", "b-1"]),
        ("kind=echo&kind=embed", vec!["a-1", "a-2", "b-1"]),
        ("kind=echo&priority=9", vec!["b-1"]),
        ("state=waiting", vec!["a-2", "b-1"]),
        ("state=waiting&state=failed&id_prefix=a-", vec!["a-1", "a-2"]),
        ("error=NO%20room", vec!["a-1"]),
        ("gpu_id=sim-0", vec!["a-1"]),
        ("dead=false", vec!["a-2", "b-1"]),
        ("older_than_ms=3600000", vec![]),
        ("newer_than_ms=3600000&state=failed", vec!["a-1"]),
        ("group=nobody", vec![]),
    ] {
        let page = fleet.listed(query, wanted.len() as u64).await;
        let found: BTreeSet<&str> = ids(&page).into_iter().collect();
        assert_eq!(found, wanted.into_iter().collect(), "{query}");
    }
}

#[tokio::test]
async fn a_wrong_filter_is_refused_with_what_it_may_be() {
    let fleet = Fleet::start().await;
    for (query, field, words) in [
        ("state=foo", "state", "one of delayed, waiting, running, retrying, succeeded, failed, cancelled, expired"),
        ("priority=10", "priority", "0 to 9"),
        ("limit=0", "limit", "1 to 1000"),
        ("colour=red", "query", "id_prefix"),
        ("limit=1&limit=2", "limit", "twice"),
    ] {
        let document = problem(fleet.get(&format!("{TASKS}?{query}")).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(document["field"], field, "{document}");
        assert!(document["detail"].as_str().expect("text").contains(words), "{document}");
    }
}

#[tokio::test]
async fn ten_thousand_tasks_are_listed_in_pages_that_lack_none() {
    let fleet = Fleet::start().await;
    fleet.tell((0..10_000_u32).map(|number| submitted(&format!("t-{number}"), "echo", u8::try_from(number % 10).expect("small"))));
    let first = fleet.listed("limit=1000", 10_000).await;
    assert_eq!(first["indexed"], 10_000);
    let (mut seen, mut page) = (BTreeSet::new(), first);
    loop {
        let found = ids(&page);
        assert!(found.len() <= 1_000);
        for task_id in found {
            assert!(seen.insert(task_id.to_owned()), "{task_id} is listed twice");
        }
        let Some(next) = page["next"].as_str() else { break };
        let path = format!("{TASKS}?limit=1000&after={}", gateway::url_encoded(next));
        page = read(fleet.get(&path).await).await;
    }
    assert_eq!(seen.len(), 10_000);
    let of_one = fleet.listed(&format!("priority={PRIORITY_MAX}&limit=7"), 1_000).await;
    assert_eq!(ids(&of_one).len(), 7);
}

#[tokio::test]
async fn the_log_of_a_task_has_its_steps_and_an_unknown_one_has_none() {
    let fleet = Fleet::start().await;
    let waits = TaskStep { reason: Some("its slots are busy".to_owned()), ..step("t", StepName::Waits) };
    fleet.tell([submitted("t", "echo", 5), waits]);
    fleet.listed("id_prefix=t", 1).await;
    let log = read(fleet.get(&format!("{TASKS}/t/log")).await).await;
    let steps: Vec<&Value> = log["steps"].as_array().expect("steps").iter().map(|step| &step["step"]).collect();
    assert_eq!((&log["task_id"], steps), (&json!("t"), vec![&json!("submitted"), &json!("waits")]), "{log}");
    assert_eq!(log["steps"][1]["reason"], "its slots are busy");
    problem(fleet.get(&format!("{TASKS}/nobody/log")).await, StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn why_a_task_waits_says_what_keeps_each_gpu_from_taking_it() {
    let fleet = Fleet::start().await;
    let needs = Some(Needs { memory_mb: Some(500_000), ..Needs::default() });
    fleet.tell([TaskStep { needs, ..submitted("large", "echo", 0) }]);
    assert_eq!(fleet.post(TASKS, &json!({"kind": "echo", "task_id": "known"})).await.status(), StatusCode::ACCEPTED);
    fleet.listed("id_prefix=large", 1).await;
    let why = read(fleet.get(&format!("{TASKS}/large/why")).await).await;
    assert_eq!((&why["task_id"], &why["state"]), (&json!("large"), &json!("waiting")), "{why}");
    assert_eq!((&why["gpus"][0]["gpu_id"], &why["gpus"][0]["fits"]), (&json!("sim-0"), &json!(false)), "{why}");
    assert!(why["sentence"].as_str().is_some_and(|sentence| !sentence.is_empty()), "{why}");
    let known = read(fleet.get(&format!("{TASKS}/known/why")).await).await;
    assert_eq!(known["state"], "waiting", "{known}");
    problem(fleet.get(&format!("{TASKS}/nobody/why")).await, StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn only_operators_are_told_which_tasks_are_before_another() {
    for (operate, named) in [(Operate::Always, json!(["first"])), (Operate::Never, Value::Null)] {
        let options = GatewayOptions { operate, ..GatewayOptions::default() };
        let fleet = Setup { options, ..Setup::default() }.start().await;
        fleet.tell([submitted("first", "echo", 9), submitted("second", "echo", 0)]);
        let path = format!("{TASKS}/second/why");
        let why = until("one is before it", async || read(fleet.get(&path).await).await, |why| why["ahead"] == 1).await;
        assert_eq!(why["first_ahead"], named, "{why}");
    }
}

#[tokio::test]
async fn the_open_tasks_of_a_filter_are_cancelled_once_and_noted() {
    let fleet = Fleet::start().await;
    let submit = async |task_id: &str, kind: &str| {
        let response = fleet.post(TASKS, &json!({"kind": kind, "task_id": task_id})).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        fleet.tell([submitted(task_id, kind, 0)]);
    };
    submit("done", "echo").await;
    let hand = fleet.take().await;
    fleet.begin(&hand).await;
    // Its last step got lost.
    fleet.finish(hand, json!(1)).await;
    for (task_id, kind) in [("a", "echo"), ("b", "echo"), ("c", "predict")] {
        submit(task_id, kind).await;
    }
    fleet.listed("state=waiting", 4).await;
    let path = format!("{TASKS}:cancel");
    for nothing in [json!({}), json!({"id_prefix": "", "older_than_ms": 0, "slices": true})] {
        let empty = problem(fleet.post(&path, &nothing).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(empty["field"], "all", "{empty}");
    }
    let ended = problem(fleet.post(&path, &json!({"state": ["failed"]})).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(ended["field"], "state", "{ended}");
    let unknown = problem(fleet.post(&path, &json!({"kinds": ["echo"]})).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(unknown["field"], "kinds", "{unknown}");

    let cancelled = read(fleet.post(&path, &json!({"kind": ["echo"]})).await).await;
    assert_eq!(cancelled, json!({"matching": 3, "cancelled": 2, "ended": 1, "more": false}));
    let again = read(fleet.post(&path, &json!({"kind": ["echo"]})).await).await;
    assert_eq!(again, json!({"matching": 0, "cancelled": 0, "ended": 0, "more": false}), "their end was asked for");
    let done = fleet.listed("state=succeeded", 1).await;
    assert_eq!(ids(&done), ["done"], "the store knows how it ended");
    let rest = read(fleet.post(&format!("{path}?all=true"), &json!({})).await).await;
    assert_eq!((&rest["matching"], &rest["cancelled"]), (&json!(1), &json!(1)), "{rest}");
    let actions = read(fleet.get("/api/v1/actions").await).await;
    let noted: Vec<&Value> = actions["actions"].as_array().expect("a list").iter().map(|action| &action["action"]).collect();
    assert_eq!(noted, ["cancel", "cancel"], "{actions}");
    assert!(actions["actions"][1]["target"].as_str().is_some_and(|target| target.starts_with("kind echo")), "{actions}");
    assert_eq!(actions["actions"][1]["detail"], "2 of 3 cancelled, 1 had ended");
}

#[tokio::test]
async fn a_task_whose_last_step_was_lost_does_not_run_for_ever() {
    let fleet = Setup { kinds: &[], ..Setup::default() }.start().await;
    let mut beat = heartbeat("sim-0", &["echo"]);
    beat.row.running = vec![TaskId::new("alive").expect("valid")];
    fleet.table.heartbeat(&beat).await.expect("a table");
    let long_ago_ms = environment().clock.now_ms() - 1_200_000;
    for task_id in ["alive", "ghost"] {
        let began = TaskStep { gpu_id: Some("sim-0".parse().expect("valid")), attempt: Some(1), ..step(task_id, StepName::Began) };
        fleet.tell([submitted(task_id, "echo", 0), began].map(|step| TaskStep { at_ms: long_ago_ms, ..step }));
    }
    let ghost = fleet.listed("state=expired", 1).await;
    assert_eq!(ids(&ghost), ["ghost"], "the store knows nothing of it");
    assert_eq!(ids(&fleet.listed("state=running", 1).await), ["alive"], "its GPU's row names it");
}

#[tokio::test]
async fn a_cancel_of_another_pools_task_makes_none_that_waits_in_this_one() {
    let fleet = Fleet::start().await;
    // Who cancels by id does not know the pool of the task, and names its own.
    fleet.tell([step("of-another-pool", StepName::CancelAsked), submitted("here", "echo", 0), step("here", StepName::CancelAsked)]);
    let page = fleet.listed("state=cancelled", 1).await;
    assert_eq!((ids(&page), &page["tasks"][0]["cancel_asked"], &page["indexed"]), (vec!["here"], &json!(true), &json!(1)), "{page}");
}

#[tokio::test]
async fn more_than_a_thousand_tasks_are_cancelled_by_asking_again() {
    let fleet = Fleet::start().await;
    fleet.tell((0..1_500_u32).map(|number| submitted(&format!("t-{number}"), "echo", 0)));
    fleet.listed("state=waiting", 1_500).await;
    let path = format!("{TASKS}:cancel");
    let first = read(fleet.post(&path, &json!({"kind": ["echo"]})).await).await;
    assert_eq!(first, json!({"matching": 1_500, "cancelled": 1_000, "ended": 0, "more": true}));
    let second = read(fleet.post(&path, &json!({"kind": ["echo"]})).await).await;
    assert_eq!(second, json!({"matching": 500, "cancelled": 500, "ended": 0, "more": false}));
}

#[tokio::test]
async fn the_dead_letters_of_a_filter_are_tasks_again() {
    let fleet = Fleet::start().await;
    fleet.queue.declare(&pool()).await.expect("declared");
    for (task_id, kind) in [("a", "echo"), ("b", "embed"), ("c", "echo")] {
        fleet.bury(task_id, "{\"payload\": 1}").await;
        let ended = TaskStep { outcome: Some(Outcome::Failed), ..step(task_id, StepName::Ended) };
        fleet.tell([submitted(task_id, kind, 0), ended, step(task_id, StepName::Buried)]);
    }
    fleet.bury("unheard-of", "{\"payload\": 1}").await;
    fleet.listed("dead=true", 3).await;
    let path = format!("{TASKS}:requeue");
    for nothing in [json!({}), json!({"id_prefix": ""})] {
        assert_eq!(problem(fleet.post(&path, &nothing).await, StatusCode::BAD_REQUEST).await["field"], "all");
    }
    let none = read(fleet.post(&path, &json!({"kind": ["predict"]})).await).await;
    assert_eq!((none, fleet.dead().await), (json!({"matching": 0, "requeued": 0, "refused": 0, "more": false}), 4));
    let requeued = read(fleet.post(&path, &json!({"kind": ["echo"]})).await).await;
    assert_eq!((requeued, fleet.dead().await), (json!({"matching": 2, "requeued": 2, "refused": 0, "more": false}), 2));
    let all = read(fleet.post(&format!("{path}?all=true"), &json!({})).await).await;
    assert_eq!((&all["requeued"], fleet.dead().await), (&json!(2), 0), "also of what the journal knows nothing: {all}");
    let actions = read(fleet.get("/api/v1/actions?limit=1").await).await;
    assert_eq!((&actions["actions"][0]["action"], &actions["actions"][0]["target"]), (&json!("requeue"), &json!("all tasks")), "{actions}");
}

#[tokio::test]
async fn dead_letters_are_requeued_however_many_tasks_were_heard_of_after_theirs() {
    let fleet = Fleet::start().await;
    fleet.queue.declare(&pool()).await.expect("declared");
    let dead = |task_id: &str| {
        let ended = TaskStep { outcome: Some(Outcome::Failed), ..step(task_id, StepName::Ended) };
        [submitted(task_id, "echo", 0), ended, step(task_id, StepName::Buried)]
    };
    fleet.bury("first", "{\"payload\": 1}").await;
    fleet.tell(dead("first"));
    fleet.listed("dead=true", 1).await;
    fleet.tell((0..1_100_u32).flat_map(|number| dead(&format!("later-{number}"))));
    fleet.listed("dead=true", 1_101).await;
    let requeued = read(fleet.post(&format!("{TASKS}:requeue"), &json!({"kind": ["echo"]})).await).await;
    assert_eq!(requeued, json!({"matching": 1_101, "requeued": 1, "refused": 0, "more": true}), "the letters of the others are not there");
    assert_eq!(fleet.dead().await, 0);
}

#[tokio::test]
async fn without_steps_lists_say_so_and_the_overview_has_what_the_servers_say() {
    let options = StoreOptions::default();
    let options = StoreOptions { journal: JournalBounds { steps_max: 0, ..options.journal }, ..options };
    let store = Arc::new(MemoryStore::new(environment().clock, options));
    let fleet = Setup { store, ..Setup::default() }.start().await;
    for path in [TASKS, "/api/v1/tasks/t/log", "/api/v1/history"] {
        let document = problem(fleet.get(path).await, StatusCode::CONFLICT).await;
        assert_eq!(document["type"], "urn:gpufleet:problem:no-steps", "{path}");
        assert!(document["detail"].as_str().expect("text").contains("journal.steps_max is 0"), "{document}");
    }
    let overview = read(fleet.get("/api/v1/overview").await).await;
    assert_eq!((&overview["gpus"]["living"], &overview["ready"]), (&json!(1), &json!(0)), "{overview}");
}

#[tokio::test]
async fn nothing_of_the_servers_behind_shows_while_they_are_away() {
    let fleet = Setup { table: Arc::new(DownTable), store: Arc::new(DownStore::default()), ..Setup::default() }.start().await;
    fleet.queue.close().await;
    let overview = async || {
        let response = fleet.get("/api/v1/overview").await;
        assert_eq!(response.status(), StatusCode::OK, "an overview says what is away");
        read(response).await
    };
    let overview =
        until("all are seen to be away", overview, |seen| seen["servers_away"].as_array().is_some_and(|away| away.len() == 3)).await;
    let away: Vec<&str> = overview["servers_away"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(away, ["broker: it does not answer", "store: it does not answer", "table: it does not answer"], "{overview}");
    for path in ["/api/v1/scaling", "/api/v1/tasks/t/why", "/api/v1/history", "/api/v1/actions"] {
        let document = problem(fleet.get(path).await, StatusCode::SERVICE_UNAVAILABLE).await.to_string();
        assert!(["redis://", "nowhere", "refused"].iter().all(|inner| !document.contains(inner)), "{path}: {document}");
    }
}
