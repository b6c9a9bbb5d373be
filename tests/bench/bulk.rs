//! Part k: many tasks in one request to a gateway, beside our own producer that submits as many from this process.
//!
//! Nobody runs them: a task costs what it takes to check it, to note it in the store and to have the broker's confirm. Both sides write into the same queue and the same store. After
//! each sample the queue is emptied, and must have had every task.

use std::{num::NonZeroUsize, pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use lapin::{Channel, Connection, ConnectionProperties, options::QueuePurgeOptions};
use producer::{NewTask, Producer, ProducerOptions};
use protocol::{Kind, TaskBody};
use serde::Serialize;
use serde_json::{Value, json};
use tests::{program::Program, until::until};
use tokio::time::Instant;

use crate::{
    Fault,
    meter::{Cost, Meter},
    namespace::{Namespace, environment},
    options::Pace,
    report::{Bound, PartReport},
    servers::Servers,
    statistics::Spread,
    workers::start_gpufleet,
};

const KIND: &str = "echo";
/// Submits of our producer that are under way at once: as many as a gateway has lines of a request under way.
const IN_FLIGHT: NonZeroUsize = NonZeroUsize::new(512).expect("it is not zero");
const AIM: f64 = 0.5;

/// Who submits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Side {
    Producer,
    Bulk,
}

const SIDES: [Side; 2] = [Side::Producer, Side::Bulk];

/// One sample.
#[derive(Debug, Serialize)]
struct Sample {
    round: usize,
    side: Side,
    tasks: usize,
    per_second: f64,
    /// The processes that answer are the gateway.
    cost: Cost,
}

/// Both sides, and the queue into which they submit.
struct Sides {
    gateway: Program,
    url: String,
    http: reqwest::Client,
    producer: Producer,
    queue: String,
    _connection: Connection,
    channel: Channel,
    meter: Meter,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let mut sides = Sides::start(servers).await?;
    let mut samples = Vec::new();
    // Connects, and declares the queue.
    for side in SIDES {
        sides.sample(0, side, pace.bulk / 10).await?;
    }
    for round in 0..pace.rounds {
        for side in SIDES {
            samples.push(sides.sample(round, side, pace.bulk).await?);
        }
    }
    report(&samples, pace.bulk)
}

impl Sides {
    async fn start(servers: &Servers) -> Result<Self, Fault> {
        let names = Namespace::new("bulk", crate::SLOTS);
        let gateway = start_gpufleet(servers, &names, &["gateway", "--listen", "127.0.0.1:0"])?;
        let (url, http) = (gateway.url().await, reqwest::Client::builder().no_proxy().build()?);
        let ready = format!("{url}/readyz");
        until("the gateway is ready", async || http.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success())).await;
        let (queue, store) = (names.queue(servers).await?, names.store(servers).await?);
        let connection = Connection::connect(servers.amqp().reveal(), ConnectionProperties::default()).await?;
        Ok(Self {
            gateway,
            url,
            http,
            producer: Producer::new(queue, Arc::new(store), environment(), ProducerOptions::default()),
            queue: names.question(KIND, payload())?.queue,
            channel: connection.create_channel().await?,
            _connection: connection,
            meter: servers.meter().await,
        })
    }

    async fn sample(&mut self, round: usize, side: Side, tasks: usize) -> Result<Sample, Fault> {
        let gateway = match side {
            Side::Producer => Vec::new(),
            Side::Bulk => vec![self.gateway.pid()],
        };
        let before = self.meter.read(&gateway).await?;
        let took = match side {
            Side::Producer => self.submit(tasks).await?,
            Side::Bulk => self.request(tasks).await?,
        };
        let cost = self.meter.read(&gateway).await?.since(before, tasks);
        self.empty(tasks).await?;
        Ok(Sample { round, side, tasks, per_second: tasks as f64 / took.as_secs_f64(), cost })
    }

    /// From the first submit to the last confirm.
    async fn submit(&self, tasks: usize) -> Result<Duration, Fault> {
        let task = NewTask::new(Kind::new(KIND)?, TaskBody { payload: payload().into(), ..TaskBody::default() });
        let started = Instant::now();
        let mut submitting = pin!(self.producer.submit_many(std::iter::repeat_n(task, tasks), IN_FLIGHT));
        while let Some((_, submitted)) = submitting.next().await {
            submitted?;
        }
        Ok(started.elapsed())
    }

    /// From the first byte of the request to the last answer. The client has a connection from before.
    async fn request(&self, tasks: usize) -> Result<Duration, Fault> {
        let line = json!({"kind": KIND, "payload": payload()}).to_string() + "\n";
        let request = self.http.post(format!("{}/api/v1/tasks:bulk", self.url)).header("content-type", "application/x-ndjson");
        let request = request.body(line.repeat(tasks));
        let started = Instant::now();
        let mut response = request.send().await?;
        let (mut text, mut took) = (Vec::<u8>::new(), started.elapsed());
        while let Some(piece) = response.chunk().await? {
            text.extend_from_slice(&piece);
            took = started.elapsed();
        }
        all_accepted(std::str::from_utf8(&text)?, tasks)?;
        Ok(took)
    }

    /// Takes the tasks out of the queue.
    async fn empty(&self, tasks: usize) -> Result<(), Fault> {
        let purged = self.channel.queue_purge(self.queue.clone().into(), QueuePurgeOptions::default()).await?;
        if purged as usize == tasks {
            return Ok(());
        }
        Err(format!("{tasks} tasks were submitted, and {purged} are in the queue").into())
    }
}

fn payload() -> Value {
    json!({"text": "x".repeat(64)})
}

/// Each line is the answer to a task that the broker has, and there is one for each task.
fn all_accepted(answers: &str, tasks: usize) -> Result<(), Fault> {
    let mut accepted = 0;
    for line in answers.lines() {
        let answer: Value = serde_json::from_str(line)?;
        if !answer["task_id"].is_string() || !answer["problem"].is_null() {
            return Err(format!("the gateway answered {line}").into());
        }
        accepted += 1;
    }
    if accepted == tasks {
        return Ok(());
    }
    Err(format!("the gateway answered {accepted} of {tasks} lines").into())
}

fn report(samples: &[Sample], tasks: usize) -> Result<PartReport, Fault> {
    let mut part = PartReport::new(format!("k: {tasks} tasks in one request to a gateway, beside our own producer"));
    let of = |side: Side| samples.iter().filter(move |sample| sample.side == side);
    for (side, name) in [(Side::Producer, "own producer"), (Side::Bulk, "one request")] {
        let per_second = Spread::of(of(side).map(|sample| sample.per_second));
        let middle = |value: fn(&Cost) -> f64| Spread::of(of(side).map(|sample| value(&sample.cost))).median;
        let (client, gateway) = (middle(|cost| cost.client_us), middle(|cost| cost.workers_us));
        let (broker, redis) = (middle(|cost| cost.broker_us), middle(|cost| cost.redis_us));
        part.row(format!("{name}, tasks"), format!("{per_second}/s"));
        part.row("    CPU per task", format!("client {client:.0} + gateway {gateway:.0} + RabbitMQ {broker:.0} + Redis {redis:.0} us"));
    }
    let ratio = Spread::of(of(Side::Bulk).zip(of(Side::Producer)).map(|(bulk, producer)| bulk.per_second / producer.per_second));
    part.ratio("tasks per second, one request / own producer", ratio);
    part.aim("one request / own producer", ratio.median, Bound::AtLeast(AIM));
    part.keep_raw(samples)?;
    Ok(part)
}
