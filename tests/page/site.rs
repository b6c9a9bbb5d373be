//! A fleet with a browser before it.

use gateway::url_encoded;
use protocol::config::SecretUrl;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tests::{
    browser::Browser,
    program::Program,
    rabbitmq::PrivateRabbitMq,
    raw_amqp::{RawProperties, RawPublisher},
    redis::PrivateRedis,
    until::until,
};

/// Ids that would run if the page took them for markup. They are ids that the fleet takes.
pub const HOSTILE_IDS: [&str; 2] = ["\"><script>window.__hacked='id'</script>", "<img/src=x/onerror=window.__hacked='img'>"];
/// A text that would run if the page took it for markup, for errors, payloads and results.
pub const HOSTILE_TEXT: &str = "</pre><img src=x onerror=\"window.__hacked='text'\"><script>window.__hacked='script'</script>";
/// A kind that no fleet takes. Its message becomes a dead letter.
pub const HOSTILE_KIND: &str = "<svg/onload=window.__hacked='kind'>";
/// The id of that dead letter.
pub const DEAD: &str = "dead-1";

/// A number that no JavaScript has, as it is in the result of `done`.
pub const EXACT: &str = "12345678901234567890.50";

/// The group of the tasks that wait.
pub const GROUP: &str = "night:1";
/// How many of them there are.
pub const WAITING: usize = 5;
/// Longer than any test.
const LONG_MS: u64 = 3_600_000;

/// `gpufleet up` under names of its own, and a browser.
pub struct Site {
    pub url: String,
    pub browser: Browser,
    http: Client,
    amqp: SecretUrl,
    prefix: String,
    fleet: Option<Program>,
}

