//! Cases of messages: they are published, and the replies are what counts.

use std::{num::NonZeroUsize, time::Duration};

use protocol::{Outcome, TaskId};
use serde::Deserialize;

use super::{
    broker,
    expect::{ExpectedReply, OneOf, received, succeeded},
    mailbox::{Mailbox, Received},
    message::{Message, Publisher},
    names::Names,
    prepare::{Prepared, Step, names},
    request::status_difference,
    stage::{Stage, limit, settled},
};

/// A case of messages.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmqpCase {
    /// What went wrong, for people.
    pub about: String,
    #[serde(default)]
    prepare: Vec<Step>,
    /// What is published, in this order.
    amqp: Vec<Message>,
    then: Option<Then>,
    expect: Expect,
}

/// What follows while the first is still going on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Then {
    amqp: Message,
}

/// What should come of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    #[serde(alias = "first_reply")]
    reply: Option<ExpectedReply>,
    #[serde(default)]
    any_of: Vec<Alternative>,
    or: Option<Alternative>,
    /// To how many tasks there is a reply.
    replies: Option<NonZeroUsize>,
    of_the_dropped: Option<Dropped>,
    then_reply: Option<ExpectedReply>,
    status_of_the_first: Option<OneOf>,
    queue_exists: Option<String>,
    http_after: Option<HttpAfter>,
}

/// Another right answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alternative {
    reply: ExpectedReply,
}

/// What the replies of tasks say that the broker took out of their queue.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Dropped {
    message_without: Option<String>,
    message_names: Vec<String>,
}

/// A request to the gateway, and the status code of its answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpAfter {
    method: String,
    path: String,
    status: u16,
}

impl AmqpCase {
    /// Why it cannot be played, or would hold whatever happened.
    pub fn check(&self) -> Result<(), String> {
        let expect = &self.expect;
        let is_void = |dropped: &Dropped| dropped.message_without.is_none() && dropped.message_names.is_empty();
        let wrong = if self.amqp.is_empty() {
            "amqp: there is no message"
        } else if expect.wanted() == 0 && expect.then_reply.is_none() && expect.status_of_the_first.is_none() {
            "expect: nothing that a task ends with is named, so every end would be right"
        } else if self.then.is_some() != expect.then_reply.is_some() {
            "then and expect.then_reply belong together, and one of them is missing"
        } else if expect.of_the_dropped.is_some() && expect.replies.is_none() {
            "expect.of_the_dropped: needs `replies`, the number of all tasks"
        } else if expect.of_the_dropped.as_ref().is_some_and(is_void) {
            "expect.of_the_dropped: nothing is named, so every message would be right"
        } else if expect.http_after.is_some() && expect.wanted() == 0 {
            "expect.http_after: no reply is named that it would come after"
        } else {
            return Ok(());
        };
        Err(wrong.to_owned())
    }

    /// What differs, on the stage of all cases, or on one of its own if something is prepared there.
    pub async fn run(&self, shared: &Stage) -> Vec<String> {
        if self.prepare.is_empty() {
            return self.play(shared).await;
        }
        let stage = Stage::apart(&self.prepare, &[]).await;
        stage.with_log(self.play(&stage).await)
    }

    async fn play(&self, stage: &Stage) -> Vec<String> {
        let names = names(stage, &self.prepare);
        let mut own = Mailbox::open(&stage.queue).await;
        let mut prepared = Prepared::by(&self.prepare, stage, &names).await;
        let mut publisher = Publisher::connect(&stage.servers).await;
        let mut ids = Vec::new();
        for message in &self.amqp {
            ids.extend(publisher.send(message, &names, own.name()).await);
        }
        let mut following = None;
        if let Some(then) = &self.then {
            let mailbox = Mailbox::open(&stage.queue).await;
            publisher.send(&then.amqp, &names, mailbox.name()).await;
            following = Some(mailbox);
        }
        prepared.free_the_slots().await;
        let mut differences = self.expect.first_replies(&mut own).await;
        if let (Some(mailbox), Some(expected)) = (&mut following, &self.expect.then_reply) {
            differences.extend(then_reply(mailbox, expected).await);
        }
        let first = ids.first().expect("at least one message was sent");
        differences.extend(self.expect.afterwards(stage, &names, first).await);
        prepared.clear().await;
        differences
    }
}

impl Expect {
    /// To how many tasks a reply is waited for.
    fn wanted(&self) -> usize {
        let first = usize::from(self.right_replies().next().is_some());
        self.replies.map_or(first, NonZeroUsize::get)
    }

    fn right_replies(&self) -> impl Iterator<Item = &ExpectedReply> {
        let others = self.any_of.iter().chain(&self.or).map(|other| &other.reply);
        self.reply.iter().chain(others)
    }

    /// Waits for the replies to as many tasks as it wants; what differs in them.
    async fn first_replies(&self, own: &mut Mailbox) -> Vec<String> {
        let patience = self.right_replies().map(ExpectedReply::limit).max().unwrap_or_else(|| limit(None));
        match replies_to(own, self.wanted(), patience).await {
            Ok(received) => self.differences(&received),
            Err(problem) => vec![problem],
        }
    }

    /// What differs in the replies, of which the first came first.
    fn differences(&self, received: &[Received]) -> Vec<String> {
        let first = received.first().and_then(|first| self.difference(first));
        let dropped = self.of_the_dropped.iter().flat_map(|dropped| dropped.differences(received));
        first.into_iter().chain(dropped).collect()
    }

