//! The open connections of a listener: how many there may be, and which one makes room for another.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use protocol::config::GatewaySection;
use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;
use tracing::info;

use super::activity::{Activity, Ending, Waiting};

/// How many connections beyond the bound are still answered, 503 for the most part.
const BEYOND_MAX: usize = 64;
/// A head that has been on its way for less makes no room, nor does a body that made headway since: they are about to arrive.
const SPARED: Duration = Duration::from_millis(250);

/// What the clients of a listener are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Most connections that may be open at once; never more than half of the files that the process may open. Default: 1,024.
    pub connections_max: usize,
    /// How long the head of a request may take to arrive. Default: 10 s.
    pub head_timeout: Duration,
    /// How long a connection stays open between two requests, and while its client reads nothing of an answer. Default: 75 s.
    pub idle_timeout: Duration,
}

impl From<&GatewaySection> for ConnectionLimits {
    fn from(gateway: &GatewaySection) -> Self {
        Self {
            connections_max: usize::try_from(gateway.connections_max).unwrap_or(usize::MAX),
            head_timeout: Duration::from_millis(gateway.head_timeout_ms),
            idle_timeout: Duration::from_millis(gateway.idle_timeout_ms),
        }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self::from(&GatewaySection::default())
    }
}

/// What a connection is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Everything.
    Whole,
    /// It is one too many.
    Full,
}

/// The open connections of a listener.
#[derive(Debug)]
pub(crate) struct Connections {
    limits: ConnectionLimits,
    open: Mutex<Open>,
    metrics: ConnectionMetrics,
}

#[derive(Debug, Default)]
struct Open {
    /// How many there ever were.
    accepted: u64,
    /// Those that are not given up, by their number.
    living: BTreeMap<u64, Arc<Activity>>,
}

/// What is counted of them, named `gateway_connections…`.
#[derive(Debug)]
struct ConnectionMetrics {
    open: IntGauge,
    ended: IntCounterVec,
    refused: IntCounter,
}

/// An open connection; counted until it is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) activity: Arc<Activity>,
    pub(super) room: Room,
    number: u64,
    connections: Arc<Connections>,
}

