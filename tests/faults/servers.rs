//! Servers that fail under whole fleets: nothing is lost, nothing ends twice, and work goes on soon after they return.

use std::time::Duration;

use devices::simulated::SimulatedOptions;
use protocol::{GpuId, config::SecretUrl};
use tests::{
    fleet::{Fleet, FleetPlan, ServerUrls},
    proxy::Proxy,
    rabbitmq::PrivateRabbitMq,
    redis::{Persistence, PrivateRedis},
    until::until,
};
use tokio::time::Instant;

use crate::ledger::{Ledger, report, succeeded};

/// Longest time to the first task that ends after a server is back.
const SOON: Duration = Duration::from_secs(5);

fn plan(gpus: usize) -> FleetPlan {
    Fleet::of(gpus).slots(2).configured(|configuration| {
        configuration.worker.lease_ms = 1_500;
        configuration.amqp.publish_timeout_ms = 3_000;
        configuration.redis.response_timeout_ms = 1_000;
    })
}

async fn ended(fleet: &Fleet, at_least: f64) {
    until(&format!("{at_least} tasks ended"), async || succeeded(fleet) >= at_least).await;
}

/// How long it takes from now until another task has ended. Not a measure of speed: a bound on what counts as recovered.
async fn recovers(fleet: &Fleet) -> Duration {
    let (since, before) = (Instant::now(), succeeded(fleet));
    until("another task ended", async || succeeded(fleet) > before).await;
    since.elapsed()
}

/// The same where work goes on while the server is away, so that none may be left by now: with tasks that are published now.
async fn recovers_with_more_work(fleet: &Fleet, ledger: &mut Ledger) -> Duration {
    let (since, before) = (Instant::now(), succeeded(fleet));
    ledger.publish_simulated(fleet, 100, 20).await;
    until("another task ended", async || succeeded(fleet) > before).await;
    since.elapsed()
}

/// All came back, once: nothing lost, nothing failed, one outcome each.
async fn settle(fault: &str, fleet: &Fleet, ledger: &mut Ledger, recovered: Duration) {
    ledger.until_all_ended(fleet).await;
    ledger.until_all_answered().await;
    fleet.idle().await;
    let balance = ledger.balance().await;
    report(fault, fleet, &balance, recovered);
    balance.holds();
}

