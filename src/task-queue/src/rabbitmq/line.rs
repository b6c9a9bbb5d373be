//! One connection that is kept: dialled again after every loss, watched for the broker's blocking of publishers.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use lapin::{Connection, ConnectionProperties, Event, uri::AMQPUri};
use protocol::config::SecretUrl;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{backoff::Backoff, failure::Failure, screen, topology::Topology};
use crate::{Link, QueueError};

/// Longest wait for a connection to open.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for a connection to close: lapin's close may hang.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// How often the connection's state is looked at besides its events, which a slow listener could miss.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Seconds between heartbeats where the URL asks for none: half-open connections end after two.
const HEARTBEAT_S: u16 = 20;

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
        Ok(Self { uri, url: url.redacted() })
    }

    /// The user that connects.
    pub(super) fn login(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    pub(super) async fn dial(&self, name: &str) -> Result<Connection, QueueError> {
        let properties = ConnectionProperties::default().with_connection_name(format!("gpufleet {name}").into());
        let dialled = tokio::time::timeout(DIAL_LIMIT, screen::connect(self.uri.clone(), properties)).await;
        let unreachable = |reason: String| QueueError::Unreachable { url: self.url.clone(), reason };
        let connection = dialled.map_err(|_| unreachable(format!("no answer within {} s", DIAL_LIMIT.as_secs())))?;
        connection.map_err(|error| match error.kind() {
            lapin::ErrorKind::ProtocolError(refusal) => {
                QueueError::Refused { operation: format!("connect to {}", self.url), reason: refusal.get_message().to_string() }
            }
            _ => unreachable(error.to_string()),
        })
    }
}

/// A kept connection, for its users.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) connection: watch::Receiver<Option<Arc<Connection>>>,
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

impl Keeper {
    /// The line over a first connection, and the life that keeps it.
    pub(super) fn keep(self, first: Connection) -> (Line, impl Future<Output = ()> + Send + 'static) {
        let first = Arc::new(first);
        let connections = watch::Sender::new(Some(first.clone()));
        let links = watch::Sender::new(Link::Up);
        let line = Line { connection: connections.subscribe(), link: links.subscribe() };
        (line, self.live(first, connections, links))
    }

    async fn live(self, first: Arc<Connection>, connections: watch::Sender<Option<Arc<Connection>>>, links: watch::Sender<Link>) {
        let mut backoff = Backoff::new();
        let mut current = Some(first);
        while let Some(connection) = current {
            backoff.began();
            let lost = self.watch(&connection, &links).await;
            connections.send_replace(None);
            let reason = lost.clone().unwrap_or_else(|| "closed".to_owned());
            links.send_replace(Link::Down(reason.clone()));
            close(connection).await;
            current = None;
            if lost.is_some() {
                tracing::warn!(connection = self.name, url = self.dialer.url, reason, "lost the broker");
                current = self.redial(&mut backoff).await;
            }
            if let Some(connection) = &current {
                tracing::info!(connection = self.name, url = self.dialer.url, "reached the broker again");
                connections.send_replace(Some(connection.clone()));
                links.send_replace(Link::Up);
            }
        }
    }

    /// Until the connection is lost, which says why, or is not wanted any more.
    async fn watch(&self, connection: &Connection, links: &watch::Sender<Link>) -> Option<String> {
        let mut events = connection.events_listener();
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(connection = self.name, reason, "the broker blocks publishers");
                        links.send_replace(Link::Blocked(reason));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!(connection = self.name, "the broker lets publishers go on");
                        links.send_replace(Link::Up);
                    }
                    Some(Event::Error(error)) if !connection.status().connected() => return Some(error.to_string()),
                    None => return Some("the connection ended".to_owned()),
                    _ => {}
                },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if !connection.status().connected() {
                return Some(format!("the connection is {:?}", connection.status()));
            }
        }
    }

    /// Dials until it succeeds or is not wanted any more.
    async fn redial(&self, backoff: &mut Backoff) -> Option<Arc<Connection>> {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep(backoff.next()) => {}
            }
            match self.dialer.dial(self.name).await {
                Ok(connection) => {
                    self.declare_again(&connection).await;
                    return Some(Arc::new(connection));
                }
                Err(error) => tracing::debug!(connection = self.name, %error, "still away"),
            }
        }
    }

    /// A queue that cannot be declared again is logged and left: the others must go on, and its consumers try again by themselves.
    async fn declare_again(&self, connection: &Connection) {
        let Some(topology) = &self.topology else { return };
        for queue in topology.all() {
            let declared = async { topology.declare_on(&connection.create_channel().await?, &queue).await };
            let declared = tokio::time::timeout(topology.options.publish_timeout, declared).await;
            if let Err(failure) = declared.unwrap_or_else(|_| Err(Failure::Away("no answer in time".to_owned()))) {
                tracing::warn!(?queue, ?failure, "could not declare a queue again");
            }
        }
    }
}

/// Closes a connection, or lets it go.
async fn close(connection: Arc<Connection>) {
    if connection.status().connected() {
        let _ignored = tokio::time::timeout(CLOSE_LIMIT, connection.close(200, "OK".into())).await;
    }
}
