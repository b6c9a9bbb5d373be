//! `gpufleet up`, `worker` and `gateway`: the programs that serve until they are stopped.

use std::{net::SocketAddr, process::ExitCode};

use gateway::{Gateway, GatewayOptions};
use gpu_worker::Stop;
use producer::{Producer, ProducerOptions};
use prometheus::Registry;
use protocol::config::Configuration;
use service::{ServiceManager, signals::HangUps};
use tokio::net::TcpListener;

use crate::{
    arguments::{self, BUILT_FROM, Common, set},
    configuration,
    fault::Fault,
    greeting, nvidia, output,
    servers::Servers,
    simulated,
};

/// Gateway and workers in one process.
pub(crate) async fn up(common: &Common, up: &arguments::Up) -> Result<ExitCode, Fault> {
    let simulated = set("--simulated", "simulated.gpus", up.simulated);
    let listen = set("--listen", "gateway.listen", up.listen.as_ref());
    let model = set("--model", "predict.model", up.model.as_ref().map(|path| path.display()));
    let more = [simulated, listen, model].into_iter().flatten().collect();
    let program = Program::start(configuration::load_for_workers_and_log(common, more, &up.handlers)?)?;
    let listener = listen_on(&program.configuration.gateway.listen, "gateway.listen").await?;
    let servers = Servers::open(program.configuration.clone())?;
    program.show_bodies_and_spans(&servers)?;
    let starting = simulated::start(&servers, &program.registry, &program.stop);
    let Some(mut workers) = program.unless_stopped(starting).await.transpose()? else { return Ok(ExitCode::SUCCESS) };
    let address = address_of(&listener)?;
    let serving = serve(&program, &servers, listener).await?;
    program.serves_once(workers.serving(), format!("serves HTTP on {address} and {} simulated GPUs", workers.count()));
    greeting::show(common, address, &servers, workers.brought());
    let ended = workers.ended(&program.stop).await;
    program.stop.gently.cancel();
    finish(&program.stop, serving).await?;
    servers.close().await;
    ended.map(|()| ExitCode::SUCCESS)
}

/// Workers alone: of NVIDIA GPUs, or simulated ones.
pub(crate) async fn worker(common: &Common, worker: &arguments::Worker) -> Result<ExitCode, Fault> {
    match (&worker.gpu, worker.simulated) {
        (Some(gpu), _) => nvidia::one(common, worker, gpu).await,
        (None, Some(gpus)) => simulated_workers(common, worker, gpus).await,
        (None, None) => nvidia::all(common, worker).await,
    }
}

async fn simulated_workers(common: &Common, worker: &arguments::Worker, gpus: u32) -> Result<ExitCode, Fault> {
    let prefix = worker.id_prefix.clone().unwrap_or_else(own_prefix);
    let model = set("--model", "predict.model", worker.model.as_ref().map(|path| path.display()));
    let (gpus, prefix) = (set("--simulated", "simulated.gpus", Some(gpus)), set("--id-prefix", "simulated.id_prefix", Some(prefix)));
    let more = [gpus, prefix, model].into_iter().flatten().collect();
    let program = Program::start(configuration::load_for_workers_and_log(common, more, &worker.handlers)?)?;
    let metrics = Metrics::serve(&program).await?;
    let servers = Servers::of_a_running_fleet(program.configuration.clone())?;
    program.show_bodies_and_spans(&servers)?;
    let starting = simulated::start(&servers, &program.registry, &program.stop);
    let Some(mut workers) = program.unless_stopped(starting).await.transpose()? else { return Ok(ExitCode::SUCCESS) };
    program.serves_once(workers.serving(), format!("serves {} simulated GPUs", workers.count()));
    output::note(&format!("gpufleet serves simulated GPUs ({})", servers.describe()));
    let ended = workers.ended(&program.stop).await;
    program.stop.gently.cancel();
    metrics.finish(&program.stop).await?;
    servers.close().await;
    ended.map(|()| ExitCode::SUCCESS)
}

/// The gateway alone.
pub(crate) async fn gateway(common: &Common, gateway: &arguments::Gateway) -> Result<ExitCode, Fault> {
    let listen = set("--listen", "gateway.listen", gateway.listen.as_ref());
    let program = Program::start(configuration::load_and_log(common, listen.into_iter().collect())?)?;
    let listener = listen_on(&program.configuration.gateway.listen, "gateway.listen").await?;
    let servers = Servers::of_a_running_fleet(program.configuration.clone())?;
    program.show_bodies_and_spans(&servers)?;
    announce(&listener, &servers)?;
    let address = address_of(&listener)?;
    let starting = serve(&program, &servers, listener);
    let Some(serving) = program.unless_stopped(starting).await.transpose()? else { return Ok(ExitCode::SUCCESS) };
    program.serves_once(std::future::ready(()), format!("serves HTTP on {address}"));
    finish(&program.stop, serving).await?;
    servers.close().await;
    Ok(ExitCode::SUCCESS)
}

/// The metrics of a stand-alone worker, served where the configuration says, if it does.
pub(crate) struct Metrics(Option<(Serving, Stop)>);

