//! Progress and partial output: to a producer that asked, and into the status; never at the cost of the task.

use std::{num::NonZeroU16, time::Duration};

use async_trait::async_trait;
use executors::{Executor, Executors, Failure, Run};
use futures::StreamExt;
use producer::{NewTask, Pending, ReplyTo};
use protocol::{Envelope, Kind, ProgressMessage, Reply, TaskId, TaskState, TaskStatus, envelope::Headers, progress::PROGRESS_TYPE};
use serde_json::{Value, json};
use task_queue::{Outgoing, Queue, Target};
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, echo, reply, result, task},
    until::until,
};

crate::on_both!(
    a_producer_that_asked_gets_ordered_progress_and_then_the_reply,
    a_producer_that_did_not_ask_gets_the_reply_alone,
    a_foreign_client_tells_progress_from_the_reply_by_its_type,
    the_status_shows_progress_while_the_task_runs,
    a_later_attempt_counts_anew_and_an_earlier_ones_progress_is_gone,
    progress_of_a_late_holder_is_refused_and_it_falls_silent,
    a_producer_that_went_away_costs_its_progress_and_not_the_task,
    a_flood_of_parts_arrives_in_order_with_its_gaps_and_is_no_burden,
    a_task_that_reports_nothing_costs_nothing,
);

/// A task that reports every 20 ms, `steps` times.
fn reporting(steps: u64) -> NewTask {
    task("simulate", json!({"duration_ms": 20 * (steps + 1), "progress_every_ms": 20, "result": "done"}))
}

fn asking(task: NewTask) -> NewTask {
    NewTask { progress: true, ..task }
}

async fn heard(mut pending: Pending) -> (Vec<ProgressMessage>, Reply) {
    let said = pending.progress().expect("asked for").collect().await;
    (said, pending.await.unwrap())
}

async fn status(fleet: &Fleet, task_id: &TaskId) -> TaskStatus {
    fleet.producer.status(task_id).await.unwrap().unwrap()
}

/// Waits until the status shows progress; gives its message.
async fn shown(fleet: &Fleet, task_id: &TaskId) -> String {
    let progress = async || fleet.producer.status(task_id).await.unwrap().and_then(|status| status.progress);
    until("progress shows", async || progress().await.is_some()).await;
    progress().await.unwrap().message.unwrap()
}

async fn a_producer_that_asked_gets_ordered_progress_and_then_the_reply(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(2)).start().await;
    let pending = fleet.producer.pending(asking(reporting(30)), PATIENCE).await.unwrap();
    let (said, reply) = heard(pending).await;
    assert_eq!(result(&reply), json!("done"));
    assert_eq!(said.iter().map(|message| message.number).collect::<Vec<_>>(), (1..=said.len() as u64).collect::<Vec<_>>());
    let fractions: Vec<f64> = said.iter().filter_map(|message| Some(message.progress.as_ref()?.fraction.get())).collect();
    assert!(
        fractions.len() > 3 && fractions.is_sorted() && fractions.iter().all(|fraction| (0.0..=1.0).contains(fraction)),
        "{fractions:?}"
    );
    let parts: Vec<(u64, Value)> =
        said.iter().flat_map(|message| message.partials.clone()).map(|part| (part.number, part.value.to().unwrap())).collect();
    assert_eq!(parts, (1..=30).map(|step| (step, json!(step))).collect::<Vec<_>>(), "every part, the last ones too, before the reply");
    assert!(said.iter().all(|message| Some(message.token) == reply.token && message.attempt == 1 && message.task_id == reply.task_id));
    assert_eq!(fleet.counted("gpufleet_progress_total", "\"sent\""), said.len() as f64);
    assert_eq!(fleet.producer.counts().replies_ignored, 0);
}

