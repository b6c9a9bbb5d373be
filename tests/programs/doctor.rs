//! `gpufleet doctor` on servers that are fresh, in use, and of another shape.

use serde_json::Value;
use task_queue::{Queue, QueueOptions, RabbitMq, TaskQueue};

use crate::servers::Servers;

fn verdicts(output: &str) -> Vec<Value> {
    let findings: Vec<Value> = serde_json::from_str(output).expect("a list of findings");
    findings.into_iter().map(|finding| finding["verdict"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fresh_servers_are_good_and_stay_as_they_are() {
    let servers = Servers::fresh().await;
    let examined = servers.run(&["doctor", "--json"]).await;
    assert_eq!(examined.code, Some(0), "{examined:?}");
    assert!(verdicts(&examined.output).iter().all(|verdict| verdict != "bad"), "{examined:?}");
    let pool = Queue::Pool(servers.configuration.worker.pool.clone());
    assert!(servers.queue().await.depth(&pool).await.unwrap().is_none(), "doctor declared a queue");

    let _fleet = servers.up(1, &[]).await;
    let examined = servers.run(&["doctor"]).await;
    assert_eq!(examined.code, Some(0), "{examined:?}");
    assert!(!examined.output.contains("does not exist") && examined.output.contains("1 in the pool default, 1 eligible"), "{examined:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_another_shape_is_named_with_its_argument_and_no_worker_starts() {
    let servers = Servers::fresh().await;
    let mut other = QueueOptions::from(&servers.configuration.amqp);
    other.length_max = Some(7);
    let queue = RabbitMq::connect(servers.amqp(), other).await.unwrap();
    queue.declare(&Queue::Pool(servers.configuration.worker.pool.clone())).await.unwrap();

    let examined = servers.run(&["doctor"]).await;
    assert_eq!(examined.code, Some(1), "{examined:?}");
    let bad = examined.output.lines().find(|line| line.starts_with("BAD")).expect("a bad finding");
    assert!(bad.contains(&servers.pool_queue()) && bad.contains("x-max-length"), "{bad}");

    let refused = servers.run(&["worker", "--simulated", "1"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let error = refused.errors.lines().find(|line| line.starts_with("error: ")).expect("an error line");
    assert!(error.contains(&servers.pool_queue()) && error.contains("x-max-length"), "{error}");
}
