//! The life of a task: it runs once, its reply is its own, and what is no task is told so.

use std::time::Duration;

use producer::{NewTask, Pending, SubmitError};
use protocol::{BodyHash, Envelope, GpuId, Outcome, TaskId, TaskState, envelope::Headers};
use serde_json::json;
use task_queue::{Outgoing, Queue, Target};
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, echo, on, replies, reply, result, simulate, started, task},
    until::until,
};

crate::on_both!(
    every_task_gets_its_own_reply,
    a_second_copy_of_a_task_gets_the_same_reply_and_runs_nothing,
    a_second_publish_while_the_first_runs_is_answered_too,
    a_reused_id_is_refused_and_the_first_task_keeps_its_record,
    what_is_no_task_is_answered_and_kept_among_the_dead_letters,
    an_executors_failure_is_the_tasks_outcome,
    a_task_that_runs_too_long_fails_at_its_attempt_limit,
    a_task_whose_deadline_passes_in_the_queue_expires_and_never_runs,
    an_urgent_task_that_expired_beside_waiting_ones_does_not_start_late,
    a_reply_that_nobody_takes_is_parked_and_counted,
    a_full_queue_refuses_the_publish_and_nothing_that_was_taken_is_lost,
    a_task_without_a_reply_queue_leaves_its_reply_in_the_store,
    a_task_that_began_on_a_killed_worker_and_then_expired_is_answered,
    a_task_that_expired_while_its_killed_holders_claim_lives_does_not_run_again,
    a_total_deadline_ends_a_running_task,
    what_expired_after_a_crash_is_answered_though_every_slot_is_always_busy,
    a_malformed_message_under_a_used_id_leaves_the_first_task_alone,
    a_task_in_the_queue_of_a_gpu_that_nobody_remembers_runs_elsewhere,
);

async fn every_task_gets_its_own_reply(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(4)).start().await;
    let tasks = (0..300).map(|n| echo(json!({ "n": n }))).collect();
    let replies = replies(&fleet.producer, tasks, 64).await;
    for (n, reply) in replies.iter().enumerate() {
        assert_eq!(result(reply), json!({ "n": n }));
    }
    fleet.idle().await;
    assert_eq!(fleet.counted("gpufleet_tasks_total", "succeeded"), 300.0);
}

async fn a_second_copy_of_a_task_gets_the_same_reply_and_runs_nothing(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(2)).start().await;
    let mut task = simulate(5, "once");
    task.task_id = Some(TaskId::new("the-same").unwrap());
    let first = reply(&fleet.producer, task.clone()).await;
    let second = reply(&fleet.producer, task).await;
    assert_eq!(first, second);
    assert_eq!(fleet.counted("gpufleet_tasks_total", "succeeded"), 1.0);
}

async fn a_second_publish_while_the_first_runs_is_answered_too(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(2).configured(|configuration| configuration.worker.lease_ms = 900)).start().await;
    let queue = &fleet.ports.queue;
    let task_id = TaskId::new("asked-twice").unwrap();
    let reply_queue = Queue::Reply("asked-twice".to_owned());
    queue.declare(&reply_queue).await.unwrap();
    let mut answers = queue.consume(&reply_queue, std::num::NonZeroU16::new(2).unwrap()).await.unwrap();
    for _ in 0..2 {
        let envelope = Envelope {
            message_id: Some(task_id.to_string()),
            kind: Some("simulate".to_owned()),
            reply_to: Some(queue.names().queue(&reply_queue)),
            correlation_id: Some("the-same".to_owned()),
            ..Envelope::default()
        };
        let body: &[u8] = br#"{"payload": {"duration_ms": 1500, "result": "once"}}"#;
        queue.publish(Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, body.into())).await.unwrap();
        until("the first one has begun", async || fleet.producer.status(&task_id).await.unwrap().is_some_and(|status| status.attempt > 0))
            .await;
    }
    let (first, second) = (answers.next().await.unwrap(), answers.next().await.unwrap());
    assert_eq!(first.body, second.body);
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "simulate"), 1.0);
}

