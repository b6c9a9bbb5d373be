//! Batches: split over GPUs, merged in order, whatever happens to those who split, run and merge.

mod dying;
mod losses;

use std::{num::NonZeroU16, sync::Arc, time::Duration};

use async_trait::async_trait;
use executors::{Executor, Executors, Failure, Run};
use producer::NewTask;
use protocol::{
    BodyHash, Envelope, Framed, ItemCounts, ItemResult, Json, Kind, OnError, Outcome, Reply, Slice, TaskBody, TaskId, TaskState,
};
use serde_json::{Value, json};
use task_queue::{Consumer, Outgoing, Queue, Target};
use task_store::{SplitAnswer, SplitRequest};
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, on, reply},
    until::until,
};

crate::on_both!(
    sixty_four_items_run_on_four_gpus_and_their_results_come_in_order,
    results_keep_the_bytes_that_the_executor_gave,
    one_bad_item_fails_alone_and_its_error_names_it,
    a_batch_all_of_whose_items_fail_has_failed,
    a_batch_that_is_to_fail_at_once_does_and_its_other_slices_stop,
    a_cancelled_batch_ends_and_its_slices_stop,
    a_total_deadline_ends_a_split_batch_as_expired,
    a_batch_that_may_not_be_split_runs_whole,
    a_batch_whose_results_no_reply_can_carry_is_refused_before_any_work,
    results_that_turn_out_too_large_for_a_reply_are_kept_in_pieces,
    a_second_publish_of_a_batch_is_answered_too_and_runs_nothing,
    a_slice_that_fails_once_is_tried_again,
    a_slice_of_a_killed_worker_runs_elsewhere,
    a_batch_whose_store_is_emptied_is_split_anew_and_answered_once,
    a_slice_that_kills_its_workers_is_given_up_and_the_others_are_not,
);

/// Takes `ms`, then gives `bytes` letters, or its payload. With `flaky` its first attempt fails; with `poison` it never ends.
struct Work {
    began: tokio::sync::mpsc::UnboundedSender<(protocol::GpuId, bool)>,
}

#[async_trait]
impl Executor for Work {
    fn kind(&self) -> Kind {
        Kind::new("work").unwrap()
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let asked: Value = run.payload.to().unwrap();
        let is_poison = asked["poison"] == json!(true);
        let _ = self.began.send((run.device.description().gpu_id.clone(), is_poison));
        if asked["flaky"] == json!(true) && run.task.attempt == 1 {
            return Err(Failure::transient("not today"));
        }
        if is_poison {
            std::future::pending::<()>().await;
        }
        tokio::select! {
            biased;
            () = run.cancel.cancelled() => return Err(Failure::cancelled()),
            () = tokio::time::sleep(Duration::from_millis(asked["ms"].as_u64().unwrap_or(0))) => {}
        }
        Ok(asked["bytes"].as_u64().map_or_else(|| run.payload.clone(), |bytes| Json::of(&"x".repeat(bytes as usize))).into())
    }
}

type Begins = tokio::sync::mpsc::UnboundedReceiver<(protocol::GpuId, bool)>;

fn plan_and_begins(gpus: usize) -> (FleetPlan, Begins) {
    let (began, begins) = tokio::sync::mpsc::unbounded_channel();
    let executors = Executors::new().with(executors::echo()).with(executors::simulate()).with(Arc::new(Work { began }));
    let plan = Fleet::of(gpus).slots(1).executors(executors).configured(|configuration| configuration.worker.lease_ms = 900);
    (plan, begins)
}

fn plan(gpus: usize) -> FleetPlan {
    plan_and_begins(gpus).0
}

fn batch(kind: &str, items: impl IntoIterator<Item = Value>) -> NewTask {
    let items = items.into_iter().map(Json::from).collect();
    NewTask::new(Kind::new(kind).unwrap(), TaskBody { items: Some(items), ..TaskBody::default() })
}

