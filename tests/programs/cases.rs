//! Every small input that once went wrong, sent as it was then: the files of `tests/cases`.

mod case;
mod expect;

use std::{collections::BTreeMap, fs, num::NonZeroU16, path::Path, sync::Arc, time::Duration};

use protocol::{Reply, config::SecretUrl, envelope::Headers};
use task_queue::{Queue, RabbitMq, TaskQueue};
use tests::raw_amqp::RawPublisher;

use self::{case::Case, expect::HttpAfter};
use crate::servers::Servers;

/// Longest wait for a reply. Generous: it bounds what a case without one costs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all cases share.
#[derive(Clone)]
struct Stage {
    amqp: SecretUrl,
    queue: Arc<RabbitMq>,
    pool: String,
    /// The gateway.
    url: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_input_that_once_went_wrong_ends_as_it_should() {
    let files = files();
    assert!(!files.is_empty(), "there are no cases");
    let servers = Servers::fresh().await;
    let fleet = servers.up(1, &["--set", "gpu.multi_gpu.max_concurrent_tasks_per_gpu=8"]).await;
    let stage = Stage {
        amqp: servers.amqp().clone(),
        queue: servers.queue().await,
        pool: servers.configuration.worker.pool.to_string(),
        url: fleet.url().await,
    };
    let mut failures = Vec::new();
    for (name, text) in files {
        // In a job of its own: a case that panics leaves the others to be tried.
        let differences = tokio::spawn(stage.clone().run(text)).await.unwrap_or_else(|panicked| vec![panicked.to_string()]);
        failures.extend(differences.into_iter().map(|difference| format!("{name}: {difference}")));
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// The texts of all cases by the names of their files. Whatever is not the page about them is taken for one.
fn files() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let entries = fs::read_dir(folder).expect("the folder of the cases").map(|entry| entry.expect("an entry"));
    let files = entries.filter(|entry| entry.file_name() != "README.md");
    files.map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file"))).collect()
}

impl Stage {
    /// Runs a case; what differs from what it expects.
    async fn run(self, text: Vec<u8>) -> Vec<String> {
        let case = match Case::read(&text) {
            Ok(case) => case,
            Err(problem) => return vec![problem],
        };
        let mut differences = Vec::new();
        match self.first_reply(&case).await {
            Ok((reply, headers)) => differences.extend(case.expect.difference(&reply, &headers)),
            Err(problem) => differences.push(problem),
        }
        if let Some(expected) = &case.expect.http_after {
            differences.extend(self.ask(expected).await);
        }
        differences.into_iter().map(|difference| format!("{difference}\n    ({})", case.about)).collect()
    }

    /// Publishes the messages of a case, and waits for the first reply that comes to its own queue, with its headers.
    async fn first_reply(&self, case: &Case) -> Result<(Reply, Headers), String> {
        let own = Queue::Reply(format!("case-{}", uuid::Uuid::new_v4().simple()));
        self.queue.declare(&own).await.expect("the private broker");
        let mut replies = self.queue.consume(&own, NonZeroU16::MIN).await.expect("the private broker");
        let names = self.queue.names();
        // A connection of its own: what one case does to it is not the next one's trouble.
        let mut publisher = RawPublisher::connect(&self.amqp).await;
        for message in &case.amqp {
            for properties in message.copies(&names.queue(&own)) {
                publisher.publish_to(names.exchange().as_bytes(), self.pool.as_bytes(), &properties, message.body()).await;
            }
        }
        let delivery = tokio::time::timeout(PATIENCE, replies.next()).await.map_err(|_| format!("no reply came within {PATIENCE:?}"))?;
        let delivery = delivery.ok_or("the reply queue is closed")?;
        let reply = serde_json::from_slice(&delivery.body).map_err(|error| format!("the reply cannot be read: {error}"))?;
        Ok((reply, delivery.envelope.headers))
    }

    /// What differs in the answer to this request.
    async fn ask(&self, expected: &HttpAfter) -> Option<String> {
        let HttpAfter { method, path, status } = expected;
        let verb = reqwest::Method::from_bytes(method.as_bytes()).expect("a method of HTTP");
        let answer = reqwest::Client::new().request(verb, format!("{}{path}", self.url)).send().await.expect("an answer");
        let found = answer.status().as_u16();
        let text = answer.text().await.expect("text");
        (found != *status).then(|| format!("{method} {path} is answered {found} and not {status}: {text}"))
    }
}
