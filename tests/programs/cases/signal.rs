//! Cases of a worker that is sent a signal while a task runs: what becomes of task and worker is what counts.

use std::time::Duration;

use protocol::TaskId;
use serde::Deserialize;
use tests::{program::Program, until::until};
use tokio::time::{Instant, sleep_until};

use super::{
    expect::{ExitCodes, ExpectedReply},
    mailbox::Mailbox,
    message::{Message, Publisher},
    names::Names,
    stage::with_log,
};
use crate::servers::Servers;

/// A case of a signal.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalCase {
    /// What went wrong, for people.
    pub about: String,
    /// The program's arguments, without the servers. It serves one GPU.
    command: Vec<String>,
    /// What is published, in this order.
    amqp: Vec<Message>,
    signal: Signal,
    expect: Expect,
}

/// What the program is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signal {
    /// As `SIGHUP` or `HUP`.
    name: String,
    /// At least so long after the messages, and not before their tasks have begun.
    after_ms: u64,
}

/// What should come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    reply: Option<ExpectedReply>,
    exit: Option<ExitCodes>,
}

impl SignalCase {
    /// Why it cannot be played, or would hold whatever happened.
    pub fn check(&self) -> Result<(), String> {
        if self.amqp.is_empty() {
            return Err("amqp: there is no message".to_owned());
        }
        if self.expect.reply.is_none() && self.expect.exit.is_none() {
            return Err("expect: nothing is named, so every end would be right".to_owned());
        }
        Ok(())
    }

    /// What differs, on a worker of its own.
    pub async fn run(&self) -> Vec<String> {
        let servers = Servers::fresh().await;
        let signal = self.signal.name.trim_start_matches("SIG");
        let arguments: Vec<&str> = self.command.iter().map(String::as_str).collect();
        // Whoever runs the tests may have the signal ignored, as `nohup` does.
        let default = format!("--default-signal={signal}");
        let program = Program::start_with_signals(&default, servers.command_line(&arguments), &[]);
        servers.eligible(1).await;
        let queue = servers.queue().await;
        let mut own = Mailbox::open(&queue).await;
        self.begin(&servers, own.name()).await;
        program.signal(signal);
        with_log(self.differences(&program, &mut own).await, &program)
    }

    /// Publishes the messages, and waits until the signal is due.
    async fn begin(&self, servers: &Servers, own_queue: &str) {
        let producer = servers.producer().await;
        let names = Names::new(servers.prefix(), []);
        let mut publisher = Publisher::connect(servers).await;
        let mut ids = Vec::new();
        for message in &self.amqp {
            ids.extend(publisher.send(message, &names, own_queue).await);
        }
        let due = Instant::now() + Duration::from_millis(self.signal.after_ms);
        for id in ids {
            let task_id = TaskId::new(id).expect("an id that a task can have");
            until("the task has begun", async || {
                let status = producer.status(&task_id).await.expect("the store answers");
                status.is_some_and(|status| status.attempt > 0)
            })
            .await;
        }
        sleep_until(due).await;
    }

    async fn differences(&self, program: &Program, own: &mut Mailbox) -> Vec<String> {
        let mut differences = Vec::new();
        if let Some(expected) = &self.expect.reply {
            match own.next(expected.limit()).await {
                Ok(received) => differences.extend(expected.differences(&received)),
                Err(problem) => differences.push(problem),
            }
        }
        if let Some(expected) = &self.expect.exit {
            differences.extend(expected.difference(Some(program.exit_code().await)));
        }
        differences
    }
}
