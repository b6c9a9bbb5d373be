//! The steps of tasks that the fleet tells to the journal, as people read them later.

use std::collections::BTreeMap;

use executors::Executors;
use producer::{NewTask, ReplyTo};
use protocol::{Envelope, GpuId, Json, Kind, Outcome, StepName, Strategy, TaskBody, TaskId, TaskStep, config::SimulatedModel};
use serde_json::json;
use task_queue::{Outgoing, Queue, Target};
use task_store::StepCursor;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, by, echo, on, priority, replies, reply, result, simulate, started, task},
    until::until,
};

crate::on_both!(a_task_that_succeeds_is_told_of_from_its_submit_to_its_end);

/// All steps that the journal has, in its order.
async fn all(fleet: &Fleet) -> Vec<TaskStep> {
    let journal = fleet.ports.store.journal();
    journal.flush().await;
    let (mut steps, mut cursor) = (Vec::new(), StepCursor::default());
    loop {
        let page = journal.steps_after(&cursor, 1_000).await.unwrap();
        steps.extend(page.steps);
        cursor = page.cursor;
        if !page.has_more {
            return steps;
        }
    }
}

/// Those of one task.
async fn steps(fleet: &Fleet, task_id: &TaskId) -> Vec<TaskStep> {
    all(fleet).await.into_iter().filter(|step| step.task_id.as_ref() == Some(task_id)).collect()
}

/// Those of one task, once its end is told, and the last of them is this one.
async fn steps_until(fleet: &Fleet, task_id: &TaskId, last: StepName) -> Vec<TaskStep> {
    until(&format!("{} of {task_id} is told", last.name()), async || steps(fleet, task_id).await.iter().any(|step| step.step == last))
        .await;
    steps(fleet, task_id).await
}

fn names(steps: &[TaskStep]) -> Vec<&'static str> {
    steps.iter().map(|step| step.step.name()).collect()
}

fn one(steps: &[TaskStep], name: StepName) -> &TaskStep {
    let mut named = steps.iter().filter(|step| step.step == name);
    let (Some(only), None) = (named.next(), named.next()) else { panic!("not one {} among {steps:?}", name.name()) };
    only
}

async fn a_task_that_succeeds_is_told_of_from_its_submit_to_its_end(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1)).start().await;
    let mut submitted = NewTask { group: Some("nightly".parse().unwrap()), ..priority(7, simulate(20, "done")) };
    submitted.body.needs.memory_mb = Some(100);
    let reply = reply(&fleet.producer, submitted).await;
    let mut told = steps_until(&fleet, &reply.task_id, StepName::Ended).await;
    until("its submit is told", async || {
        told = steps(&fleet, &reply.task_id).await;
        told.len() == 3
    })
    .await;
    // On a server the steps of two processes lie in the order in which they arrived there.
    told.sort_by_key(|step| (step.at_ms, step.step));
    assert_eq!(names(&told), ["submitted", "began", "ended"], "{told:?}");
    for step in &told {
        assert_eq!((step.kind.as_ref().map(Kind::as_str), step.priority), (Some("simulate"), Some(7)), "{step:?}");
        assert_eq!(step.group.as_ref().map(|group| group.as_str()), Some("nightly"), "{step:?}");
    }
    let (submitted, began, ended) = (&told[0], &told[1], &told[2]);
    assert_eq!(submitted.needs.as_ref().and_then(|needs| needs.memory_mb), Some(100));
    assert!(submitted.published_ms.is_some_and(|published_ms| published_ms <= began.at_ms), "{told:?}");
    assert_eq!((began.gpu_id.clone(), began.attempt, began.strategy.is_some()), (reply.gpu_id.clone(), Some(1), true), "{began:?}");
    assert!(began.waited_ms.is_some_and(|waited_ms| (0.0..60_000.0).contains(&waited_ms)), "{began:?}");
    assert_eq!((ended.outcome, ended.gpu_id.clone(), ended.attempt), (Some(Outcome::Succeeded), reply.gpu_id, Some(1)), "{ended:?}");
    assert!(ended.run_ms.is_some_and(|run_ms| run_ms >= 20.0) && ended.error.is_none(), "{ended:?}");
    assert_eq!((ended.load_ms, ended.transfer_ms), (None, None), "nothing was loaded for it");
}

