//! What is done before the messages or the request of a case are sent.

use std::{collections::BTreeMap, time::Duration};

use protocol::{Json, TaskId};
use serde::Deserialize;
use tests::{
    rabbitmq::PrivateRabbitMq,
    raw_amqp::{RawProperties, RawPublisher},
    tasks::simulate,
    until::until,
};
use tokio::time::{Instant, sleep_until};

use super::{
    broker::{self, Argument},
    message::Hex,
    names::Names,
    stage::{SLOTS, Stage},
};

/// How long a task that keeps a slot busy would run if nobody cancelled it. Longer than a slow machine takes to publish a case's messages.
const HELD_MS: u64 = 300_000;

/// One step.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Written")]
pub enum Step {
    /// A queue is declared, and messages are put into it.
    Queue(OwnQueue),
    /// A queue is deleted with all that is in it.
    DeleteQueue(String),
    /// The broker is given a policy.
    Policy(Policy),
    /// Redis is given a command.
    Redis(Vec<String>),
    /// All slots run tasks, at least for so many milliseconds and until everything is sent.
    BusyMs(u64),
}

/// A queue of the case's own.
#[derive(Debug)]
pub struct OwnQueue {
    name: String,
    arguments: BTreeMap<String, Argument>,
    messages: Vec<Hex>,
}

/// A policy of the broker for queues.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pattern: String,
    definition: Json,
}

/// A step as it stands in a case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    queue: Option<String>,
    #[serde(default)]
    arguments: BTreeMap<String, Argument>,
    #[serde(default)]
    messages_hex: Vec<Hex>,
    delete_queue: Option<String>,
    policy: Option<Policy>,
    redis: Option<Vec<String>>,
    busy_ms: Option<u64>,
}

impl TryFrom<Written> for Step {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written { queue, arguments, messages_hex: messages, delete_queue, policy, redis, busy_ms } = written;
        if queue.is_none() && !(arguments.is_empty() && messages.is_empty()) {
            return Err("arguments and messages_hex belong to a queue, and none is named".to_owned());
        }
        let steps = [
            queue.map(|name| Self::Queue(OwnQueue { name, arguments, messages })),
            delete_queue.map(Self::DeleteQueue),
            policy.map(Self::Policy),
            redis.filter(|words| !words.is_empty()).map(Self::Redis),
            busy_ms.map(Self::BusyMs),
        ];
        let steps: Vec<Self> = steps.into_iter().flatten().collect();
        match <[Self; 1]>::try_from(steps) {
            Ok([step]) => Ok(step),
            Err(steps) => Err(format!("a step of `prepare` does one thing, and this one does {}", steps.len())),
        }
    }
}

impl Step {
    /// The queue that it declares.
    fn declares(&self) -> Option<&str> {
        match self {
            Self::Queue(queue) => Some(&queue.name),
            _ => None,
        }
    }
}

/// The names of a case with these steps on a stage.
pub fn names(stage: &Stage, steps: &[Step]) -> Names {
    Names::new(stage.servers.prefix(), steps.iter().filter_map(Step::declares))
}

/// A stage that was prepared, until that is taken back.
pub struct Prepared<'a> {
    stage: &'a Stage,
    busy: Vec<TaskId>,
    busy_until: Instant,
    policies: Vec<String>,
    queues: Vec<String>,
}

impl<'a> Prepared<'a> {
    /// Takes the steps in their order.
    pub async fn by(steps: &[Step], stage: &'a Stage, names: &Names) -> Self {
        let mut prepared = Self { stage, busy: Vec::new(), busy_until: Instant::now(), policies: Vec::new(), queues: Vec::new() };
        for step in steps {
            match step {
                Step::Queue(queue) => prepared.declare(queue, names).await,
                Step::DeleteQueue(name) => broker::delete_queue(stage.servers.amqp(), &names.on_broker(name)).await,
                Step::Policy(policy) => prepared.set_policy(policy, names).await,
                Step::Redis(words) => stage.command_redis(words).await,
                Step::BusyMs(ms) => prepared.occupy(Duration::from_millis(*ms)).await,
            }
        }
        prepared
    }

