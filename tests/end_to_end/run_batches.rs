//! Payloads that run together: of many tasks, and the items of one.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use executors::{Batching, Executor, Executors, Failure, Run, RunBatch};
use futures::StreamExt;
use producer::NewTask;
use protocol::{Framed, GpuId, ItemResult, Json, Kind, OnError, Outcome, Reply, TaskError};
use serde_json::{Value, json};
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, replies, reply, result, started, task},
    until::until,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

crate::on_both!(
    many_tasks_take_few_runs_and_each_has_its_own_reply,
    the_items_of_a_batch_and_other_tasks_run_together,
    what_does_not_fit_the_memory_together_runs_in_parts,
    a_run_that_fails_as_a_whole_is_one_failure_of_its_gpu,
    of_those_that_ran_together_only_the_one_that_crashes_is_quarantined,
    items_of_a_kind_that_takes_one_at_a_time_run_one_after_the_other_and_a_bad_one_fails_alone,
    a_batch_that_is_to_fail_with_its_first_bad_item_does,
    an_item_that_fails_once_is_tried_again_after_the_others,
    items_that_all_fail_are_an_attempt_that_failed,
    a_producer_that_asked_gets_each_items_result_as_it_is_there,
    an_executor_is_asked_once_an_attempt_whether_its_payload_takes_part,
    a_split_batch_tells_how_many_of_its_items_ran_together,
);

/// A task that is cheap beside others.
fn of_many(fixed_ms: u64, result: Value) -> NewTask {
    task("simulate", json!({"batch_fixed_ms": fixed_ms, "batch_item_ms": 1, "result": result}))
}

/// A batch that runs whole.
fn batch(items: Vec<Value>) -> NewTask {
    let mut task = task("simulate", Value::Null);
    task.body.items = Some(items.into_iter().map(Json::from).collect());
    task.body.gpu_options.batch_split = Some(false);
    task
}

fn runs(fleet: &Fleet) -> f64 {
    fleet.counted("gpufleet_batch_size_count", "simulate")
}

/// The items' results, in order.
fn results(reply: &Reply) -> Vec<Result<Value, TaskError>> {
    assert_eq!(reply.outcome, Outcome::Succeeded, "{reply:?}");
    let items: Vec<ItemResult> = reply.results.to().unwrap();
    items.into_iter().map(|item| item.error.map_or_else(|| Ok(item.result.to().unwrap()), Err)).collect()
}

/// Runs these together: they come while another run is under way.
async fn run_together(fleet: &Fleet, tasks: Vec<NewTask>) -> Vec<Reply> {
    let first = started(&fleet.producer, of_many(2_000, json!("first"))).await;
    let count = tasks.len();
    let replies = replies(&fleet.producer, tasks, count).await;
    result(&first.await.unwrap());
    replies
}

async fn many_tasks_take_few_runs_and_each_has_its_own_reply(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1).slots(16)).start().await;
    let tasks = (0..32).map(|n| of_many(100, json!(n))).collect();
    let replies = replies(&fleet.producer, tasks, 32).await;
    for (n, reply) in replies.iter().enumerate() {
        assert_eq!(result(reply), json!(n));
    }
    let runs = runs(&fleet);
    assert!((2.0..=12.0).contains(&runs), "{runs} runs");
    assert_eq!(fleet.counted("gpufleet_batch_size_sum", "simulate"), 32.0);
    assert_eq!(fleet.counted("gpufleet_batch_wait_seconds_count", "simulate"), 32.0);
    // Each reply tells how many ran together: the n members of a run stand for it by one n-th each.
    let told: f64 = replies.iter().map(|reply| 1.0 / f64::from(reply.timings.batch_size.unwrap())).sum();
    assert!((told - runs).abs() < 1e-6, "{told} runs by the replies, {runs} by the metric");
    fleet.idle().await;
}