    /// Why this reply is none of the right ones; nothing if it is one, or if none is named.
    fn difference(&self, received: &Received) -> Option<String> {
        let differences: Vec<Vec<String>> = self.right_replies().map(|right| right.differences(received)).collect();
        if differences.is_empty() || differences.iter().any(Vec::is_empty) {
            return None;
        }
        let each: Vec<String> = differences.into_iter().map(|differences| differences.join(", ")).collect();
        Some(format!("{}; the reply is {:?}", each.join("; or else "), received.reply))
    }

    /// What differs once the replies have come.
    async fn afterwards(&self, stage: &Stage, names: &Names, first: &str) -> Vec<String> {
        let mut differences = Vec::new();
        if let Some(expected) = &self.status_of_the_first {
            differences.extend(status_of(stage, first, expected).await);
        }
        if let Some(written) = &self.queue_exists {
            differences.extend(queue_exists(stage, &names.on_broker(written)).await);
        }
        if let Some(HttpAfter { method, path, status }) = &self.http_after {
            differences.extend(status_difference(stage, method, path, *status).await);
        }
        differences
    }
}

/// The replies to so many different tasks, in the order in which they came. A reply may come more than once.
async fn replies_to(own: &mut Mailbox, tasks: usize, patience: Duration) -> Result<Vec<Received>, String> {
    let mut received: Vec<Received> = Vec::new();
    while received.len() < tasks {
        let next = own.next(patience).await.map_err(|problem| format!("{problem}; of {tasks} replies there are {received:?}"))?;
        if received.iter().all(|other| other.reply.task_id != next.reply.task_id) {
            received.push(next);
        }
    }
    Ok(received)
}

async fn then_reply(mailbox: &mut Mailbox, expected: &ExpectedReply) -> Vec<String> {
    let differences = match mailbox.next(expected.limit()).await {
        Ok(received) => expected.differences(&received),
        Err(problem) => vec![problem],
    };
    differences.into_iter().map(|difference| format!("what follows: {difference}")).collect()
}

async fn status_of(stage: &Stage, task_id: &str, expected: &OneOf) -> Vec<String> {
    let producer = stage.servers.producer().await;
    let task_id = TaskId::new(task_id).expect("an id that a task can have");
    settled(async || {
        let status = producer.status(&task_id).await.expect("the store answers");
        let found = status.map(|status| status.state.name());
        expected.difference("the status of the first", found).into_iter().collect::<Vec<String>>()
    })
    .await
}

async fn queue_exists(stage: &Stage, name: &str) -> Vec<String> {
    settled(async || {
        let exists = broker::queue_exists(stage.servers.amqp(), name).await;
        if exists { Vec::new() } else { vec![format!("there is no queue {name}")] }
    })
    .await
}

impl Dropped {
    fn differences(&self, received: &[Received]) -> Vec<String> {
        let dropped = received.iter().filter(|received| received.reply.outcome != Outcome::Succeeded);
        let messages: Vec<&str> =
            dropped.map(|received| received.reply.error.as_ref().map_or("", |error| error.message.as_str())).collect();
        if messages.is_empty() {
            return vec!["no task was dropped: all succeeded".to_owned()];
        }
        messages.into_iter().flat_map(|message| self.of_one(message)).collect()
    }

    fn of_one(&self, message: &str) -> Vec<String> {
        let unwanted = self.message_without.iter().filter(|text| message.contains(text.as_str()));
        let missing = self.message_names.iter().filter(|word| !message.contains(word.as_str()));
        let unwanted = unwanted.map(|text| format!("{message:?} says {text:?}"));
        unwanted.chain(missing.map(|word| format!("{message:?} does not name {word:?}"))).collect()
    }
}

fn expect(text: &str) -> Expect {
    serde_json::from_str(text).expect(text)
}

fn failed(code: &str, message: &str, field: &str) -> Received {
    received(&format!(r#""outcome": "failed", "error": {{"code": "{code}", "message": "{message}", "field": "{field}"}}"#))
}

#[test]
fn a_right_answer_is_one_of_those_that_the_case_names() {
    let number = r#"{"reply": {"outcome": "succeeded", "result_text": "10"}}"#;
    let refusal = r#"{"reply": {"outcome": "failed", "error_code": "invalid_task", "error_field": ["payload", "body"]}}"#;
    let either = [
        expect(&format!(r#"{{"any_of": [{number}, {refusal}]}}"#)),
        expect(&format!(r#"{{"first_reply": {{"outcome": "succeeded", "result_text": "10"}}, "or": {refusal}}}"#)),
    ];
    for expect in &either {
        assert_eq!(expect.wanted(), 1);
        for right in [succeeded("10"), failed("invalid_task", "no", "payload"), failed("invalid_task", "no", "body")] {
            assert_eq!(expect.difference(&right), None);
        }
        let wrong = [(succeeded("10.0"), "result_text"), (failed("invalid_task", "no", "type"), "error_field"), (succeeded("1e1"), "1e1")];
        for (wrong, named) in wrong {
            let difference = expect.difference(&wrong).expect(named);
            assert!(difference.contains(named), "{difference}");
        }
    }
}

#[test]
fn what_was_dropped_says_why_and_something_was() {
    let expect = expect(r#"{"replies": 2, "of_the_dropped": {"message_without": "deadline", "message_names": ["queue", "length"]}}"#);
    assert_eq!(expect.wanted(), 2);
    let of = |dropped: Received| expect.differences(&[succeeded("1"), dropped]);
    assert_eq!(of(failed("dropped", "queue q was at its maximum length", "")), [""; 0]);
    for (message, named) in [("its deadline passed in a queue of some length", "deadline"), ("the queue was full", "length")] {
        let differences = of(failed("dropped", message, ""));
        assert!(differences.len() == 1 && differences[0].contains(named), "{differences:?}");
    }
    assert_eq!(of(succeeded("1")), ["no task was dropped: all succeeded"]);
}
