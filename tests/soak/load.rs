//! The load: tasks of many sorts, at the moments of a Poisson process.
//!
//! A submit that fails because a server is away is repeated under the same id until the broker has the task. Submits under way and tasks without a reply are bounded: above the
//! bounds arrivals wait.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use producer::{NewTask, Producer, ProducerOptions};
use protocol::{Envelope, GroupName, Json, Kind, Limits, PoolName, TaskBody, TaskId};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use task_queue::{Outgoing, Queue, RabbitMq, Target, TaskQueue};
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Fault,
    ledger::{Due, Ledger, Opened},
    pace::Pace,
    programs::NVIDIA_POOL,
    replies::reply_to,
    servers::Servers,
};

/// Arrivals whose submits are under way.
const UNDER_WAY_MAX: usize = 256;
/// Tasks without a reply above which nothing arrives.
const OPEN_MAX: usize = 4_000;
/// How long a submit is repeated. No fault lasts nearly as long.
const SUBMIT_LIMIT: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(500);
/// How long one task of a chain waits for the one before.
const CHAIN_LIMIT: Duration = Duration::from_secs(120);

/// What arrives: in how many of 1,000 arrivals.
const MIX: [(Sort, u32); 13] = [
    (Sort::Echo, 400),
    (Sort::Short, 210),
    (Sort::Long, 25),
    (Sort::Matmul, 40),
    (Sort::Handler, 100),
    (Sort::Batch, 40),
    (Sort::Group, 15),
    (Sort::Delayed, 60),
    (Sort::Cancelled, 30),
    (Sort::Tensors, 25),
    (Sort::Retried, 15),
    (Sort::Failing, 25),
    (Sort::Garbage, 15),
];

/// Sorts of arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Echo,
    Short,
    Long,
    Matmul,
    Handler,
    Batch,
    /// Six tasks of one group.
    Group,
    Delayed,
    Cancelled,
    /// A tensor that is put, copied to all GPUs and freed.
    Tensors,
    /// A task that fails in each of its two attempts.
    Retried,
    Failing,
    /// A message that is no task.
    Garbage,
}

/// Submits, and enters what it submits.
pub(crate) struct Load {
    producer: Producer,
    nvidia: Option<Producer>,
    queue: Arc<RabbitMq>,
    ledger: Arc<Ledger>,
    random: Mutex<ChaCha8Rng>,
}

impl Load {
    pub(crate) async fn connect(servers: &Servers, ledger: Arc<Ledger>, (seed, matmul): (u64, bool)) -> Result<Arc<Self>, Fault> {
        let (queue, store) = (servers.queue().await?, servers.store().await?);
        let of_pool = |pool: PoolName| {
            let options = ProducerOptions { pool, ..ProducerOptions::default() };
            Producer::new(queue.clone(), store.clone(), service::system_environment(), options)
        };
        let nvidia = if matmul { Some(of_pool(PoolName::new(NVIDIA_POOL)?)) } else { None };
        let (producer, random) = (of_pool(PoolName::default()), Mutex::new(ChaCha8Rng::seed_from_u64(seed)));
        Ok(Arc::new(Self { producer, nvidia, queue, ledger, random }))
    }