async fn the_items_of_a_batch_and_other_tasks_run_together(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1).slots(4)).start().await;
    let item = |n: u64| json!({"batch_fixed_ms": 20, "batch_item_ms": 1, "result": n});
    let mut items: Vec<Value> = (0..6).map(item).collect();
    items[3] = json!({"batch_item_ms": "a lot"});
    let mut tasks = vec![batch(items)];
    tasks.extend([of_many(20, json!("one")), of_many(20, json!("two"))]);
    let replies = run_together(&fleet, tasks).await;
    let came_out = results(&replies[0]);
    let bad = came_out[3].as_ref().unwrap_err();
    assert_eq!((bad.code.as_str(), bad.field.as_deref()), ("invalid_payload", Some("items[3].batch_item_ms")));
    for n in [0, 1, 2, 4, 5] {
        assert_eq!(came_out[n].as_ref().unwrap(), &json!(n));
    }
    assert_eq!((result(&replies[1]), result(&replies[2])), (json!("one"), json!("two")));
    assert_eq!(replies.iter().map(|reply| reply.timings.batch_size).collect::<Vec<_>>(), [Some(8); 3], "six items and two tasks");
    assert_eq!(runs(&fleet), 2.0, "and the first");
}

async fn what_does_not_fit_the_memory_together_runs_in_parts(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1).slots(4)).start().await;
    let large = |n: u64| task("simulate", json!({"batch_fixed_ms": 20, "memory_mb": 30_000, "result": n}));
    let replies = run_together(&fleet, (0..3).map(large).collect()).await;
    for (n, reply) in replies.iter().enumerate() {
        assert_eq!((result(reply), reply.attempt), (json!(n), 1));
    }
    assert!(fleet.counted("gpufleet_memory_relief_total", "halved") >= 1.0);
    assert_eq!(fleet.counted("gpufleet_memory_relief_total", "evicted"), 0.0, "nothing else had to be tried");
    assert_eq!(replies.iter().filter_map(|reply| reply.timings.batch_size).max(), Some(2), "two of them fit");
}

async fn a_run_that_fails_as_a_whole_is_one_failure_of_its_gpu(on: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(3).slots(8).configured(|configuration| configuration.worker.failures_to_quarantine = 3);
    let fleet = on(plan).start().await;
    let gpu = fleet.gpus().remove(0);
    let here = |task| tests::tasks::on(gpu.as_str(), task);
    let first = started(&fleet.producer, here(of_many(2_000, json!("first")))).await;
    let failing = |n: u64| {
        let mut task = here(task("simulate", json!({"batch_fixed_ms": 20, "fail": {"retry": true}, "result": n})));
        task.body.limits.max_attempts = Some(1);
        task
    };
    let replies = replies(&fleet.producer, (0..6).map(failing).collect(), 6).await;
    result(&first.await.unwrap());
    assert!(replies.iter().all(|reply| reply.outcome == Outcome::Failed && reply.timings.batch_size == Some(6)), "{replies:?}");
    assert_eq!(fleet.counted("gpufleet_gpu_quarantines_total", ""), 0.0, "six tasks failed, and one run");
}

/// Says where its runs begin and with how many; a poison never ends, the first takes long.
struct Together {
    began: UnboundedSender<Began>,
}

/// A run that has begun.
struct Began {
    gpu_id: GpuId,
    members: usize,
    poisoned: bool,
}

#[async_trait]
impl Executor for Together {
    fn kind(&self) -> Kind {
        Kind::new("together").unwrap()
    }

    fn batching(&self) -> Option<Batching> {
        Some(Batching::up_to(8))
    }

    async fn run(&self, _run: Run<'_>) -> Result<Framed, Failure> {
        Err(Failure::invalid("payload", "runs with others"))
    }

    async fn run_batch(&self, batch: RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
        let has = |what: &str| batch.members.iter().any(|member| *member.payload == json!(what));
        let (gpu_id, poisoned) = (batch.device.description().gpu_id.clone(), has("poison"));
        let _ = self.began.send(Began { gpu_id, members: batch.members.len(), poisoned });
        if poisoned {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(if has("first") { 2_000 } else { 50 })).await;
        batch.members.iter().map(|member| Ok(member.payload.clone().into())).collect()
    }
}

async fn began(begins: &mut UnboundedReceiver<Began>) -> Began {
    tokio::time::timeout(PATIENCE, begins.recv()).await.expect("a run begins in time").expect("the fleet runs")
}