/// Publishes a task as a foreign client would, and takes what comes to its reply queue up to the reply.
async fn answers(fleet: &Fleet, name: &str, progress: bool) -> Vec<(Envelope, Value)> {
    let (queue, reply_queue) = (&fleet.ports.queue, Queue::Reply(name.to_owned()));
    queue.declare(&reply_queue).await.unwrap();
    let mut consumer = queue.consume(&reply_queue, NonZeroU16::MIN).await.unwrap();
    let envelope = Envelope {
        message_id: Some(name.to_owned()),
        kind: Some("simulate".to_owned()),
        reply_to: Some(queue.names().queue(&reply_queue)),
        correlation_id: Some("c-7".to_owned()),
        headers: Headers { progress, ..Headers::default() },
        ..Envelope::default()
    };
    let body = json!({"payload": {"duration_ms": 400, "progress_every_ms": 20}}).to_string();
    queue.publish(Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, body.into())).await.unwrap();
    let mut answers = Vec::new();
    while answers.last().is_none_or(|(envelope, _): &(Envelope, Value)| envelope.kind.is_some()) {
        let delivery = consumer.next().await.unwrap();
        answers.push((delivery.envelope, serde_json::from_slice(&delivery.body).unwrap()));
        delivery.receipt.ack().await.unwrap();
    }
    fleet.idle().await;
    assert!(queue.depth(&reply_queue).await.unwrap().is_some_and(|depth| depth.ready == 0), "nothing comes after the reply");
    answers
}

async fn a_producer_that_did_not_ask_gets_the_reply_alone(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let answers = answers(&fleet, "silent", false).await;
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].1["outcome"], "succeeded");
    assert_eq!(fleet.counted("gpufleet_progress_total", "\"sent\""), 0.0);
}

async fn a_foreign_client_tells_progress_from_the_reply_by_its_type(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let mut answers = answers(&fleet, "curious", true).await;
    let (envelope, body) = answers.pop().unwrap();
    assert_eq!((envelope.kind, &body["outcome"]), (None, &json!("succeeded")));
    assert!(answers.len() > 2);
    for (place, (envelope, body)) in answers.into_iter().enumerate() {
        assert_eq!((envelope.kind.as_deref(), envelope.correlation_id.as_deref()), (Some(PROGRESS_TYPE), Some("c-7")));
        assert_eq!((envelope.message_id.as_deref(), envelope.headers.attempt), (Some("curious"), Some(1)));
        let message: ProgressMessage = serde_json::from_value(body).unwrap();
        assert_eq!((message.number, Some(message.token.0)), (place as u64 + 1, envelope.headers.token));
    }
}

async fn the_status_shows_progress_while_the_task_runs(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let long = task("simulate", json!({"duration_ms": 600_000, "progress_every_ms": 20}));
    let pending = fleet.producer.pending(long, PATIENCE).await.unwrap();
    let first = shown(&fleet, pending.task_id()).await;
    until("it changes", async || shown(&fleet, pending.task_id()).await != first).await;
    let running = status(&fleet, pending.task_id()).await;
    assert_eq!(running.state, TaskState::Running);
    assert!(running.progress.is_some_and(|progress| progress.fraction.get() > 0.0 && progress.at_ms >= running.first_seen_ms));
    fleet.producer.cancel(pending.task_id()).await.unwrap();
    let ended = pending.await.unwrap().task_id;
    assert_eq!(status(&fleet, &ended).await.progress, None);
}

async fn a_later_attempt_counts_anew_and_an_earlier_ones_progress_is_gone(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let failing = json!({"duration_ms": 100, "progress_every_ms": 30, "fail": {"code": "flaky", "message": "as asked", "retry": true}});
    let mut failing = asking(task("simulate", failing));
    failing.body.limits.max_attempts = Some(2);
    let pending = fleet.producer.pending(failing, PATIENCE).await.unwrap();
    let task_id = pending.task_id().clone();
    let hearing = tokio::spawn(heard(pending));
    until("it waits for its second attempt", async || status(&fleet, &task_id).await.state == TaskState::Retrying).await;
    assert_eq!(status(&fleet, &task_id).await.progress, None);
    let (said, reply) = hearing.await.unwrap();
    assert_eq!(reply.attempt, 2);
    for attempt in [1, 2] {
        let parts: Vec<u64> = said
            .iter()
            .filter(|message| message.attempt == attempt)
            .flat_map(|message| &message.partials)
            .map(|part| part.number)
            .collect();
        assert_eq!(parts, [1, 2, 3], "attempt {attempt}");
    }
}

