//! What a producer promises, on the memory back ends.

mod dead;
mod fleet;
mod progress;

use std::{
    num::NonZeroUsize,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use fleet::{DeafQueue, Fleet, Manner, environment, pool, task};
use futures::{StreamExt, future::join_all};
use producer::{Counts, Many, NewTask, Producer, ProducerOptions, ReplyTo, SubmitError, WaitError};
use protocol::{Envelope, GpuOptions, Limits, Needs, TaskBody, TaskId, TaskState};
use serde_json::{Value, json};
use task_queue::{Outgoing, QueueOptions, Target, TaskQueue};
use task_store::{MemoryStore, StoreOptions};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

const LONG: Duration = Duration::from_secs(60);

fn fleet() -> Fleet {
    Fleet::new(QueueOptions::default())
}

fn id(text: &str) -> TaskId {
    TaskId::new(text).expect("valid")
}

#[tokio::test(start_paused = true)]
async fn a_submitted_task_carries_every_property_and_is_noted_as_waiting() {
    let fleet = fleet();
    let new = NewTask {
        priority: 7,
        task_id: Some(id("t1")),
        expiration: Some(Duration::from_millis(1_500)),
        reply_to: Some(ReplyTo { queue: "answers".into(), correlation_id: "c1".into() }),
        group: Some("nightly".parse().expect("valid")),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        ..task(json!({"n": 1}))
    };
    let producer = fleet.producer();
    let submitted = producer.submit(new).await.expect("room");
    assert_eq!(submitted.task_id, id("t1"));

    let delivery = fleet.queue.take(&pool()).await.expect("a queue").expect("a task");
    let envelope = &delivery.envelope;
    assert_eq!((envelope.message_id.as_deref(), envelope.kind.as_deref(), envelope.priority), (Some("t1"), Some("echo"), Some(7)));
    assert_eq!((envelope.reply_to.as_deref(), envelope.correlation_id.as_deref()), (Some("answers"), Some("c1")));
    assert_eq!((envelope.expiration.as_deref(), envelope.timestamp), (Some("1500"), Some(1_800_000_000)));
    assert_eq!(envelope.content_type.as_deref(), Some("application/json"));
    assert!(envelope.headers.traceparent.is_some());
    assert_eq!(envelope.headers.group, Some("nightly".parse().expect("valid")));
    assert_eq!(serde_json::from_slice::<Value>(&delivery.body).expect("JSON"), json!({"payload": {"n": 1}}));

    let status = producer.status(&id("t1")).await.expect("a store").expect("known");
    assert_eq!(status.state, TaskState::Waiting);
    let group = producer.groups().show(&"nightly".parse().expect("valid")).await.expect("a store").expect("known");
    assert_eq!((group.counts.waiting, group.total, group.ended), (1, 1, false));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_trace_context_is_left_out_and_the_task_goes_on() {
    let fleet = fleet();
    for text in ["x".repeat(600), String::new(), "00-00000000000000000000000000000000-b7ad6b7169203331-01".to_owned()] {
        let new = NewTask { traceparent: Some(text), ..task(Value::Null) };
        fleet.producer().submit(new).await.expect("room");
        let delivery = fleet.queue.take(&pool()).await.expect("a queue").expect("a task");
        assert_eq!(delivery.envelope.headers.traceparent, None);
        delivery.receipt.ack().await.expect("acked");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_no_worker_would_take_is_refused_with_its_field() {
    let fleet = fleet();
    let body = |gpu_options, needs, limits| TaskBody { gpu_options, needs, limits, ..TaskBody::default() };
    let with = |body| NewTask { body, ..task(Value::Null) };
    let (options, needs, limits) = (GpuOptions::default(), Needs::default(), Limits::default());
    let long = "x".repeat(65);
    let cases = [
        (NewTask { priority: 10, ..task(Value::Null) }, "priority"),
        (NewTask { delay_ms: Some(Limits::LONGEST_MS + 1), ..task(Value::Null) }, "delay_ms"),
        (NewTask { not_before_ms: Some(1_800_000_000_000 + Limits::LONGEST_MS + 1), ..task(Value::Null) }, "not_before_ms"),
        (NewTask { not_before_ms: Some(1), delay_ms: Some(1), ..task(Value::Null) }, "delay_ms"),
        (NewTask { expiration: Some(Duration::from_secs(31 * 24 * 3_600)), ..task(Value::Null) }, "expiration"),
        (with(body(GpuOptions { strategy: Some(long), ..options.clone() }, needs.clone(), limits.clone())), "gpu_options.strategy"),
        (with(body(options.clone(), Needs { memory_mb: Some(u64::MAX), ..needs.clone() }, limits.clone())), "needs.memory_mb"),
        (with(body(options, needs, Limits { max_attempts: Some(0), ..limits })), "limits.max_attempts"),
        (task(json!("x".repeat(2_000))), "body"),
    ];
    let producer = fleet.producer_with(ProducerOptions { body_bytes_max: 1_000, ..ProducerOptions::default() });
    for (new, field) in cases {
        let error = producer.submit(new).await.expect_err(field);
        assert_eq!(error.refusal().map(|refusal| refusal.field.as_str()), Some(field));
        assert!(!error.is_transient());
    }
    let elsewhere = NewTask { reply_to: Some(ReplyTo { queue: "q".into(), correlation_id: "1".into() }), ..task(Value::Null) };
    let error = producer.submit_and_wait(elsewhere, LONG).await.expect_err("a reply queue of its own");
    assert_eq!(error.submit().and_then(SubmitError::refusal).map(|refusal| refusal.field.as_str()), Some("reply_to"));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_and_a_blocked_broker_are_told_apart_and_leave_no_note() {
    let fleet = Fleet::new(QueueOptions { length_max: Some(1), ..QueueOptions::default() });
    let producer = fleet.producer();
    producer.submit(task(json!(1))).await.expect("room for one");

    let group = "nightly".parse().expect("valid");
    let of_group = |task| NewTask { group: Some("nightly".parse().expect("valid")), ..task };
    let full = producer.submit(of_group(NewTask { task_id: Some(id("full")), ..task(json!(2)) })).await.expect_err("full");
    assert!(full.is_full() && full.is_transient() && !full.is_unavailable(), "{full}");
    assert_eq!(producer.status(&id("full")).await.expect("a store"), None);
    assert_eq!(producer.groups().show(&group).await, Ok(None), "nor a member");

    fleet.broker.block_publishers("memory");
    let blocked = producer.submit(NewTask { task_id: Some(id("blocked")), ..task(json!(3)) }).await.expect_err("blocked");
    assert!(blocked.is_unavailable() && !blocked.is_full(), "{blocked}");
    assert_eq!(blocked.task_id(), Some(&id("blocked")));
    assert_eq!(producer.status(&id("blocked")).await.expect("a store"), None);
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_waits_share_one_reply_queue_and_each_gets_its_own_reply() {
    let fleet = fleet();
    fleet.work(Manner::Reply).await;
    let producer = fleet.producer();
    let waits = (0..500).map(|n| producer.submit_and_wait(task(json!(n)), LONG));
    for (n, reply) in join_all(waits).await.into_iter().enumerate() {
        assert_eq!(reply.expect("a reply").result, json!({"echo": n}));
    }
    assert_eq!(producer.counts(), Counts { replies: 500, ..Counts::default() });
}

#[tokio::test(start_paused = true)]
async fn copies_of_a_reply_are_ignored_and_counted() {
    let fleet = fleet();
    fleet.work(Manner::ReplyTwice).await;
    let producer = fleet.producer();
    for n in 0..3 {
        producer.submit_and_wait(task(json!(n)), LONG).await.expect("a reply");
    }
    until(|| producer.counts().replies_ignored == 3).await;
    assert_eq!(producer.counts(), Counts { replies: 3, replies_ignored: 3, ..Counts::default() });
}

#[tokio::test(start_paused = true)]
async fn a_reply_whose_properties_cannot_be_read_is_ignored_and_the_wait_goes_on() {
    let fleet = fleet();
    let producer = fleet.producer();
    let pending = producer.pending(task(json!(1)), LONG).await.expect("room");
    let asked = fleet.queue.take(&pool()).await.expect("a queue").expect("a task");
    let mut hostile =
        Envelope { message_id: Some("x".into()), correlation_id: asked.envelope.correlation_id.clone(), ..Envelope::default() };
    hostile.headers.unreadable = Some("type: is not UTF-8 text".into());
    let target = Target::ReplyTo(asked.envelope.reply_to.clone().expect("a reply queue"));
    fleet.queue.publish(Outgoing::new(target, hostile, Bytes::from_static(b"{}"))).await.expect("published");
    until(|| producer.counts().replies_ignored == 1).await;
    asked.receipt.give_back().await.expect("given back");
    fleet.work(Manner::Reply).await;
    assert_eq!(pending.await.expect("the real reply").result, json!({"echo": 1}));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_limit_with_the_tasks_id_and_leaves_nothing() {
    let fleet = fleet();
    let producer = fleet.producer();
    let started = Instant::now();
    let new = NewTask { task_id: Some(id("slow")), ..task(json!(1)) };
    let error = producer.submit_and_wait(new, Duration::from_secs(3)).await.expect_err("nobody works");
    assert_eq!(error, WaitError::Timeout { task_id: id("slow"), after_ms: 3_000 });
    assert!(error.is_timeout());
    assert_eq!(started.elapsed().as_secs(), 3);
    assert_eq!(producer.counts().waiting, 0);
    assert_eq!(producer.status(&id("slow")).await.expect("a store").expect("it goes on").state, TaskState::Waiting);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_wait_leaves_nothing_and_its_late_reply_is_ignored() {
    let fleet = fleet();
    let producer = fleet.producer();
    let pending = producer.pending(task(json!(1)), LONG).await.expect("room");
    assert_eq!(producer.counts().waiting, 1);
    drop(pending);
    assert_eq!(producer.counts().waiting, 0);
    fleet.work(Manner::Reply).await;
    until(|| producer.counts().replies_ignored == 1).await;
}

#[tokio::test(start_paused = true)]
async fn more_waits_than_the_bound_are_refused_as_full() {
    let fleet = fleet();
    let producer = fleet.producer_with(ProducerOptions { waiting_max: 1, ..ProducerOptions::default() });
    let _first = producer.pending(task(json!(1)), LONG).await.expect("room for one");
    let error = producer.pending(task(json!(2)), LONG).await.expect_err("no room");
    assert!(error.submit().is_some_and(SubmitError::is_full), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_never_arrives_is_found_in_the_store() {
    let fleet = fleet();
    fleet.work(Manner::Record).await;
    let producer = fleet.producer();
    let started = Instant::now();
    let reply = producer.submit_and_wait(task(json!(1)), LONG).await.expect("the stored reply");
    assert_eq!(reply.result, json!({"echo": 1}));
    assert!((15..=17).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!(producer.counts().replies_looked_up, 1);
}

#[tokio::test(start_paused = true)]
async fn a_reply_queue_lost_with_its_connection_is_answered_from_the_store_at_once() {
    let fleet = fleet();
    fleet.work(Manner::Reply).await;
    let deaf = DeafQueue { inner: fleet.queue.clone(), live: watch::Sender::new(true), consumers_dropped: Arc::default() };
    let deaf = Arc::new(deaf);
    // The reply queue exists, and this producer hears nothing of what is in it.
    let producer = Producer::new(deaf.clone(), fleet.store.clone(), environment(), ProducerOptions::default());
    let waits: Vec<_> = join_all((0..100).map(|n| producer.pending(task(json!(n)), LONG))).await;
    let started = Instant::now();
    deaf.live.send_replace(false);
    for (n, wait) in waits.into_iter().enumerate() {
        assert_eq!(wait.expect("room").await.expect("the stored reply").result, json!({"echo": n}));
    }
    // 64 questions a second.
    assert!((1..=3).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!(producer.counts().replies_looked_up, 100);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_whose_body_is_not_kept_ends_the_wait_with_its_outcome() {
    let mut fleet = fleet();
    let options = StoreOptions { reply_bytes_max: 0, ..StoreOptions::default() };
    fleet.store = Arc::new(MemoryStore::new(environment().clock, options));
    fleet.work(Manner::RecordWithoutBody).await;
    let error = fleet.producer().submit_and_wait(task(json!(1)), LONG).await.expect_err("no body");
    assert!(matches!(error, WaitError::ReplyGone { .. }), "{error}");
    assert!(error.to_string().contains("succeeded"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_none_is_an_error_of_its_own() {
    let fleet = fleet();
    fleet.work(Manner::Mumble).await;
    let error = fleet.producer().submit_and_wait(task(json!(1)), LONG).await.expect_err("no reply");
    assert!(matches!(error, WaitError::Unreadable { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_closed_queue_ends_every_wait() {
    let fleet = fleet();
    let producer = fleet.producer();
    let pending = producer.pending(task(json!(1)), LONG).await.expect("room");
    fleet.queue.close().await;
    assert!(matches!(pending.await, Err(WaitError::Closed { .. })));
    assert!(producer.submit_and_wait(task(json!(2)), LONG).await.is_err_and(|e| e.submit().is_some_and(SubmitError::is_unavailable)));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_clone_ends_the_background_jobs() {
    let fleet = fleet();
    let deaf = DeafQueue { inner: fleet.queue.clone(), live: watch::Sender::new(true), consumers_dropped: Arc::default() };
    let dropped = deaf.consumers_dropped.clone();
    let producer = Producer::new(Arc::new(deaf), fleet.store.clone(), environment(), ProducerOptions::default());
    drop(producer.pending(task(json!(1)), LONG).await.expect("room"));
    let clone = producer.clone();
    drop(producer);
    sleep(Duration::from_secs(5)).await;
    assert!(!dropped.load(Ordering::SeqCst));
    drop(clone);
    until(|| dropped.load(Ordering::SeqCst)).await;
}

#[tokio::test(start_paused = true)]
async fn many_tasks_keep_a_bounded_number_in_flight() {
    let fleet = fleet();
    fleet.work(Manner::Reply).await;
    let producer = fleet.producer_with(ProducerOptions { waiting_max: 8, ..ProducerOptions::default() });
    let many = Many { in_flight: NonZeroUsize::new(8).expect("not zero"), timeout: LONG };
    let tasks = (0..200).map(|n| task(json!(n)));
    let mut results: Vec<_> = producer.submit_and_wait_many(tasks, many).collect().await;
    results.sort_by_key(|(place, _)| *place);
    assert_eq!(results.len(), 200);
    for (place, result) in results {
        assert_eq!(result.expect("never more than 8 wait").result, json!({"echo": place}));
    }
}

#[tokio::test(start_paused = true)]
async fn many_submits_stop_at_no_failure() {
    let fleet = Fleet::new(QueueOptions { length_max: Some(3), ..QueueOptions::default() });
    let producer = fleet.producer();
    let results: Vec<_> = producer.submit_many((0..5).map(|n| task(json!(n))), NonZeroUsize::new(2).expect("not zero")).collect().await;
    let (done, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(|(_, result)| result.is_ok());
    assert_eq!((done.len(), failed.len()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn the_same_task_submitted_twice_is_answered_twice() {
    let fleet = fleet();
    fleet.work(Manner::Reply).await;
    let producer = fleet.producer();
    let new = NewTask { task_id: Some(id("once")), ..task(json!(1)) };
    let (first, second) = tokio::join!(producer.submit_and_wait(new.clone(), LONG), producer.submit_and_wait(new, LONG));
    assert_eq!(first.expect("a reply"), second.expect("a reply"));
}

#[tokio::test(start_paused = true)]
async fn another_task_under_an_id_that_is_in_use_is_refused_before_it_is_published() {
    let fleet = fleet();
    let producer = fleet.producer();
    let under = |payload| NewTask { task_id: Some(id("mine")), ..task(payload) };
    producer.submit(under(json!(1))).await.expect("the first one");
    producer.submit(under(json!(1))).await.expect("the same one");
    let error = producer.submit(under(json!(2))).await.expect_err("another body");
    assert_eq!(error, SubmitError::OtherTask { task_id: id("mine") });
    assert!(!error.is_transient() && error.refusal().is_none() && error.task_id() == Some(&id("mine")), "{error}");
    let error = producer.pending(under(json!(2)), LONG).await.expect_err("another body");
    assert_eq!(error, WaitError::Submit(SubmitError::OtherTask { task_id: id("mine") }));
    assert_eq!(producer.counts().waiting, 0);
    assert_eq!(fleet.queue.depth(&pool()).await.expect("a broker").expect("a queue").ready, 2);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_submit_that_is_refused_leaves_the_first_ones_note() {
    let fleet = Fleet::new(QueueOptions { length_max: Some(1), ..QueueOptions::default() });
    let producer = fleet.producer();
    let new = NewTask { task_id: Some(id("mine")), ..task(json!(1)) };
    producer.submit(new.clone()).await.expect("room for one");
    assert!(producer.submit(new).await.expect_err("full").is_full());
    assert_eq!(producer.status(&id("mine")).await.expect("a store").expect("it waits").state, TaskState::Waiting);
}

/// Waits for a condition on the paused clock; a condition that never comes true fails the test by the runner's limit.
async fn until(condition: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("the condition did not come true within 10 s");
}
