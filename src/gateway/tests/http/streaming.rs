//! A client of server-sent events, and a worker that a test plays by hand.

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use protocol::{
    BodyHash, DeliveryId, Envelope, Fraction, IndexedItem, ItemCounts, ItemResult, Kind, Partial, Progress, ProgressMessage, Reply, Slice,
    TaskId, Token, progress::PROGRESS_TYPE,
};
use reqwest::Response;
use serde_json::Value;
use task_queue::{Delivery, MemoryQueue, Outgoing, Target, TaskQueue};
use task_store::{Begin, BeginRequest, ProgressRequest};

use crate::fleet::{Fleet, batch_reply, finish, pool, reply};

/// Longest wait for an event or a task. Generous: it bounds a hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// One event as it arrived.
#[derive(Debug, PartialEq)]
pub struct Heard {
    pub name: String,
    pub id: Option<u64>,
    pub data: Value,
}

/// Reads events out of an answer.
pub struct Listener {
    response: Response,
    text: String,
}

impl Listener {
    pub fn new(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        for (name, value) in [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")] {
            let values: Vec<&str> = response.headers().get_all(name).iter().map(|value| value.to_str().expect("text")).collect();
            assert_eq!(values, [value], "{name}: no proxy may keep events back");
        }
        Self { response, text: String::new() }
    }

    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Heard> {
        tokio::time::timeout(PATIENCE, self.hear())
            .await
            .unwrap_or_else(|_| panic!("nothing more was heard after {PATIENCE:?}; in hand is {:?}", self.text))
    }

    async fn hear(&mut self) -> Option<Heard> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let heard = read(event);
                self.text = rest.to_owned();
                if heard.is_some() {
                    return heard;
                }
                continue;
            }
            let chunk = self.response.chunk().await.expect("a whole stream")?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    /// The next event, which must have this name; its data.
    pub async fn expect(&mut self, name: &str) -> Value {
        let heard = self.next().await.unwrap_or_else(|| panic!("the stream ended before {name}"));
        assert_eq!(heard.name, name, "{heard:?}");
        heard.data
    }
}

/// `None` for a comment.
fn read(event: &str) -> Option<Heard> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let data = serde_json::from_str(field("data")?).expect("JSON");
    Some(Heard { name: field("event").expect("a name").to_owned(), id: field("id").map(|id| id.parse().expect("a number")), data })
}

/// A task in the hand of a worker that does what the test says.
pub struct Hand {
    queue: MemoryQueue,
    delivery: Delivery,
    pub task_id: TaskId,
    token: OnceLock<Token>,
    said: u64,
    /// How many messages each slice has sent.
    said_by_slices: BTreeMap<Slice, u64>,
}

impl Fleet {
    pub async fn listen(&self, path: &str) -> Listener {
        Listener::new(self.get(path).await)
    }

    /// Takes the task that waits.
    pub async fn take(&self) -> Hand {
        let queue = self.broker.connect();
        let taking = async {
            loop {
                match queue.take(&pool()).await.expect("a broker") {
                    Some(delivery) => break delivery,
                    None => tokio::task::yield_now().await,
                }
            }
        };
        let delivery = tokio::time::timeout(PATIENCE, taking).await.expect("a task waits");
        let task_id = TaskId::new(delivery.envelope.message_id.clone().expect("an id")).expect("valid");
        Hand { queue, delivery, task_id, token: OnceLock::new(), said: 0, said_by_slices: BTreeMap::new() }
    }

    pub async fn begin(&self, hand: &Hand) {
        let request = BeginRequest {
            task_id: hand.task_id.clone(),
            body_hash: BodyHash::of(&hand.delivery.body),
            kind: Kind::new("echo").expect("valid"),
            attempt: 1,
            delivery: DeliveryId(1),
            gpu_id: "sim-0".parse().expect("valid"),
            incarnation: "one".parse().expect("valid"),
            alone: false,
            verdict: None,
            crashes_max: 3,
            published_s: None,
        };
        let Begin::Begun(token) = self.store.begin(&request).await.expect("a store") else { panic!("it does not begin") };
        hand.token.set(token).expect("it begins once");
    }

