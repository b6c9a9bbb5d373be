//! The publishing side: one lane for messages to queues, which carries in one batch what waits at one moment, and one for direct replies.

use std::{collections::VecDeque, time::Duration};

use lapin::types::ShortString;
use tokio::{
    sync::{OnceCell, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    lane::{Cargo, Job, Lane},
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
    link: watch::Receiver<Link>,
    direct: OnceCell<DirectReplies>,
    dialer: Dialer,
    timeout: Duration,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The lane of direct replies and the link of its connection, which is opened when it is first needed.
struct DirectReplies {
    lane: mpsc::Sender<Job>,
    link: watch::Receiver<Link>,
}

impl Publisher {
    pub(super) fn start(line: &Line, dialer: Dialer, timeout: Duration, stop: CancellationToken, tasks: TaskTracker) -> Self {
        let lane = start_lane(Cargo::Queues, line, &stop, &tasks);
        Self { lane, link: line.link.clone(), direct: OnceCell::new(), dialer, timeout, stop, tasks }
    }

    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    pub(super) async fn publish(&self, names: &Names, message: Outgoing) -> Answer {
        let target = names.target(&message.target);
        let timeout = message.timeout.unwrap_or(self.timeout);
        let (answer, answered) = oneshot::channel();
        let direct = is_direct_reply(&target);
        let job = self.job(&target, message, Instant::now() + timeout, answer)?;
        let mut link = self.link.clone();
        let sending = async { if direct { self.send_direct(job, answered).await } else { send(&self.lane, job, answered).await } };
        tokio::select! {
            biased;
            down = link.wait_for(|link| *link != Link::Up) => Err(down.map_or_else(|_| closed(&target), |link| link_error(&target, &link))),
            answer = sending => answer,
            () = tokio::time::sleep(timeout) => {
                let after_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                Err(PublishError::Timeout { target, after_ms })
            }
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
        let keeper = Keeper { name: "direct replies", dialer: self.dialer.clone(), topology: None, stop: self.stop.clone() };
        let (line, life) = keeper.keep(first);
        self.tasks.spawn(life);
        Ok(DirectReplies { lane: start_lane(Cargo::DirectReplies, &line, &self.stop, &self.tasks), link: line.link })
    }

    /// What travels of a message; refused here if it cannot, because the broker would close the channel over it.
    fn job(&self, target: &str, message: Outgoing, deadline: Instant, answer: oneshot::Sender<Answer>) -> Result<Job, PublishError> {
        let refused = |reason: String| PublishError::Refused { target: target.to_owned(), reason };
        message.check(target).map_err(refused)?;
        let too_long = || refused("a property has more than 255 bytes".to_owned());
        Ok(Job {
            target: target.to_owned(),
            routing_key: ShortString::try_new(target).map_err(|_| too_long())?,
            properties: properties::write(&message, target, self.dialer.login()).ok_or_else(too_long)?,
            message_id: message.envelope.message_id.unwrap_or_default(),
            body: message.body,
            deadline,
            answer,
        })
    }
}

fn start_lane(cargo: Cargo, line: &Line, stop: &CancellationToken, tasks: &TaskTracker) -> mpsc::Sender<Job> {
    let (sender, jobs) = mpsc::channel(WAITING_MAX);
    let lane = Lane {
        cargo,
        jobs,
        connection: line.connection.clone(),
        link: line.link.clone(),
        stop: stop.clone(),
        held_over: VecDeque::new(),
        suspects: VecDeque::new(),
        channel: None,
    };
    tasks.spawn(lane.live());
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