/// Items that each take so long.
fn taking(ms: u64, count: u32) -> impl Iterator<Item = Value> {
    (0..count).map(move |n| json!({"ms": ms, "n": n}))
}

fn items(reply: &Reply) -> Vec<ItemResult> {
    reply.results.to().unwrap_or_else(|_| panic!("no results of items: {reply:?}"))
}

/// The items' results, all of which succeeded.
fn results(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.outcome, Outcome::Succeeded, "{reply:?}");
    items(reply).into_iter().map(|item| item.result.to().unwrap()).collect()
}

fn code(reply: &Reply) -> &str {
    reply.error.as_ref().map_or("none", |error| error.code.as_str())
}

async fn held(fleet: &Fleet) -> u32 {
    fleet.rows().await.iter().map(|view| view.held).sum()
}

async fn until_held(fleet: &Fleet, slots: u32) {
    until(&format!("{slots} slots are held"), async || held(fleet).await == slots).await;
}

async fn sixty_four_items_run_on_four_gpus_and_their_results_come_in_order(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(plan(4)).start().await;
    let reply = reply(&fleet.producer, batch("work", taking(100, 64))).await;
    let expected: Vec<Value> = taking(100, 64).collect();
    assert_eq!(results(&reply), expected);
    assert_eq!(reply.gpu_ids, fleet.gpus(), "every GPU ran a slice");
    assert_eq!((reply.gpu_id.as_ref(), reply.result.is_null(), reply.attempt), (None, true, 1));
    assert_eq!(reply.items, Some(ItemCounts { of: 64, done: 64, failed: Some(0) }));
    assert!(reply.timings.run_ms >= 400.0, "that of the longest slice: {:?}", reply.timings);
    fleet.idle().await;
    assert!(fleet.counted("gpufleet_slices_total", "succeeded") >= 4.0);
    assert_eq!(fleet.counted("gpufleet_batches_total", "split"), 1.0);
    assert_eq!(fleet.counted("gpufleet_tasks_total", "succeeded"), 1.0, "its slices are no tasks of their own");
}

