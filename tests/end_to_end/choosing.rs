//! Which GPU a task gets.

use std::{collections::BTreeMap, time::Duration};

use devices::simulated::SimulatedOptions;
use protocol::{Fallback, GpuId, Outcome, Reply, Strategy};
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{by, echo, on, replies, reply, result, simulate},
    until::until,
};

crate::on_both!(
    round_robin_is_exact_on_an_idle_fleet,
    least_loaded_avoids_the_busy_gpu,
    a_named_gpu_runs_the_task,
    a_gpu_that_never_was_fails_the_task_at_once,
    a_gpu_that_is_away_is_waited_for_until_the_deadline,
    an_unknown_strategy_falls_back_and_the_reply_says_so,
    the_default_strategy_changes_while_the_fleet_runs,
    a_task_that_needs_memory_runs_where_it_fits,
    unfit_urgent_tasks_do_not_stand_in_the_way_of_good_ones,
);

fn gpu(reply: &Reply) -> GpuId {
    reply.gpu_id.clone().unwrap_or_else(|| panic!("it ran: {reply:?}"))
}

async fn round_robin_is_exact_on_an_idle_fleet(on: fn(FleetPlan) -> FleetPlan) {
    let fleet = on(Fleet::of(4)).start().await;
    let mut order = Vec::new();
    for n in 0..24 {
        order.push(gpu(&reply(&fleet.producer, by("round_robin", echo(n))).await));
        fleet.idle().await;
    }
    for round in order.chunks(4) {
        assert_eq!(round, &order[..4], "{order:?}");
    }
    let distinct: std::collections::BTreeSet<_> = order[..4].iter().collect();
    assert_eq!(distinct.len(), 4);
}

async fn least_loaded_avoids_the_busy_gpu(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(3).slots(2)).start().await;
    let busy = fleet.producer.pending(on("gpu-1", simulate(600_000, "busy")), tests::tasks::PATIENCE).await.unwrap();
    until("gpu-1 is busy", async || fleet.rows().await[1].held == 1).await;
    for n in 0..12 {
        let reply = reply(&fleet.producer, by("least_loaded", echo(n))).await;
        assert_ne!(gpu(&reply).as_str(), "gpu-1");
        fleet.ports.table.rows(&fleet.pool()).await.unwrap();
        until("only the busy slot is held", async || fleet.rows().await.iter().map(|view| view.held).sum::<u32>() == 1).await;
    }
    drop(busy);
}

async fn a_named_gpu_runs_the_task(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(4)).start().await;
    let tasks = (0..40).map(|n| on("gpu-2", echo(n))).collect();
    for reply in replies(&fleet.producer, tasks, 40).await {
        result(&reply);
        assert_eq!(gpu(&reply).as_str(), "gpu-2");
    }
}

async fn a_gpu_that_never_was_fails_the_task_at_once(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(1)).start().await;
    let reply = reply(&fleet.producer, on("gpu-that-never-was", echo(1))).await;
    let error = reply.error.unwrap();
    assert_eq!((reply.outcome, error.code.as_str()), (Outcome::Failed, "unknown_gpu"));
    assert_eq!(error.field.as_deref(), Some("gpu_options.specific_gpu_id"));
}

async fn a_gpu_that_is_away_is_waited_for_until_the_deadline(here: fn(FleetPlan) -> FleetPlan) {
    let plan = Fleet::of(2).configured(|configuration| configuration.amqp.unplaceable_ttl_ms = 100);
    let mut fleet = here(plan).start().await;
    let away = GpuId::new("gpu-1").unwrap();
    fleet.drain(&away).await;
    let mut hurried = on("gpu-1", echo("never"));
    hurried.expiration = Some(Duration::from_millis(700));
    assert_eq!(reply(&fleet.producer, hurried).await.outcome, Outcome::Expired);

    let patient = fleet.producer.pending(on("gpu-1", echo("in the end")), tests::tasks::PATIENCE).await.unwrap();
    let task_id = patient.task_id().clone();
    until("the reason is known", async || {
        let status = fleet.producer.status(&task_id).await.unwrap();
        status.and_then(|status| status.waiting_for).is_some_and(|why| why.contains("gpu-1"))
    })
    .await;
    fleet.add(SimulatedOptions::new(away.clone())).await;
    let reply = patient.await.unwrap();
    assert_eq!(gpu(&reply), away);
}

async fn an_unknown_strategy_falls_back_and_the_reply_says_so(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(2)).start().await;
    let reply = reply(&fleet.producer, by("fastest", echo(1))).await;
    result(&reply);
    let choice = reply.strategy.unwrap();
    assert_eq!(choice.used, Strategy::LeastLoaded);
    assert_eq!((choice.requested.as_deref(), choice.fallback), (Some("fastest"), Some(Fallback::Unknown)));
}

async fn the_default_strategy_changes_while_the_fleet_runs(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(2)).start().await;
    let used = async || reply(&fleet.producer, echo(1)).await.strategy.unwrap().used;
    assert_eq!(used().await, Strategy::LeastLoaded);
    let table = &fleet.ports.table;
    let mut settings = table.settings(&fleet.pool(), &protocol::claim::Settings::default()).await.unwrap();
    settings.default_strategy = Strategy::RoundRobin;
    let changed = table.change_settings(&fleet.pool(), &settings).await.unwrap();
    assert_eq!(changed.default_strategy, Strategy::RoundRobin);
    // At once, and for every task: round robin forwards some of them, and who they are forwarded to may not have seen the change yet.
    for _ in 0..6 {
        assert_eq!(used().await, Strategy::RoundRobin);
    }
}

async fn a_task_that_needs_memory_runs_where_it_fits(here: fn(FleetPlan) -> FleetPlan) {
    let mut fleet = here(Fleet::of(2)).start().await;
    let big = GpuId::new("big").unwrap();
    fleet.add(SimulatedOptions { memory_mb: 192_000, ..SimulatedOptions::new(big.clone()) }).await;
    fleet.eligible(3).await;
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let mut task = echo(n);
            task.body.needs.memory_mb = Some(150_000);
            task
        })
        .collect();
    for reply in replies(&fleet.producer, tasks, 20).await {
        assert_eq!(gpu(&reply), big);
    }
}

/// A hundred tasks of the highest priority that fit no GPU, among good ones: the good ones all run while the others wait apart.
async fn unfit_urgent_tasks_do_not_stand_in_the_way_of_good_ones(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(Fleet::of(2).slots(2)).start().await;
    for n in 0..100 {
        let mut unfit = tests::tasks::priority(9, echo(n));
        unfit.body.needs.memory_mb = Some(90_000_000);
        fleet.producer.submit(unfit).await.unwrap();
    }
    let good = replies(&fleet.producer, (0..100).map(echo).collect(), 20).await;
    let per_gpu = good.iter().fold(BTreeMap::<GpuId, u32>::new(), |mut counts, reply| {
        result(reply);
        *counts.entry(gpu(reply)).or_default() += 1;
        counts
    });
    assert_eq!(per_gpu.values().sum::<u32>(), 100);
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "echo"), 100.0, "no unfit task ran");
    assert!(fleet.counted("gpufleet_forwarded_total", "unplaceable") >= 100.0);
}
