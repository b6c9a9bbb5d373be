//! One connection that is kept: dialled again after every loss, watched for the broker's blocking of publishers.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use lapin::{Channel, Connection, ConnectionProperties, Event, uri::AMQPUri};
use protocol::config::SecretUrl;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{backoff::Backoff, dialling::not_connected, failure::Failure, screen, topology::Topology};
use crate::{Link, QueueError};

/// Longest wait for a connection to open.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for a connection to close: lapin's close may hang.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// How often the connection's state is looked at besides its events, which a slow listener could miss.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Seconds between heartbeats where the URL asks for none: half-open connections end after two.
const HEARTBEAT_S: u16 = 20;

/// Bytes of the largest frame where the URL asks for none, and so of the properties of a message. The client library keeps room for 64 of them on each connection, and goes round
/// in it.
const FRAME_MAX: u32 = 64 * 1024;

/// How to reach the broker.
#[derive(Clone)]
pub(super) struct Dialer {
    uri: AMQPUri,
    /// Without the password.
    pub(super) url: String,
}

impl Dialer {
    pub(super) fn new(url: &SecretUrl) -> Result<Self, QueueError> {
        // The parser's error could repeat the URL with its password.
        let parsed = url.reveal().parse::<AMQPUri>();
        let mut uri = parsed.map_err(|_| QueueError::Refused {
            operation: format!("connect to {}", url.redacted()),
            reason: "this is not an AMQP URL (amqp://user:password@host:5672/vhost)".to_owned(),
        })?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        Ok(Self { uri, url: url.redacted() })
    }

    /// The user that connects.
    pub(super) fn login(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    pub(super) async fn dial(&self, name: &str) -> Result<Arc<Kept>, QueueError> {
        let properties = ConnectionProperties::default().with_connection_name(format!("gpufleet {name}").into());
        let dialled = tokio::time::timeout(DIAL_LIMIT, screen::connect(self.uri.clone(), properties)).await;
        let unreachable = |reason: String| QueueError::Unreachable { url: self.url.clone(), reason };
        let connection = dialled.map_err(|_| unreachable(format!("no answer within {} s", DIAL_LIMIT.as_secs())))?;
        let connection = connection.map_err(|error| not_connected(&error, &self.uri, &self.url))?;
        Ok(Arc::new(Kept { connection, worn: Notify::new(), used_up: AtomicBool::new(false) }))
    }
}

/// An open connection. It wears out: the client library gives every channel the next number and never forgets which of them the broker has closed, over a
/// queue that is missing for instance; when their numbers come round again, they cannot be opened, and trying keeps the connection from ever closing by itself.
/// So a connection is replaced after half a round, and none begins a second one.
#[derive(Debug)]
pub(super) struct Kept {
    connection: Connection,
    worn: Notify,
    used_up: AtomicBool,
}

impl Kept {
    pub(super) async fn create_channel(&self) -> lapin::Result<Channel> {
        if self.used_up.load(Ordering::Relaxed) {
            self.worn.notify_one();
            return Err(lapin::ErrorKind::ChannelsLimitReached.into());
        }
        let channel = self.connection.create_channel().await?;
        let (number, most) = (channel.id(), self.connection.configuration().channel_max());
        if number > most / 2 {
            self.worn.notify_one();
        }
        // The rest is for those that open a channel at this moment.
        if number > most - most / 4 {
            self.used_up.store(true, Ordering::Relaxed);
        }
        Ok(channel)
    }

    pub(super) fn connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// Closes it, or lets it go.
    async fn close(&self) {
        if self.connected() {
            let _ignored = tokio::time::timeout(CLOSE_LIMIT, self.connection.close(200, "OK".into())).await;
        }
    }
}

/// A kept connection, for its users.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) connection: watch::Receiver<Option<Arc<Kept>>>,
    pub(super) link: watch::Receiver<Link>,
}

/// Who keeps it.
pub(super) struct Keeper {
    pub(super) name: &'static str,
    pub(super) dialer: Dialer,
    /// What to declare on each new connection.
    pub(super) topology: Option<Arc<Topology>>,
    pub(super) stop: CancellationToken,
}

/// Why a connection is not the line's any more.
enum Ending {
    Lost(String),
    /// Its successor.
    Worn(Arc<Kept>),
    Unwanted,
}