    /// Lets tasks arrive until it is stopped, then waits for the submits that are under way.
    pub(crate) async fn run(self: Arc<Self>, pace: Arc<Pace>, stop: CancellationToken) {
        let (mut under_way, room) = (JoinSet::new(), Arc::new(Semaphore::new(UNDER_WAY_MAX)));
        while !stop.is_cancelled() {
            let gap = { -(1.0 - self.random.lock().await.random::<f64>()).ln() / pace.per_second() };
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(Duration::from_secs_f64(gap.min(10.0))) => {}
            }
            while under_way.try_join_next().is_some() {}
            if self.ledger.open_tasks() > OPEN_MAX {
                continue;
            }
            let Ok(permit) = room.clone().acquire_owned().await else { break };
            let load = self.clone();
            under_way.spawn(async move {
                let _permit = permit;
                load.arrive().await;
            });
        }
        while under_way.join_next().await.is_some() {}
    }

    /// Submits a task that its client follows: it comes due after some seconds.
    pub(crate) async fn submit_to_follow(&self) -> Option<TaskId> {
        let (priority, delay_ms) = self.draw(|random| (random.random_range(0..=9_u8), random.random_range(5_000..=25_000_u64))).await;
        let task = NewTask { priority, delay_ms: Some(delay_ms), ..simulate(json!({"duration_ms": 20, "result": "followed"})) };
        self.submit(task, ("followed", Due::Succeeds)).await
    }

    async fn draw<T>(&self, draw: impl FnOnce(&mut ChaCha8Rng) -> T) -> T {
        let mut random = self.random.lock().await;
        draw(&mut random)
    }

    async fn arrive(&self) {
        let (sort, priority, number) = self.draw(|random| (drawn(random), random.random_range(0..=9_u8), random.random::<u32>())).await;
        let with = |task: NewTask| NewTask { priority, ..task };
        // Of a range, by the number that was drawn.
        let of = |least: u64, most: u64| least + u64::from(number) % (most - least + 1);
        match sort {
            Sort::Echo => self.submit_timed(with(new("echo", json!({"n": number, "text": "x".repeat(200)}))), "echo").await,
            Sort::Short => self.submit_timed(with(simulate(json!({"duration_ms": of(5, 50), "result": number}))), "simulate, short").await,
            Sort::Long => drop(self.submit(with(long(of(500, 3_000))), ("simulate, long", Due::Succeeds)).await),
            Sort::Matmul => self.multiply(with(matmul())).await,
            Sort::Handler => self.submit_timed(with(new("shout", json!({"text": format!("number {number}")}))), "handler").await,
            Sort::Batch => drop(self.submit(with(batch(of(4, 32))), ("batch", Due::Succeeds)).await),
            Sort::Group => self.group(number, priority).await,
            Sort::Delayed => {
                let task = NewTask { delay_ms: Some(of(1_000, 15_000)), ..with(new("echo", json!(number))) };
                drop(self.submit(task, ("delayed", Due::Succeeds)).await);
            }
            Sort::Cancelled => self.cancelled(with(long(of(1_500, 4_000))), Duration::from_millis(of(50, 1_200))).await,
            Sort::Tensors => self.tensors(number, priority).await,
            Sort::Retried => drop(self.submit(with(failing(true)), ("retried", Due::Fails)).await),
            Sort::Failing => drop(self.submit(with(failing(false)), ("failing", Due::Fails)).await),
            Sort::Garbage => self.garbage(priority).await,
        }
    }

    async fn submit_timed(&self, task: NewTask, work: &'static str) {
        let opened = Opened { work, priority: task.priority, due: Due::Succeeds, timed: true };
        self.submit_by(&self.producer, task, opened).await;
    }

    /// The task's identity, if it was submitted.
    async fn submit(&self, task: NewTask, (work, due): (&'static str, Due)) -> Option<TaskId> {
        let opened = Opened { work, priority: task.priority, due, timed: false };
        self.submit_by(&self.producer, task, opened).await
    }

    async fn submit_by(&self, producer: &Producer, task: NewTask, opened: Opened) -> Option<TaskId> {
        let task_id = self.ledger.open(opened);
        let task = NewTask { task_id: Some(task_id.clone()), reply_to: Some(reply_to(&task_id)), ..task };
        let deadline = Instant::now() + SUBMIT_LIMIT;
        loop {
            match producer.submit(task.clone()).await {
                Ok(_) => return Some(task_id),
                Err(error) if error.is_transient() && Instant::now() < deadline => {
                    self.ledger.resubmitted();
                    sleep(PAUSE).await;
                }
                Err(error) => {
                    self.ledger.refused(&task_id, &error.to_string());
                    return None;
                }
            }
        }
    }

    async fn multiply(&self, task: NewTask) {
        let Some(nvidia) = &self.nvidia else { return };
        let opened = Opened { work: "matmul", priority: task.priority, due: Due::Succeeds, timed: false };
        self.submit_by(nvidia, task, opened).await;
    }

    async fn group(&self, number: u32, priority: u8) {
        let Ok(group) = GroupName::new(format!("group-{number}")) else { return };
        for member in 0..6 {
            let task = simulate(json!({"duration_ms": 10, "result": member}));
            let task = NewTask { priority, group: Some(group.clone()), ..task };
            self.submit(task, ("group", Due::Succeeds)).await;
        }
    }

    async fn cancelled(&self, task: NewTask, after: Duration) {
        let Some(task_id) = self.submit(task, ("cancelled", Due::SucceedsOrIsCancelled)).await else { return };
        sleep(after).await;
        for _ in 0..20 {
            if self.producer.cancel(&task_id).await.is_ok() {
                break;
            }
            sleep(PAUSE).await;
        }
    }

    async fn tensors(&self, number: u32, priority: u8) {
        let name = format!("tensor-{number}");
        let numbers: Vec<u32> = (0..256).collect();
        let steps = [
            ("tensor.put", json!({"name": name, "value": numbers, "dtype": "f32", "shape": [16, 16], "ttl_ms": 60_000})),
            ("tensor.copy", json!({"tensor": name, "to": "all"})),
            ("tensor.free", json!({"tensor": name})),
        ];
        for (kind, payload) in steps {
            let task = NewTask { priority, ..new(kind, payload) };
            let Some(task_id) = self.submit(task, (kind, Due::SucceedsOrFails)).await else { return };
            let deadline = Instant::now() + CHAIN_LIMIT;
            while !self.ledger.has_reply(&task_id) {
                if Instant::now() > deadline {
                    return;
                }
                sleep(PAUSE / 5).await;
            }
        }
    }

    /// A message that no producer of ours would send.
    async fn garbage(&self, priority: u8) {
        let opened = Opened { work: "no task", priority, due: Due::Fails, timed: false };
        let task_id = self.ledger.open(opened);
        let envelope = Envelope {
            message_id: Some(task_id.to_string()),
            kind: Some("echo".to_owned()),
            priority: Some(priority),
            reply_to: Some(reply_to(&task_id).queue),
            correlation_id: Some(task_id.to_string()),
            ..Envelope::default()
        };
        let target = Target::Queue(Queue::Pool(PoolName::default()));
        let outgoing = Outgoing::new(target, envelope, Bytes::from_static(b"{\"payload\": this is no JSON"));
        let deadline = Instant::now() + SUBMIT_LIMIT;
        while let Err(error) = self.queue.publish(outgoing.clone()).await {
            if Instant::now() > deadline {
                self.ledger.refused(&task_id, &error.to_string());
                return;
            }
            self.ledger.resubmitted();
            sleep(PAUSE).await;
        }
    }
}

