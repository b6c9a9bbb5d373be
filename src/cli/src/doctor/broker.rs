//! What the broker has of our topology, and what its version can and cannot promise.

use std::time::Duration;

use protocol::{
    GpuId,
    config::{Configuration, QueueType, SecretUrl},
};
use task_queue::{Link, Presence, Queue, QueueError, QueueOptions, RabbitMq, TaskQueue};

use super::Finding;

/// Looks at the broker that the configuration names. `consuming`: the GPUs whose workers have declared all that they need.
pub(super) async fn look(configuration: &Configuration, consuming: &[GpuId]) -> Vec<Finding> {
    let Some(url) = &configuration.amqp.url else {
        return vec![Finding::warning("RabbitMQ", "amqp.url is not set: the queue is in memory, inside each process")];
    };
    let options = QueueOptions::from(&configuration.amqp);
    let queue = match RabbitMq::connect(url, options).await {
        Ok(queue) => queue,
        Err(error) => return vec![Finding::bad("RabbitMQ", error.to_string())],
    };
    let mut findings = vec![version(url, configuration.amqp.queue_type).await, link(&queue)];
    for wanted in topology(configuration, consuming) {
        findings.extend(exchange(&queue, &wanted, consuming).await);
        findings.push(presence(&queue, &wanted, consuming).await);
    }
    queue.close().await;
    findings
}

fn topology(configuration: &Configuration, consuming: &[GpuId]) -> Vec<Queue> {
    let pool = Queue::Pool(configuration.worker.pool.clone());
    let single = [pool, Queue::Unrouted, Queue::Expired, Queue::Returned, Queue::Dead, Queue::Parked];
    let own = consuming.iter().cloned().map(Queue::Gpu);
    single
        .into_iter()
        .chain(Queue::where_tasks_wait())
        .chain(Queue::where_tasks_are_delayed())
        .chain(Queue::where_replies_wait())
        .chain(own)
        .collect()
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

async fn presence(queue: &RabbitMq, wanted: &Queue, consuming: &[GpuId]) -> Finding {
    let name = format!("queue {}", queue.names().queue(wanted));
    let present = match queue.inspect(wanted).await {
        Ok(Presence::AsWanted) => None,
        Ok(Presence::Lacking(lack)) => Some(lack),
        other => return absent_or_other(name, other, consuming),
    };
    let depth = queue.depth(wanted).await.ok().flatten();
    let waiting = depth.map_or_else(String::new, |depth| format!("{} waiting, {} consumers", depth.ready, depth.consumers));
    match present {
        None => Finding::good(name, waiting),
        Some(lack) => Finding::warning(name, format!("{waiting}; {lack}")),
    }
}

/// The exchange that leads to a queue, if one does.
async fn exchange(queue: &RabbitMq, wanted: &Queue, consuming: &[GpuId]) -> Option<Finding> {
    let (name, presence) = match queue.inspect_exchange_of(wanted).await {
        Ok(found) => found?,
        Err(error) => return Some(Finding::bad(format!("the exchange of queue {}", queue.names().queue(wanted)), error.to_string())),
    };
    let name = format!("exchange {name}");
    Some(match presence {
        Presence::AsWanted => {
            Finding::good(name, "exists; its bindings are not looked at (AMQP cannot), workers declare them again every minute")
        }
        Presence::Lacking(lack) => Finding::warning(name, lack),
        other => absent_or_other(name, Ok(other), consuming),
    })
}

/// What is not there, is of another shape, or was not to be seen.
fn absent_or_other(name: String, presence: Result<Presence, QueueError>, consuming: &[GpuId]) -> Finding {
    match presence {
        Ok(Presence::Missing) if consuming.is_empty() => Finding::warning(name, "does not exist yet; the first worker declares it"),
        Ok(Presence::Missing) => {
            let gpus = consuming.len();
            let detail =
                "somebody has deleted it, with what waited in it; restart nothing: a living worker declares it again within a minute";
            Finding::bad(name, format!("does not exist, and GPUs consume tasks ({gpus}): {detail}"))
        }
        Ok(Presence::Mismatch(argument)) => {
            Finding::bad(name, format!("exists with another {argument}; delete it when it is empty, or configure the value it has"))
        }
        Ok(Presence::AsWanted) => Finding::good(name, "exists"),
        Ok(Presence::Lacking(lack)) => Finding::warning(name, lack),
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