impl Site {
    /// A fleet of so many simulated GPUs `sim-0`, `sim-1`, … with one slot each, and no task.
    pub async fn start(gpus: usize) -> Self {
        let prefix = PrivateRedis::fresh_prefix();
        let (amqp, redis) = (PrivateRabbitMq::shared().await.url(), PrivateRedis::shared().await.url());
        let settings =
            [format!("amqp.prefix={prefix}"), format!("redis.prefix={prefix}"), "gpu.multi_gpu.max_concurrent_tasks_per_gpu=1".to_owned()];
        let mut arguments =
            vec!["up".to_owned(), "--simulated".to_owned(), gpus.to_string(), "--listen".to_owned(), "127.0.0.1:0".to_owned()];
        arguments.extend(["--amqp-url", amqp.reveal(), "--redis-url", redis.reveal()].map(str::to_owned));
        arguments.extend(settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]));
        let fleet = Program::start(arguments, &[]);
        let url = fleet.url().await;
        let site = Self { url, browser: Browser::start().await, http: Client::new(), amqp, prefix, fleet: Some(fleet) };
        until("every GPU is eligible", async || {
            let rows = site.get("/api/v1/gpus").await;
            rows["gpus"].as_array().is_some_and(|rows| rows.len() == gpus && rows.iter().all(|row| row["eligible"] == true))
        })
        .await;
        site
    }

    /// Ends the fleet and its gateway at once.
    pub fn end_the_fleet(&mut self) {
        drop(self.fleet.take());
    }

    /// Four GPUs, one of them drained, and tasks in all states: `done`, `failed`, `retrying`, `delayed`, `cancelled`, `running-0` and `running-1`, those that wait in
    /// [`GROUP`], a dead letter, and hostile ones.
    pub async fn with_everything() -> Self {
        let site = Self::start(4).await;
        let payload = format!(r#"{{"said": {}, "exact": {EXACT}}}"#, json!(HOSTILE_TEXT));
        site.sends("/api/v1/tasks", "application/json", format!(r#"{{"kind": "echo", "task_id": "done", "payload": {payload}}}"#)).await;
        let failing = |retry: bool| json!({"duration_ms": 1, "fail": {"code": "oops", "message": HOSTILE_TEXT, "retry": retry}});
        site.submit(json!({"kind": "simulate", "task_id": "failed", "payload": failing(false)})).await;
        site.submit(json!({"kind": "simulate", "task_id": "retrying", "payload": failing(true), "limits": {"max_attempts": 100}})).await;
        site.submit(json!({"kind": "echo", "task_id": "delayed", "delay_ms": LONG_MS})).await;
        site.submit(json!({"kind": "echo", "task_id": "cancelled", "delay_ms": LONG_MS})).await;
        site.asks(Method::DELETE, "/api/v1/tasks/cancelled", None).await;
        for (id, state) in
            [("done", "succeeded"), ("failed", "failed"), ("retrying", "retrying"), ("delayed", "delayed"), ("cancelled", "cancelled")]
        {
            site.until_state(id, state).await;
        }
        site.bury(DEAD).await;
        assert_eq!(site.asks(Method::PUT, "/api/v1/gpus/sim-2/drain", None).await.0, StatusCode::OK);
        for gpu in 0..2 {
            let payload = json!({"duration_ms": LONG_MS, "progress_every_ms": 200});
            let on = json!({"specific_gpu_id": format!("sim-{gpu}")});
            let id = format!("running-{gpu}");
            site.submit(json!({"kind": "simulate", "task_id": id, "payload": payload, "gpu_options": on})).await;
            site.until_state(&id, "running").await;
        }
        // The fourth GPU is free, for the one that is tried again and again.
        let behind = json!({"specific_gpu_id": "sim-0"});
        for number in 0..WAITING {
            site.submit(
                json!({"kind": "echo", "task_id": format!("waiting-{number}"), "group": GROUP, "priority": 3, "gpu_options": behind}),
            )
            .await;
        }
        for id in HOSTILE_IDS {
            site.submit(json!({"kind": "echo", "task_id": id, "payload": HOSTILE_TEXT, "gpu_options": behind})).await;
        }
        site.until_listed("state=waiting", WAITING + HOSTILE_IDS.len()).await;
        site
    }

    /// Publishes a message that is no task, and waits until it is a dead letter.
    pub async fn bury(&self, task_id: &str) {
        let properties = RawProperties::task(task_id, HOSTILE_KIND);
        let mut raw = RawPublisher::connect(&self.amqp).await;
        raw.publish(&format!("{}.tasks.default", self.prefix), &properties, HOSTILE_TEXT.as_bytes()).await;
        until("it is a dead letter", async || self.dead().await == 1).await;
    }

    /// How many dead letters there are.
    pub async fn dead(&self) -> u64 {
        self.get("/api/v1/dead").await["present"].as_u64().unwrap_or_default()
    }

    /// Submits a task.
    pub async fn submit(&self, task: Value) {
        let (status, answer) = self.asks(Method::POST, "/api/v1/tasks", Some(task)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    }

    /// Where a task is.
    pub async fn state(&self, task_id: &str) -> String {
        let status = self.get(&format!("/api/v1/tasks/{}", url_encoded(task_id))).await;
        status["state"].as_str().unwrap_or_default().to_owned()
    }

    pub async fn until_state(&self, task_id: &str, state: &str) {
        until(&format!("task {task_id} is {state}"), async || self.state(task_id).await == state).await;
    }

    /// Waits until so many tasks are listed for a query.
    pub async fn until_listed(&self, query: &str, tasks: usize) {
        let path = format!("/api/v1/tasks?{query}");
        until(&format!("{tasks} tasks are listed for {query}"), async || self.get(&path).await["matching"] == tasks).await;
    }

    pub async fn get(&self, path: &str) -> Value {
        self.asks(Method::GET, path, None).await.1
    }

    /// The status and the JSON of an answer.
    pub async fn asks(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let request = self.http.request(method, format!("{}{path}", self.url));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.expect("an answer");
        (answer.status(), answer.json().await.unwrap_or_default())
    }

    /// The answer to a body that is no JSON.
    pub async fn sends(&self, path: &str, content_type: &str, body: String) -> String {
        let request = self.http.post(format!("{}{path}", self.url)).header("content-type", content_type).body(body);
        request.send().await.expect("an answer").text().await.expect("a whole answer")
    }

    /// The number that a metric of the gateway has now.
    pub async fn metric(&self, name: &str) -> f64 {
        let answer = self.http.get(format!("{}/metrics", self.url)).send().await.expect("an answer");
        let text = answer.text().await.expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).map(str::to_owned);
        line.and_then(|number| number.parse().ok()).unwrap_or_default()
    }

    /// Opens a page of the dashboard (`#/tasks`) and waits until all of it is there.
    pub async fn page(&self, hash: &str) {
        self.browser.open(&format!("{}/{hash}", self.url)).await;
        let here = format!("window.gpufleet?.shown === {} && !document.querySelector('section:not([hidden]) > [aria-busy]')", json!(hash));
        self.browser.until(&format!("the page {hash} is loaded"), &here).await;
    }

    /// That nothing ran that should not, and nothing failed silently.
    pub async fn all_is_well(&self, place: &str) {
        let troubles = self.browser.troubles().await;
        assert!(troubles.is_empty(), "{place}: {troubles:?}");
        assert_eq!(self.browser.value("window.__hacked ?? null").await, Value::Null, "{place}: something of a task ran in the page");
    }
}