impl Keeper {
    /// The line over a first connection, and the life that keeps it.
    pub(super) fn keep(self, first: Arc<Kept>) -> (Line, impl Future<Output = ()> + Send + 'static) {
        let connections = watch::Sender::new(Some(first.clone()));
        let links = watch::Sender::new(Link::Up);
        let line = Line { connection: connections.subscribe(), link: links.subscribe() };
        (line, self.live(first, connections, links))
    }

    async fn live(self, first: Arc<Kept>, connections: watch::Sender<Option<Arc<Kept>>>, links: watch::Sender<Link>) {
        let mut backoff = Backoff::new();
        let mut current = Some(first);
        while let Some(connection) = current {
            backoff.began();
            current = match self.watch(&connection, &links).await {
                // The worn one closes with the last of its channels, so nobody's consumer ends. What the broker said to it does not count for this one.
                Ending::Worn(fresh) => {
                    tracing::debug!(connection = self.name, "replaced a connection that had opened many channels");
                    Some(fresh)
                }
                Ending::Lost(reason) => {
                    connections.send_replace(None);
                    links.send_replace(Link::Down(reason.clone()));
                    connection.close().await;
                    tracing::warn!(connection = self.name, url = self.dialer.url, reason, "lost the broker");
                    let found = self.redial(&mut backoff).await;
                    if found.is_some() {
                        tracing::info!(connection = self.name, url = self.dialer.url, "reached the broker again");
                    }
                    found
                }
                Ending::Unwanted => {
                    connections.send_replace(None);
                    links.send_replace(Link::Down("closed".to_owned()));
                    connection.close().await;
                    None
                }
            };
            if current.is_some() {
                connections.send_replace(current.clone());
                links.send_replace(Link::Up);
            }
        }
    }

    /// A connection instead of this one, once it is worn. While there is none, every further channel asks again.
    async fn successor(&self, worn: &Kept) -> Arc<Kept> {
        loop {
            worn.worn.notified().await;
            match self.dialer.dial(self.name).await {
                Ok(connection) => return connection,
                Err(error) => {
                    tracing::debug!(connection = self.name, %error, "could not replace a connection that has opened many channels")
                }
            }
        }
    }

    /// Until the connection is lost, worn or not wanted any more.
    async fn watch(&self, kept: &Kept, links: &watch::Sender<Link>) -> Ending {
        let connection = &kept.connection;
        let mut events = connection.events_listener();
        let mut successor = pin!(self.successor(kept));
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ending::Unwanted,
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(connection = self.name, reason, "the broker blocks publishers");
                        links.send_replace(Link::Blocked(reason));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!(connection = self.name, "the broker lets publishers go on");
                        links.send_replace(Link::Up);
                    }
                    Some(Event::Error(error)) if !connection.status().connected() => return Ending::Lost(error.to_string()),
                    None => return Ending::Lost("the connection ended".to_owned()),
                    _ => {}
                },
                fresh = &mut successor => return Ending::Worn(fresh),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if !kept.connected() {
                return Ending::Lost("the connection is closed".to_owned());
            }
        }
    }

    /// Dials until it succeeds or is not wanted any more.
    async fn redial(&self, backoff: &mut Backoff) -> Option<Arc<Kept>> {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep(backoff.next()) => {}
            }
            match self.dialer.dial(self.name).await {
                Ok(connection) => {
                    self.declare_again(&connection).await;
                    return Some(connection);
                }
                Err(error) => tracing::debug!(connection = self.name, %error, "still away"),
            }
        }
    }

    /// A queue that cannot be declared again is logged and left: the others must go on, and its consumers try again by themselves.
    async fn declare_again(&self, connection: &Arc<Kept>) {
        let Some(topology) = &self.topology else { return };
        for queue in topology.all() {
            let declared = tokio::time::timeout(topology.options.publish_timeout, topology.declare(connection, &queue)).await;
            if let Err(failure) = declared.unwrap_or_else(|_| Err(Failure::Away("no answer in time".to_owned()))) {
                let error = failure.into_declare_error(&self.dialer.url, &topology.options.names.queue(&queue));
                tracing::warn!(%error, "could not declare a queue again");
            }
        }
    }
}