async fn a_reused_id_is_refused_and_the_first_task_keeps_its_record(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1)).start().await;
    let task_id = TaskId::new("used-twice").unwrap();
    let with_id = |mut task: NewTask| {
        task.task_id = Some(task_id.clone());
        task
    };
    result(&reply(&fleet.producer, with_id(echo("first"))).await);
    let refused = fleet.producer.submit(with_id(echo("second"))).await;
    assert_eq!(refused, Err(SubmitError::OtherTask { task_id: task_id.clone() }));

    // A client of the broker asks nobody first.
    let (queue, reply_queue) = (&fleet.ports.queue, Queue::Reply("asked-twice".to_owned()));
    queue.declare(&reply_queue).await.unwrap();
    let mut answers = queue.consume(&reply_queue, std::num::NonZeroU16::MIN).await.unwrap();
    let envelope = Envelope {
        message_id: Some(task_id.to_string()),
        kind: Some("echo".to_owned()),
        reply_to: Some(queue.names().queue(&reply_queue)),
        correlation_id: Some("c-8".to_owned()),
        ..Envelope::default()
    };
    let outgoing = Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, (&br#"{"payload":"second"}"#[..]).into());
    queue.publish(outgoing).await.unwrap();
    let answer = answers.next().await.unwrap();
    let refused: protocol::Reply = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(refused.error.as_ref().map(|error| error.code.as_str()), Some("reused_id"));
    let status = fleet.producer.status(&task_id).await.unwrap().unwrap();
    assert_eq!(status.state, TaskState::Succeeded);
    assert_eq!(status.reply.unwrap().result, json!("first"));
}

async fn what_is_no_task_is_answered_and_kept_among_the_dead_letters(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1)).start().await;
    let reply_queue = Queue::Reply("asked-wrongly".to_owned());
    let queue = &fleet.ports.queue;
    queue.declare(&reply_queue).await.unwrap();
    let mut answers = queue.consume(&reply_queue, std::num::NonZeroU16::MIN).await.unwrap();
    let envelope = Envelope {
        message_id: Some("wrong-1".to_owned()),
        kind: Some("echo".to_owned()),
        reply_to: Some(queue.names().queue(&reply_queue)),
        correlation_id: Some("c-7".to_owned()),
        ..Envelope::default()
    };
    let body: &[u8] = br#"{"payload": 1, "prioritee": 9}"#;
    let outgoing = Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, body.into());
    queue.publish(outgoing).await.unwrap();

    let answer = answers.next().await.unwrap();
    assert_eq!(answer.envelope.correlation_id.as_deref(), Some("c-7"));
    let reply: protocol::Reply = serde_json::from_slice(&answer.body).unwrap();
    let error = reply.error.unwrap();
    assert_eq!((reply.outcome, error.code.as_str(), error.field.as_deref()), (Outcome::Failed, "invalid_task", Some("prioritee")));

    let dead = queue.take(&Queue::Dead).await.unwrap().unwrap();
    assert_eq!(&dead.body[..], body);
    assert!(dead.envelope.headers.reason.unwrap().contains("prioritee"));
}

async fn an_executors_failure_is_the_tasks_outcome(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1)).start().await;
    let failing = task("simulate", json!({"fail": {"code": "broken", "message": "as asked", "retry": false}}));
    let reply = reply(&fleet.producer, failing).await;
    let error = reply.error.unwrap();
    assert_eq!((reply.outcome, error.code.as_str(), error.message.as_str()), (Outcome::Failed, "broken", "as asked"));
    assert!(reply.gpu_id.is_some() && reply.token.is_some());
}

async fn a_task_that_runs_too_long_fails_at_its_attempt_limit(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1)).start().await;
    let mut long = simulate(60_000, "too late");
    long.body.limits.attempt_timeout_ms = Some(50);
    let reply = reply(&fleet.producer, long).await;
    assert_eq!(reply.error.unwrap().code, "attempt_timeout");
    fleet.idle().await;
}

async fn a_task_whose_deadline_passes_in_the_queue_expires_and_never_runs(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1).slots(1)).start().await;
    let busy = started(&fleet.producer, simulate(1_500, "busy")).await;
    let mut hurried = echo("too late");
    hurried.expiration = Some(Duration::from_millis(200));
    let mut in_body = echo("too late");
    in_body.body.limits.queue_deadline_ms = Some(200);
    let expired = replies(&fleet.producer, vec![hurried, in_body], 2).await;
    assert!(expired.iter().all(|reply| reply.outcome == Outcome::Expired && reply.gpu_id.is_none()), "{expired:?}");
    result(&busy.await.unwrap());
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 0.0);
}

