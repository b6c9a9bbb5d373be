//! An open channel for what needs one for a moment. The client library gives every channel of a connection another number, and those run out: one on which nothing
//! was refused serves again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lapin::Channel;

use super::{failure::Failure, line::Kept};

/// At most one channel on which nothing is under way, and its connection.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Option<(Weak<Kept>, Channel)>>);

impl Spare {
    /// The spare channel, if it is of this connection and open; else a new one.
    pub(super) async fn channel(&self, connection: &Arc<Kept>) -> Result<Channel, Failure> {
        let spare = self.lock().take();
        let usable = spare.filter(|(of, channel)| of.ptr_eq(&Arc::downgrade(connection)) && channel.status().connected());
        match usable {
            Some((_, channel)) => Ok(channel),
            None => Ok(connection.create_channel().await?),
        }
    }

    /// Keeps a channel for the next one. A second one is closed.
    pub(super) fn keep(&self, connection: &Arc<Kept>, channel: Channel) {
        *self.lock() = Some((Arc::downgrade(connection), channel));
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Weak<Kept>, Channel)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
