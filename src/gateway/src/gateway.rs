//! What every route can reach.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use gpu_table::{GpuTable, KindsView, PoolView};
use producer::Producer;
use prometheus::Registry;
use protocol::{
    PoolName,
    claim::Settings,
    config::{Configuration, JournalSection, Operate, ScalingSection, WhenUnserved},
};
use task_queue::{BodyBudget, TaskQueue};
use task_store::TaskStore;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    ConnectionLimits, GatewayMetrics, Observatory, ObservedPorts,
    bulk::BULK_MAX,
    events::{STREAMS_MAX, log::Watched, wait::Waits},
    health::Readiness,
    live::LiveView,
    retry::Refusals,
    server::Connections,
    unserved::Emptiness,
};

/// What the gateway stands in front of.
#[derive(Clone)]
pub struct Ports {
    /// Submits tasks and awaits their replies.
    pub producer: Producer,
    /// The producer's queue: its link is part of readiness.
    pub queue: Arc<dyn TaskQueue>,
    /// Answers for GPUs.
    pub table: Arc<dyn GpuTable>,
    /// The producer's store: part of readiness.
    pub store: Arc<dyn TaskStore>,
    /// What `/metrics` shows: the gateway's own metrics and those of every worker in this process.
    pub registry: Registry,
    /// The memory for the bodies in hand; shared with the workers of this process.
    pub bodies: BodyBudget,
}

/// How the gateway behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayOptions {
    /// The pool whose GPUs are shown. Default: `default`.
    pub pool: PoolName,
    /// How long `predict` waits for its result. Default: 60 s.
    pub predict_timeout: Duration,
    /// Largest body of a request, in bytes. Default: 8 MiB.
    pub body_bytes_max: usize,
    /// How long the body of a request may take to arrive. Default: 30 s.
    pub body_timeout: Duration,
    /// How long open requests may go on after a stop. Default: 30 s.
    pub drain_grace: Duration,
    /// What becomes of a task that no living GPU can run. Default: it waits, with a warning.
    pub unserved: WhenUnserved,
    /// Whether payloads are checked against their kinds' schemas before they travel. Default: they are.
    pub check_payloads: bool,
    /// The workers' lease: nobody is refused for what the table does not know unless it has heard of workers for so long. Default: 6 s.
    pub lease: Duration,
    /// What its clients' connections are allowed.
    pub connections: ConnectionLimits,
    /// Where operators' requests are served. Default: on loopback addresses.
    pub operate: Operate,
    /// The settings of a fleet whose table has none yet. Default: those of the configuration's defaults.
    pub initial_settings: Settings,
    /// How much of the journal is indexed. Default: that of the configuration's defaults.
    pub journal: JournalSection,
    /// What the number of desired workers aims at. Default: that of the configuration's defaults.
    pub scaling: ScalingSection,
}

impl From<&Configuration> for GatewayOptions {
    fn from(configuration: &Configuration) -> Self {
        let Configuration { worker, gateway, gpu, journal, scaling, .. } = configuration;
        Self {
            pool: worker.pool.clone(),
            predict_timeout: Duration::from_millis(gateway.predict_timeout_ms),
            body_bytes_max: worker.body_bytes_max,
            body_timeout: Duration::from_millis(gateway.body_timeout_ms),
            drain_grace: Duration::from_millis(worker.drain_grace_ms),
            unserved: gateway.unserved,
            check_payloads: gateway.check_payloads,
            lease: Duration::from_millis(worker.lease_ms),
            connections: ConnectionLimits::from(gateway),
            operate: gateway.operate,
            initial_settings: gpu.multi_gpu.initial_settings(),
            journal: journal.clone(),
            scaling: scaling.clone(),
        }
    }
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self::from(&Configuration::default())
    }
}

/// The state of the gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

/// What the clones of a [`Gateway`] share. Public only because `Deref` names it; its fields are this crate's.
pub struct Shared {
    pub(crate) ports: Ports,
    pub(crate) options: GatewayOptions,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) full: Refusals,
    pub(crate) unavailable: Refusals,
    pub(crate) overloaded: Refusals,
    pub(crate) unserved: Refusals,
    /// The data ports of GPUs.
    pub(crate) unreached: Refusals,
    /// The living GPUs of the pool, as they were a moment ago.
    pub(crate) living: PoolView,
    /// What the kinds of the pool do, as they were some seconds ago.
    pub(crate) kinds: KindsView,
    /// For how long the pool has been seen without any.
    pub(crate) emptiness: Mutex<Emptiness>,
    /// What the tasks said that were submitted here with `progress`.
    pub(crate) watched: Watched,
    /// What the servers behind last said to a probe.
    pub(crate) readiness: Readiness,
    pub(crate) connections: Arc<Connections>,
    /// Where it listens, once it does. A gateway that is a part of another server does not know.
    pub(crate) listens_on: OnceLock<SocketAddr>,
    /// Held by whoever has dead letters in hand.
    pub(crate) dead_letters_alone: Arc<tokio::sync::Mutex<()>>,
    /// One permit for each open stream of events.
    pub(crate) streams: Arc<Semaphore>,
    /// What the streams that follow many tasks may do together.
    pub(crate) waits: Waits,
    /// One permit for each bulk request under way.
    pub(crate) bulk: Arc<Semaphore>,
    /// What the journal, the table and the broker say together.
    pub(crate) observatory: Observatory,
    /// What the streams of the fleet's course show, made once for all of them.
    pub(crate) live: LiveView,
    /// The gateway stops: streams of events end.
    pub(crate) closing: CancellationToken,
}

impl Gateway {
    /// A gateway in front of `ports`. Registers its metrics.
    ///
    /// # Errors
    /// The registry has metrics of these names already: it has another gateway.
    pub fn new(ports: Ports, options: GatewayOptions) -> Result<Self, prometheus::Error> {
        let metrics = GatewayMetrics::register(&ports.registry)?;
        let connections = Arc::new(Connections::new(options.connections)?);
        connections.register(&ports.registry)?;
        let (full, unavailable, overloaded, unserved, unreached) = Default::default();
        let (watched, readiness, closing) = Default::default();
        let emptiness = Mutex::default();
        let (listens_on, dead_letters_alone) = Default::default();
        let living = PoolView::new(Arc::clone(&ports.table), options.pool.clone());
        let kinds = KindsView::new(Arc::clone(&ports.table), options.pool.clone());
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        let (waits, bulk) = (Waits::default(), Arc::new(Semaphore::new(BULK_MAX)));
        let (observatory, live) = (observatory_of(&ports, &options), LiveView::default());
        Ok(Self(Arc::new(Shared {
            ports,
            options,
            metrics,
            full,
            unavailable,
            overloaded,
            unserved,
            unreached,
            living,
            kinds,
            emptiness,
            watched,
            readiness,
            connections,
            listens_on,
            dead_letters_alone,
            streams,
            waits,
            bulk,
            observatory,
            live,
            closing,
        })))
    }
}

fn observatory_of(ports: &Ports, options: &GatewayOptions) -> Observatory {
    let observed = ObservedPorts {
        queue: Arc::clone(&ports.queue),
        table: Arc::clone(&ports.table),
        store: Arc::clone(&ports.store),
        environment: ports.producer.environment().clone(),
    };
    let GatewayOptions { pool, initial_settings, journal, scaling, .. } = options;
    Observatory::new(observed, pool.clone(), initial_settings.clone(), journal.clone(), scaling.clone())
}

impl std::ops::Deref for Gateway {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Gateway").field("options", &self.options).finish_non_exhaustive()
    }
}