/// A classic priority queue delivers what expired in it beside other messages, and only then.
async fn an_urgent_task_that_expired_beside_waiting_ones_does_not_start_late(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1).slots(1)).start().await;
    let busy = started(&fleet.producer, simulate(600_000, "busy")).await;
    let submit = async |task| fleet.producer.pending(task, PATIENCE).await.unwrap();
    let before = submit(simulate(1, "before")).await;
    let urgent = submit(NewTask { priority: 9, expiration: Some(Duration::from_millis(500)), ..echo("too late") }).await;
    let after = submit(simulate(1, "after")).await;
    // A deadline counts from the end of the second of the publish.
    let over_ms = fleet.environment().clock.now_ms() + 1_500;
    until("its time is over", async || fleet.environment().clock.now_ms() > over_ms).await;
    fleet.producer.cancel(busy.task_id()).await.unwrap();
    assert_eq!(urgent.await.unwrap().outcome, Outcome::Expired);
    for patient in [before, after] {
        result(&patient.await.unwrap());
    }
    assert_eq!(busy.await.unwrap().outcome, Outcome::Cancelled);
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 0.0);
}

async fn a_reply_that_nobody_takes_is_parked_and_counted(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1)).start().await;
    let queue = &fleet.ports.queue;
    let envelope = Envelope {
        message_id: Some("forsaken".to_owned()),
        kind: Some("echo".to_owned()),
        reply_to: Some("a-queue-that-is-gone".to_owned()),
        correlation_id: Some("c-1".to_owned()),
        ..Envelope::default()
    };
    let body: &[u8] = br#"{"payload": "for nobody"}"#;
    queue.publish(Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, body.into())).await.unwrap();
    until("it is parked", async || queue.depth(&Queue::Parked).await.unwrap().is_some_and(|depth| depth.ready == 1)).await;
    let parked = queue.take(&Queue::Parked).await.unwrap().unwrap();
    let reply: protocol::Reply = serde_json::from_slice(&parked.body).unwrap();
    assert_eq!(result(&reply), json!("for nobody"));
    assert_eq!(parked.envelope.correlation_id.as_deref(), Some("c-1"));
    assert!(parked.envelope.headers.reason.unwrap().contains("a-queue-that-is-gone"));
    assert_eq!(fleet.counted("gpufleet_replies_returned_total", ""), 1.0);
}

async fn a_full_queue_refuses_the_publish_and_nothing_that_was_taken_is_lost(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1).slots(1).configured(|configuration| configuration.amqp.queue_length_max = Some(5))).start().await;
    let (mut taken, mut refused) = (Vec::new(), 0);
    for n in 0..30 {
        match fleet.producer.submit(simulate(200, n)).await {
            Ok(submitted) => taken.push(submitted.task_id),
            Err(error) if error.is_full() => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0 && taken.len() >= 5, "{} taken, {refused} refused", taken.len());
    for task_id in &taken {
        until("it succeeded", async || {
            fleet.producer.status(task_id).await.unwrap().is_some_and(|status| status.state == TaskState::Succeeded)
        })
        .await;
    }
    // A task's end is counted after the store shows it.
    fleet.idle().await;
    assert_eq!(fleet.counted("gpufleet_tasks_total", "succeeded"), taken.len() as f64);
}

async fn a_task_without_a_reply_queue_leaves_its_reply_in_the_store(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1)).start().await;
    let submitted = fleet.producer.submit(echo("kept")).await.unwrap();
    let status = async || fleet.producer.status(&submitted.task_id).await.unwrap().unwrap();
    until("the task ended", async || status().await.state.ended()).await;
    assert_eq!(status().await.reply.unwrap().result, json!("kept"));
    let body_hash = BodyHash::of(br#"{"payload":"kept"}"#);
    let request = task_store::LookRequest { task_id: submitted.task_id.clone(), body_hash, attempt: 1, published_s: None };
    let look = fleet.ports.store.look(&request).await.unwrap();
    assert!(matches!(look, task_store::Look::Ended(_)), "{look:?}");
}

/// A task that runs, in time, and goes on running.
async fn begins_before(fleet: &Fleet, task: NewTask, expiration: Duration) -> Pending {
    let begun = NewTask { expiration: Some(expiration), ..task };
    started(&fleet.producer, begun).await
}

async fn a_task_that_began_on_a_killed_worker_and_then_expired_is_answered(here: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(1).configured(|configuration| configuration.worker.lease_ms = 1_000);
    let mut fleet = here(plan).start().await;
    let pending = begins_before(&fleet, simulate(600_000, "never"), Duration::from_millis(1_500)).await;
    let gpu_id = fleet.gpus().remove(0);
    fleet.kill(&gpu_id).await;
    until("it expired in its queue", async || {
        fleet.ports.queue.depth(&Queue::Expired).await.unwrap().is_some_and(|depth| depth.ready == 1)
    })
    .await;
    fleet.add_gpu().await;
    let reply = pending.await.unwrap();
    assert_eq!(reply.outcome, Outcome::Expired, "{reply:?}");
}

