//! Cases of a request to the gateway: its answer is what counts.

use std::collections::BTreeMap;

use reqwest::{Client, Method};
use serde::Deserialize;
use serde_json::json;
use tests::tasks::{echo, reply};

use super::{
    message::Hex,
    prepare::{Prepared, Step, names},
    stage::{Stage, settled},
};

/// What stands for the id of a task that has ended.
const KNOWN_ID: &str = "{any known id}";

/// A case of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestCase {
    /// What went wrong, for people.
    pub about: String,
    #[serde(default)]
    prepare: Vec<Step>,
    http: Request,
    expect: Expect,
}

/// What is asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body_hex: Hex,
}

/// What should come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    status: Option<u16>,
    /// The name of a header that the answer has, whatever its value.
    header: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The status code that a submit is answered with then.
    submit_status: Option<u16>,
    /// The exit code of `gpufleet doctor` then.
    doctor_exit: Option<i32>,
}

impl RequestCase {
    /// Why it would hold whatever happened.
    pub fn check(&self) -> Result<(), String> {
        let Expect { status, header, headers, submit_status, doctor_exit } = &self.expect;
        let of_the_answer = status.is_some() || header.is_some() || !headers.is_empty();
        if of_the_answer || submit_status.is_some() || doctor_exit.is_some() {
            return Ok(());
        }
        Err("expect: nothing is named, so every answer would be right".to_owned())
    }

    /// What differs, on the stage of all cases, or on one of its own if something is prepared there.
    pub async fn run(&self, shared: &Stage) -> Vec<String> {
        if self.prepare.is_empty() {
            let path = self.path(shared).await;
            return [self.ask(shared, &path).await, self.then(shared).await].concat();
        }
        let stage = Stage::apart(&self.prepare, &[]).await;
        let path = self.path(&stage).await;
        let mut prepared = Prepared::by(&self.prepare, &stage, &names(&stage, &self.prepare)).await;
        // What was prepared may take a moment to be noticed.
        let mut differences = settled(async || self.ask(&stage, &path).await).await;
        differences.extend(self.then(&stage).await);
        prepared.free_the_slots().await;
        prepared.clear().await;
        stage.with_log(differences)
    }

    /// The path, with the id of a task if it wants one.
    async fn path(&self, stage: &Stage) -> String {
        let path = &self.http.path;
        if !path.contains(KNOWN_ID) {
            return path.clone();
        }
        let known = reply(&stage.servers.producer().await, echo("known")).await.task_id;
        path.replace(KNOWN_ID, known.as_str())
    }

    /// What differs in the answer.
    async fn ask(&self, stage: &Stage, path: &str) -> Vec<String> {
        let (Request { method, headers, body_hex, .. }, expect) = (&self.http, &self.expect);
        let mut request = Client::new().request(verb(method), format!("{}{path}", stage.url));
        for (name, value) in headers {
            request = request.header(name.as_str(), value.as_str());
        }
        if !body_hex.bytes().is_empty() {
            request = request.body(body_hex.bytes().to_vec());
        }
        let answer = request.send().await.expect("an answer");
        let mut differences = Vec::new();
        let found = answer.status().as_u16();
        differences.extend(expect.status.filter(|status| *status != found).map(|status| format!("the status is {found} and not {status}")));
        let missing = expect.header.iter().filter(|name| !answer.headers().contains_key(name.as_str()));
        differences.extend(missing.map(|name| format!("it has no header {name}")));
        for (name, value) in &expect.headers {
            let found = answer.headers().get(name.as_str());
            if found.is_none_or(|found| found != value.as_str()) {
                differences.push(format!("the header {name} is {found:?} and not {value:?}"));
            }
        }
        differences
    }

    /// What differs in what else is tried once the answer is right.
    async fn then(&self, stage: &Stage) -> Vec<String> {
        let mut differences = Vec::new();
        if let Some(expected) = self.expect.submit_status {
            let submit = Client::new().post(format!("{}/api/v1/tasks", stage.url)).json(&json!({"kind": "echo"}));
            let found = submit.send().await.expect("an answer").status().as_u16();
            if found != expected {
                differences.push(format!("a submit is answered {found} and not {expected}"));
            }
        }
        if let Some(expected) = self.expect.doctor_exit {
            let ended = stage.servers.run(&["doctor"]).await;
            if ended.code != Some(expected) {
                differences.push(format!("gpufleet doctor ends with {:?} and not {expected}:\n{}", ended.code, ended.output));
            }
        }
        differences
    }
}

/// What differs in the status code of the answer to this request, which has no body.
pub async fn status_difference(stage: &Stage, method: &str, path: &str, expected: u16) -> Option<String> {
    let answer = Client::new().request(verb(method), format!("{}{path}", stage.url)).send().await.expect("an answer");
    let found = answer.status().as_u16();
    let text = answer.text().await.expect("text");
    (found != expected).then(|| format!("{method} {path} is answered {found} and not {expected}: {text}"))
}

fn verb(method: &str) -> Method {
    Method::from_bytes(method.as_bytes()).expect("a method of HTTP")
}