async fn redis_urls(amqp: SecretUrl) -> ServerUrls {
    let redis = PrivateRedis::shared().await.url();
    ServerUrls { amqp, table: redis.clone(), store: redis }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_restarted_and_then_killed_loses_nothing_and_work_goes_on() {
    let broker = PrivateRabbitMq::start().await;
    let fleet = plan(3).on_servers(redis_urls(broker.url()).await).start().await;
    let mut ledger = Ledger::open(broker.url()).await;
    ledger.publish_simulated(&fleet, 1_800, 30).await;
    ended(&fleet, 60.0).await;
    // A broker takes its time to stop, and must not find all tasks ended by then.
    let all_at = |speed| fleet.gpus().iter().for_each(|gpu_id| fleet.knobs(gpu_id).set_speed(speed));
    all_at(0.05);
    broker.stop().await;
    all_at(1.0);
    broker.start_again().await;
    let after_the_restart = recovers(&fleet).await;
    let more = succeeded(&fleet) + 50.0;
    ended(&fleet, more).await;
    broker.kill();
    broker.start_again().await;
    let after_the_kill = recovers(&fleet).await;
    settle("broker restarted, then killed", &fleet, &mut ledger, after_the_restart.max(after_the_kill)).await;
    assert!(after_the_restart < SOON * 2 && after_the_kill < SOON * 2, "{after_the_restart:?}, {after_the_kill:?}");
}

/// The pool's queue and most workers are on the node that dies. One worker is on the other node, and one more starts there meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_node_of_a_cluster_that_has_the_pool_is_down_workers_wait_for_it_and_nothing_is_lost() {
    let first = PrivateRabbitMq::start().await;
    let dying = first.start_beside().await;
    let mut fleet = plan(2).on_servers(redis_urls(dying.url()).await).start().await;
    let [elsewhere, late] = ["elsewhere", "late"].map(|name| GpuId::new(name).unwrap());
    fleet.add_by(SimulatedOptions::new(elsewhere.clone()), first.url()).await;
    fleet.eligible(3).await;
    let mut ledger = Ledger::open(dying.url()).await;
    ledger.publish_simulated(&fleet, 900, 20).await;
    ended(&fleet, 90.0).await;
    dying.kill();
    fleet.add_by(SimulatedOptions::new(late.clone()), first.url()).await;
    until("nothing ends any more", async || {
        let before = succeeded(&fleet);
        tokio::time::sleep(Duration::from_secs(3)).await;
        succeeded(&fleet) == before
    })
    .await;
    dying.start_again().await;
    let recovered = recovers(&fleet).await;
    settle("node of the broker's cluster that has the pool killed, a worker starts meanwhile", &fleet, &mut ledger, recovered).await;
    fleet.eligible(4).await;
    for gpu_id in [elsewhere, late] {
        assert!(fleet.counted("gpufleet_tasks_total", &format!("gpu_id=\"{gpu_id}\"")) > 0.0, "{gpu_id} never ran a task");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_broker_blocks_publishers_workers_hold_at_most_their_slots_and_one_that_is_killed_loses_nothing() {
    let broker = PrivateRabbitMq::start().await;
    let mut fleet = plan(3).on_servers(redis_urls(broker.url()).await).start().await;
    let mut ledger = Ledger::open(broker.url()).await;
    ledger.publish_simulated(&fleet, 400, 20).await;
    ended(&fleet, 60.0).await;
    // Raising the alarm is a command of its own: without this, a slow machine ends all tasks before it is raised.
    let all_at = |speed| fleet.gpus().iter().for_each(|gpu_id| fleet.knobs(gpu_id).set_speed(speed));
    all_at(0.02);
    broker.alarm(true).await;
    all_at(1.0);
    let runs = || fleet.counted("gpufleet_run_seconds_count", "simulate");
    let before = runs();
    until("every worker holds tasks whose replies cannot go out", async || {
        fleet.rows().await.iter().all(|view| view.row.running.len() >= 2)
    })
    .await;
    let held = runs() - before;
    assert!(held <= 12.0, "{held} tasks ran on 6 slots though no reply could go out");
    fleet.kill(&GpuId::new("gpu-1").unwrap()).await;
    broker.alarm(false).await;
    let recovered = recovers(&fleet).await;
    settle("broker blocks publishers, a worker killed meanwhile", &fleet, &mut ledger, recovered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_loses_the_broker_and_not_the_table_gets_no_tasks_until_it_is_back() {
    let broker = PrivateRabbitMq::shared().await;
    let way = Proxy::to(broker.port()).await;
    let mut fleet = plan(2).on_servers(redis_urls(broker.url()).await).start().await;
    let mut ledger = Ledger::open(broker.url()).await;
    let cut_off = GpuId::new("cut-off").unwrap();
    let amqp = SecretUrl::new(format!("amqp://guest:guest@127.0.0.1:{}/%2f", way.port()));
    fleet.add_by(SimulatedOptions::new(cut_off.clone()), amqp).await;
    fleet.eligible(3).await;
    ledger.publish_simulated(&fleet, 600, 15).await;
    for round in 1..=2 {
        ended(&fleet, f64::from(round) * 60.0).await;
        way.cut();
        let view = async || fleet.rows().await.into_iter().find(|view| view.row.gpu.gpu_id == cut_off).unwrap();
        until("its row says that it does not consume", async || !view().await.row.consuming).await;
        assert!(!view().await.eligible);
        way.mend();
        until("it is back", async || view().await.eligible).await;
    }
    settle("connection of one worker cut twice", &fleet, &mut ledger, Duration::ZERO).await;
    let ran_there = fleet.counted("gpufleet_tasks_total", "gpu_id=\"cut-off\"");
    assert!(ran_there > 0.0, "it never ran a task: the test shows nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_redis_may_hang_forget_its_scripts_and_restart_empty() {
    let mut table = PrivateRedis::start(Persistence::Nothing).await;
    let urls = redis_urls(PrivateRabbitMq::shared().await.url()).await;
    let fleet = plan(3).on_servers(ServerUrls { table: table.url(), ..urls.clone() }).start().await;
    let mut ledger = Ledger::open(urls.amqp).await;
    ledger.publish_simulated(&fleet, 700, 20).await;

    ended(&fleet, 50.0).await;
    redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut table.connection().await).await.unwrap();
    recovers(&fleet).await;

    table.pause();
    tokio::time::sleep(Duration::from_secs(10)).await;
    table.resume();
    let after_the_pause = recovers_with_more_work(&fleet, &mut ledger).await;

    let more = succeeded(&fleet) + 50.0;
    ended(&fleet, more).await;
    table.kill();
    table.restart().await;
    let after_the_restart = recovers_with_more_work(&fleet, &mut ledger).await;

    settle("table's Redis: SCRIPT FLUSH, hangs for 10 s, restarts empty", &fleet, &mut ledger, after_the_pause.max(after_the_restart))
        .await;
    fleet.eligible(3).await;
    assert!(after_the_pause < SOON * 2 && after_the_restart < SOON * 2, "{after_the_pause:?}, {after_the_restart:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_the_table_that_loses_its_last_writes_loses_no_task() {
    let mut table = PrivateRedis::start(Persistence::Nothing).await;
    let urls = redis_urls(PrivateRabbitMq::shared().await.url()).await;
    let fleet = plan(3).on_servers(ServerUrls { table: table.url(), ..urls.clone() }).start().await;
    let mut ledger = Ledger::open(urls.amqp).await;
    ledger.publish_simulated(&fleet, 600, 20).await;
    ended(&fleet, 50.0).await;
    // What a replica had when its master died: claims of tasks that have ended since, and no token of those that run.
    redis::cmd("SET").arg("from-before").arg("1").exec_async(&mut table.connection().await).await.unwrap();
    redis::cmd("SAVE").exec_async(&mut table.connection().await).await.unwrap();
    let more = succeeded(&fleet) + 100.0;
    ended(&fleet, more).await;
    table.kill();
    table.restart().await;
    let old: Option<String> = redis::cmd("GET").arg("from-before").query_async(&mut table.connection().await).await.unwrap();
    assert!(old.is_some(), "the old data is there: the table did not just restart empty");
    let recovered = recovers_with_more_work(&fleet, &mut ledger).await;
    settle("table fails over, and loses the writes of the last 100 tasks", &fleet, &mut ledger, recovered).await;
    fleet.eligible(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stores_redis_may_hang_and_restart_and_every_task_still_has_one_outcome() {
    let mut store = PrivateRedis::start(Persistence::AppendOnly).await;
    let urls = redis_urls(PrivateRabbitMq::shared().await.url()).await;
    let fleet = plan(3).on_servers(ServerUrls { store: store.url(), ..urls.clone() }).start().await;
    let mut ledger = Ledger::open(urls.amqp).await;
    ledger.publish_simulated(&fleet, 500, 20).await;
    ended(&fleet, 50.0).await;
    store.pause();
    tokio::time::sleep(Duration::from_secs(4)).await;
    store.resume();
    let after_the_pause = recovers(&fleet).await;
    let more = succeeded(&fleet) + 50.0;
    ended(&fleet, more).await;
    store.kill();
    store.restart().await;
    let after_the_restart = recovers(&fleet).await;
    settle(
        "store's Redis hangs for 4 s, then is killed and restarts from its AOF",
        &fleet,
        &mut ledger,
        after_the_pause.max(after_the_restart),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_store_is_emptied_every_task_still_ends_and_only_those_in_flight_may_end_twice() {
    let store = PrivateRedis::start(Persistence::Nothing).await;
    let urls = redis_urls(PrivateRabbitMq::shared().await.url()).await;
    let mut fleet = plan(3).on_servers(ServerUrls { store: store.url(), ..urls.clone() }).start().await;
    let mut ledger = Ledger::open(urls.amqp).await;
    ledger.publish_simulated(&fleet, 400, 20).await;
    ended(&fleet, 100.0).await;
    redis::cmd("FLUSHALL").exec_async(&mut store.connection().await).await.unwrap();
    fleet.kill(&GpuId::new("gpu-2").unwrap()).await;
    ledger.until_all_answered().await;
    until("nothing is held", async || fleet.rows().await.iter().all(|view| view.held == 0)).await;
    let balance = ledger.balance().await;
    report("store emptied, a worker killed at once", &fleet, &balance, Duration::ZERO);
    assert_eq!((balance.lost, balance.failed), (0, 0), "{balance:?}");
    // In flight: what three workers of two slots had in hand, twice that with both their queues.
    assert!(balance.different_replies <= 12, "{balance:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_workers_come_back_at_once_to_an_empty_table() {
    let urls = redis_urls(PrivateRabbitMq::shared().await.url()).await;
    let mut fleet = plan(8).on_servers(urls.clone()).start().await;
    let mut ledger = Ledger::open(urls.amqp).await;
    ledger.publish_simulated(&fleet, 800, 20).await;
    ended(&fleet, 80.0).await;
    let gpus = fleet.gpus();
    for gpu_id in &gpus {
        fleet.kill(gpu_id).await;
    }
    fleet.empty_the_table().await;
    for gpu_id in &gpus {
        fleet.add(SimulatedOptions::new(gpu_id.clone())).await;
    }
    let recovered = recovers(&fleet).await;
    settle("8 workers killed, table emptied, all back at once", &fleet, &mut ledger, recovered).await;
    fleet.eligible(8).await;
}
