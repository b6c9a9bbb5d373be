//! The routes for operators: settings, drains, models, dead letters; and who may use them.

use gateway::GatewayOptions;
use protocol::{Envelope, GpuId, PoolName, Strategy, claim::Settings, config::Operate, envelope::Headers};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use task_queue::{Outgoing, Queue, Target, TaskQueue};

use crate::fleet::{Fleet, Setup, json as read, pool, problem};

impl Fleet {
    pub async fn ask(&self, method: Method, path: &str) -> Response {
        self.http.request(method, format!("{}{path}", self.url)).send().await.expect("an answer")
    }

    pub async fn put(&self, path: &str, body: &Value) -> Response {
        self.http.put(format!("{}{path}", self.url)).json(body).send().await.expect("an answer")
    }

    /// Puts a dead letter into its queue.
    pub async fn bury(&self, id: &str, body: &'static str) {
        self.queue.declare(&Queue::Dead).await.expect("declared");
        let headers = Headers { reason: Some("as the test wants it".to_owned()), ..Headers::default() };
        let (message_id, kind) = (Some(id.to_owned()), Some("echo".to_owned()));
        let envelope = Envelope { message_id, kind, headers, ..Envelope::default() };
        self.queue.publish(Outgoing::new(Target::Queue(Queue::Dead), envelope, body.into())).await.expect("published");
    }

    /// How many dead letters are in their queue, and in nobody's hand.
    pub async fn dead(&self) -> u32 {
        self.queue.depth(&Queue::Dead).await.expect("an answer").map_or(0, |depth| depth.ready)
    }
}

#[tokio::test]
async fn the_settings_are_read_without_being_written() {
    let initial_settings = Settings { default_strategy: Strategy::TaskSpecific, ..Settings::default() };
    let options = GatewayOptions { initial_settings, ..GatewayOptions::default() };
    let fleet = Setup { options, kinds: &[], ..Setup::default() }.start().await;
    let shown = read(fleet.get("/api/v1/settings").await).await;
    assert_eq!((&shown["default_strategy"], &shown["version"]), (&json!("task_specific"), &json!(0)), "{shown}");
    let current = async || fleet.table.current_settings(&PoolName::default()).await.expect("settings");
    assert_eq!(current().await, None);

    let changed = read(fleet.put("/api/v1/settings/strategy", &json!({"strategy": "round_robin"})).await).await;
    assert_eq!((&changed["default_strategy"], &changed["version"]), (&json!("round_robin"), &json!(1)), "{changed}");
    assert_eq!(current().await.expect("some").default_strategy, Strategy::RoundRobin);
    assert_eq!(read(fleet.get("/api/v1/settings").await).await, changed);
}