async fn results_keep_the_bytes_that_the_executor_gave(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(plan(2)).start().await;
    let texts = [r#"{"b": 1.00, "a":-0}"#, "null", r#""ü\u0000]""#, "12345678901234567890123"].repeat(4);
    let given: Vec<Json> = texts.iter().map(|text| Json::parse((*text).to_owned()).unwrap()).collect();
    let mut task = batch("echo", []);
    task.body.items = Some(given.clone());
    let reply = reply(&fleet.producer, task).await;
    assert!(!reply.gpu_ids.is_empty(), "it was split: {reply:?}");
    let listed: Vec<String> = reply.results.elements().unwrap().iter().map(|item| item.fields().unwrap()["result"].to_string()).collect();
    assert_eq!(listed, texts);
}

async fn one_bad_item_fails_alone_and_its_error_names_it(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(plan(4)).start().await;
    let wanted = (0..64).map(|n| if n == 37 { json!({"duration_ms": "long"}) } else { json!({"result": n}) });
    let reply = reply(&fleet.producer, batch("simulate", wanted)).await;
    assert_eq!((reply.outcome, reply.items.unwrap().failed), (Outcome::Succeeded, Some(1)), "{reply:?}");
    for (n, item) in items(&reply).into_iter().enumerate() {
        match item.error {
            None => assert_eq!(item.result, json!(n)),
            Some(error) => {
                assert_eq!((n, error.code.as_str(), error.field.as_deref()), (37, "invalid_payload", Some("items[37].duration_ms")));
            }
        }
    }
}

async fn a_batch_all_of_whose_items_fail_has_failed(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(plan(2)).start().await;
    let reply = reply(&fleet.producer, batch("simulate", (0..8).map(|n| json!({"fail": {"code": format!("bad-{n}")}})))).await;
    let error = reply.error.clone().unwrap();
    assert_eq!((reply.outcome, error.code.as_str(), error.field.as_deref()), (Outcome::Failed, "bad-0", Some("items[0]")));
    let codes: Vec<String> = items(&reply).into_iter().map(|item| item.error.unwrap().code).collect();
    assert_eq!(codes, (0..8).map(|n| format!("bad-{n}")).collect::<Vec<_>>());
}

async fn a_batch_that_is_to_fail_at_once_does_and_its_other_slices_stop(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(plan(4)).start().await;
    let wanted = (0..64).map(|n| match n {
        0 => json!({"duration_ms": 100, "fail": {"code": "bad", "message": "as asked"}}),
        _ => json!({"duration_ms": 600_000}),
    });
    let mut task = batch("simulate", wanted);
    task.body.on_error = OnError::Fail;
    let reply = reply(&fleet.producer, task).await;
    let error = reply.error.clone().unwrap();
    assert_eq!((reply.outcome, error.code.as_str(), error.field.as_deref()), (Outcome::Failed, "bad", Some("items[0]")));
    assert!(reply.results.is_null() && reply.items.is_some_and(|items| items.of == 64), "{reply:?}");
    fleet.idle().await;
    until("the other slices are stopped", async || fleet.counted("gpufleet_slices_unwanted_total", "") >= 3.0).await;
    until("those that waited are gone too", async || goes_round(&fleet).await == 0).await;
}

async fn a_cancelled_batch_ends_and_its_slices_stop(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(plan(4)).start().await;
    let pending = fleet.producer.pending(batch("work", taking(600_000, 64)), PATIENCE).await.unwrap();
    until_held(&fleet, 4).await;
    fleet.producer.cancel(pending.task_id()).await.unwrap();
    let reply = pending.await.unwrap();
    assert_eq!((reply.outcome, code(&reply)), (Outcome::Cancelled, "cancelled"));
    fleet.idle().await;
    assert_eq!(fleet.producer.status(&reply.task_id).await.unwrap().unwrap().state, TaskState::Cancelled);
}

async fn a_total_deadline_ends_a_split_batch_as_expired(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(plan(2)).start().await;
    let mut task = batch("work", taking(600_000, 8));
    task.body.limits.total_deadline_ms = Some(3_000);
    let reply = reply(&fleet.producer, task).await;
    assert_eq!((reply.outcome, code(&reply)), (Outcome::Expired, "deadline"), "{reply:?}");
    fleet.idle().await;
}

async fn a_batch_that_may_not_be_split_runs_whole(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(plan(2)).start().await;
    let mut unsplit = batch("work", taking(1, 16));
    unsplit.body.gpu_options.batch_split = Some(false);
    let short = batch("work", taking(1, 7));
    let own = on("gpu-1", batch("work", taking(1, 16)));
    for (task, count) in [(unsplit, 16), (short, 7), (own, 16)] {
        let on_one = task.body.gpu_options.specific_gpu_id.clone();
        let reply = reply(&fleet.producer, task).await;
        assert_eq!(results(&reply), taking(1, count).collect::<Vec<_>>());
        assert_eq!((reply.gpu_ids.len(), reply.items), (0, Some(ItemCounts { of: count, done: count, failed: Some(0) })), "{reply:?}");
        assert!(reply.gpu_id.is_some() && (on_one.is_none() || reply.gpu_id == on_one) && reply.token.is_some());
    }
    assert_eq!(fleet.counted("gpufleet_batches_total", "whole"), 3.0);
    assert_eq!(fleet.counted("gpufleet_slices_total", ""), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_of_one_gpu_and_one_that_splits_nothing_by_default_split_nothing_unasked() {
    let fleet = plan(2).configured(|configuration| configuration.gpu.multi_gpu.batch_split = false).start().await;
    let mut asks = batch("work", taking(1, 16));
    results(&reply(&fleet.producer, asks.clone()).await);
    assert_eq!(fleet.counted("gpufleet_slices_total", ""), 0.0);
    asks.body.gpu_options.batch_split = Some(true);
    results(&reply(&fleet.producer, asks.clone()).await);
    assert!(fleet.counted("gpufleet_slices_total", "") >= 2.0);
    let fleet = plan(2).configured(|configuration| configuration.gpu.multi_gpu.enabled = false).start().await;
    results(&reply(&fleet.producer, asks).await);
    assert_eq!(fleet.counted("gpufleet_slices_total", ""), 0.0);
}

async fn a_batch_whose_results_no_reply_can_carry_is_refused_before_any_work(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(plan(2)).configured(|configuration| configuration.worker.body_bytes_max = 2_000).start().await;
    let reply = reply(&fleet.producer, batch("echo", (0..300).map(|_| json!(1)))).await;
    let error = reply.error.clone().unwrap();
    assert_eq!((reply.outcome, error.code.as_str(), error.field.as_deref()), (Outcome::Failed, "reply_too_large", Some("items")));
    assert!(error.message.contains("at least 3900 bytes") && error.message.contains("2000"), "{}", error.message);
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 0.0);
}

async fn results_that_turn_out_too_large_for_a_reply_are_kept_in_pieces(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(plan(2)).configured(|configuration| configuration.worker.body_bytes_max = 2_000).start().await;
    let mut task = batch("work", (0..16).map(|_| json!({"bytes": 500})));
    let split = reply(&fleet.producer, task.clone()).await;
    let message = split.error.clone().unwrap().message;
    assert_eq!((split.outcome, code(&split), split.results.is_null()), (Outcome::Failed, "reply_too_large", true));
    assert!(message.contains(&format!("GET /api/v1/tasks/{}/results", split.task_id)) && message.contains("2000"), "{message}");
    assert_eq!(split.items, Some(ItemCounts { of: 16, done: 16, failed: Some(0) }));
    let kept = fleet.ports.store.slice_results(&split.task_id, 0, 1_000_000).await.unwrap();
    assert_eq!(kept.iter().map(|(slice, _)| slice.items()).sum::<u32>(), 16, "the results can be read");
    task.body.gpu_options.batch_split = Some(false);
    let whole = reply(&fleet.producer, task).await;
    assert_eq!((whole.outcome, code(&whole), whole.results.is_null()), (Outcome::Failed, "reply_too_large", true));
    assert!(whole.error.unwrap().message.contains("they are not kept"));
}

/// A reply queue of the test's own, as a foreign client has one.
struct Client {
    id: TaskId,
    reply_to: String,
    answers: Consumer,
}

impl Client {
    async fn of(fleet: &Fleet, id: &str) -> Self {
        let (queue, reply_queue) = (&fleet.ports.queue, Queue::Reply(id.to_owned()));
        queue.declare(&reply_queue).await.unwrap();
        queue.declare(&Queue::Pool(fleet.pool())).await.unwrap();
        let answers = queue.consume(&reply_queue, NonZeroU16::new(10).unwrap()).await.unwrap();
        Self { id: TaskId::new(id).unwrap(), reply_to: queue.names().queue(&reply_queue), answers }
    }

    fn envelope(&self) -> Envelope {
        Envelope {
            message_id: Some(self.id.to_string()),
            kind: Some("work".to_owned()),
            reply_to: Some(self.reply_to.clone()),
            correlation_id: Some("c-9".to_owned()),
            ..Envelope::default()
        }
    }

    async fn publish(&self, fleet: &Fleet, items: impl Iterator<Item = Value>) {
        self.send(fleet, self.envelope(), items).await;
    }

    async fn send(&self, fleet: &Fleet, envelope: Envelope, items: impl Iterator<Item = Value>) {
        let target = Target::Queue(Queue::Pool(fleet.pool()));
        fleet.ports.queue.publish(Outgoing::new(target, envelope, body_of(items))).await.unwrap();
    }

    async fn next(&mut self) -> Reply {
        let answer = tokio::time::timeout(PATIENCE * 6, self.answers.next()).await.expect("a reply in time").unwrap();
        let reply = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer.envelope.correlation_id.as_deref(), Some("c-9"));
        assert_eq!(answer.envelope.message_id.as_deref(), Some(self.id.as_str()));
        answer.receipt.ack().await.unwrap();
        reply
    }

    /// Waits until nothing of the batch goes round any more; then nothing else may have been said.
    async fn nothing_else(&mut self, fleet: &Fleet) {
        until("nothing of it goes round", async || goes_round(fleet).await == 0).await;
        fleet.idle().await;
        let reply_queue = Queue::Reply(self.id.to_string());
        assert!(fleet.ports.queue.depth(&reply_queue).await.unwrap().is_some_and(|depth| depth.ready == 0));
        assert!(futures::FutureExt::now_or_never(self.answers.next()).is_none(), "another reply came");
    }

    async fn state(&self, fleet: &Fleet) -> Option<TaskState> {
        fleet.producer.status(&self.id).await.unwrap().map(|status| status.state)
    }

    /// Waits until the store has the cut of the batch.
    async fn split(&self, fleet: &Fleet) {
        until("it is split", async || fleet.producer.status(&self.id).await.unwrap().is_some_and(|status| status.slices.is_some())).await;
    }
}

/// A task's body with these items, as the fleet writes that of a slice.
fn body_of(items: impl Iterator<Item = Value>) -> bytes::Bytes {
    TaskBody { items: Some(items.map(Json::from).collect()), ..TaskBody::default() }.to_bytes()
}

/// How many messages wait, with the broker or in a worker's hand.
async fn goes_round(fleet: &Fleet) -> u32 {
    let mut messages = fleet.counted("gpufleet_held_messages", "") as u32;
    for queue in Queue::where_tasks_wait().into_iter().chain([Queue::Pool(fleet.pool())]) {
        messages += fleet.ports.queue.depth(&queue).await.unwrap().map_or(0, |depth| depth.ready);
    }
    messages
}

async fn a_second_publish_of_a_batch_is_answered_too_and_runs_nothing(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(plan(2).slots(2)).start().await;
    let mut client = Client::of(&fleet, "asked-twice").await;
    client.publish(&fleet, taking(1_000, 8)).await;
    until_held(&fleet, 2).await;
    client.publish(&fleet, taking(1_000, 8)).await;
    let (first, second) = (client.next().await, client.next().await);
    assert_eq!(results(&first), taking(1_000, 8).collect::<Vec<_>>());
    assert_eq!(first, second);
    client.nothing_else(&fleet).await;
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "work"), 2.0, "each slice ran once");
}