    async fn declare(&mut self, queue: &OwnQueue, names: &Names) {
        let (amqp, name) = (self.stage.servers.amqp(), names.on_broker(&queue.name));
        broker::declare_queue(amqp, &name, &queue.arguments).await;
        let mut publisher = RawPublisher::connect(amqp).await;
        for message in &queue.messages {
            publisher.publish(&name, &RawProperties::default(), message.bytes()).await;
        }
        self.queues.push(name);
    }

    async fn set_policy(&mut self, policy: &Policy, names: &Names) {
        let name = format!("{}-{}", self.stage.servers.prefix(), self.policies.len());
        let (pattern, definition) = (names.on_broker(&policy.pattern), policy.definition.as_str());
        let broker = PrivateRabbitMq::shared().await;
        broker.control(&["set_policy", "--apply-to", "queues", &name, &pattern, definition]).await;
        self.policies.push(name);
    }

    /// One slot after the other: a task that finds all slots free never waits in the queue, whatever was prepared there.
    async fn occupy(&mut self, busy: Duration) {
        let producer = self.stage.servers.producer().await;
        for n in 0..SLOTS {
            let task_id = producer.submit(simulate(HELD_MS, n)).await.expect("submitted").task_id;
            until("one more slot is busy", async || {
                let status = producer.status(&task_id).await.expect("the store answers");
                status.is_some_and(|status| status.attempt > 0)
            })
            .await;
            self.busy.push(task_id);
        }
        self.busy_until = Instant::now() + busy;
    }

    /// Ends the tasks that keep the slots busy, once they have run for as long as the case says. Called when everything is sent.
    pub async fn free_the_slots(&mut self) {
        if self.busy.is_empty() {
            return;
        }
        sleep_until(self.busy_until).await;
        let producer = self.stage.servers.producer().await;
        for task_id in self.busy.drain(..) {
            let _was = producer.cancel(&task_id).await.expect("the store answers");
        }
    }

    /// Takes back what the broker would keep. The rest goes with the stage.
    pub async fn clear(self) {
        for name in &self.policies {
            PrivateRabbitMq::shared().await.control(&["clear_policy", name]).await;
        }
        for name in &self.queues {
            broker::delete_queue(self.stage.servers.amqp(), name).await;
        }
    }
}

#[test]
fn a_step_does_one_thing() {
    let step = |text: &str| serde_json::from_str::<Step>(text);
    let right = [
        r#"{"queue": "full", "arguments": {"x-max-length": 1, "x-overflow": "reject-publish"}, "messages_hex": ["6f"]}"#,
        r#"{"delete_queue": "gpufleet.dead"}"#,
        r#"{"policy": {"pattern": "^gpufleet", "definition": {"max-length": 2}}}"#,
        r#"{"redis": ["CONFIG", "SET", "maxmemory", "1"]}"#,
        r#"{"busy_ms": 1}"#,
    ];
    for text in right {
        assert!(step(text).is_ok(), "{text}: {:?}", step(text));
    }
    let wrong = [
        ("{}", "does 0"),
        (r#"{"busy_ms": 1, "delete_queue": "a"}"#, "does 2"),
        (r#"{"arguments": {"x-max-length": 1}, "busy_ms": 1}"#, "belong to a queue"),
        (r#"{"redis": []}"#, "does 0"),
        (r#"{"purge": "a"}"#, "purge"),
        (r#"{"policy": {"pattern": "a", "definition": {}, "priority": 1}}"#, "priority"),
    ];
    for (text, named) in wrong {
        let problem = step(text).expect_err(named).to_string();
        assert!(problem.contains(named), "{problem:?} does not name {named:?}");
    }
}
