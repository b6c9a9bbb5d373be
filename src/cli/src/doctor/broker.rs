//! What the broker has of our topology, and what its version can and cannot promise.

use std::time::Duration;

use protocol::config::{Configuration, QueueType, SecretUrl};
use task_queue::{Link, Presence, Queue, QueueOptions, RabbitMq, TaskQueue};

use super::Finding;

/// Looks at the broker that the configuration names.
pub(super) async fn look(configuration: &Configuration) -> Vec<Finding> {
    let Some(url) = &configuration.amqp.url else {
        return vec![Finding::warning("RabbitMQ", "amqp.url is not set: the queue is in memory, inside each process")];
    };
    let options = QueueOptions::from(&configuration.amqp);
    let queue = match RabbitMq::connect(url, options).await {
        Ok(queue) => queue,
        Err(error) => return vec![Finding::bad("RabbitMQ", error.to_string())],
    };
    let mut findings = vec![version(url, configuration.amqp.queue_type).await, link(&queue)];
    for wanted in topology(configuration) {
        findings.push(presence(&queue, &wanted).await);
    }
    queue.close().await;
    findings
}

fn topology(configuration: &Configuration) -> Vec<Queue> {
    let retries = Queue::RETRY_DELAYS_MS.map(|ms| Queue::Retry(Duration::from_millis(ms)));
    let pool = Queue::Pool(configuration.worker.pool.clone());
    let undelivered = Queue::UNDELIVERED_DELAYS_MS.map(|ms| Queue::Undelivered(Duration::from_millis(ms)));
    let single = [pool, Queue::Expired, Queue::Returned, Queue::Unplaceable, Queue::Dead, Queue::Parked, Queue::Redelivery];
    single.into_iter().chain(retries).chain(undelivered).collect()
}

fn link(queue: &RabbitMq) -> Finding {
    match &*queue.link().borrow() {
        Link::Up => Finding::good("RabbitMQ", "takes publishes"),
        Link::Blocked(reason) => {
            Finding::bad("RabbitMQ", format!("blocks publishers: {reason}; free memory or disk on the broker, nothing is lost meanwhile"))
        }
        Link::Down(reason) => Finding::bad("RabbitMQ", format!("not connected: {reason}")),
    }
}

async fn presence(queue: &RabbitMq, wanted: &Queue) -> Finding {
    let name = format!("queue {}", queue.names().queue(wanted));
    match queue.inspect(wanted).await {
        Ok(Presence::AsWanted) => {
            let depth = queue.depth(wanted).await.ok().flatten();
            Finding::good(name, depth.map_or_else(String::new, |depth| format!("{} waiting, {} consumers", depth.ready, depth.consumers)))
        }
        Ok(Presence::Missing) => Finding::warning(name, "does not exist yet; the first worker declares it"),
        Ok(Presence::Mismatch(argument)) => {
            Finding::bad(name, format!("exists with another {argument}; delete the queue when it is empty, or configure the value it has"))
        }
        Err(error) => Finding::bad(name, error.to_string()),
    }
}

async fn version(url: &SecretUrl, queue_type: QueueType) -> Finding {
    match task_queue::greeting(url, Duration::from_secs(5)).await {
        Ok(greeting) => promises(&greeting.product, &greeting.version, queue_type),
        Err(error) => Finding::warning("RabbitMQ", format!("its version is not known: {error}")),
    }
}

/// What a version promises; from RabbitMQ's documentation, except for 3.10, on which everything is run.
fn promises(product: &str, version: &str, queue_type: QueueType) -> Finding {
    let subject = format!("{product} {version}");
    let mut parts = version.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
        return Finding::warning(subject, "this version is not understood; nothing is known of its promises");
    };
    match (queue_type, (major, minor)) {
        (_, version) if version < (3, 10) => Finding::warning(subject, "older than what the fleet is run on (3.10)"),
        (QueueType::Classic, version) if version < (4, 0) => {
            Finding::good(subject, "classic queues: strict priorities 0 to 9; a delivery unacked for 30 minutes closes its channel")
        }
        (QueueType::Classic, version) if version < (4, 3) => {
            let detail = "classic queues: strict priorities, but no replication (mirroring was removed in 4.0); a delivery unacked for 30 minutes closes its \
                          channel (by documentation)";
            Finding::good(subject, detail)
        }
        (QueueType::Classic, _) => {
            Finding::good(subject, "classic queues: strict priorities, no replication, no delivery timeout (by documentation)")
        }
        (QueueType::Quorum, version) if version < (4, 0) => {
            Finding::warning(subject, "quorum queues have no priorities before 4.0: all tasks are equal (by documentation)")
        }
        (QueueType::Quorum, version) if version < (4, 3) => {
            Finding::warning(subject, "quorum queues have two priorities, 0 to 4 and 5 to 9, served 1 : 2, before 4.3 (by documentation)")
        }
        (QueueType::Quorum, _) => Finding::good(subject, "quorum queues: strict priorities, replicated (by documentation)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn what_a_version_cannot_promise_is_a_warning() {
        let verdict = |version, queue_type| promises("RabbitMQ", version, queue_type).verdict;
        assert_eq!(verdict("3.10.8", QueueType::Classic), Verdict::Good);
        assert_eq!(verdict("4.2.0", QueueType::Classic), Verdict::Good);
        assert_eq!(verdict("3.13.7", QueueType::Quorum), Verdict::Warning);
        assert_eq!(verdict("4.1.0", QueueType::Quorum), Verdict::Warning);
        assert_eq!(verdict("4.3.0", QueueType::Quorum), Verdict::Good);
        assert_eq!(verdict("3.8.9", QueueType::Classic), Verdict::Warning);
        assert_eq!(verdict("unknown", QueueType::Classic), Verdict::Warning);
    }
}