async fn a_slice_that_fails_once_is_tried_again(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(plan(2)).start().await;
    let wanted = || (0..8).map(|n| json!({"n": n, "flaky": true}));
    let reply = reply(&fleet.producer, batch("work", wanted())).await;
    assert_eq!(results(&reply), wanted().collect::<Vec<_>>());
    assert_eq!(
        (fleet.counted("gpufleet_retries_total", ""), reply.attempt),
        (2.0, 1),
        "all items of a slice failed: it is tried again as a whole"
    );
    fleet.idle().await;
}

async fn a_slice_of_a_killed_worker_runs_elsewhere(here: fn(FleetPlan) -> FleetPlan) {
    let mut fleet = here(plan(2)).start().await;
    let pending = fleet.producer.pending(batch("work", taking(500, 8)), PATIENCE).await.unwrap();
    until_held(&fleet, 2).await;
    let killed = fleet.gpus().remove(0);
    fleet.kill_and_restart(&killed).await;
    assert_eq!(results(&pending.await.unwrap()), taking(500, 8).collect::<Vec<_>>());
    fleet.idle().await;
    assert_eq!(fleet.counted("gpufleet_batches_total", "split"), 1.0);
}

async fn a_batch_whose_store_is_emptied_is_split_anew_and_answered_once(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(plan(2)).start().await;
    let mut client = Client::of(&fleet, "forgotten").await;
    client.publish(&fleet, taking(700, 8)).await;
    until_held(&fleet, 2).await;
    until("its copy waits", async || fleet.counted("gpufleet_held_messages", "wait.5000") == 1.0).await;
    fleet.empty_the_store().await;
    assert_eq!(results(&client.next().await), taking(700, 8).collect::<Vec<_>>());
    client.nothing_else(&fleet).await;
    assert_eq!(fleet.counted("gpufleet_batches_total", "split"), 1.0);
}

