//! The redeliverer: tries replies again that have waited because their queues did not take them. It holds no slot, and every worker does it; the broker shares the replies out.

use std::sync::Arc;

use protocol::Environment;
use task_queue::Consumer;
use tokio_util::task::TaskTracker;

use crate::{context::Context, ports::Abandoned, replies::Replies};

/// How many replies one worker tries at a time: few, since each is in its memory.
pub(crate) const AT_ONCE: u16 = 8;

/// What tries replies again.
pub(crate) struct Redeliverer {
    replies: Arc<Replies>,
    environment: Environment,
}

impl Redeliverer {
    pub(crate) fn of(context: &Context) -> Self {
        Self { replies: Arc::clone(&context.replies), environment: context.ports.environment.clone() }
    }

    /// Tries what comes until the consumer is stopped. `jobs` counts what is under way.
    pub(crate) async fn run(self, mut consumer: Consumer, jobs: TaskTracker) {
        let tries = TaskTracker::new();
        while let Some(delivery) = consumer.next().await {
            let replies = Arc::clone(&self.replies);
            let job = jobs.track_future(tries.track_future(async move {
                if replies.send_again(delivery).await == Err(Abandoned) {
                    tracing::debug!("left unacked: the broker will deliver it again");
                }
            }));
            self.environment.spawn("another try of a reply", job);
        }
        // A consumer that is dropped gives back what is in hand.
        tries.close();
        tries.wait().await;
    }
}