async fn of_those_that_ran_together_only_the_one_that_crashes_is_quarantined(on: fn(FleetPlan) -> FleetPlan) {
    let (sender, mut begins) = unbounded_channel();
    let executors = Executors::new().with(Arc::new(Together { began: sender }));
    let plan = Fleet::of(1).slots(8).executors(executors).configured(|configuration| configuration.worker.lease_ms = 600);
    let mut fleet = on(plan).start().await;
    let first = fleet.producer.pending(task("together", json!("first")), PATIENCE).await.unwrap();
    assert_eq!(began(&mut begins).await.members, 1);
    let payloads = ["a", "b", "poison", "c", "d", "e"];
    let tasks: Vec<NewTask> = payloads.iter().map(|payload| task("together", json!(payload))).collect();
    let producer = fleet.producer.clone();
    let mut flow = tokio::spawn(async move { replies(&producer, tasks, payloads.len()).await });
    let together = began(&mut begins).await;
    assert_eq!((together.members, together.poisoned), (6, true), "all of them gathered while the first one ran");
    assert_eq!(first.await.unwrap().outcome, Outcome::Succeeded);
    fleet.kill_and_restart(&together.gpu_id).await;
    let mut kills = 1;
    let replies = loop {
        tokio::select! {
            biased;
            replies = &mut flow => break replies.unwrap(),
            Some(next) = begins.recv() => {
                assert_eq!(next.members, 1, "after a crash each runs alone");
                if next.poisoned {
                    kills += 1;
                    fleet.kill_and_restart(&next.gpu_id).await;
                }
            }
        }
    };
    assert_eq!(kills, 3);
    for (reply, payload) in replies.iter().zip(payloads) {
        if payload == "poison" {
            let error = reply.error.as_ref().unwrap();
            assert_eq!(error.code, "quarantined");
            assert_eq!(error.message.matches("alone").count(), 2, "{}", error.message);
        } else {
            assert_eq!((result(reply), reply.attempt, reply.timings.batch_size), (json!(payload), 1, Some(1)), "a crash costs no attempt");
        }
    }
    assert_eq!(fleet.counted("gpufleet_quarantined_total", ""), 1.0);
    fleet.idle().await;
}

async fn items_of_a_kind_that_takes_one_at_a_time_run_one_after_the_other_and_a_bad_one_fails_alone(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    // Each takes most of the memory: two beside each other would not fit.
    let item = |n: u64| json!({"duration_ms": 30, "memory_mb": 60_000, "result": n});
    let items = vec![item(0), json!({"duration_ms": "long"}), item(2), json!({"fail": {"code": "oops", "message": "as asked"}}), item(4)];
    let reply = reply(&fleet.producer, batch(items)).await;
    let came_out = results(&reply);
    assert_eq!([0, 2, 4].map(|n| came_out[n].clone().unwrap()), [json!(0), json!(2), json!(4)]);
    let failed = [1, 3].map(|n| came_out[n].clone().unwrap_err()).map(|error| (error.code, error.field.unwrap()));
    let expected = [("invalid_payload", "items[1].duration_ms"), ("oops", "items[3]")];
    assert_eq!(failed, expected.map(|(code, field)| (code.to_owned(), field.to_owned())));
    assert_eq!((reply.attempt, reply.timings.batch_size), (1, None));
    assert_eq!(fleet.counted("gpufleet_memory_relief_total", ""), 0.0);
}

async fn a_batch_that_is_to_fail_with_its_first_bad_item_does(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let mut failing = batch(vec![json!({"result": 0}), json!({"duration_ms": "long"}), json!({"duration_ms": 600_000})]);
    failing.body.on_error = OnError::Fail;
    let reply = reply(&fleet.producer, failing).await;
    let error = reply.error.unwrap();
    assert_eq!(
        (reply.outcome, error.code.as_str(), error.field.as_deref()),
        (Outcome::Failed, "invalid_payload", Some("items[1].duration_ms"))
    );
}

async fn an_item_that_fails_once_is_tried_again_after_the_others(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    fleet.knobs(&fleet.gpus()[0]).fail_next_allocations(1);
    let mut asking = batch((0..3).map(|n| json!({"memory_mb": 10, "result": n})).collect());
    asking.progress = true;
    let mut pending = fleet.producer.pending(asking, PATIENCE).await.unwrap();
    let said: Vec<_> = pending.progress().unwrap().collect().await;
    let reply = pending.await.unwrap();
    assert_eq!(results(&reply), [Ok(json!(0)), Ok(json!(1)), Ok(json!(2))]);
    assert_eq!(reply.attempt, 1, "within the attempt");
    let order: Vec<u32> = said.iter().flat_map(|message| &message.results).map(|item| item.index).collect();
    assert_eq!(order, [1, 2, 0]);
}

