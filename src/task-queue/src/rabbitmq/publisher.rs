//! The publishing side: messages go to one of a few lanes by their id, so that batches overlap and copies of a message stay apart.

use std::{collections::VecDeque, time::Duration};

use lapin::types::ShortString;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    lane::{Job, Lane},
    line::Line,
    properties,
};
use crate::{Link, Names, Outgoing, PublishError};

/// Publishing channels.
const LANES: usize = 4;
/// Messages that may wait for a lane; above it publishers wait, up to their deadline.
const WAITING_MAX: usize = 1_024;

pub(super) struct Publisher {
    lanes: Vec<mpsc::Sender<Job>>,
    link: watch::Receiver<Link>,
    login: String,
    timeout: Duration,
}

impl Publisher {
    pub(super) fn start(line: &Line, login: &str, timeout: Duration, stop: &CancellationToken, tasks: &TaskTracker) -> Self {
        let lanes = (0..LANES).map(|_| {
            let (sender, jobs) = mpsc::channel(WAITING_MAX);
            let lane = Lane {
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
        });
        Self { lanes: lanes.collect(), link: line.link.clone(), login: login.to_owned(), timeout }
    }

    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    pub(super) async fn publish(&self, names: &Names, message: Outgoing) -> Result<(), PublishError> {
        let target = names.target(&message.target);
        let timeout = message.timeout.unwrap_or(self.timeout);
        let (answer, answered) = oneshot::channel();
        let job = self.job(&target, message, Instant::now() + timeout, answer)?;
        let mut link = self.link.clone();
        let lane = &self.lanes[lane_of(&job.message_id)];
        let sent = async {
            if lane.send(job).await.is_err() {
                return Err(None);
            }
            answered.await.map_err(|_| None)?.map_err(Some)
        };
        let closed = || PublishError::Disconnected { target: target.clone(), reason: "closed".to_owned() };
        tokio::select! {
            biased;
            down = link.wait_for(|link| *link != Link::Up) => Err(match down.as_deref() {
                Ok(Link::Blocked(reason)) => PublishError::Blocked { target, reason: reason.clone() },
                Ok(Link::Down(reason)) => PublishError::Disconnected { target, reason: reason.clone() },
                Ok(Link::Up) | Err(_) => closed(),
            }),
            answer = sent => answer.map_err(|error| error.unwrap_or_else(closed)),
            () = tokio::time::sleep(timeout) => {
                let after_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                Err(PublishError::Timeout { target, after_ms })
            }
        }
    }

    /// What travels of a message; refused here if it cannot, because the broker would close the channel over it.
    fn job(
        &self,
        target: &str,
        message: Outgoing,
        deadline: Instant,
        answer: oneshot::Sender<Result<(), PublishError>>,
    ) -> Result<Job, PublishError> {
        let refused = |reason: String| PublishError::Refused { target: target.to_owned(), reason };
        message.check(target).map_err(refused)?;
        let too_long = || refused("a property has more than 255 bytes".to_owned());
        Ok(Job {
            target: target.to_owned(),
            routing_key: ShortString::try_new(target).map_err(|_| too_long())?,
            properties: properties::write(&message.envelope, target, &self.login).ok_or_else(too_long)?,
            message_id: message.envelope.message_id.unwrap_or_default(),
            body: message.body,
            deadline,
            answer,
        })
    }
}

/// The lane of a message: the same for all its copies. FNV-1a, because the standard hasher may differ between versions and this is hot.
fn lane_of(message_id: &str) -> usize {
    let hash = message_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    usize::try_from((hash >> 32) % LANES as u64).unwrap_or(0)
}