    /// Notes progress in the store, as a worker does for every task.
    pub async fn note(&self, hand: &Hand, fraction: f64) {
        self.note_items(hand, fraction, None).await;
    }

    /// The same of a batch that runs whole.
    pub async fn note_items(&self, hand: &Hand, fraction: f64, items: Option<ItemCounts>) {
        let request = ProgressRequest {
            task_id: hand.task_id.clone(),
            token: hand.token(),
            fraction: Fraction::clamped(fraction),
            message: None,
            items,
        };
        self.store.progress(&request).await.expect("a store");
    }

    /// Records the outcome and publishes the reply.
    pub async fn finish(&self, hand: Hand, result: Value) {
        let reply = reply(hand.task_id.clone(), Ok(result));
        self.finish_with(hand, reply).await;
    }

    /// The same of a batch whose items came out so.
    pub async fn finish_batch(&self, hand: Hand, came_out: &[ItemResult]) {
        let reply = batch_reply(hand.task_id.clone(), came_out);
        self.finish_with(hand, reply).await;
    }

    async fn finish_with(&self, hand: Hand, reply: Reply) {
        let token = hand.token();
        let Hand { queue, delivery, .. } = hand;
        let reply = Reply { token: Some(token), ..reply };
        finish(&queue, &*self.store, &delivery.envelope, &delivery.body, &reply).await;
        delivery.receipt.ack().await.expect("ack");
    }
}

impl Hand {
    /// The token of the attempt; one that nobody gave out, if it never began.
    fn token(&self) -> Token {
        self.token.get().copied().unwrap_or(Token(7))
    }

    pub fn envelope(&self) -> &Envelope {
        &self.delivery.envelope
    }

    /// The body of the task.
    pub fn body(&self) -> Value {
        serde_json::from_slice(&self.delivery.body).expect("JSON")
    }

    /// Sends a progress message, as a worker does where it was asked to.
    pub async fn say(&mut self, fraction: f64, partials: &[(u64, Value)]) {
        let partials = partials.iter().map(|(number, value)| Partial { number: *number, value: value.clone().into() }).collect();
        let message = ProgressMessage {
            progress: Some(Progress { fraction: Fraction::clamped(fraction), message: None, at_ms: 1 }),
            partials,
            ..self.message()
        };
        self.tell(message).await;
    }

    /// Sends what a worker says of a slice: results of its items, and how many of all there are so far. Each slice has a token and numbers of its own.
    pub async fn say_items(&mut self, slice: &str, done: u32, came_out: &[(u32, ItemResult)]) {
        let slice: Slice = slice.parse().expect("a slice");
        let number = self.said_by_slices.entry(slice).or_default();
        *number += 1;
        let number = *number;
        let message = ProgressMessage {
            token: Token(self.token().0 + u64::from(slice.from)),
            number,
            slice: Some(slice),
            items: Some(ItemCounts { of: 4, done, failed: None }),
            results: came_out.iter().map(|(index, came_out)| IndexedItem { index: *index, came_out: came_out.clone() }).collect(),
            ..self.message()
        };
        self.tell(message).await;
    }

    /// The next message, which says nothing yet.
    fn message(&mut self) -> ProgressMessage {
        self.said += 1;
        ProgressMessage {
            task_id: self.task_id.clone(),
            attempt: 1,
            token: self.token(),
            number: self.said,
            slice: None,
            items: None,
            results: Vec::new(),
            progress: None,
            partials: Vec::new(),
        }
    }

    async fn tell(&self, message: ProgressMessage) {
        assert!(self.envelope().headers.progress, "nobody asked for it");
        let envelope = Envelope {
            message_id: Some(self.task_id.to_string()),
            kind: Some(PROGRESS_TYPE.to_owned()),
            correlation_id: self.envelope().correlation_id.clone(),
            ..Envelope::default()
        };
        let reply_to = self.envelope().reply_to.clone().expect("a reply queue");
        let body = serde_json::to_vec(&message).expect("JSON").into();
        self.queue.publish(Outgoing::new(Target::ReplyTo(reply_to), envelope, body)).await.expect("a reply queue");
    }
}
