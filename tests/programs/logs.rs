//! The log: JSON from its first line to its last, one line for each task that did not go well, one for each outage.

use std::{fs, net::TcpListener, path::Path};

use serde_json::{Map, Value, json};
use tests::{
    program::{Program, gpufleet},
    redis::{Persistence, PrivateRedis},
    tasks::{result, simulate, started},
    until::until,
};

use crate::{http::get_json, servers::Servers};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn traceparent() -> String {
    format!("00-{TRACE}-b7ad6b7169203331-01")
}

/// Every line of a log, which is an object with a time and a level.
fn lines(log: &str) -> Vec<Map<String, Value>> {
    let read = |line: &str| -> Map<String, Value> {
        let fields: Map<String, Value> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?} in\n{log}"));
        assert!(["timestamp", "level"].iter().all(|name| fields.get(*name).is_some_and(Value::is_string)), "{line}");
        fields
    };
    log.lines().map(read).collect()
}

fn about<'a>(lines: &'a [Map<String, Value>], name: &str, value: &str) -> Vec<&'a Map<String, Value>> {
    lines.iter().filter(|fields| fields.get(name).is_some_and(|field| field == value)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_in_json_is_json_from_the_first_line_to_the_last() {
    let servers = Servers::fresh().await;
    let json = ["--set", "log.json=true", "--set", "log.level=debug", "--set", "worker.metrics_listen=127.0.0.1:0"];
    let worker = servers.start(&[&["worker", "--simulated", "1"], &json[..]].concat());
    servers.eligible(1).await;
    worker.signal("TERM");
    assert_eq!(worker.exit_code().await, 0, "{}", worker.log());
    let log = lines(&worker.log());
    for said in ["metrics are at http://127.0.0.1:", "works", "left", "a second signal stops at once"] {
        let says = |fields: &Map<String, Value>| fields.get("message").and_then(Value::as_str).is_some_and(|text| text.contains(said));
        assert!(log.iter().any(says), "{said}: {}", worker.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_program_from_serving_is_json_where_the_log_is() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("gpufleet.yaml"), "log:\n  json: true\nworker:\n  leese_ms: 1\n").unwrap();
    let flag = ["--set", "log.json=true"];
    type Variables = &'static [(&'static str, &'static str)];
    let (none, variable): (Variables, Variables) = (&[], &[("GPUFLEET__LOG__JSON", "true")]);
    let nowhere = Path::new("/");
    let with_flag = |arguments: &[&'static str]| [arguments, &flag[..]].concat();
    for (folder, arguments, variables) in [
        (nowhere, with_flag(&["worker", "--simulated", "1"]), none),
        (nowhere, with_flag(&["worker", "--simulated", "1", "--set", "worker.lease_ms=soon", "--set", "worker.offer_ms=later"]), none),
        (nowhere, with_flag(&["worker", "--set", "gpu.enabled=false"]), none),
        (nowhere, vec!["gateway", "--listen", "nowhere"], variable),
        (nowhere, vec!["up", "--simulated", "1", "--listen", &taken], variable),
        (folder.path(), vec!["up", "--simulated", "1"], none),
    ] {
        let ended = gpufleet(folder, &arguments, variables).await;
        assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
        let log = lines(&ended.errors);
        let last = log.last().unwrap_or_else(|| panic!("{arguments:?}: it says nothing"));
        assert!(last["level"] == "ERROR" && last["message"].is_string(), "{arguments:?}: {ended:?}");
    }
    let misread = [("GPUFLEET__LOG__JSON", "true"), ("GPUFLEET_REDIS", "redis://h")];
    let warned = gpufleet(nowhere, ["up", "--simulated", "1", "--listen", &taken], &misread).await;
    let first = &lines(&warned.errors)[0];
    let says = first["message"].as_str().is_some_and(|text| text.starts_with("variable GPUFLEET_REDIS has no effect"));
    assert!(first["level"] == "WARN" && says, "{warned:?}");
    let in_words = gpufleet(nowhere, ["worker", "--simulated", "1"], &[]).await;
    assert!(in_words.errors.starts_with("error: "), "{in_words:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_fails_has_a_line_for_each_attempt_and_one_that_succeeds_has_none() {
    let fleet = Program::start(["up", "--simulated", "1", "--listen", "127.0.0.1:0", "--set", "log.json=true"], &[]);
    let url = fleet.url().await;
    let fail = json!({"fail": {"code": "broken", "message": "as\nasked", "retry": true}});
    for task in [
        json!({"task_id": "good", "kind": "echo"}),
        json!({"task_id": "bad", "kind": "simulate", "payload": fail, "limits": {"max_attempts": 2}}),
    ] {
        let request = reqwest::Client::new().post(format!("{url}/api/v1/tasks")).header("traceparent", traceparent());
        assert_eq!(request.json(&task).send().await.unwrap().status(), 202);
    }
    let state = async |id: &str| get_json(&format!("{url}/api/v1/tasks/{id}")).await.1["state"].clone();
    until("both ended", async || state("good").await == "succeeded" && state("bad").await == "failed").await;
    fleet.signal("TERM");
    assert_eq!(fleet.exit_code().await, 0, "{}", fleet.log());

    let log = lines(&fleet.log());
    assert_eq!(about(&log, "task_id", "good"), Vec::<&Map<String, Value>>::new());
    let bad = about(&log, "task_id", "bad");
    let said: Vec<(&Value, &Value)> = bad.iter().map(|line| (&line["message"], &line["attempt"])).collect();
    assert_eq!(said, [(&json!("attempt failed; another one follows"), &json!(1)), (&json!("task ended"), &json!(2))]);
    for line in &bad {
        let expected = [("level", "INFO"), ("trace_id", TRACE), ("kind", "simulate"), ("code", "broken"), ("gpu_id", "sim-0")];
        assert!(expected.iter().all(|(name, value)| line.get(*name).is_some_and(|field| field == value)), "{line:?}");
        assert!(line["run_ms"].is_number() && line["error"] == "as asked", "{line:?}");
    }
    assert_eq!(bad[1]["outcome"], "failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_debug_a_good_task_is_followed_from_the_gateway_to_its_end() {
    let settings = ["--set", "log.json=true", "--set", "log.level=info,gateway=debug,gpu_worker::settle=debug"];
    let fleet = Program::start([&["up", "--simulated", "1", "--listen", "127.0.0.1:0"], &settings[..]].concat(), &[]);
    let url = fleet.url().await;
    let request = reqwest::Client::new().post(format!("{url}/api/v1/tasks")).header("traceparent", traceparent());
    assert_eq!(request.json(&json!({"task_id": "good", "kind": "echo"})).send().await.unwrap().status(), 202);
    until("it is logged", async || about(&lines_so_far(&fleet), "task_id", "good").len() >= 2).await;
    let log = lines_so_far(&fleet);
    let good = about(&log, "task_id", "good");
    assert!(good.iter().all(|line| line["trace_id"] == TRACE), "{good:?}");
    for said in ["task submitted", "task ended"] {
        assert_eq!(good.iter().filter(|line| line["message"] == said).count(), 1, "{said}: {good:?}");
    }
}

/// The lines that are whole by now.
fn lines_so_far(program: &Program) -> Vec<Map<String, Value>> {
    let log = program.log();
    lines(log.rsplit_once('\n').map_or("", |(whole, _)| whole))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prediction_without_a_result_has_a_line_of_the_gateway() {
    let servers = Servers::fresh().await;
    let settings = ["--set", "log.json=true", "--set", "gateway.predict_timeout_ms=3000"];
    let gateway = servers.start(&[&["gateway", "--listen", "127.0.0.1:0"], &settings[..]].concat());
    let url = gateway.url().await;
    let request = reqwest::Client::new().post(format!("{url}/api/v1/predict")).header("traceparent", traceparent());
    let problem: Value = request.json(&json!({"text": "no worker is there"})).send().await.unwrap().json().await.unwrap();
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code().await, 0, "{}", gateway.log());
    let log = lines(&gateway.log());
    let told = about(&log, "trace_id", TRACE);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["level"], &told[0]["status"]), (&json!("INFO"), &problem["status"]), "{problem}");
    assert_eq!((told[0].get("task_id"), &told[0]["detail"]), (problem.get("task_id"), &problem["detail"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_redis_is_a_line_when_it_begins_and_one_when_it_is_over() {
    let mut redis = PrivateRedis::start(Persistence::AppendOnly).await;
    let servers = Servers::with_redis(redis.url()).await;
    let settings = ["log.json=true", "log.level=info,gpu_worker=debug", "redis.response_timeout_ms=1000"].map(|setting| ["--set", setting]);
    let worker = servers.start(&[&["worker", "--simulated", "1"], settings.as_flattened()].concat());
    servers.eligible(1).await;
    let producer = servers.producer().await;
    let mut pending = Vec::new();
    for n in 0..6 {
        pending.push(started(&producer, simulate(4_000, n)).await);
    }
    redis.kill();
    let tried_again = || about(&lines_so_far(&worker), "message", "will try again").len();
    until("every task was tried again", async || tried_again() >= 12).await;
    redis.restart().await;
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(result(&pending.await.expect("a reply")), json!(n));
    }
    worker.logged("the server answers again").await;
    worker.signal("TERM");
    assert_eq!(worker.exit_code().await, 0, "{}", worker.log());

    let log = lines(&worker.log());
    let store = about(&log, "link", "store");
    let of = |message: &str, level: &str| store.iter().filter(|line| line["message"] == message && line["level"] == level).count();
    let begins = "a server does not answer as it should: everything that needs it is tried again until it does";
    assert_eq!((of(begins, "WARN"), of("the server answers again", "INFO")), (1, 1), "{store:?}");
    let ours = |line: &Map<String, Value>| line["target"].as_str().is_some_and(|target| target.starts_with("gpu_worker"));
    let loud: Vec<_> = log.iter().filter(|line| ours(line) && (line["level"] == "WARN" || line["level"] == "ERROR")).collect();
    assert!(loud.len() <= 4, "one for each link and one of the heartbeat: {loud:?}");
}