async fn a_task_that_expired_while_its_killed_holders_claim_lives_does_not_run_again(here: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(1).slots(1).configured(|configuration| configuration.worker.lease_ms = 6_000);
    let mut fleet = here(plan).start().await;
    let pending = begins_before(&fleet, simulate(600_000, "never"), Duration::from_millis(2_000)).await;
    let first = fleet.gpus().remove(0);
    fleet.add_gpu().await;
    fleet.eligible(2).await;
    fleet.kill(&first).await;
    let reply = pending.await.unwrap();
    assert_eq!(reply.outcome, Outcome::Expired, "{reply:?}");
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "simulate"), 0.0, "nobody ran it to its end");
    assert_eq!(fleet.counted("gpufleet_late_outcomes_refused_total", ""), 0.0, "no outcome came late");
    fleet.idle().await;
}

async fn what_expired_after_a_crash_is_answered_though_every_slot_is_always_busy(here: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(2).slots(1).configured(|configuration| configuration.worker.lease_ms = 1_000);
    let mut fleet = here(plan).start().await;
    // Urgent: behind others it would expire only once it comes to the head of its queue.
    let urgent = NewTask { priority: 9, ..on(fleet.gpus()[0].as_str(), simulate(600_000, "never")) };
    let pending = begins_before(&fleet, urgent, Duration::from_millis(1_500)).await;
    let producer = fleet.producer.clone();
    let backlog = tokio::spawn(async move { replies(&producer, (0..300).map(|n| simulate(50, n)).collect(), 300).await });
    let first = fleet.gpus().remove(0);
    fleet.kill(&first).await;
    assert_eq!(pending.await.unwrap().outcome, Outcome::Expired);
    assert!(!backlog.is_finished(), "it did not wait for a free slot");
    backlog.await.unwrap().iter().for_each(|reply| _ = result(reply));
    fleet.idle().await;
}

async fn a_total_deadline_ends_a_running_task(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1)).start().await;
    let mut long = simulate(600_000, "never");
    long.body.limits.total_deadline_ms = Some(6_000);
    let ended = reply(&fleet.producer, long).await;
    let error = ended.error.unwrap();
    assert_eq!((ended.outcome, error.code.as_str()), (Outcome::Expired, "deadline"));
    assert!(error.message.contains("while it ran"), "{}", error.message);
    fleet.idle().await;
}

async fn a_malformed_message_under_a_used_id_leaves_the_first_task_alone(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1)).start().await;
    let mut first = echo("first");
    first.task_id = Some(TaskId::new("taken").unwrap());
    result(&reply(&fleet.producer, first).await);
    let envelope = Envelope { message_id: Some("taken".to_owned()), kind: Some("echo".to_owned()), ..Envelope::default() };
    let outgoing = Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, (&b"{"[..]).into());
    fleet.ports.queue.publish(outgoing).await.unwrap();
    until("it is among the dead letters", async || {
        fleet.ports.queue.depth(&Queue::Dead).await.unwrap().is_some_and(|depth| depth.ready == 1)
    })
    .await;
    let status = fleet.producer.status(&TaskId::new("taken").unwrap()).await.unwrap().unwrap();
    assert_eq!(status.reply.unwrap().result, json!("first"));
}

/// As a worker leaves it that forwarded a task and was killed, together with the GPU's worker and all that table and store knew.
async fn a_task_in_the_queue_of_a_gpu_that_nobody_remembers_runs_elsewhere(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1).configured(|configuration| configuration.amqp.gpu_queue_ttl_ms = 1_000)).start().await;
    let queue = &fleet.ports.queue;
    let (gone, reply_queue) = (Queue::Gpu(GpuId::new("gone").unwrap()), Queue::Reply("stranded".to_owned()));
    queue.declare(&gone).await.unwrap();
    queue.declare(&reply_queue).await.unwrap();
    let mut answers = queue.consume(&reply_queue, std::num::NonZeroU16::MIN).await.unwrap();
    let headers = Headers { pool: Some(fleet.pool().to_string()), hops: Some(1), ..Headers::default() };
    let envelope = Envelope {
        message_id: Some("stranded".to_owned()),
        kind: Some("echo".to_owned()),
        reply_to: Some(queue.names().queue(&reply_queue)),
        headers,
        ..Envelope::default()
    };
    queue.publish(Outgoing::new(Target::Queue(gone), envelope, br#"{"payload": 1}"#.as_slice().into())).await.unwrap();
    let answer = answers.next().await.unwrap();
    assert_eq!(answer.envelope.headers.outcome.as_deref(), Some("succeeded"));
}
