//! Queues of a real server that take messages and confirm none: they hold up no other.

use std::{sync::Arc, time::Duration};

use task_queue::{PublishError, Queue, RabbitMq, TaskQueue};
use tests::rabbitmq::PrivateRabbitMq;

use super::{
    broker::{gpu, message, pool, publish_together},
    servers::{connect, options},
};

/// Longest wait for publishes to queues that are well. Generous: it bounds a hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// Publishes to the queue that is well and to one that does not exist, again and again; each is answered right.
async fn others_are_answered(queue: &Arc<RabbitMq>, round: usize) {
    let messages = (0..50).map(|index| {
        let target = if index % 5 == 0 { Queue::Dead } else { pool() };
        message(&target, &format!("{round}-{index}"))
    });
    let answers = tokio::time::timeout(PATIENCE, publish_together(&**queue, messages.collect())).await;
    for (index, answer) in answers.expect("they do not wait for the queue that is silent").into_iter().enumerate() {
        let right = if index % 5 == 0 { matches!(answer, Err(PublishError::Unroutable { .. })) } else { answer.is_ok() };
        assert!(right, "message {round}-{index}: {answer:?}");
    }
}

/// The time limit of a publish is an hour here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_does_not_confirm_holds_up_no_other_and_is_confirmed_when_it_goes_on() {
    let server = PrivateRabbitMq::shared().await;
    let queue = connect(&server.url(), options()).await;
    queue.declare(&gpu()).await.expect("declared");
    let name = queue.names().queue(&gpu());
    server.suspend(&name).await;
    let mut silent = Vec::new();
    for round in 0..10 {
        silent.push(tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.publish(message(&gpu(), &format!("silent-{round}"))).await }
        }));
        others_are_answered(&queue, round).await;
    }
    assert!(silent.iter().all(|publish| !publish.is_finished()), "nothing was confirmed, and nothing was given up");
    server.resume(&name).await;
    for publish in silent {
        assert_eq!(publish.await.expect("it ends"), Ok(()));
    }
    assert_eq!(super::broker::ready(&*queue, &gpu()).await, 10, "each is there once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_not_confirmed_by_its_deadline_says_so() {
    let server = PrivateRabbitMq::shared().await;
    let queue = connect(&server.url(), options()).await;
    queue.declare(&gpu()).await.expect("declared");
    let name = queue.names().queue(&gpu());
    server.suspend(&name).await;
    let mut hurried = message(&gpu(), "hurried");
    hurried.timeout = Some(Duration::from_secs(2));
    assert_eq!(queue.publish(hurried).await, Err(PublishError::Timeout { target: name.clone(), after_ms: 2_000 }));
    others_are_answered(&queue, 0).await;
    server.resume(&name).await;
}
