//! Real processes on real servers: ten thousand tasks in flight while workers are killed at random, the broker is killed and the table is emptied.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tests::{
    fleet::{Fleet, ServerUrls},
    rabbitmq::PrivateRabbitMq,
    redis::{Persistence, PrivateRedis},
};
use tokio::time::Instant;

use crate::{
    ledger::{Ledger, report_by_crashes},
    workers::Workers,
};

const TASKS: usize = 10_000;
const WORKERS: usize = 4;
/// Most kills of one run, and the pause between two.
const KILLS: usize = 25;
const BETWEEN_KILLS: Duration = Duration::from_millis(700);
/// How long faults are looked for at most. A slow machine needs more time to come to each, and no more kills.
const UNDER_FIRE: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tasks_survive_killed_workers_a_killed_broker_and_an_emptied_table() {
    let broker = PrivateRabbitMq::start().await;
    let (table, store) = (PrivateRedis::start(Persistence::Nothing).await, PrivateRedis::start(Persistence::AppendOnly).await);
    let urls = ServerUrls { amqp: broker.url(), table: table.url(), store: store.url() };
    let plan = Fleet::of(0).configured(|configuration| {
        configuration.worker.lease_ms = 1_500;
        configuration.worker.offer_ms = 1_000;
        configuration.redis.response_timeout_ms = 1_000;
        // The kills here are nobody's fault: however often they meet the same task, it is not given up.
        configuration.worker.crashes_max = 100;
    });
    let fleet = plan.on_servers(urls.clone()).start().await;
    let mut ledger = Ledger::open(broker.url()).await;
    let mut workers = Workers::start(&fleet, &urls, (WORKERS, 1));
    fleet.eligible(WORKERS).await;
    ledger.publish_simulated(&fleet, TASKS, 5).await;

    let mut random = ChaCha8Rng::seed_from_u64(17);
    let (mut broker_killed, mut table_emptied) = (false, false);
    let (mut kills, deadline) = (0, Instant::now() + UNDER_FIRE);
    while Instant::now() < deadline {
        let answered = ledger.answered().await;
        if answered > TASKS * 85 / 100 {
            break;
        }
        if answered > TASKS * 25 / 100 && !broker_killed {
            broker_killed = true;
            broker.kill();
            broker.start_again().await;
        } else if answered > TASKS * 50 / 100 && !table_emptied {
            table_emptied = true;
            redis::cmd("FLUSHALL").exec_async(&mut table.connection().await).await.unwrap();
        } else if kills < KILLS {
            kills += 1;
            workers.kill(random.random_range(0..WORKERS)).await;
        }
        tokio::time::sleep(BETWEEN_KILLS).await;
    }
    let under_fire = ledger.answered().await;
    ledger.until_all_ended_within(&fleet, Duration::from_secs(300)).await;
    ledger.until_all_answered().await;
    fleet.idle().await;
    let balance = ledger.balance().await;
    let crashes = ledger.crashes(&fleet).await;
    report_by_crashes("10,000 tasks: workers killed at random, broker killed, table emptied", &balance, crashes);
    balance.holds();
    assert!(broker_killed && table_emptied, "only {under_fire} tasks ended under fire: the test shows less than it says");
}