fn drawn(random: &mut ChaCha8Rng) -> Sort {
    let all: u32 = MIX.iter().map(|(_, share)| share).sum();
    let mut left = random.random_range(0..all);
    for (sort, share) in MIX {
        if left < share {
            return sort;
        }
        left -= share;
    }
    Sort::Echo
}

fn new(kind: &'static str, payload: Value) -> NewTask {
    NewTask::new(Kind::new(kind).expect("a literal that keeps the rule"), TaskBody { payload: payload.into(), ..TaskBody::default() })
}

fn simulate(payload: Value) -> NewTask {
    new("simulate", payload)
}

fn long(ms: u64) -> NewTask {
    simulate(json!({"duration_ms": ms, "memory_mb": 500, "result": "long"}))
}

fn matmul() -> NewTask {
    new("matmul", json!({"a": [[1, 2, 3], [4, 5, 6]], "b": [[1, 0], [0, 1], [1, 1]], "dtype": "f64", "check": true}))
}

fn batch(items: u64) -> NewTask {
    let item = |number: u64| Json::from(json!({"duration_ms": 5, "result": number}));
    NewTask::batch(Kind::new("simulate").expect("a literal that keeps the rule"), (0..items).map(item).collect())
}

fn failing(again: bool) -> NewTask {
    let fail = json!({"code": "soak", "message": "as asked", "retry": again});
    let task = simulate(json!({"duration_ms": 5, "fail": fail}));
    let limits = Limits { max_attempts: Some(2), ..Limits::default() };
    NewTask { body: TaskBody { limits, ..task.body }, ..task }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_sorts_and_every_sort_arrives() {
        let sorts = |seed| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            (0..5_000).map(|_| format!("{:?}", drawn(&mut random))).collect::<Vec<_>>()
        };
        assert_eq!(sorts(3), sorts(3));
        assert_ne!(sorts(3), sorts(4));
        let mut counted: BTreeMap<String, usize> = BTreeMap::new();
        sorts(3).into_iter().for_each(|sort| *counted.entry(sort).or_default() += 1);
        assert_eq!(counted.len(), MIX.len(), "{counted:?}");
        assert_eq!(MIX.iter().map(|(_, share)| share).sum::<u32>(), 1_000);
    }
}
