//! Tasks that must not start before a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
    time::Duration,
};

use producer::{NewTask, ReplyTo};
use protocol::{Envelope, Limits, Outcome, Reply, TaskId, TaskState, envelope::Headers};
use serde_json::json;
use task_queue::{Consumer, Outgoing, Queue, Target};
use task_store::Cancel;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, echo, priority, result, simulate, started},
    until::until,
};
use tokio::time::Instant;

crate::on_both!(
    a_delayed_task_is_delayed_and_then_runs_and_not_before_its_time,
    an_urgent_delayed_task_overtakes_those_that_wait_when_it_is_due,
    a_delayed_task_survives_every_worker_and_an_emptied_table_and_store,
    a_delayed_task_that_is_cancelled_shows_so_at_once_and_never_runs,
    the_headers_of_a_message_delay_a_task,
    more_than_thirty_days_and_two_times_at_once_are_refused,
    what_lies_in_the_long_queues_goes_on_when_a_worker_starts,
);

/// As long as any test can wait for on real servers.
const SHORT: Duration = Duration::from_secs(3);
/// What clocks round off.
const ROUNDED: Duration = Duration::from_millis(10);
/// What the way to the worker and its answer take on a paused clock.
const THE_WAY: Duration = Duration::from_millis(50);
const DAY: Duration = Duration::from_secs(86_400);
const LONGEST: Duration = Duration::from_millis(Limits::LONGEST_MS);

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

fn delayed(delay: Duration, task: NewTask) -> NewTask {
    NewTask { delay_ms: Some(ms(delay)), ..task }
}

async fn state(fleet: &Fleet, task_id: &TaskId) -> Option<TaskState> {
    fleet.producer.status(task_id).await.unwrap().map(|status| status.state)
}

/// Replies that come to a queue of the test's own.
struct Answers {
    consumer: Consumer,
    queue: String,
}

impl Answers {
    async fn of(fleet: &Fleet) -> Self {
        let own = Queue::Reply("answers".to_owned());
        fleet.ports.queue.declare(&own).await.unwrap();
        let consumer = fleet.ports.queue.consume(&own, NonZeroU16::new(100).unwrap()).await.unwrap();
        Self { consumer, queue: fleet.ports.queue.names().queue(&own) }
    }

    async fn next(&mut self, within: Duration) -> Reply {
        let answer = tokio::time::timeout(within, self.consumer.next()).await.expect("an answer in time").unwrap();
        let reply = serde_json::from_slice(&answer.body).unwrap();
        answer.receipt.ack().await.unwrap();
        reply
    }

    fn address(&self) -> Option<ReplyTo> {
        Some(ReplyTo { queue: self.queue.clone(), correlation_id: String::new() })
    }