async fn items_that_all_fail_are_an_attempt_that_failed(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let failing = json!({"fail": {"code": "flaky", "message": "as asked", "retry": true}});
    let mut failing = batch(vec![failing.clone(), failing]);
    failing.body.limits.max_attempts = Some(2);
    let reply = reply(&fleet.producer, failing).await;
    let error = reply.error.unwrap();
    assert_eq!((reply.outcome, reply.attempt, error.code.as_str()), (Outcome::Failed, 2, "flaky"));
    assert!(error.message.contains("each of the 2 items failed: as asked"), "{}", error.message);
    assert_eq!(fleet.counted("gpufleet_retries_total", ""), 1.0);
}

async fn a_producer_that_asked_gets_each_items_result_as_it_is_there(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(1)).start().await;
    let mut items: Vec<Value> = (0..4).map(|n| json!({"duration_ms": 200, "result": n})).collect();
    items.push(json!({"duration_ms": "long"}));
    let mut pending = fleet.producer.pending(NewTask { progress: true, ..batch(items) }, PATIENCE).await.unwrap();
    let task_id = pending.task_id().clone();
    let listening = pending.progress().unwrap();
    let shown = until("the status shows that an item has ended", async || {
        let status = fleet.producer.status(&task_id).await.unwrap();
        status.and_then(|status| status.progress).is_some_and(|progress| progress.fraction.get() >= 0.2)
    });
    let (said, ()) = tokio::join!(listening.collect::<Vec<_>>(), shown);
    let reply = pending.await.unwrap();
    let mut indices: Vec<u32> = said.iter().flat_map(|message| &message.results).map(|item| item.index).collect();
    indices.sort_unstable();
    assert_eq!(indices, [0, 1, 2, 3, 4], "each once");
    assert!(said.len() > 2, "as they are there: {} messages", said.len());
    let counts: Vec<_> = said.iter().filter_map(|message| message.items).collect();
    assert!(counts.is_sorted_by_key(|counts| counts.done) && counts.iter().all(|counts| counts.of == 5), "{counts:?}");
    let last = counts.last().unwrap();
    assert_eq!((last.done, last.failed), (5, Some(1)));
    assert!(said.iter().all(|message| message.task_id == task_id && message.slice.is_none()));
    assert_eq!(results(&reply).iter().filter(|result| result.is_ok()).count(), 4);
}

/// Takes one payload at a time whatever its batching says, and counts how often it is asked about that.
#[derive(Default)]
struct ByItself {
    asked: AtomicUsize,
}

#[async_trait]
impl Executor for ByItself {
    fn kind(&self) -> Kind {
        Kind::new("single").unwrap()
    }

    fn batching(&self) -> Option<Batching> {
        Some(Batching::up_to(8))
    }

    fn takes_part(&self, _payload: &Json) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst);
        false
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        Ok(run.payload.clone().into())
    }
}

/// Often enough that it is known how long the kind takes, so that the next task is looked for ahead.
async fn an_executor_is_asked_once_an_attempt_whether_its_payload_takes_part(on: fn(FleetPlan) -> FleetPlan) {
    let single = Arc::new(ByItself::default());
    let executors = Executors::new().with(Arc::clone(&single) as Arc<dyn Executor>);
    let fleet = on(Fleet::of(1).executors(executors)).start().await;
    for n in 1..=10 {
        let reply = reply(&fleet.producer, task("single", json!(n))).await;
        assert_eq!((result(&reply), reply.attempt, single.asked.load(Ordering::SeqCst)), (json!(n), 1, n));
    }
    let mut of_items = batch((0..3).map(|n| json!(n)).collect());
    of_items.kind = Kind::new("single").unwrap();
    assert_eq!(results(&reply(&fleet.producer, of_items).await), [Ok(json!(0)), Ok(json!(1)), Ok(json!(2))]);
    assert_eq!(single.asked.load(Ordering::SeqCst), 13, "once about each item");
}

async fn a_split_batch_tells_how_many_of_its_items_ran_together(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(2).slots(1)).start().await;
    let mut split = batch((0..16).map(|n| json!({"batch_fixed_ms": 20, "batch_item_ms": 1, "result": n})).collect());
    split.body.gpu_options.batch_split = Some(true);
    let reply = reply(&fleet.producer, split).await;
    assert_eq!(results(&reply), (0..16).map(|n| Ok(json!(n))).collect::<Vec<_>>());
    assert!(!reply.gpu_ids.is_empty(), "it was split: {reply:?}");
    let together = reply.timings.batch_size.unwrap();
    assert!((2..16).contains(&together), "the most that ran together in a slice: {together}");
}
