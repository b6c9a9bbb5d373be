//! The publishing side: one lane for messages to queues, which carries in one batch what waits at one moment, one for those queues that do not confirm soon, and one for direct
//! replies.

use std::{sync::Arc, time::Duration};

use lapin::types::ShortString;
use tokio::{
    sync::{OnceCell, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    lane::{Around, Cargo, Job, Lane, SlowQueues},
    line::{Dialer, Keeper, Line},
    properties,
};
use crate::{Link, Names, Outgoing, PublishError, QueueError, message::is_direct_reply};

/// Messages that may wait for the lane; above it publishers wait, up to their deadline.
const WAITING_MAX: usize = 1_024;

/// What one publish is answered.
type Answer = Result<(), PublishError>;

pub(super) struct Publisher {
    lane: mpsc::Sender<Job>,
    slow_lane: mpsc::Sender<Job>,
    link: watch::Receiver<Link>,
    direct: OnceCell<DirectReplies>,
    dialer: Dialer,
    timeout: Duration,
    around: Arc<Around>,
}

/// The lane of direct replies and the link of its connection, which is opened when it is first needed.
struct DirectReplies {
    lane: mpsc::Sender<Job>,
    link: watch::Receiver<Link>,
}

impl Publisher {
    pub(super) fn start(line: &Line, dialer: Dialer, timeout: Duration, stop: CancellationToken, tasks: TaskTracker) -> Self {
        let around = Arc::new(Around { stop, tasks, slow: SlowQueues::default() });
        let slow_lane = start_lane(Cargo::Queues, line, None, &around);
        let lane = start_lane(Cargo::Queues, line, Some(slow_lane.clone()), &around);
        Self { lane, slow_lane, link: line.link.clone(), direct: OnceCell::new(), dialer, timeout, around }
    }

    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    pub(super) async fn publish(&self, names: &Names, message: &Outgoing) -> Answer {
        let target = names.target(&message.target);
        let timeout = message.timeout.unwrap_or(self.timeout);
        let (answer, answered) = oneshot::channel();
        let direct = is_direct_reply(&target);
        let job = self.job(&target, message, timeout, answer)?;
        let mut link = self.link.clone();
        let lane = if self.around.slow.has(&target) { &self.slow_lane } else { &self.lane };
        let sending = async { if direct { self.send_direct(job, answered).await } else { send(lane, job, answered).await } };
        tokio::select! {
            biased;
            down = link.wait_for(|link| *link != Link::Up) => Err(down.map_or_else(|_| closed(&target), |link| link_error(&target, &link))),
            answer = sending => answer,
            () = tokio::time::sleep(timeout) => Err(PublishError::timeout(target, timeout)),
        }
    }

    async fn send_direct(&self, job: Job, answered: oneshot::Receiver<Answer>) -> Answer {
        let target = job.target.clone();
        let opened = self.direct.get_or_try_init(|| self.open_direct()).await;
        let direct = opened.map_err(|error| PublishError::Disconnected { target: target.clone(), reason: error.to_string() })?;
        let mut link = direct.link.clone();
        tokio::select! {
            biased;
            blocked = link.wait_for(|link| matches!(link, Link::Blocked(_))) => {
                Err(blocked.map_or_else(|_| closed(&target), |link| link_error(&target, &link)))
            }
            answer = send(&direct.lane, job, answered) => answer,
        }
    }

    async fn open_direct(&self) -> Result<DirectReplies, QueueError> {
        let first = self.dialer.dial("direct replies").await?;
        let keeper = Keeper { name: "direct replies", dialer: self.dialer.clone(), topology: None, stop: self.around.stop.clone() };
        let (line, life) = keeper.keep(first);
        self.around.tasks.spawn(life);
        Ok(DirectReplies { lane: start_lane(Cargo::DirectReplies, &line, None, &self.around), link: line.link })
    }

    /// What travels of a message; refused here if it cannot, because the broker would close the channel over it.
    fn job(&self, target: &str, message: &Outgoing, timeout: Duration, answer: oneshot::Sender<Answer>) -> Result<Job, PublishError> {
        let refused = |reason: String| PublishError::Refused { target: target.to_owned(), reason };
        message.check(target).map_err(refused)?;
        let too_long = || refused("a property has more than 255 bytes".to_owned());
        Ok(Job {
            target: target.to_owned(),
            routing_key: ShortString::try_new(target).map_err(|_| too_long())?,
            properties: properties::write(message, target, self.dialer.login()).ok_or_else(too_long)?,
            message_id: message.envelope.message_id.clone().unwrap_or_default(),
            body: message.body.clone(),
            deadline: Instant::now() + timeout,
            timeout,
            answer,
        })
    }
}

fn start_lane(cargo: Cargo, line: &Line, slow_lane: Option<mpsc::Sender<Job>>, around: &Arc<Around>) -> mpsc::Sender<Job> {
    let (sender, jobs) = mpsc::channel(WAITING_MAX);
    around.tasks.spawn(Lane::new(cargo, jobs, line, slow_lane, Arc::clone(around)).live());
    sender
}

async fn send(lane: &mpsc::Sender<Job>, job: Job, answered: oneshot::Receiver<Answer>) -> Answer {
    let target = job.target.clone();
    if lane.send(job).await.is_err() {
        return Err(closed(&target));
    }
    answered.await.unwrap_or_else(|_| Err(closed(&target)))
}

fn closed(target: &str) -> PublishError {
    PublishError::Disconnected { target: target.to_owned(), reason: "closed".to_owned() }
}

fn link_error(target: &str, link: &Link) -> PublishError {
    match link {
        Link::Blocked(reason) => PublishError::Blocked { target: target.to_owned(), reason: reason.clone() },
        Link::Down(reason) => PublishError::Disconnected { target: target.to_owned(), reason: reason.clone() },
        Link::Up => closed(target),
    }
}