async fn progress_of_a_late_holder_is_refused_and_it_falls_silent(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let pending = fleet.producer.pending(asking(reporting(200)), PATIENCE).await.unwrap();
    let task_id = pending.task_id().clone();
    shown(&fleet, &task_id).await;
    // Another holder begins: what the store would see if the first one had let go of the task.
    let mut begun = task_store::BeginRequest {
        task_id: task_id.clone(),
        body_hash: protocol::BodyHash::of(&serde_json::to_vec(&reporting(200).body).unwrap()),
        kind: Kind::new("simulate").unwrap(),
        attempt: 1,
        gpu_id: "elsewhere".parse().unwrap(),
        incarnation: "another".parse().unwrap(),
        delivery: protocol::DeliveryId(1),
        alone: false,
        verdict: None,
        crashes_max: 3,
        published_s: None,
    };
    let task_store::Begin::Unfinished(holder) = fleet.ports.store.begin(&begun).await.unwrap() else { panic!("it runs") };
    begun.verdict = Some(task_store::Verdict { token: holder.token, gone: false });
    let begun = fleet.ports.store.begin(&begun).await.unwrap();
    assert!(matches!(begun, task_store::Begin::Begun(token) if token > holder.token), "{begun:?}");
    until("the late one is refused", async || fleet.counted("gpufleet_progress_total", "\"refused\"") == 1.0).await;
    let sent = fleet.counted("gpufleet_progress_total", "\"sent\"");
    let now = status(&fleet, &task_id).await;
    assert_eq!((now.state, now.progress, now.gpu_id), (TaskState::Running, None, "elsewhere".parse().ok()));
    until("the late one's run is over", async || fleet.counted("gpufleet_run_seconds_count", "simulate") == 1.0).await;
    assert!(sent > 0.0);
    assert_eq!(fleet.counted("gpufleet_progress_total", "\"sent\""), sent, "it is silent since");
    fleet.idle().await;
}

async fn a_producer_that_went_away_costs_its_progress_and_not_the_task(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let reply_to = Some(ReplyTo { queue: "nobody-has-declared-this".to_owned(), correlation_id: "1".to_owned() });
    let submitted = fleet.producer.submit(NewTask { reply_to, ..asking(reporting(20)) }).await.unwrap();
    until("the task ended", async || status(&fleet, &submitted.task_id).await.state == TaskState::Succeeded).await;
    assert_eq!(fleet.counted("gpufleet_progress_total", "\"dropped\""), 1.0, "one message shows that nobody is there");
    fleet.idle().await;
}

/// Gives its payload's number of parts as fast as it can, from a thread of its own.
struct Flood;

#[async_trait]
impl Executor for Flood {
    fn kind(&self) -> Kind {
        Kind::new("flood").expect("a valid kind")
    }

    async fn run(&self, run: Run<'_>) -> Result<protocol::Framed, Failure> {
        let parts = run.payload.to::<u64>().unwrap_or_default();
        let report = run.report.clone();
        let flooding = std::thread::spawn(move || {
            for part in 1..=parts {
                report.partial(json!(part).into());
                report.progress(part as f64 / parts as f64, "");
            }
        });
        flooding.join().map_err(|_| Failure::transient("the thread crashed"))?;
        Ok(protocol::Json::of(&parts).into())
    }
}

