//! Several faults at once: what one of them leaves behind must not need what another one takes away.

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use async_trait::async_trait;
use devices::simulated::SimulatedOptions;
use executors::{Executor, Executors, Failure, Run};
use lapin::{Connection, ConnectionProperties, options::QueueDeleteOptions};
use protocol::{Envelope, Framed, GpuId, Json, Kind, config::QueueType, envelope::Headers};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use task_queue::{Outgoing, Queue, Target};
use tests::{
    fleet::{Fleet, FleetPlan, ServerUrls},
    rabbitmq::PrivateRabbitMq,
    redis::{Persistence, PrivateRedis},
    until::until,
};

use crate::{
    ledger::{Balance, Ledger, report, report_by_crashes},
    workers::Workers,
};

/// Processes of workers, and the GPUs of each.
const WORKERS: (usize, usize) = (3, 2);
/// How often all of it happens on the same servers.
const ROUNDS: usize = 10;
/// How many processes are killed in a round, one after the other: none of those who were there is left, and none lives for long enough to look after the queues of the others.
const KILLS: usize = 5;
/// Before each kill come so many tasks, which take so many milliseconds and are under way when it comes.
const TASKS: (usize, u64) = (80, 200);
const BEFORE_A_KILL: Duration = Duration::from_millis(120);
/// Kills of a run with batches.
const KILLS_AMONG_BATCHES: usize = 12;
/// Before each of them come so many batches, each of so many items that take so many milliseconds.
const BATCHES: (usize, (usize, u64)) = (4, (32, 25));
/// And so many single tasks, which take so many milliseconds.
const SINGLES: (usize, u64) = (30, 50);
/// How long they may take to their end once nobody is killed any more.
const AFTER_THE_KILLS: Duration = Duration::from_secs(60);

fn impatient(gpus: usize, queue_type: QueueType) -> FleetPlan {
    Fleet::of(gpus).configured(|configuration| {
        configuration.worker.lease_ms = 1_500;
        configuration.worker.offer_ms = 1_000;
        configuration.redis.response_timeout_ms = 1_000;
        configuration.amqp.queue_type = queue_type;
        configuration.amqp.gpu_queue_ttl_ms = 5_000;
        // The kills are nobody's fault: however often they meet the same task, it is not given up.
        configuration.worker.crashes_max = 100;
    })
}

/// The servers of a test.
struct Servers {
    broker: PrivateRabbitMq,
    table: PrivateRedis,
    store: PrivateRedis,
}

impl Servers {
    async fn start() -> Self {
        let broker = PrivateRabbitMq::start().await;
        let (table, store) = (PrivateRedis::start(Persistence::Nothing).await, PrivateRedis::start(Persistence::AppendOnly).await);
        Self { broker, table, store }
    }

    fn urls(&self) -> ServerUrls {
        ServerUrls { amqp: self.broker.url(), table: self.table.url(), store: self.store.url() }
    }

    /// Both servers of Redis forget everything.
    async fn forget(&self) {
        for redis in [&self.table, &self.store] {
            redis::cmd("FLUSHALL").exec_async(&mut redis.connection().await).await.unwrap();
        }
    }
}

/// Tasks come, and every worker is replaced by one that nobody has heard of.
async fn replace_all(fleet: &Fleet, workers: &mut Workers, ledger: &mut Ledger) {
    for kill in 0..KILLS {
        ledger.publish_simulated(fleet, TASKS.0, TASKS.1).await;
        tokio::time::sleep(BEFORE_A_KILL).await;
        workers.replace(kill % WORKERS.0).await;
    }
}

/// Waits until every task is answered and nothing waits any more, also not in the queues of these GPUs; then tells what came back.
async fn settled(fleet: &Fleet, gpus: Vec<GpuId>, ledger: &mut Ledger) -> Balance {
    ledger.until_all_answered().await;
    let mut queues = queues_to_workers(fleet, gpus);
    queues.extend(Queue::where_tasks_wait());
    until("nothing waits anywhere", async || all_empty(fleet, &queues).await).await;
    fleet.idle().await;
    ledger.balance().await
}

