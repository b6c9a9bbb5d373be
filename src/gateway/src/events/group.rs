//! One client that follows one group: its counts as they change, and the replies of its members as they come, if it wants them.

use std::collections::VecDeque;

use axum::response::Response;
use producer::GroupPace;
use protocol::{GroupName, Reply};
use task_store::{MemberEnd, StoreError};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};
use tracing::debug;

use super::{Event, READY_BYTES_MAX, Source, admitted, answer, follow::LONGEST};
use crate::{Gateway, Problem, groups};

/// How many replies are in hand at once, and fewer where they are large. The next ones are asked for when the client has read these.
const REPLIES_AT_ONCE: u32 = 8;

/// Whether replies are sent too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replies {
    /// The counts alone.
    No,
    /// Those of members whose end has a higher number.
    After(u64),
}

/// Follows a group that is known.
pub(crate) async fn follow(gateway: Gateway, group: GroupName, replies: Replies) -> Result<Response, Problem> {
    let permit = admitted(&gateway)?;
    groups::known(&gateway, &group).await?;
    let now = Instant::now();
    let (ready, pace, over) = Default::default();
    let ends_at = now + LONGEST;
    Ok(answer(FollowingGroup { gateway, group, replies, ready, pace, counts_at: now, look_at: now, ends_at, over, _permit: permit }))
}

/// What is new of a group, until all of it has ended.
struct FollowingGroup {
    gateway: Gateway,
    group: GroupName,
    replies: Replies,
    ready: VecDeque<Event>,
    pace: GroupPace,
    /// Before this time no counts are sent: replies may be looked for more often.
    counts_at: Instant,
    look_at: Instant,
    ends_at: Instant,
    over: bool,
    _permit: OwnedSemaphorePermit,
}

impl FollowingGroup {
    /// Asks the store. While it does not answer the stream goes on.
    async fn look(&mut self) {
        let status = self.gateway.groups().show(&self.group).await;
        let more = self.look_for_replies().await;
        let now = Instant::now();
        match (status, more) {
            // Forgotten meanwhile.
            (Ok(None), _) => self.over = true,
            (Ok(Some(status)), Ok(more)) => {
                // The counts were read before the replies were looked for: where all had ended and no reply followed, none is missing.
                let ended = status.ended && !more;
                // That all have ended is said last, after their replies.
                let is_time = ended || (now >= self.counts_at && !status.ended);
                if is_time && self.pace.is_news(&status) {
                    self.ready.push_back(Event::new("counts", &status));
                }
                if ended {
                    self.over = true;
                    return;
                }
                let pause = if now >= self.counts_at { self.pace.pause() } else { self.counts_at - now };
                self.counts_at = now + pause;
                self.look_at = if more { now } else { self.counts_at };
            }
            (Err(error), _) | (_, Err(error)) => {
                debug!(group = %self.group, %error, "follow a group");
                self.look_at = now + self.pace.pause();
            }
        }
    }

    /// Takes the next replies in hand; whether there were any.
    async fn look_for_replies(&mut self) -> Result<bool, StoreError> {
        let Replies::After(seen) = self.replies else { return Ok(false) };
        let ends = self.gateway.groups().ends(&self.group, seen, REPLIES_AT_ONCE).await?;
        let (any, mut bytes) = (!ends.is_empty(), 0);
        for MemberEnd { number, task_id, outcome } in ends {
            // Its record may be forgotten before its group.
            if let Some(status) = self.gateway.ports.producer.status(&task_id).await? {
                let reply = status.reply.clone().unwrap_or_else(|| Reply::without_body(status, outcome));
                let event = Event { id: Some(number), ..Event::new("reply", &reply) };
                bytes += event.data.len();
                self.ready.push_back(event);
            }
            self.replies = Replies::After(number);
            if bytes >= READY_BYTES_MAX {
                break;
            }
        }
        Ok(any)
    }
}

impl Source for FollowingGroup {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over || self.ends_at <= Instant::now() {
                return None;
            }
            tokio::select! {
                biased;
                () = self.gateway.closing.cancelled() => return None,
                () = sleep_until(self.look_at.min(self.ends_at)) => {}
            }
            self.look().await;
        }
    }
}
