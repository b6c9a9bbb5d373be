//! Tasks that run longer than the broker waits for an ack.

use std::time::Duration;

use tests::{
    fleet::{Fleet, ServerUrls},
    rabbitmq::PrivateRabbitMq,
    redis::PrivateRedis,
};

use crate::ledger::{Ledger, report, succeeded};

async fn on_an_impatient_broker(unacked_ms: u64) -> (PrivateRabbitMq, Fleet) {
    let broker = PrivateRabbitMq::start().await;
    // Once in a tick it looks whether a delivery is unacked for too long, and then closes the channel.
    broker
        .control(&["eval", "application:set_env(rabbit, consumer_timeout, 2000), application:set_env(rabbit, channel_tick_interval, 500)."])
        .await;
    let redis = PrivateRedis::shared().await.url();
    let plan = Fleet::of(1).slots(2).configured(|configuration| {
        configuration.worker.unacked_ms = unacked_ms;
        configuration.worker.lease_ms = 900;
    });
    let fleet = plan.on_servers(ServerUrls { amqp: broker.url(), table: redis.clone(), store: redis }).start().await;
    (broker, fleet)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_outlasts_the_brokers_patience_runs_once_and_is_answered() {
    let (broker, fleet) = on_an_impatient_broker(700).await;
    let mut ledger = Ledger::open(broker.url()).await;
    ledger.publish_simulated(&fleet, 2, 9_000).await;
    ledger.until_all_ended(&fleet).await;
    ledger.until_all_answered().await;
    fleet.idle().await;
    // The copies that went round meanwhile come to an end too.
    ledger.publish_simulated(&fleet, 20, 1).await;
    ledger.until_all_answered().await;
    tests::until::until("no copy waits any more", async || all_empty(&fleet).await).await;
    let balance = ledger.balance().await;
    balance.holds();
    // Of some nine copies of each, one may look between the record and the note that the reply went out; it is on the safe side then.
    assert!(balance.duplicated_replies <= 2, "{balance:?}");
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "simulate"), 22.0, "each ran once");
    assert_eq!(fleet.counted("gpufleet_redelivered_total", ""), 0.0, "the broker never lost its patience");
    report("task runs 4.5 times as long as consumer_timeout", &fleet, &balance, Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_broker_loses_patience_first_the_task_still_runs_once_and_is_answered() {
    let (broker, fleet) = on_an_impatient_broker(600_000).await;
    let mut ledger = Ledger::open(broker.url()).await;
    ledger.publish_simulated(&fleet, 1, 7_000).await;
    ledger.until_all_ended(&fleet).await;
    ledger.until_all_answered().await;
    tests::until::until("no copy waits any more", async || all_empty(&fleet).await).await;
    let balance = ledger.balance().await;
    balance.holds();
    assert!(fleet.counted("gpufleet_redelivered_total", "") >= 1.0, "the broker never lost its patience: the test shows nothing");
    assert!(balance.duplicated_replies <= 1, "{balance:?}");
    assert_eq!(succeeded(&fleet), 1.0);
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "simulate"), 1.0);
    report("broker closes the channel of a long task", &fleet, &balance, Duration::ZERO);
}

/// Whether no task waits or is held anywhere.
async fn all_empty(fleet: &Fleet) -> bool {
    use task_queue::Queue;
    if fleet.counted("gpufleet_held_messages", "") > 0.0 {
        return false;
    }
    let mut queues = vec![Queue::Pool(fleet.pool()), Queue::Returned];
    queues.extend(Queue::where_tasks_wait());
    for queue in queues {
        if fleet.ports.queue.depth(&queue).await.unwrap().is_some_and(|depth| depth.ready > 0) {
            return false;
        }
    }
    fleet.rows().await.iter().all(|view| view.held == 0 && view.row.waiting == 0)
}