/// The queues that workers of these GPUs consume.
fn queues_to_workers(fleet: &Fleet, gpus: Vec<GpuId>) -> Vec<Queue> {
    let of_all = [Queue::Pool(fleet.pool()), Queue::Expired, Queue::Returned];
    of_all.into_iter().chain(gpus.into_iter().map(Queue::Gpu)).collect()
}

/// Whether the broker answers, and nothing waits in any of these queues.
async fn all_empty(fleet: &Fleet, queues: &[Queue]) -> bool {
    for queue in queues {
        let depth = fleet.ports.queue.depth(queue).await;
        if !depth.is_ok_and(|depth| depth.is_none_or(|depth| depth.ready == 0)) {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_behind_when_every_worker_is_replaced_and_redis_forgets_and_the_broker_is_killed() {
    let servers = Servers::start().await;
    let urls = servers.urls();
    let fleet = impatient(0, QueueType::Classic).on_servers(urls.clone()).start().await;
    let mut workers = Workers::start(&fleet, &urls, WORKERS);
    fleet.eligible(WORKERS.0 * WORKERS.1).await;
    for round in 1..=ROUNDS {
        let mut ledger = Ledger::open(urls.amqp.clone()).await;
        replace_all(&fleet, &mut workers, &mut ledger).await;
        servers.forget().await;
        // In most rounds the broker stays: what it would give back by itself must not be what saves the rest.
        if round % 3 == 0 {
            servers.broker.kill();
            servers.broker.start_again().await;
        }
        let balance = settled(&fleet, workers.all_gpus(), &mut ledger).await;
        report_by_crashes("every worker replaced, both Redis emptied, in every third round the broker killed", &balance, 0);
        // With the store emptied what was in flight may end twice.
        assert_eq!((balance.lost, balance.failed), (0, 0), "round {round}: {balance:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_quorum_queues_too_nothing_stays_in_the_queues_of_gpus_that_nobody_remembers() {
    let servers = Servers::start().await;
    let urls = servers.urls();
    let fleet = impatient(0, QueueType::Quorum).on_servers(urls.clone()).start().await;
    let mut workers = Workers::start(&fleet, &urls, WORKERS);
    fleet.eligible(WORKERS.0 * WORKERS.1).await;
    for round in 1..=2 {
        let mut ledger = Ledger::open(urls.amqp.clone()).await;
        let forgotten = [0, 1].map(|number| GpuId::new(format!("forgotten-{round}-{number}")).unwrap());
        for gpu_id in &forgotten {
            ledger.forward(&fleet, gpu_id, 30).await;
        }
        replace_all(&fleet, &mut workers, &mut ledger).await;
        servers.forget().await;
        let gpus = [workers.all_gpus(), forgotten.to_vec()].concat();
        let balance = settled(&fleet, gpus, &mut ledger).await;
        report_by_crashes("quorum queues: every worker replaced, both Redis emptied, queues of GPUs that nobody knows", &balance, 0);
        assert_eq!((balance.lost, balance.failed), (0, 0), "round {round}: {balance:?}");
    }
}

/// Every worker splits, runs slices and merges: whoever is killed may be at any of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_survive_kills_of_splitters_mergers_and_slices() {
    let servers = Servers::start().await;
    let urls = servers.urls();
    let fleet = impatient(0, QueueType::Classic).on_servers(urls.clone()).start().await;
    let mut workers = Workers::start(&fleet, &urls, WORKERS);
    fleet.eligible(WORKERS.0 * WORKERS.1).await;
    let (mut batches, mut singles) = (Ledger::open(urls.amqp.clone()).await, Ledger::open(urls.amqp).await);
    let mut random = ChaCha8Rng::seed_from_u64(15);
    for kill in 1..=KILLS_AMONG_BATCHES {
        batches.publish_batches(&fleet, BATCHES.0, BATCHES.1).await;
        singles.publish_simulated(&fleet, SINGLES.0, SINGLES.1).await;
        if kill == KILLS_AMONG_BATCHES / 3 {
            workers.add();
        }
        // Soon after they came their slices run, later they are merged.
        tokio::time::sleep(Duration::from_millis(random.random_range(20..600))).await;
        if kill == KILLS_AMONG_BATCHES / 2 {
            servers.broker.kill();
            servers.broker.start_again().await;
        }
        workers.kill(random.random_range(0..workers.count())).await;
    }
    let queues = queues_to_workers(&fleet, workers.all_gpus());
    for (what, ledger) in [("batches", &mut batches), ("single tasks among batches", &mut singles)] {
        ledger.until_all_ended_within(&fleet, AFTER_THE_KILLS).await;
        ledger.until_all_answered().await;
        // The copies of batches that have ended may wait in retry queues for a while yet, until each of them finds that out.
        until("nothing is left to run", async || all_empty(&fleet, &queues).await).await;
        fleet.idle().await;
        let balance = ledger.balance().await;
        let crashes = ledger.crashes(&fleet).await;
        report_by_crashes(&format!("{what}: workers killed at random, one more started, broker killed"), &balance, crashes);
        balance.holds();
    }
    let (split, published) = (batches.batches_are_whole(BATCHES.1.0), KILLS_AMONG_BATCHES * BATCHES.0);
    assert!(split * 2 > published, "only {split} of {published} batches were split: the test shows less than it says");
}

/// The first attempt of every task fails, so that it waits in a retry queue.
struct FailsFirst;

#[async_trait]
impl Executor for FailsFirst {
    fn kind(&self) -> Kind {
        Kind::new("simulate").unwrap()
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if run.task.attempt == 1 { Err(Failure::transient("as every first attempt here")) } else { Ok(Json::null().into()) }
    }
}

/// Deletes a queue as an operator may: with all that is in it where these are dead letters, and else once nothing is.
async fn delete(fleet: &Fleet, queue: &Queue) {
    let amqp = fleet.amqp().unwrap();
    let connection = Connection::connect(amqp.reveal(), ConnectionProperties::default()).await.unwrap();
    let name = fleet.ports.queue.names().queue(queue);
    let options = QueueDeleteOptions { if_empty: *queue != Queue::Dead, ..QueueDeleteOptions::default() };
    until(&format!("{name} is deleted"), async || {
        // The broker closes a channel when it refuses.
        let channel = connection.create_channel().await.unwrap();
        channel.queue_delete(name.as_str().into(), options).await.is_ok()
    })
    .await;
}

async fn waits(fleet: &Fleet, queue: &Queue) -> u32 {
    fleet.ports.queue.depth(queue).await.unwrap().map_or(0, |depth| depth.ready)
}

/// What no worker takes for a task.
async fn publish_no_task(fleet: &Fleet, id: &str) {
    let envelope = Envelope { message_id: Some(id.to_owned()), kind: Some("simulate".to_owned()), ..Envelope::default() };
    let outgoing = Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, b"no task".as_slice().into());
    fleet.ports.queue.publish(outgoing).await.unwrap();
}

/// While nobody starts who would declare them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_that_an_operator_deletes_between_kills_are_there_again_when_they_are_needed() {
    let plan =
        impatient(3, QueueType::Classic).slots(2).executors(Executors::new().with(Arc::new(FailsFirst))).configured(|configuration| {
            // Here every GPU fails half of what it gets.
            configuration.worker.failures_to_quarantine = 0;
            configuration.amqp.unplaceable_ttl_ms = 1_000;
        });
    let mut fleet = plan.on_real_servers().start().await;
    let away = GpuId::new("away").unwrap();
    fleet.add(SimulatedOptions::new(away.clone())).await;
    fleet.eligible(4).await;
    let amqp = fleet.amqp().unwrap().clone();
    let (mut retried, mut waiting) = (Ledger::open(amqp.clone()).await, Ledger::open(amqp).await);
    let mut deleted = vec![Queue::Dead, Queue::Parked];
    deleted.extend(Queue::where_tasks_wait());
    for round in 1..=3 {
        retried.publish_simulated(&fleet, 100, 10).await;
        let killed = fleet.gpus().into_iter().find(|gpu_id| *gpu_id != away).unwrap();
        fleet.kill(&killed).await;
        fleet.add_gpu().await;
        fleet.kill(&away).await;
        // From here on nobody starts.
        fleet.eligible(3).await;
        // To the broker a queue is empty whose messages are all in somebody's hand.
        retried.until_all_ended(&fleet).await;
        for queue in &deleted {
            delete(&fleet, queue).await;
        }
        retried.publish_simulated(&fleet, 100, 10).await;
        waiting.publish_for(&fleet, &away, 5).await;
        publish_no_task(&fleet, &format!("no-task-{round}")).await;
        until("tasks for a GPU that is away wait for it", async || fleet.counted("gpufleet_held_messages", "unplaceable") > 0.0).await;
        until("what is no task is a dead letter", async || waits(&fleet, &Queue::Dead).await > 0).await;
        retried.until_all_ended(&fleet).await;
        fleet.add(SimulatedOptions::new(away.clone())).await;
        fleet.eligible(4).await;
        waiting.until_all_ended(&fleet).await;
    }
    for ledger in [&mut retried, &mut waiting] {
        ledger.until_all_answered().await;
        let balance = ledger.balance().await;
        report("a worker killed, dead letters and empty retry queues deleted, three times", &fleet, &balance, Duration::ZERO);
        balance.holds();
    }
    fleet.idle().await;
}

/// A broker that had let them expire into another queue would have told nobody, and lost some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_wait_are_not_lost_with_a_broker_that_is_killed_while_they_become_due() {
    let servers = Servers::start().await;
    let plan =
        impatient(3, QueueType::Classic).slots(8).executors(Executors::new().with(Arc::new(FailsFirst))).configured(|configuration| {
            // Here every GPU fails half of what it gets.
            configuration.worker.failures_to_quarantine = 0;
        });
    let fleet = plan.on_servers(servers.urls()).start().await;
    for _ in 0..3 {
        let mut ledger = Ledger::open(servers.urls().amqp).await;
        let before = fleet.counted("gpufleet_moved_total", "");
        ledger.publish_simulated(&fleet, 600, 10).await;
        until("they become due", async || fleet.counted("gpufleet_moved_total", "") >= before + 100.0).await;
        servers.broker.kill();
        servers.broker.start_again().await;
        ledger.until_all_ended(&fleet).await;
        ledger.until_all_answered().await;
        let balance = ledger.balance().await;
        report("broker killed while tasks in waiting queues become due", &fleet, &balance, Duration::ZERO);
        balance.holds();
    }
}

/// One worker empties it and gets no further, since publishers are blocked; another one sees it empty, old and unused.
#[tokio::test(start_paused = true)]
async fn the_queue_of_a_gpu_is_not_deleted_while_a_worker_has_a_message_of_it_in_hand() {
    let mut fleet = Fleet::of(2).start().await;
    let gone = GpuId::new("gone").unwrap();
    let (queue, reply_queue) = (Queue::Gpu(gone.clone()), Queue::Reply("deleted".to_owned()));
    let ports = fleet.ports.clone();
    ports.store.announce(&gone, &fleet.pool()).await.unwrap();
    ports.queue.declare(&queue).await.unwrap();
    ports.queue.declare(&reply_queue).await.unwrap();
    let mut answers = ports.queue.consume(&reply_queue, NonZeroU16::MIN).await.unwrap();
    // A queue is kept for an hour.
    tokio::time::sleep(Duration::from_secs(3_500)).await;
    let envelope = Envelope {
        message_id: Some("in-hand".to_owned()),
        kind: Some("echo".to_owned()),
        reply_to: Some(ports.queue.names().queue(&reply_queue)),
        headers: Headers { pool: Some(fleet.pool().to_string()), hops: Some(1), ..Headers::default() },
        ..Envelope::default()
    };
    ports.queue.publish(Outgoing::new(Target::Queue(queue), envelope, b"{}".as_slice().into())).await.unwrap();
    fleet.broker().block_publishers("memory");
    tokio::time::sleep(Duration::from_secs(200)).await;
    for gpu_id in fleet.gpus() {
        fleet.kill(&gpu_id).await;
    }
    fleet.broker().unblock_publishers();
    fleet.add_gpu().await;
    let answer = tokio::time::timeout(Duration::from_secs(1_000), answers.next()).await.expect("the task is not lost").unwrap();
    assert_eq!(answer.envelope.headers.outcome.as_deref(), Some("succeeded"));
}