async fn a_flood_of_parts_arrives_in_order_with_its_gaps_and_is_no_burden(on: fn(FleetPlan) -> FleetPlan) {
    let executors = Executors::new().with(std::sync::Arc::new(Flood));
    let fleet = on(Fleet::of(1).executors(executors)).start().await;
    let pending = fleet.producer.pending(asking(task("flood", json!(100_000))), PATIENCE).await.unwrap();
    let (said, reply) = heard(pending).await;
    assert_eq!(result(&reply), json!(100_000));
    let parts: Vec<_> = said.iter().flat_map(|message| &message.partials).collect();
    assert!(parts.len() < 100_000 && parts.is_sorted_by(|one, next| one.number < next.number), "{} parts", parts.len());
    assert!(parts.iter().all(|part| part.value == json!(part.number)), "a part keeps its own number");
    assert_eq!(parts.last().map(|part| part.number), Some(100_000));
    assert_eq!(said.last().and_then(|message| Some(message.progress.as_ref()?.fraction.get())), Some(1.0), "the last report wins");
}

async fn a_task_that_reports_nothing_costs_nothing(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let quiet = task("simulate", json!({"duration_ms": 200}));
    let (said, reply) = heard(fleet.producer.pending(asking(quiet), PATIENCE).await.unwrap()).await;
    assert_eq!((said, reply.outcome), (vec![], protocol::Outcome::Succeeded));
    result(&tests::tasks::reply(&fleet.producer, asking(echo(1))).await);
    assert_eq!(fleet.counted("gpufleet_progress_total", ""), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_blocks_costs_progress_and_never_the_task() {
    let fleet = Fleet::of(1).start().await;
    let mut pending = fleet.producer.pending(asking(reporting(1_000)), PATIENCE).await.unwrap();
    let mut said = pending.progress().unwrap();
    let first = said.next().await.unwrap();
    fleet.broker().block_publishers("low on memory");
    let task_id = pending.task_id().clone();
    until("it ended, while the broker blocks", async || status(&fleet, &task_id).await.state == TaskState::Succeeded).await;
    fleet.broker().unblock_publishers();
    let rest: Vec<ProgressMessage> = said.collect().await;
    assert_eq!(result(&pending.await.unwrap()), json!("done"));
    assert!(first.number == 1 && rest.len() < 5, "{} messages", rest.len());
    assert_eq!(fleet.counted("gpufleet_progress_total", "\"dropped\""), 1.0, "what was left at the end");
}

#[tokio::test(start_paused = true)]
async fn after_a_short_block_the_parts_go_on_where_they_stopped() {
    let fleet = Fleet::of(1).start().await;
    let mut pending = fleet.producer.pending(asking(reporting(200)), PATIENCE).await.unwrap();
    let mut said = pending.progress().unwrap();
    let first = said.next().await.unwrap();
    fleet.broker().block_publishers("low on memory");
    let shown_while_blocked = shown(&fleet, pending.task_id()).await;
    until("it goes on", async || shown(&fleet, pending.task_id()).await != shown_while_blocked).await;
    fleet.broker().unblock_publishers();
    let mut parts: Vec<u64> = first.partials.iter().map(|part| part.number).collect();
    parts.extend(said.flat_map(|message| futures::stream::iter(message.partials)).map(|part| part.number).collect::<Vec<_>>().await);
    assert_eq!(parts, (1..=200).collect::<Vec<_>>());
    result(&pending.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_store_is_told_at_most_once_in_an_interval() {
    let plan = Fleet::of(1).configured(|configuration| configuration.worker.progress_every_ms = 1_000);
    let fleet = plan.start().await;
    let began = tokio::time::Instant::now();
    result(&reply(&fleet.producer, reporting(500)).await);
    let seconds = began.elapsed().as_secs_f64();
    assert!(began.elapsed() > Duration::from_secs(10));
    let noted = fleet.counted("gpufleet_progress_total", "\"noted\"");
    assert!(noted > 5.0 && noted <= seconds + 1.0, "{noted} in {seconds} s");
}