#[tokio::test(start_paused = true)]
async fn attempts_that_fail_are_told_of_with_their_errors_and_their_pauses() {
    let fleet = Fleet::of(1).start().await;
    let mut flaky = task("simulate", json!({"duration_ms": 30, "fail": {"code": "flaky", "message": "as asked", "retry": true}}));
    flaky.body.limits.max_attempts = Some(2);
    let reply = reply(&fleet.producer, flaky).await;
    let told = steps_until(&fleet, &reply.task_id, StepName::Ended).await;
    assert_eq!(names(&told), ["submitted", "began", "retrying", "began", "ended"], "{told:?}");
    let retrying = one(&told, StepName::Retrying);
    assert!(
        retrying.after_ms.is_some_and(|after_ms| after_ms >= 250) && retrying.run_ms.is_some_and(|run_ms| run_ms >= 30.0),
        "{retrying:?}"
    );
    assert_eq!((retrying.attempt, retrying.error.as_ref().map(|error| error.code.as_str())), (Some(1), Some("flaky")));
    let ended = one(&told, StepName::Ended);
    assert_eq!((ended.outcome, ended.attempt), (Some(Outcome::Failed), Some(2)));
    assert_eq!(ended.error.as_ref().map(|error| error.message.as_str()), Some("as asked"));
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_forwarded_is_told_of_with_the_gpu_that_was_chosen_among_how_many() {
    let fleet = Fleet::of(3).strategy(Strategy::RoundRobin).start().await;
    let mut forwarded = Vec::new();
    for n in 0..12 {
        let reply = reply(&fleet.producer, on("gpu-2", echo(n))).await;
        fleet.idle().await;
        let told = steps_until(&fleet, &reply.task_id, StepName::Ended).await;
        if told.iter().any(|step| step.step == StepName::Forwarded) {
            forwarded.push(told);
        }
    }
    assert!(!forwarded.is_empty(), "others receive its tasks too");
    for told in &forwarded {
        assert_eq!(names(told), ["submitted", "forwarded", "began", "ended"], "{told:?}");
        let (forwarded, began) = (one(told, StepName::Forwarded), one(told, StepName::Began));
        assert_eq!([&forwarded.gpu_id, &began.gpu_id].map(|gpu_id| gpu_id.as_ref().map(GpuId::as_str)), [Some("gpu-2"); 2]);
        assert!(forwarded.strategy.is_some() && forwarded.strategy == began.strategy, "{told:?}");
    }
    let last = forwarded.last().unwrap();
    assert_eq!(one(last, StepName::Began).among, Some(1), "it names the only one: {last:?}");
    let mut told = Vec::new();
    for n in 0..6 {
        let reply = reply(&fleet.producer, echo(n)).await;
        fleet.idle().await;
        told = steps_until(&fleet, &reply.task_id, StepName::Ended).await;
    }
    assert_eq!(one(&told, StepName::Began).among, Some(3), "all of them fit: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_nobody_serves_is_told_to_wait_once_for_each_reason() {
    let plan = Fleet::of(1).configured(|configuration| {
        configuration.worker.lease_ms = 3_000;
        configuration.worker.unserved_wait_ms = 60_000;
        configuration.amqp.unplaceable_ttl_ms = 200;
    });
    let fleet = plan.start().await;
    let reply = reply(&fleet.producer, task("ecko", json!(1))).await;
    let told = steps_until(&fleet, &reply.task_id, StepName::Ended).await;
    let waits: Vec<&str> = told.iter().filter(|step| step.step == StepName::Waits).filter_map(|step| step.reason.as_deref()).collect();
    assert_eq!(waits.iter().filter(|reason| reason.starts_with("unserved: ")).count(), 1, "at every turn it was found anew: {waits:?}");
    assert!(waits.iter().any(|reason| reason.contains("no living GPU of pool default serves kind ecko")), "{waits:?}");
    assert_eq!(waits.len() + 2, told.len(), "{told:?}");
    let ended = one(&told, StepName::Ended);
    assert_eq!((ended.error.as_ref().map(|error| error.code.as_str()), &ended.gpu_id, ended.run_ms), (Some("unserved"), &None, None));
}

#[tokio::test(start_paused = true)]
async fn how_long_a_task_has_waited_counts_from_its_publish() {
    let fleet = Fleet::of(1).slots(1).start().await;
    let busy = started(&fleet.producer, simulate(10_000, "busy")).await;
    let reply = reply(&fleet.producer, echo("next")).await;
    result(&busy.await.unwrap());
    let told = steps_until(&fleet, &reply.task_id, StepName::Ended).await;
    // AMQP's timestamp is in whole seconds.
    assert!(one(&told, StepName::Began).waited_ms.is_some_and(|waited_ms| (8_000.0..11_000.0).contains(&waited_ms)), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_delayed_task_waits_from_when_it_is_due() {
    let fleet = Fleet::of(1).start().await;
    let reply = reply(&fleet.producer, NewTask { delay_ms: Some(30_000), ..echo("later") }).await;
    let told = steps_until(&fleet, &reply.task_id, StepName::Ended).await;
    assert_eq!(names(&told), ["delayed", "began", "ended"], "{told:?}");
    let (delayed, began) = (&told[0], &told[1]);
    assert!(delayed.not_before_ms.is_some_and(|not_before_ms| not_before_ms >= delayed.at_ms + 29_000), "{delayed:?}");
    assert!(began.waited_ms.is_some_and(|waited_ms| waited_ms < 5_000.0), "its delay is no wait: {began:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_is_told_of_and_so_is_the_end_that_it_brings() {
    let fleet = Fleet::of(1).slots(1).start().await;
    let running = started(&fleet.producer, simulate(600_000, "never")).await;
    let waiting = fleet.producer.pending(NewTask { group: Some("nightly".parse().unwrap()), ..echo("skipped") }, PATIENCE).await.unwrap();
    let [first, second] = [running.task_id().clone(), waiting.task_id().clone()];
    // As a member of its group.
    fleet.producer.groups().cancel(&"nightly".parse().unwrap()).await.unwrap();
    fleet.producer.cancel(&first).await.unwrap();
    assert_eq!((running.await.unwrap().outcome, waiting.await.unwrap().outcome), (Outcome::Cancelled, Outcome::Cancelled));
    let told = steps_until(&fleet, &first, StepName::Ended).await;
    assert_eq!(names(&told), ["submitted", "began", "cancel_asked", "ended"], "{told:?}");
    assert_eq!(one(&told, StepName::Ended).outcome, Some(Outcome::Cancelled));
    let told = steps_until(&fleet, &second, StepName::Ended).await;
    let without_waits: Vec<_> = names(&told).into_iter().filter(|name| *name != "waits").collect();
    assert_eq!(without_waits, ["submitted", "cancel_asked", "ended"], "{told:?}");
    fleet.producer.cancel(&first).await.unwrap();
    fleet.producer.cancel(&"nobody-knows-it".parse().unwrap()).await.unwrap();
    assert_eq!(all(&fleet).await.iter().filter(|step| step.step == StepName::CancelAsked).count(), 2, "of others there is nothing to tell");
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_told_of_as_split_and_its_slices_as_tasks() {
    let fleet = Fleet::of(4).slots(1).start().await;
    let items = (0..64).map(|n| Json::from(json!({"duration_ms": 100, "result": n}))).collect();
    let batch = NewTask::new(Kind::new("simulate").unwrap(), TaskBody { items: Some(items), ..TaskBody::default() });
    let reply = reply(&fleet.producer, batch).await;
    assert!(reply.gpu_ids.len() > 1, "it was split: {reply:?}");
    let told = steps_until(&fleet, &reply.task_id, StepName::Ended).await;
    assert_eq!(names(&told), ["submitted", "split", "ended"], "{told:?}");
    assert_eq!((told[0].items, told[1].items, told[2].outcome), (Some(64), Some(64), Some(Outcome::Succeeded)));
    let mut slices: BTreeMap<TaskId, Vec<&'static str>> = BTreeMap::new();
    for step in all(&fleet).await {
        let task_id = step.task_id.unwrap();
        if task_id.slice().is_some() && step.step != StepName::Waits {
            slices.entry(task_id).or_default().push(step.step.name());
        }
    }
    assert!(slices.len() > 1, "{slices:?}");
    assert!(slices.values().all(|names| names.ends_with(&["began", "ended"])), "{slices:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_gone_is_told_of_as_a_crash_of_what_it_ran() {
    let mut fleet = Fleet::of(2).slots(1).configured(|configuration| configuration.worker.lease_ms = 900).start().await;
    let running = started(&fleet.producer, simulate(3_000, "in the end")).await;
    let task_id = running.task_id().clone();
    let gpu_id = fleet.producer.status(&task_id).await.unwrap().unwrap().gpu_id.unwrap();
    fleet.kill(&gpu_id).await;
    assert_eq!(result(&running.await.unwrap()), json!("in the end"));
    let told = steps_until(&fleet, &task_id, StepName::Ended).await;
    let course: Vec<_> = names(&told).into_iter().filter(|name| !["waits", "forwarded"].contains(name)).collect();
    assert_eq!(course, ["submitted", "began", "crashed", "began", "ended"], "{told:?}");
    assert_eq!(one(&told, StepName::Crashed).gpu_id, Some(gpu_id));
}

#[tokio::test(start_paused = true)]
async fn the_load_of_a_model_is_told_with_the_attempt_that_waited_for_it() {
    let plan = Fleet::of(1).configured(|configuration| {
        configuration.models.simulated = vec![SimulatedModel { memory_mb: 1_000, load_ms: 700, ..SimulatedModel::named("a") }];
    });
    let fleet = plan.keeping_models().start().await;
    let about = || task("simulate", json!({"model": "a", "model_mb": 1_000, "load_ms": 700, "duration_ms": 10, "result": "a"}));
    let (cold, warm) = (reply(&fleet.producer, about()).await, reply(&fleet.producer, about()).await);
    let cold = steps_until(&fleet, &cold.task_id, StepName::Ended).await;
    let warm = steps_until(&fleet, &warm.task_id, StepName::Ended).await;
    let load_ms = one(&cold, StepName::Ended).load_ms;
    assert!(load_ms.is_some_and(|load_ms| load_ms >= 700.0), "{cold:?}");
    assert_eq!(one(&warm, StepName::Ended).load_ms, None, "{warm:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_nobody_takes_and_a_dead_letter_are_told_of() {
    let fleet = Fleet::of(1).start().await;
    let nowhere = ReplyTo { queue: "nowhere".to_owned(), correlation_id: String::new() };
    let submitted = fleet.producer.submit(NewTask { reply_to: Some(nowhere), ..echo("parked") }).await.unwrap();
    let told = steps_until(&fleet, &submitted.task_id, StepName::ReplyWaits).await;
    assert_eq!(names(&told), ["submitted", "began", "ended", "reply_waits"], "{told:?}");
    assert!(told[3].reason.as_deref().is_some_and(|reason| reason.starts_with("parked: ")), "{told:?}");

    let bad: TaskId = "bad".parse().unwrap();
    let envelope = Envelope { message_id: Some(bad.to_string()), kind: Some("echo".to_owned()), ..Envelope::default() };
    let outgoing = Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, bytes::Bytes::from_static(b"no JSON"));
    fleet.ports.queue.publish(outgoing).await.unwrap();
    let told = steps_until(&fleet, &bad, StepName::Ended).await;
    assert_eq!(names(&told), ["buried", "ended"], "{told:?}");
    assert!(told[0].reason.is_some() && told[1].error.is_some(), "{told:?}");
    fleet.producer.dead_letters().requeue(Some(&bad)).await.unwrap();
    until("it is given up again", async || steps(&fleet, &bad).await.len() == 5).await;
    assert_eq!(names(&steps(&fleet, &bad).await), ["buried", "ended", "requeued", "buried", "ended"]);
}

#[tokio::test(start_paused = true)]
async fn where_no_steps_are_kept_none_are_told() {
    let fleet = Fleet::of(1).configured(|configuration| configuration.journal.steps_max = 0).start().await;
    assert!(!fleet.ports.store.journal().keeps_steps());
    result(&reply(&fleet.producer, echo("silent")).await);
    assert!(all(&fleet).await.is_empty());
    assert_eq!(fleet.ports.store.journal().steps_lost(), 0, "nothing is lost that nobody wants");
}

/// The series of a fleet.
fn series(fleet: &Fleet) -> usize {
    fleet.metrics().lines().filter(|line| !line.starts_with('#')).count()
}

#[tokio::test(start_paused = true)]
async fn whatever_producers_send_the_number_of_series_stays_what_it_is() {
    let executors = Executors::new().with(executors::echo()).with(executors::simulate());
    let plan = Fleet::of(1).executors(executors).configured(|configuration| {
        configuration.worker.lease_ms = 900;
        configuration.worker.unserved_wait_ms = 0;
        configuration.amqp.unplaceable_ttl_ms = 200;
    });
    let fleet = plan.start().await;
    // What a producer may choose: kind, id, group, strategy, priority, where the reply goes.
    let strange = |n: usize| NewTask {
        group: Some(format!("group-{n}").parse().unwrap()),
        ..priority((n % 10) as u8, by(&format!("strategy-{n}"), task(&format!("kind-{n}"), json!(n))))
    };
    let failing = |n: usize| task("simulate", json!({"fail": {"code": format!("code-{n}"), "message": "as asked", "retry": false}}));
    let wave = |from: usize| -> Vec<NewTask> {
        (from..from + 20).flat_map(move |n| [strange(n), failing(n), by(&format!("strategy-{n}"), echo(n))]).collect()
    };
    let mut ended = Vec::new();
    for from in [0, 100] {
        ended = replies(&fleet.producer, wave(from), 60).await;
        fleet.idle().await;
    }
    assert!(ended.iter().any(|reply| reply.error.as_ref().is_some_and(|error| error.code == "unserved")), "{ended:?}");
    let before = series(&fleet);
    replies(&fleet.producer, wave(200), 60).await;
    fleet.idle().await;
    let (metrics, more) = (fleet.metrics(), series(&fleet).saturating_sub(before));
    assert!(more < 10, "{more} series more, for twenty new kinds, groups, strategies and codes:\n{metrics}");
    assert!(metrics.contains("kind=\"other\""), "\n{metrics}");
    for chosen in ["kind-", "group-", "strategy-", "code-"] {
        assert!(!metrics.contains(chosen), "a producer made up a label:\n{metrics}");
    }
}