    /// An echo for a queue.
    fn echo(&self, id: &str, queue: Queue, headers: Headers) -> Outgoing {
        let envelope = Envelope {
            message_id: Some(id.to_owned()),
            kind: Some("echo".to_owned()),
            reply_to: Some(self.queue.clone()),
            headers,
            ..Envelope::default()
        };
        Outgoing::new(Target::Queue(queue), envelope, (&br#"{"payload":1}"#[..]).into())
    }

    /// Publishes an echo to the pool as a client does that is not ours.
    async fn publish(&self, fleet: &Fleet, id: &str, headers: Headers) {
        fleet.ports.queue.publish(self.echo(id, Queue::Pool(fleet.pool()), headers)).await.unwrap();
    }
}

async fn a_delayed_task_is_delayed_and_then_runs_and_not_before_its_time(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let (since, now_ms) = (Instant::now(), fleet.environment().clock.now_ms());
    let late = fleet.producer.pending(delayed(SHORT, echo("late")), PATIENCE).await.unwrap();
    let status = fleet.producer.status(late.task_id()).await.unwrap().unwrap();
    assert_eq!((status.state, status.attempt), (TaskState::Delayed, 0));
    assert!(status.not_before_ms.unwrap() >= now_ms + ms(SHORT));
    // It stands in nobody's way meanwhile, and a time in the past is none.
    let past = NewTask { not_before_ms: Some(1), ..echo("now") };
    assert_eq!(result(&fleet.producer.submit_and_wait(past, PATIENCE).await.unwrap()), json!("now"));
    assert_eq!(state(&fleet, late.task_id()).await, Some(TaskState::Delayed));
    assert_eq!(result(&late.await.unwrap()), json!("late"));
    assert!(since.elapsed() + ROUNDED >= SHORT, "it started {:?} after its submit", since.elapsed());
}

async fn an_urgent_delayed_task_overtakes_those_that_wait_when_it_is_due(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1).slots(1)).start().await;
    let busy = started(&fleet.producer, simulate(600_000, "busy")).await;
    let urgent = priority(9, delayed(Duration::from_secs(1), simulate(20, "urgent")));
    let urgent = fleet.producer.pending(urgent, PATIENCE).await.unwrap();
    let mut others = Vec::new();
    for n in 0..5 {
        others.push(fleet.producer.pending(priority(5, simulate(20, n)), PATIENCE).await.unwrap());
    }
    let pool = Queue::Pool(fleet.pool());
    until("it is due, and waits with the others", async || fleet.ports.queue.depth(&pool).await.unwrap().unwrap().ready == 6).await;
    fleet.producer.cancel(busy.task_id()).await.unwrap();
    let urgent = urgent.await.unwrap();
    assert_eq!(result(&urgent), json!("urgent"));
    for other in others {
        let other = other.await.unwrap();
        assert!(other.ended_at_ms >= urgent.ended_at_ms, "{other:?} came before {urgent:?}");
    }
}

async fn a_delayed_task_survives_every_worker_and_an_emptied_table_and_store(on: fn(FleetPlan) -> FleetPlan) {
    let mut fleet = on(Fleet::of(1)).start().await;
    let (since, first) = (Instant::now(), fleet.gpus()[0].clone());
    let late = fleet.producer.pending(delayed(SHORT, echo("late")), PATIENCE).await.unwrap();
    fleet.kill(&first).await;
    fleet.empty_the_table().await;
    fleet.empty_the_store().await;
    fleet.add_gpu().await;
    assert_eq!(result(&late.await.unwrap()), json!("late"));
    assert!(since.elapsed() + ROUNDED >= SHORT, "it started {:?} after its submit", since.elapsed());
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 1.0);
}

async fn a_delayed_task_that_is_cancelled_shows_so_at_once_and_never_runs(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let never = fleet.producer.pending(delayed(SHORT, echo("never")), PATIENCE).await.unwrap();
    assert_eq!(fleet.producer.cancel(never.task_id()).await.unwrap(), Cancel::Waiting);
    assert_eq!(state(&fleet, never.task_id()).await, Some(TaskState::Cancelled));
    assert_eq!(never.await.unwrap().outcome, Outcome::Cancelled);
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 0.0);
}

async fn the_headers_of_a_message_delay_a_task(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let mut answers = Answers::of(&fleet).await;
    let since = Instant::now();
    let not_before_ms = Some(fleet.environment().clock.now_ms() + ms(SHORT));
    answers.publish(&fleet, "by-time", Headers { not_before_ms, ..Headers::default() }).await;
    answers.publish(&fleet, "by-delay", Headers { delay_ms: Some(ms(SHORT)), ..Headers::default() }).await;
    for id in ["by-time", "by-delay"] {
        let task_id = TaskId::new(id).unwrap();
        until("a worker lets it wait", async || state(&fleet, &task_id).await == Some(TaskState::Delayed)).await;
    }
    until("its delivery is gone from the pool", async || fleet.counted("gpufleet_forwarded_total", "delayed") == 2.0).await;
    for _ in 0..2 {
        assert_eq!(answers.next(PATIENCE).await.outcome, Outcome::Succeeded);
        assert!(since.elapsed() + ROUNDED >= SHORT, "it started {:?} after its publish", since.elapsed());
    }
    fleet.idle().await;
}