impl Metrics {
    /// Listens, says where, and serves until [`finish`](Self::finish): while the worker drains, too, so that who asks hears that it does.
    pub(crate) async fn serve(program: &Program) -> Result<Self, Fault> {
        let Some(address) = &program.configuration.worker.metrics_listen else { return Ok(Self(None)) };
        let listener = listen_on(address, "worker.metrics_listen").await?;
        output::note(&format!("metrics are at http://{}/metrics", address_of(&listener)?));
        let own = Stop::default();
        let serving = tokio::spawn(gateway::serve_metrics(listener, program.registry.clone(), own.gently.clone()));
        Ok(Self(Some((serving, own))))
    }

    /// Ends the serving, and waits until it has ended.
    pub(crate) async fn finish(self, stop: &Stop) -> Result<(), Fault> {
        let Some((serving, own)) = self.0 else { return Ok(()) };
        own.gently.cancel();
        finish(stop, serving).await
    }
}

/// What every serving program has.
pub(crate) struct Program {
    pub(crate) configuration: Configuration,
    pub(crate) registry: Registry,
    pub(crate) stop: Stop,
    manager: ServiceManager,
}

impl Program {
    /// Listens to signals, and begins to tell the service manager, where one asked for that. What a supervised process does is told by its supervisor.
    pub(crate) fn start(configuration: Configuration) -> Result<Self, Fault> {
        let (registry, stop) = (service::telemetry::metrics_registry(), stop_on_signals()?);
        service::telemetry::show_build(&registry, env!("CARGO_PKG_VERSION"), BUILT_FROM)
            .map_err(|error| Fault::Failed(format!("register metrics: {error}")))?;
        let manager = if gpu_host::supervised() { ServiceManager::none() } else { ServiceManager::of_environment() };
        manager.accompany(stop.gently.clone());
        Ok(Self { configuration, registry, stop, manager })
    }

    /// Tells the service manager that the program serves, once `serving` ends. `status` says what it serves, for people.
    pub(crate) fn serves_once(&self, serving: impl Future<Output = ()> + Send + 'static, status: String) {
        let manager = self.manager.clone();
        tokio::spawn(async move {
            serving.await;
            manager.ready(&status);
        });
    }

    /// Shows in the program's metrics what the bodies in hand take, and what became of spans where it traces.
    pub(crate) fn show_bodies_and_spans(&self, servers: &Servers) -> Result<(), Fault> {
        let shown = service::telemetry::show_bodies(&self.registry, servers.bodies())
            .and_then(|()| servers.traces().map_or(Ok(()), |traces| traces.show(&self.registry)));
        shown.map_err(|error| Fault::Failed(format!("register metrics: {error}")))
    }

    /// Does a step of the start, which may wait long for servers or read a large model; `None` if a signal came first.
    pub(crate) async fn unless_stopped<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = step => Some(done),
            () = self.stop.gently.cancelled() => None,
        }
    }
}

/// Stops when a signal says so. Of a hang-up a process that has a supervisor hears by way of that one.
pub(crate) fn stop_on_signals() -> Result<Stop, Fault> {
    let hang_ups = if gpu_host::supervised() { HangUps::TheSupervisors } else { HangUps::Ours };
    let signals = service::Stop::on_signals(hang_ups).map_err(|error| Fault::Failed(format!("listen to signals: {error}")))?;
    Ok(Stop { gently: signals.graceful().clone(), now: signals.at_once().clone() })
}

/// An id prefix that no other process has: the host's name and this process's number.
fn own_prefix() -> String {
    let host: String = simulated::host().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect();
    format!("sim-{host}-{}", std::process::id())
}

async fn listen_on(address: &str, key: &str) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|error| {
        Fault::Usage(format!("{key}: cannot listen on {address}: {error}; choose another address, or port 0 for a free one"))
    })
}

fn announce(listener: &TcpListener, servers: &Servers) -> Result<(), Fault> {
    output::note(&format!("gpufleet listens on http://{} ({})", address_of(listener)?, servers.describe()));
    Ok(())
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, Fault> {
    listener.local_addr().map_err(|error| Fault::Failed(format!("the listening address: {error}")))
}

type Serving = tokio::task::JoinHandle<Result<(), gateway::ServeError>>;

async fn serve(program: &Program, servers: &Servers, listener: TcpListener) -> Result<Serving, Fault> {
    let ports = servers.connect().await?;
    let options = ProducerOptions {
        pool: program.configuration.worker.pool.clone(),
        body_bytes_max: program.configuration.worker.body_bytes_max,
        ..ProducerOptions::default()
    };
    let producer = Producer::new(ports.queue.clone(), ports.store.clone(), servers.environment().clone(), options);
    let ports = gateway::Ports {
        producer,
        queue: ports.queue,
        table: ports.table,
        store: ports.store,
        registry: program.registry.clone(),
        bodies: ports.bodies,
    };
    let gateway = Gateway::new(ports, GatewayOptions::from(&program.configuration))
        .map_err(|error| Fault::Failed(format!("register metrics: {error}")))?;
    Ok(tokio::spawn(gateway::serve(listener, gateway, program.stop.gently.clone())))
}

/// Waits until serving has ended. A stop at once cuts open requests off: whoever asked for it knows.
async fn finish(stop: &Stop, serving: Serving) -> Result<(), Fault> {
    let served = tokio::select! {
        biased;
        served = serving => served,
        () = stop.now.cancelled() => return Ok(()),
    };
    match served {
        Ok(served) => served.map_err(|error| Fault::Failed(format!("serve HTTP: {error}"))),
        Err(error) => Err(Fault::Failed(format!("the gateway broke: {error}"))),
    }
}