#[tokio::test]
async fn a_wrong_strategy_is_answered_with_what_there_is() {
    let fleet = Fleet::start().await;
    for (body, detail) in [
        (json!({"strategy": "fastest"}), "strategy: \"fastest\" is no strategy; there are round_robin, least_loaded and task_specific"),
        (json!({"strategy": 7}), "strategy: must be text, not 7"),
        (json!({}), "strategy: is missing; it must be text"),
        (json!({"strategy": "round_robin", "now": true}), "now: is unknown; known are strategy"),
    ] {
        let document = problem(fleet.put("/api/v1/settings/strategy", &body).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(document["detail"], detail, "{body}");
    }
}

#[tokio::test]
async fn a_gpu_drains_and_takes_tasks_again() {
    let fleet = Fleet::start().await;
    let draining = async || read(fleet.get("/api/v1/gpus").await).await["gpus"][0]["draining"].clone();
    for _ in 0..2 {
        let settings = read(fleet.ask(Method::PUT, "/api/v1/gpus/sim-0/drain").await).await;
        assert_eq!((&settings["draining"], draining().await), (&json!(["sim-0"]), json!(true)), "{settings}");
    }
    for _ in 0..2 {
        let settings = read(fleet.ask(Method::DELETE, "/api/v1/gpus/sim-0/drain").await).await;
        assert_eq!((&settings["draining"], draining().await), (&json!([]), json!(false)), "{settings}");
    }
    for method in [Method::PUT, Method::DELETE] {
        let document = problem(fleet.ask(method, "/api/v1/gpus/sim-9/drain").await, StatusCode::NOT_FOUND).await;
        assert_eq!(document["field"], "gpu_id", "{document}");
    }
    let settings = fleet.table.current_settings(&PoolName::default()).await.expect("settings").expect("some");
    assert_eq!(settings.draining, Vec::<GpuId>::new());
}

#[tokio::test]
async fn a_wish_for_a_model_is_taken_down_for_the_gpus_that_are_meant() {
    let fleet = Fleet::start().await;
    let wish = async |path: &str, body: &Value| {
        fleet.http.post(format!("{}/api/v1/models/{path}", fleet.url)).json(body).send().await.expect("an answer")
    };
    let taken = read(wish("a%2Fb%3A%20c/pin", &json!({})).await).await;
    assert_eq!((&taken["wish"]["number"], &taken["wish"]["model"], &taken["wish"]["action"]), (&json!(1), &json!("a/b: c"), &json!("pin")));
    assert_eq!(taken["on"], json!(["sim-0"]), "{taken}");
    let taken = read(wish("m/load", &json!({"gpus": ["sim-0"]})).await).await;
    assert_eq!((&taken["wish"]["number"], &taken["wish"]["gpus"]), (&json!(2), &json!(["sim-0"])), "{taken}");
    let models = read(fleet.get("/api/v1/models").await).await;
    assert_eq!(models["pins"], json!([{"model": "a/b: c", "everywhere": true}]), "{models}");
    assert_eq!((&models["gpus"][0]["gpu_id"], &models["gpus"][0]["wishes_done"]), (&json!("sim-0"), &json!(0)), "no worker has done them");
    read(wish("a%2Fb%3A%20c/unpin", &json!({})).await).await;
    assert_eq!(read(fleet.get("/api/v1/models").await).await["pins"], json!([]));
    for (path, body, status, field) in [
        ("m/load", json!({"gpus": ["sim-9"]}), StatusCode::NOT_FOUND, "gpus"),
        ("m/load", json!({"gpus": ["sim 0"]}), StatusCode::UNPROCESSABLE_ENTITY, "gpus[0]"),
        ("m/load", json!({"gpu": "sim-0"}), StatusCode::UNPROCESSABLE_ENTITY, "gpu"),
        ("a%0Ab/load", json!({}), StatusCode::UNPROCESSABLE_ENTITY, "model"),
    ] {
        let document = problem(wish(path, &body).await, status).await;
        assert_eq!(document["field"], field, "{document}");
    }
    assert_eq!(wish("m/forget", &json!({})).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn dead_letters_are_listed_and_stay_where_they_are() {
    let fleet = Fleet::start().await;
    assert_eq!(read(fleet.get("/api/v1/dead").await).await, json!({"present": 0, "letters": []}));
    for id in ["a", "b", "c"] {
        fleet.bury(id, "{\"payload\": 1}").await;
    }
    let listed = read(fleet.get("/api/v1/dead?limit=2").await).await;
    let ids: Vec<&Value> = listed["letters"].as_array().expect("a list").iter().map(|letter| &letter["task_id"]).collect();
    assert_eq!((&listed["present"], ids), (&json!(3), vec![&json!("a"), &json!("b")]), "{listed}");
    let letter = &listed["letters"][0];
    assert_eq!((&letter["reason"], &letter["body"]), (&json!("as the test wants it"), &json!("{\"payload\": 1}")), "{letter}");
    assert_eq!((&letter["kind"], &letter["body_bytes"]), (&json!("echo"), &json!(14)), "{letter}");
    let shown = read(fleet.get("/api/v1/dead/a").await).await;
    assert_eq!(shown, json!([letter]));
    problem(fleet.get("/api/v1/dead/nobody").await, StatusCode::NOT_FOUND).await;
    assert_eq!(fleet.dead().await, 3);
    let again = read(fleet.get("/api/v1/dead").await).await;
    let ids: Vec<&Value> = again["letters"].as_array().expect("a list").iter().map(|letter| &letter["task_id"]).collect();
    assert_eq!(ids, ["a", "b", "c"], "in the same order");
}

#[tokio::test]
async fn a_dead_letter_is_a_task_again() {
    let fleet = Fleet::start().await;
    for id in ["a", "b"] {
        fleet.bury(id, "{\"payload\": 1}").await;
    }
    let kept = read(fleet.ask(Method::POST, "/api/v1/dead/a/requeue").await).await;
    assert_eq!((&kept["requeued"], &kept["kept"][0]["task_id"]), (&json!(0), &json!("a")), "no worker has declared its pool: {kept}");
    assert_eq!(fleet.dead().await, 2);

    fleet.queue.declare(&pool()).await.expect("declared");
    let requeued = read(fleet.ask(Method::POST, "/api/v1/dead/a/requeue").await).await;
    assert_eq!(requeued, json!({"requeued": 1, "kept": []}));
    let task = fleet.queue.take(&pool()).await.expect("an answer").expect("a task");
    assert_eq!((task.envelope.message_id.as_deref(), &task.body[..]), (Some("a"), &b"{\"payload\": 1}"[..]));
    assert!(task.envelope.timestamp.is_some() && task.envelope.headers.reason.is_none(), "{:?}", task.envelope);
    problem(fleet.ask(Method::POST, "/api/v1/dead/a/requeue").await, StatusCode::NOT_FOUND).await;

    let all = read(fleet.ask(Method::POST, "/api/v1/dead?requeue=all").await).await;
    assert_eq!((all, fleet.dead().await), (json!({"requeued": 1, "kept": []}), 0));
    let none = read(fleet.ask(Method::POST, "/api/v1/dead?requeue=all").await).await;
    assert_eq!(none, json!({"requeued": 0, "kept": []}));
}

#[tokio::test]
async fn dead_letters_are_purged() {
    let fleet = Fleet::start().await;
    for id in ["a", "b", "c"] {
        fleet.bury(id, "{}").await;
    }
    let one = read(fleet.ask(Method::DELETE, "/api/v1/dead/b").await).await;
    assert_eq!((one, fleet.dead().await), (json!({"purged": 1}), 2));
    problem(fleet.ask(Method::DELETE, "/api/v1/dead/b").await, StatusCode::NOT_FOUND).await;
    let all = read(fleet.ask(Method::DELETE, "/api/v1/dead?all=true").await).await;
    assert_eq!((all, fleet.dead().await), (json!({"purged": 2}), 0));
}

#[tokio::test]
async fn a_request_that_lost_its_task_id_reaches_no_letter() {
    let fleet = Fleet::start().await;
    fleet.bury("a", "{}").await;
    for (method, path, field) in [
        (Method::DELETE, "/api/v1/dead", "all"),
        (Method::DELETE, "/api/v1/dead?all=false", "all"),
        (Method::DELETE, "/api/v1/dead?everything=true", "all"),
        (Method::POST, "/api/v1/dead", "requeue"),
        (Method::POST, "/api/v1/dead?requeue=a", "requeue"),
        (Method::GET, "/api/v1/dead?limit=1001", "limit"),
        (Method::GET, "/api/v1/dead?limit=-1", "limit"),
    ] {
        let document = problem(fleet.ask(method.clone(), path).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(document["field"], field, "{method} {path}: {document}");
    }
    assert_eq!(fleet.dead().await, 1);
}

/// Every documented operation that may be answered 403: its method and a path.
fn operators_requests() -> Vec<(Method, String)> {
    let document = gateway::openapi();
    let paths = document["paths"].as_object().expect("paths").iter();
    let operations =
        paths.flat_map(|(path, methods)| methods.as_object().expect("methods").iter().map(move |(method, said)| (path, method, said)));
    let served = operations.filter(|(_, _, said)| said["responses"]["403"].is_object());
    served
        .map(|(path, method, _)| {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            (method, path.replace("{task_id}", "a").replace("{gpu_id}", "sim-0").replace("{model}", "m"))
        })
        .collect()
}

async fn all_are_refused(fleet: &Fleet, words: &[&str]) {
    fleet.bury("a", "{}").await;
    let requests = operators_requests();
    assert_eq!(requests.len(), 20);
    for (method, path) in requests {
        let document = problem(fleet.ask(method.clone(), &path).await, StatusCode::FORBIDDEN).await;
        let detail = document["detail"].as_str().expect("text");
        assert!(words.iter().all(|word| detail.contains(word)), "{method} {path}: {detail}");
    }
    assert_eq!(fleet.dead().await, 1);
    assert_eq!(fleet.get("/api/v1/gpus").await.status(), StatusCode::OK, "what only shows the fleet is served");
}

#[tokio::test]
async fn operators_are_refused_where_the_configuration_says_so() {
    let options = GatewayOptions { operate: Operate::Never, ..GatewayOptions::default() };
    let fleet = Setup { options, ..Setup::default() }.start().await;
    all_are_refused(&fleet, &["gateway.operate is never"]).await;
}

#[tokio::test]
async fn operators_are_served_beyond_this_host_only_if_that_is_said() {
    let everywhere = Setup { listen: "0.0.0.0:0", ..Setup::default() }.start().await;
    all_are_refused(&everywhere, &["gateway.operate is loopback", "listens on 0.0.0.0:", "always"]).await;
    let options = GatewayOptions { operate: Operate::Always, ..GatewayOptions::default() };
    let said = Setup { options, listen: "0.0.0.0:0", ..Setup::default() }.start().await;
    assert_eq!(said.get("/api/v1/settings").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_page_of_another_host_operates_nothing() {
    let fleet = Fleet::start().await;
    fleet.bury("a", "{}").await;
    let from = async |origin: &str| {
        let url = format!("{}/api/v1/dead?requeue=all", fleet.url);
        fleet.http.post(url).header("origin", origin).send().await.expect("an answer")
    };
    let document = problem(from("http://gpu.example").await, StatusCode::FORBIDDEN).await;
    assert!(document["detail"].as_str().is_some_and(|detail| detail.contains("\"http://gpu.example\"")), "{document}");
    assert_eq!(fleet.dead().await, 1);
    assert_eq!(from("http://localhost:8080").await.status(), StatusCode::OK);
}