impl Connections {
    /// Room for connections within `limits`.
    ///
    /// # Errors
    /// None that a caller could cause: the names of the metrics are valid.
    pub(crate) fn new(limits: ConnectionLimits) -> Result<Self, prometheus::Error> {
        let half_of_the_files =
            getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files / 2).unwrap_or(usize::MAX));
        let connections_max = limits.connections_max.min(half_of_the_files).max(1);
        if connections_max < limits.connections_max {
            info!(connections_max, configured = limits.connections_max, "the process may open few files: they bound the connections");
        }
        let limits = ConnectionLimits { connections_max, ..limits };
        Ok(Self { limits, open: Mutex::default(), metrics: ConnectionMetrics::new()? })
    }

    /// Shows in `registry` what is counted.
    ///
    /// # Errors
    /// The registry has metrics of these names already.
    pub(crate) fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let ConnectionMetrics { open, ended, refused } = &self.metrics;
        registry.register(Box::new(open.clone()))?;
        registry.register(Box::new(ended.clone()))?;
        registry.register(Box::new(refused.clone()))
    }

    /// How many there may be.
    pub(crate) const fn connections_max(&self) -> usize {
        self.limits.connections_max
    }

    /// Counts one more. Where there is no room and none can be made it is one too many; where there are far too many it is `None`, to be closed unanswered.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Admitted> {
        let mut open = self.open();
        let max = self.limits.connections_max;
        while open.living.len() >= max && self.give_one_up(&mut open) {}
        let room = if open.living.len() < max { Room::Whole } else { Room::Full };
        if room == Room::Full {
            self.metrics.refused.inc();
        }
        if open.living.len() >= max + BEYOND_MAX {
            return None;
        }
        open.accepted += 1;
        let (number, activity) = (open.accepted, Arc::new(Activity::new()));
        open.living.insert(number, Arc::clone(&activity));
        self.count(&open);
        drop(open);
        Some(Admitted { activity, room, number, connections: Arc::clone(self) })
    }

    /// Closes up to `count` connections that wait for their clients; how many it closed.
    pub(super) fn make_room(&self, count: usize) -> usize {
        let mut open = self.open();
        let closed = (0..count).take_while(|_| self.give_one_up(&mut open)).count();
        drop(open);
        closed
    }

    /// Gives the connection up that has waited longest for its client, be it for a request, or for the rest of a head or of a body. False: none waits.
    fn give_one_up(&self, open: &mut Open) -> bool {
        let now = Instant::now();
        let waiting = open.living.iter().filter_map(|(number, activity)| match activity.waiting()? {
            Waiting::Rest(since) => Some((since, *number)),
            Waiting::Head(since) | Waiting::Body(since) => (now.duration_since(since) >= SPARED).then_some((since, *number)),
        });
        let Some((_, number)) = waiting.min() else { return false };
        // Its client may have been faster meanwhile; then the next one is looked for when there is a next need.
        let given_up = open.living.get(&number).is_some_and(|activity| activity.give_up());
        if given_up {
            open.living.remove(&number);
            self.count(open);
            self.ended(Ending::MadeRoom);
        }
        given_up
    }

    fn ended(&self, ending: Ending) {
        self.metrics.ended.with_label_values(&[ending.name()]).inc();
    }

    fn count(&self, open: &Open) {
        self.metrics.open.set(i64::try_from(open.living.len()).unwrap_or(i64::MAX));
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionMetrics {
    fn new() -> Result<Self, prometheus::Error> {
        let ended = Opts::new(
            "gateway_connections_ended_total",
            "Connections that the gateway ended: head_timeout, idle_timeout, stalled (the client reads nothing), made_room (for another one).",
        );
        Ok(Self {
            open: IntGauge::new("gateway_connections", "Connections that are open now.")?,
            ended: IntCounterVec::new(ended, &["why"])?,
            refused: IntCounter::new("gateway_connections_refused_total", "Connections for which there was no room.")?,
        })
    }
}

impl Admitted {
    pub(super) fn limits(&self) -> ConnectionLimits {
        self.connections.limits
    }

    /// Counts why it was ended. One that made room was counted then.
    pub(super) fn ended(&self, ending: Ending) {
        self.connections.ended(ending);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.living.remove(&self.number);
        self.connections.count(&open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room_for(connections_max: usize) -> Arc<Connections> {
        let limits = ConnectionLimits { connections_max, ..ConnectionLimits::default() };
        Arc::new(Connections::new(limits).expect("valid names"))
    }

    fn answered(admitted: &Admitted) {
        admitted.activity.answering();
        admitted.activity.answered();
        admitted.activity.flushed();
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_has_waited_longest_for_its_client_makes_room() {
        let connections = room_for(3);
        let mut open: Vec<Admitted> = (0..3).map(|_| connections.admit().expect("room")).collect();
        for resting in [1, 0] {
            tokio::time::advance(SPARED).await;
            answered(&open[resting]);
        }
        for next in [2, 1, 0] {
            tokio::time::advance(Duration::from_millis(1)).await;
            open.push(connections.admit().expect("room"));
            assert!(open[next].activity.waiting().is_none(), "{next} has waited longest");
        }
        assert!(open.iter().all(|admitted| admitted.room == Room::Whole));
        assert_eq!(connections.admit().expect("beyond").room, Room::Full, "young heads are spared");
    }

    #[tokio::test(start_paused = true)]
    async fn where_none_waits_some_are_told_so_and_the_rest_is_closed() {
        let connections = room_for(2);
        let mut open: Vec<Admitted> = (0..2 + BEYOND_MAX).map(|_| connections.admit().expect("young heads are spared")).collect();
        assert_eq!(open.iter().filter(|admitted| admitted.room == Room::Whole).count(), 2);
        assert!(connections.admit().is_none());
        open.truncate(1);
        assert_eq!(connections.admit().expect("room").room, Room::Whole);
        let _second = connections.admit().expect("room");
        tokio::time::advance(SPARED).await;
        assert_eq!(connections.admit().expect("the old head makes room").room, Room::Whole);
        assert!(open[0].activity.waiting().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_sends_no_body_makes_room_and_whoever_sends_one_does_not() {
        let connections = room_for(2);
        let sending = [connections.admit().expect("room"), connections.admit().expect("room")];
        for admitted in &sending {
            admitted.activity.answering();
            admitted.activity.awaits_body();
        }
        tokio::time::advance(SPARED).await;
        assert!(sending[0].activity.body_came(1 << 20));
        let _next = connections.admit().expect("room");
        assert!(sending[0].activity.waiting().is_some() && sending[1].activity.waiting().is_none());
        assert_eq!(connections.admit().expect("beyond").room, Room::Full);
    }

    #[tokio::test]
    async fn what_is_answered_makes_no_room() {
        let connections = room_for(1);
        let busy = connections.admit().expect("room");
        busy.activity.answering();
        assert_eq!((connections.make_room(8), connections.admit().expect("beyond").room), (0, Room::Full));
        answered(&busy);
        assert_eq!((connections.make_room(8), connections.admit().expect("room").room), (1, Room::Whole));
    }
}
