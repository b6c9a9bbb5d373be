//! A task that the exchange could lead to no pool. Its pool may have been without a queue for a moment: then it is moved there. Or nobody serves its pool at present: then it
//! waits. Else its producer has mistyped the pool, and is told so.

use std::{collections::BTreeSet, time::Duration};

use protocol::{ErrorCode, PoolName, Refusal, Task, TaskError};
use task_queue::{Outgoing, PublishError, Queue, Target};

use super::carry_out::Settling;
use crate::{
    context::Context,
    delivery::{due, onward},
    disposition::Disposition,
    ports::{Abandoned, Sent},
};

/// How long a task waits whose pool has no queue, which is about to be declared again where a GPU of it lives, or a full one. Then the mover sees to it.
const REST: Duration = Duration::from_secs(1);
/// Most pools that a refusal names.
const POOLS_SHOWN: usize = 10;
/// Most characters that a refusal repeats of a routing key.
const NAME_CHARACTERS: usize = 64;

/// Publishes the task to the pool that its routing key names, and acks. What becomes of it instead, where there is no such pool.
pub(super) async fn route<'t>(settling: &Settling<'_>, task: &'t Task) -> Result<Option<Disposition<'t>>, Abandoned> {
    let Settling { context, in_hand, .. } = settling;
    let Ok(pool) = PoolName::new(in_hand.routing_key.as_str()) else {
        return unknown_pool(settling).await.map(Some);
    };
    let envelope = onward::envelope(in_hand, task, &pool, context.ports.now_ms());
    let mut outgoing = Outgoing::new(Target::Queue(Queue::Pool(pool.clone())), envelope, in_hand.body.clone());
    let error = match context.ports.publish_unless_full(&outgoing).await? {
        Sent::There => {
            context.metrics.unrouted("moved");
            in_hand.ack_elsewhere().await;
            return Ok(None);
        }
        Sent::Unsendable(_) => {
            let message = "the broker does not take the message on to its pool's queue; are its properties too long?";
            return Ok(Some(Disposition::fails(TaskError::new(ErrorCode::InvalidTask, message))));
        }
        Sent::NoQueue(error) => error,
    };
    let exists = matches!(error, PublishError::Inaccessible { .. } | PublishError::Full { .. });
    if !exists && !is_known(context, &pool).await? {
        return unknown_pool(settling).await.map(Some);
    }
    // From the waiting queue the mover takes it to its pool.
    due::waits(&mut outgoing, Queue::retry_after(REST), REST, context.ports.now_ms());
    context.ports.publish_surely(&outgoing, context.me.options.lease).await?;
    context.metrics.unrouted("waits");
    in_hand.ack_elsewhere().await;
    Ok(None)
}

/// Whether there is such a pool, though it has no queue now: GPUs of it live, or were announced once and may come back. Whoever says no has asked a steady table: one that was
/// emptied, and the store with it, knows living GPUs again within a lease.
async fn is_known(context: &Context, pool: &PoolName) -> Result<bool, Abandoned> {
    let options = &context.me.options;
    loop {
        // In this order: a table that is emptied in between is not steady, and never looks like one whose GPUs are gone.
        let lives = !context.ports.rows(pool).await?.is_empty();
        if lives || context.ports.announced().await?.iter().any(|gpu| gpu.pool == *pool) {
            return Ok(true);
        }
        // By this worker's own pool: of one that nobody serves the table never hears.
        let missing = options.lease.saturating_sub(context.ports.steady(&options.pool).await?);
        if missing.is_zero() {
            return Ok(false);
        }
        context.ports.pause(missing).await?;
    }
}

async fn unknown_pool(settling: &Settling<'_>) -> Result<Disposition<'static>, Abandoned> {
    let Settling { context, in_hand, .. } = settling;
    let mut pools: BTreeSet<PoolName> = context.ports.announced().await?.into_iter().map(|gpu| gpu.pool).collect();
    pools.insert(context.me.options.pool.clone());
    context.metrics.unrouted("refused");
    let exchange = context.ports.queue.names().exchange();
    Ok(Disposition::RefuseUnknownPool(Refusal::new("routing_key", problem(&in_hand.routing_key, &exchange, &pools))))
}

fn problem(routing_key: &str, exchange: &str, pools: &BTreeSet<PoolName>) -> String {
    let named: String = routing_key.chars().take(NAME_CHARACTERS).collect();
    let shown: Vec<&str> = pools.iter().take(POOLS_SHOWN).map(PoolName::as_str).collect();
    let more = match pools.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{named:?} is no pool: publish to the exchange {exchange} under the name of a pool; the fleet knows {}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_pool_as_given_and_some_of_those_that_there_are() {
        let pools =
            |count: usize| -> BTreeSet<PoolName> { (0..count).map(|n| PoolName::new(format!("pool-{n:02}")).expect("valid")).collect() };
        let said = problem("defualt", "gpufleet.tasks", &pools(2));
        assert_eq!(
            said,
            "\"defualt\" is no pool: publish to the exchange gpufleet.tasks under the name of a pool; the fleet knows pool-00, pool-01"
        );
        let said = problem(&"x\n".repeat(100), "gpufleet.tasks", &pools(12));
        assert!(said.ends_with("pool-08, pool-09 and 2 more") && !said.contains('\n') && said.len() < 400, "{said}");
    }
}
