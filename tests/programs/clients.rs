//! AMQP clients that are not ours: pika (Python) and amqplib (Node). Both follow the same plan, so that each case is written once.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use protocol::config::SecretUrl;
use serde_json::{Value, json};
use tests::pages::root;
use tokio::io::AsyncWriteExt;

/// Longest talk of a client. Generous: it bounds a hang.
const LONGEST: Duration = Duration::from_secs(120);

/// Which client.
#[derive(Debug, Clone, Copy)]
pub enum Client {
    Pika,
    Amqplib,
}

/// What a client does: publishes, in this order, and waits for `expect` replies.
pub struct Plan {
    url: SecretUrl,
    direct: bool,
    publishes: Vec<Value>,
    expect: usize,
}

/// One message for the plan.
pub struct Publish<'a> {
    pub exchange: &'a str,
    pub routing_key: &'a str,
    /// By their AMQP names; `reply_to` and `content_type` are the client's.
    pub properties: Value,
    pub body: String,
}

impl Plan {
    /// A client with this login, which has a reply for each publish on an exclusive queue.
    pub fn at(url: &SecretUrl) -> Self {
        Self { url: url.clone(), direct: false, publishes: Vec::new(), expect: 0 }
    }

    /// Replies come by direct reply-to.
    pub fn direct(self) -> Self {
        Self { direct: true, ..self }
    }

    /// One more message, and one more reply.
    pub fn publish(mut self, publish: Publish<'_>) -> Self {
        let Publish { exchange, routing_key, properties, body } = publish;
        self.publishes.push(json!({"exchange": exchange, "routing_key": routing_key, "properties": properties, "body": body}));
        self.expect += 1;
        self
    }
}

impl Client {
    /// Follows the plan; the replies as they came: `correlation_id`, `headers`, `body`.
    ///
    /// # Panics
    /// If the client is not installed, fails, or does not get its replies.
    pub async fn talk(self, plan: Plan) -> Vec<Value> {
        let mut command = tokio::process::Command::from(self.command());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut client = command.spawn().expect("the client starts");
        let Plan { url, direct, publishes, expect } = plan;
        let plan = json!({"url": url.reveal(), "direct": direct, "publishes": publishes, "expect": expect}).to_string();
        client.stdin.take().expect("a pipe").write_all(plan.as_bytes()).await.expect("the client reads");
        let ended = tokio::time::timeout(LONGEST, client.wait_with_output()).await.expect("every reply comes").expect("the client ends");
        assert!(ended.status.success(), "{self:?} failed:\n{}", String::from_utf8_lossy(&ended.stderr));
        let output = String::from_utf8(ended.stdout).expect("text");
        output.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    fn command(self) -> Command {
        let mut command = self.interpreter();
        command.arg(match self {
            Self::Pika => script("pika_client.py"),
            Self::Amqplib => script("amqplib_client.js"),
        });
        command
    }

    /// What runs a text in the client's language, which may use the client.
    pub fn runs(self, text: &str) -> Command {
        let mut command = self.interpreter();
        command.arg(match self {
            Self::Pika => "-c",
            Self::Amqplib => "-e",
        });
        command.arg(text);
        command
    }

    fn interpreter(self) -> Command {
        match self {
            Self::Pika => Command::new(python_with_pika()),
            Self::Amqplib => {
                let modules = root().join("target/clients/node_modules");
                assert!(modules.join("amqplib").exists(), "amqplib for Node is missing: run scripts/install-test-needs");
                let mut command = Command::new("node");
                command.env("NODE_PATH", modules);
                command
            }
        }
    }
}

fn python_with_pika() -> &'static str {
    let has_pika = |python: &str| {
        let found = Command::new(python).args(["-c", "import pika"]).stderr(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    };
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| has_pika(python))
        .expect("pika for Python is missing: run scripts/install-test-needs")
}

fn script(name: &str) -> PathBuf {
    root().join("tests/programs/clients").join(name)
}
