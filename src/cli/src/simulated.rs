//! Workers for simulated GPUs: N of them in one process.
//!
//! One process, not N: a simulated GPU has no driver context to isolate and costs only its tasks' timers, and one process shares two connections
//! and one model among all of them. A real GPU gets a process of its own.

use std::{pin::Pin, sync::Arc, time::Duration};

use devices::{
    Device,
    simulated::{LinkGroups, LinkSpeed, SimulatedGpu, SimulatedOptions, Sleeper},
};
use futures::StreamExt;
use gpu_worker::{GpuWorker, Stop, WorkerError, WorkerOptions, WorkerParts};
use prometheus::Registry;
use protocol::{
    GpuId, Json, Kind,
    config::{Configuration, SimulatedSection},
    payload_schema::example,
};
use tokio::task::JoinSet;

use crate::{
    executing::{self, OnOffer},
    fault::Fault,
    servers::Servers,
};

/// How many GPUs' executors start at once: handlers take seconds, and a host has only so many processors.
const STARTED_AT_ONCE: usize = 16;

/// The workers of this process.
pub(crate) struct Workers {
    running: JoinSet<Result<(), WorkerError>>,
    /// Each ends once its worker serves.
    serving: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>,
    brought: Vec<Brought>,
}

/// A kind that a handler runs, for people to try.
pub(crate) struct Brought {
    pub(crate) kind: Kind,
    /// A payload to begin with.
    pub(crate) payload: Json,
}

impl Brought {
    /// Those of one GPU; each has the same.
    fn of(on_offer: &OnOffer) -> Vec<Self> {
        let schema = |kind| on_offer.executors.get(kind).and_then(|executor| executor.schema());
        let payload = |kind| schema(kind).map_or_else(Json::null, |schema| example(&schema));
        on_offer.brought.iter().map(|kind| Self { kind: kind.clone(), payload: payload(kind) }).collect()
    }
}

/// The GPUs that a section describes.
fn devices(section: &SimulatedSection) -> Result<Vec<SimulatedGpu>, Fault> {
    let latency = Duration::from_micros(section.link_latency_us);
    let link = |gb_s| LinkSpeed { latency, ..LinkSpeed::gb_s(gb_s) };
    let peer_link = (section.peer_link_gb_s > 0.0).then(|| link(section.peer_link_gb_s));
    let groups =
        LinkGroups { nvlink: section.nvlink_gpus as usize, switch: section.switch_gpus as usize, peer_access: peer_link.is_some() };
    let named = |number| {
        GpuId::new(format!("{}-{number}", section.id_prefix)).map_err(|error| Fault::Usage(format!("simulated.id_prefix: {error}")))
    };
    let gpus = (0..section.gpus).map(named).collect::<Result<Vec<GpuId>, Fault>>()?;
    let device = |(number, gpu_id): (usize, &GpuId)| {
        SimulatedGpu::new(SimulatedOptions {
            memory_mb: section.memory_mb,
            sleeper: Sleeper::Precise,
            host_link: link(section.host_link_gb_s),
            peer_link,
            links: groups.links_of(&gpus, number),
            ..SimulatedOptions::new(gpu_id.clone())
        })
    };
    Ok(gpus.iter().enumerate().map(device).collect())
}

/// Starts a worker for each simulated GPU of the configuration; with `gpu.multi_gpu.enabled: false`, for the first alone.
pub(crate) async fn start(servers: &Servers, registry: &Registry, stop: &Stop) -> Result<Workers, Fault> {
    let configuration = servers.configuration();
    let metrics = Arc::new(executing::worker_metrics(registry)?);
    let mut devices = devices(&configuration.simulated)?;
    if !configuration.gpu.multi_gpu.enabled {
        devices.truncate(1);
    }
    let offered = offered(configuration, &devices).await?;
    let brought = offered.first().map(Brought::of).unwrap_or_default();
    let (mut running, mut serving) = (JoinSet::new(), Vec::new());
    for (device, OnOffer { executors, .. }) in devices.into_iter().zip(offered) {
        let ports = servers.connect().await?;
        let parts = WorkerParts {
            queue: ports.queue,
            table: ports.table,
            store: ports.store,
            device: Arc::new(device),
            executors,
            environment: servers.environment().clone(),
            options: WorkerOptions::of(configuration, host()),
            metrics: Arc::clone(&metrics),
            bodies: ports.bodies,
        };
        // A worker that has left triggers its own `now`, which must not end what the others still run.
        let own_stop = Stop { gently: stop.gently.clone(), now: stop.now.child_token() };
        let worker = GpuWorker::new(parts, own_stop);
        serving.push(Box::pin(worker.serves()) as Pin<Box<dyn Future<Output = ()> + Send>>);
        running.spawn(worker.run());
    }
    Ok(Workers { running, serving, brought })
}

/// The executors of each GPU, its own: what they keep, they keep there. Where those of one GPU cannot start, the others' end again.
async fn offered(configuration: &Configuration, devices: &[SimulatedGpu]) -> Result<Vec<OnOffer>, Fault> {
    let offering = devices.iter().map(|device| executing::on_simulated(configuration, device.description().clone()));
    let outcomes: Vec<Result<OnOffer, Fault>> = futures::stream::iter(offering).buffered(STARTED_AT_ONCE).collect().await;
    let (mut offered, mut first_fault) = (Vec::new(), None);
    for outcome in outcomes {
        match outcome {
            Ok(on_offer) => offered.push(on_offer),
            Err(fault) => _ = first_fault.get_or_insert(fault),
        }
    }
    let Some(fault) = first_fault else { return Ok(offered) };
    futures::future::join_all(offered.iter().map(|on_offer| on_offer.executors.stop())).await;
    Err(fault)
}

/// This host's name, for operators.
pub(crate) fn host() -> String {
    let from_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
    from_kernel.ok().filter(|name| !name.is_empty()).or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_else(|| "unknown".to_owned())
}

impl Workers {
    /// The kinds that handlers run beside each GPU.
    pub(crate) fn brought(&self) -> &[Brought] {
        &self.brought
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.running.len()
    }

    /// Ends once all of them serve. To be asked once.
    pub(crate) fn serving(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let serving = std::mem::take(&mut self.serving);
        async move { drop(futures::future::join_all(serving).await) }
    }

    /// Waits until every worker has ended. The first refusal stops them all.
    pub(crate) async fn ended(&mut self, stop: &Stop) -> Result<(), Fault> {
        let mut first = Ok(());
        while let Some(ended) = self.running.join_next().await {
            let fault = match ended {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => Fault::Failed(error.to_string()),
                Err(error) => Fault::Failed(format!("a worker broke: {error}")),
            };
            stop.gently.cancel();
            if first.is_ok() {
                first = Err(fault);
            }
        }
        first
    }
}