async fn more_than_thirty_days_and_two_times_at_once_are_refused(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let mut answers = Answers::of(&fleet).await;
    let (too_long, now_ms) = (Limits::LONGEST_MS + 1, fleet.environment().clock.now_ms());
    let delay = Headers { delay_ms: Some(too_long), ..Headers::default() };
    let time = Headers { not_before_ms: Some(now_ms + too_long + 60_000), ..Headers::default() };
    let both = Headers { not_before_ms: Some(now_ms), delay_ms: Some(1), ..Headers::default() };
    for (id, headers, header) in [("delay", delay, "delay-ms"), ("time", time, "not-before-ms"), ("both", both, "delay-ms")] {
        answers.publish(&fleet, id, headers).await;
        let answer = answers.next(PATIENCE).await;
        let error = answer.error.unwrap();
        let expected = format!("headers.x-gpufleet-{header}");
        assert_eq!((answer.outcome, error.code.as_str(), error.field), (Outcome::Failed, "invalid_task", Some(expected)), "{id}");
    }
    for (task, field) in [
        (NewTask { delay_ms: Some(too_long), ..echo(1) }, "delay_ms"),
        (NewTask { not_before_ms: Some(now_ms + too_long + 60_000), ..echo(1) }, "not_before_ms"),
        (NewTask { not_before_ms: Some(now_ms), delay_ms: Some(1), ..echo(1) }, "delay_ms"),
    ] {
        let refused = fleet.producer.submit(task).await.unwrap_err();
        assert_eq!(refused.refusal().map(|refusal| refusal.field.as_str()), Some(field), "{refused}");
    }
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 0.0);
}

/// In each queue some whose wait there is over, and one behind them whose wait is not.
async fn what_lies_in_the_long_queues_goes_on_when_a_worker_starts(on: fn(FleetPlan) -> FleetPlan) {
    let mut fleet = on(Fleet::of(0).looking_after_queues_every(Duration::from_millis(200))).start().await;
    let mut answers = Answers::of(&fleet).await;
    fleet.ports.queue.declare(&Queue::Pool(fleet.pool())).await.unwrap();
    let (since, now_ms) = (Instant::now(), fleet.environment().clock.now_ms());
    let long = Queue::where_delayed_tasks_are_looked_at();
    for queue in &long {
        fleet.ports.queue.declare(queue).await.unwrap();
        for (n, due_ms) in [now_ms - 3, now_ms - 2, now_ms - 1, now_ms + 200_000].into_iter().enumerate() {
            let headers = Headers { due_ms: Some(due_ms), ..waiting_until(&fleet, now_ms + ms(SHORT)) };
            let id = format!("{n}-in-{}", ms(queue.delay().unwrap()));
            fleet.ports.queue.publish(answers.echo(&id, queue.clone(), headers)).await.unwrap();
        }
    }
    fleet.add_gpu().await;
    let mut answered = BTreeSet::new();
    while answered.len() < long.len() * 4 {
        let reply = answers.next(PATIENCE).await;
        assert_eq!(reply.outcome, Outcome::Succeeded, "{reply:?}");
        assert!(since.elapsed() + ROUNDED >= SHORT, "{} started before its time", reply.task_id);
        answered.insert(reply.task_id);
    }
    until("nothing is left", async || {
        let mut left = 0;
        for queue in &long {
            left += fleet.ports.queue.depth(queue).await.unwrap().unwrap().ready;
        }
        left == 0
    })
    .await;
}

/// The headers of a task that waits.
fn waiting_until(fleet: &Fleet, not_before_ms: u64) -> Headers {
    Headers { not_before_ms: Some(not_before_ms), pool: Some(fleet.pool().to_string()), ..Headers::default() }
}

/// A fleet that lives through a month with few beats.
fn slow(gpus: usize) -> FleetPlan {
    Fleet::of(gpus).looking_after_queues_every(DAY / 4).configured(|configuration| configuration.worker.lease_ms = 600_000)
}