async fn a_slice_that_kills_its_workers_is_given_up_and_the_others_are_not(here: fn(FleetPlan) -> FleetPlan) {
    let (plan, mut begins) = plan_and_begins(1);
    let plan = plan.slots(2).configured(|configuration| configuration.worker.crashes_max = 1);
    let mut fleet = here(plan).start().await;
    let wanted = (0..8).map(|n| json!({"n": n, "ms": 100, "poison": n == 6}));
    let pending = fleet.producer.pending(batch("work", wanted), PATIENCE).await.unwrap();
    let batch_id = pending.task_id().clone();
    let mut waiting = tokio::spawn(pending);
    let reply = loop {
        tokio::select! {
            biased;
            reply = &mut waiting => break reply.unwrap().unwrap(),
            Some((gpu_id, is_poison)) = begins.recv() => if is_poison {
                fleet.kill_and_restart(&gpu_id).await;
            },
        }
    };
    assert_eq!((reply.outcome, reply.items.unwrap().failed), (Outcome::Succeeded, Some(4)), "{reply:?}");
    for (n, item) in items(&reply).into_iter().enumerate() {
        let error = item.error.map(|error| (error.code, error.field.unwrap()));
        assert_eq!(error, (n >= 4).then(|| ("quarantined".to_owned(), format!("items[{n}]"))));
    }
    let dead = fleet.ports.queue.take(&Queue::Dead).await.unwrap().unwrap();
    let letter = &dead.envelope;
    assert!(letter.message_id.as_deref().unwrap().starts_with("slice-") && letter.headers.slice.is_none(), "{letter:?}");
    let history = letter.headers.history.as_deref().unwrap();
    assert!(history.contains(&format!("items 4..8 of batch {batch_id}")), "{letter:?}");
    // Requeued, it must not answer the batch's producer once more.
    assert_eq!((letter.reply_to.as_ref(), letter.correlation_id.as_ref(), letter.headers.group.as_ref()), (None, None, None));
    assert!(
        !letter.headers.progress && history.contains(&format!("read by its id, {}", letter.message_id.as_deref().unwrap())),
        "{letter:?}"
    );
    assert_eq!(serde_json::from_slice::<Value>(&dead.body).unwrap()["items"].as_array().unwrap().len(), 4);
    dead.receipt.ack().await.unwrap();
}

/// A slice that nobody has cut: somebody made it up, or its batch is answered by now.
#[tokio::test(start_paused = true)]
async fn a_slice_of_no_batch_runs_nothing_and_is_no_task() {
    let fleet = plan(1).start().await;
    let mut client = Client::of(&fleet, "made-up").await;
    let mut envelope = client.envelope();
    envelope.headers.slice = Slice::new(0, 3);
    client.send(&fleet, envelope.clone(), taking(10, 3)).await;
    until("it is dropped", async || fleet.counted("gpufleet_slices_unwanted_total", "") == 1.0).await;
    // One that is not even that is kept for people to look at.
    client.send(&fleet, envelope, taking(10, 2)).await;
    until("it is dropped", async || fleet.counted("gpufleet_slices_unwanted_total", "") == 2.0).await;
    let letters = fleet.producer.dead_letters().list(10).await.unwrap();
    assert!(letters.len() == 1 && letters[0].reason.as_deref().unwrap().contains("x-gpufleet-slice"), "{letters:?}");
    client.nothing_else(&fleet).await;
    assert_eq!((client.state(&fleet).await, fleet.counted("gpufleet_run_seconds_count", "work")), (None, 0.0));
}