/// One task begins in each of the queues, and the longest one goes down most of them.
#[tokio::test(start_paused = true)]
async fn a_delay_of_thirty_days_and_of_every_queue_ends_to_the_millisecond() {
    let fleet = slow(2).start().await;
    let mut answers = Answers::of(&fleet).await;
    let mut delays: Vec<(Duration, Queue)> = Queue::where_tasks_are_delayed()
        .into_iter()
        .map(|queue| {
            let wait = queue.delay().unwrap();
            (if wait < Duration::from_secs(300) { wait } else { wait + wait / 5 }, queue)
        })
        .collect();
    delays.push((LONGEST, Queue::Delayed(DAY * 5)));
    let mut due = BTreeMap::new();
    for (delay, queue) in delays {
        let task_id = TaskId::new(format!("after-{}", ms(delay))).unwrap();
        let task = NewTask { task_id: Some(task_id.clone()), reply_to: answers.address(), ..delayed(delay, echo(1)) };
        fleet.producer.submit(task).await.unwrap();
        let begins_in = fleet.broker().message_ids(&queue);
        assert!(begins_in.contains(&task_id.to_string()), "{task_id} is not in {queue}, but {begins_in:?}");
        due.insert(task_id, Instant::now() + delay);
    }
    while !due.is_empty() {
        let reply = answers.next(LONGEST * 2).await;
        assert_eq!(reply.outcome, Outcome::Succeeded, "{reply:?}");
        let due = due.remove(&reply.task_id).expect("one reply each");
        assert!(Instant::now() + ROUNDED >= due, "{} came before it was due", reply.task_id);
        assert!(due.elapsed() < THE_WAY, "{} came {:?} late", reply.task_id, due.elapsed());
    }
    for queue in Queue::where_tasks_are_delayed() {
        assert_eq!(fleet.broker().message_ids(&queue), Vec::<String>::new(), "{queue}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_tasks_of_arbitrary_delays_are_each_due_when_they_are() {
    let fleet = Fleet::of(2).start().await;
    let mut answers = Answers::of(&fleet).await;
    let mut due = BTreeMap::new();
    for n in 0..1_000_u64 {
        // From a second to twelve minutes, in no order.
        let delay = Duration::from_millis(1_000 + n * 7_919 % 720_000);
        let task_id = TaskId::new(format!("task-{n}")).unwrap();
        let task = NewTask { task_id: Some(task_id.clone()), reply_to: answers.address(), ..delayed(delay, echo(1)) };
        fleet.producer.submit(task).await.unwrap();
        due.insert(task_id, Instant::now() + delay);
    }
    while !due.is_empty() {
        let reply = answers.next(PATIENCE * 10).await;
        let due = due.remove(&reply.task_id).expect("one reply each");
        assert!(Instant::now() + ROUNDED >= due, "{} came before it was due", reply.task_id);
        // What has so much less to wait than its queue says may stand behind others of it.
        assert!(due.elapsed() < Duration::from_millis(100) + THE_WAY, "{} came {:?} late", reply.task_id, due.elapsed());
    }
}

/// Everything is new halfway: workers, table and store.
#[tokio::test(start_paused = true)]
async fn a_task_in_a_long_queue_is_found_by_workers_that_have_never_heard_of_it() {
    let mut fleet = slow(1).start().await;
    let mut answers = Answers::of(&fleet).await;
    let since = Instant::now();
    let task = NewTask { reply_to: answers.address(), ..delayed(DAY, echo("late")) };
    fleet.producer.submit(task).await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(DAY / 5).await;
        let gpu_id = fleet.gpus()[0].clone();
        fleet.kill(&gpu_id).await;
        fleet.empty_the_table().await;
        fleet.empty_the_store().await;
        fleet.add_gpu().await;
    }
    assert_eq!(result(&answers.next(DAY).await), json!("late"));
    let elapsed = since.elapsed();
    assert!(elapsed + ROUNDED >= DAY && elapsed < DAY + THE_WAY, "it came after {elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_days_for_the_reply_of_a_cancelled_task_that_a_worker_looks_at() {
    let mut fleet = slow(1).start().await;
    let mut answers = Answers::of(&fleet).await;
    let task_id = TaskId::new("never").unwrap();
    let task = NewTask { task_id: Some(task_id.clone()), reply_to: answers.address(), ..delayed(LONGEST, echo("never")) };
    fleet.producer.submit(task).await.unwrap();
    fleet.producer.cancel(&task_id).await.unwrap();
    let (gpu_id, since) = (fleet.gpus()[0].clone(), Instant::now());
    // A worker that starts looks at every queue within a minute.
    fleet.kill_and_restart(&gpu_id).await;
    assert_eq!(answers.next(LONGEST).await.outcome, Outcome::Cancelled);
    assert!(since.elapsed() < DAY, "it came after {:?}", since.elapsed());
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn deadlines_count_from_when_a_task_is_due() {
    let fleet = Fleet::of(1).slots(1).start().await;
    let short = |mut task: NewTask| {
        task.body.limits.queue_deadline_ms = Some(5_000);
        task.body.limits.total_deadline_ms = Some(20_000);
        delayed(Duration::from_secs(90), NewTask { expiration: Some(Duration::from_secs(4)), ..task })
    };
    assert_eq!(result(&fleet.producer.submit_and_wait(short(echo("in time")), PATIENCE).await.unwrap()), json!("in time"));
    // From its due time on its deadlines do count.
    let since = Instant::now();
    let late = fleet.producer.pending(short(echo("too late")), PATIENCE).await.unwrap();
    let _busy = started(&fleet.producer, simulate(600_000, "busy")).await;
    assert_eq!(late.await.unwrap().outcome, Outcome::Expired);
    assert!(since.elapsed() + ROUNDED >= Duration::from_secs(94), "it expired after {:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn more_delayed_tasks_than_are_kept_are_refused_and_leave_no_note() {
    let fleet = Fleet::of(0).configured(|configuration| configuration.amqp.delayed_max = 1).start().await;
    let task = |id: &str| NewTask { task_id: Some(TaskId::new(id).unwrap()), ..delayed(DAY, echo(1)) };
    fleet.producer.submit(task("first")).await.unwrap();
    let refused = fleet.producer.submit(task("second")).await.unwrap_err();
    assert!(refused.is_full() && refused.is_transient(), "{refused}");
    assert_eq!(state(&fleet, &TaskId::new("second").unwrap()).await, None);
    assert_eq!(state(&fleet, &TaskId::new("first").unwrap()).await, Some(TaskState::Delayed));
}

/// A worker that held what no queue takes would have no hand free for anything else.
#[tokio::test(start_paused = true)]
async fn delayed_tasks_that_no_queue_takes_stop_no_pool() {
    let fleet = Fleet::of(1).start().await;
    for queue in Queue::where_tasks_are_delayed() {
        fleet.ports.queue.declare(&queue).await.unwrap();
        fleet.broker().bound(&queue, Some(0));
    }
    let mut answers = Answers::of(&fleet).await;
    let since = Instant::now();
    let ids: Vec<String> = (0..20).map(|n| format!("flood-{n}")).collect();
    for id in &ids {
        answers.publish(&fleet, id, Headers { delay_ms: Some(600_000), ..Headers::default() }).await;
    }
    let other = fleet.producer.submit_and_wait(echo("goes on"), PATIENCE).await.unwrap();
    assert_eq!(result(&other), json!("goes on"));
    for queue in Queue::where_tasks_are_delayed() {
        fleet.broker().bound(&queue, None);
    }
    for _ in &ids {
        assert_eq!(answers.next(PATIENCE * 10).await.outcome, Outcome::Succeeded);
        assert!(since.elapsed() + ROUNDED >= Duration::from_secs(600), "not before its time");
    }
}

/// What workers let wait is refused by nobody: it goes to a shorter queue.
#[tokio::test(start_paused = true)]
async fn where_a_long_queue_is_full_a_task_waits_in_shorter_ones() {
    let fleet = Fleet::of(1).configured(|configuration| configuration.amqp.delayed_max = 1).start().await;
    let mut answers = Answers::of(&fleet).await;
    let since = Instant::now();
    for id in ["a", "b", "c"] {
        answers.publish(&fleet, id, Headers { delay_ms: Some(600_000), ..Headers::default() }).await;
    }
    for _ in 0..3 {
        assert_eq!(answers.next(PATIENCE * 10).await.outcome, Outcome::Succeeded);
        assert!(since.elapsed() + ROUNDED >= Duration::from_secs(600));
    }
}
