//! The servers that a command talks to, or the embedded back ends in their place.

use std::{sync::Arc, time::Duration};

use gateway::{Observatory, ObservedPorts};
use gpu_table::GpuTable;
use protocol::{Environment, config::Configuration};
use service::{Backends, Embedded, Traces, system_environment};
use task_queue::BodyBudget;
use task_store::TaskStore;
use tokio::sync::OnceCell;

use crate::fault::Fault;

/// How long a program that serves waits for its servers at start.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the end of a program waits for the last steps of tasks to be told. Nothing rests on them.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// The servers of this process, or the embedded back ends.
pub(crate) struct Servers {
    configuration: Configuration,
    environment: Environment,
    /// `None`: nobody asked for traces.
    traces: Option<Traces>,
    embedded: Embedded,
    opened: OnceCell<Backends>,
    observatory: OnceCell<Observatory>,
    patience: Duration,
}

impl Servers {
    /// The embedded back ends, whatever the configuration names.
    pub(crate) fn embedded(configuration: Configuration) -> Self {
        Self::new(configuration, PATIENCE)
    }

    /// The servers that the configuration names; embedded if it names none. Naming one alone is a mistake: the other half would be private to this
    /// process.
    pub(crate) fn open(configuration: Configuration) -> Result<Self, Fault> {
        match (&configuration.amqp.url, &configuration.redis.url) {
            (Some(_), None) => {
                Err(Fault::Usage("amqp.url is set and redis.url is not: set both for real servers, or none to be embedded".to_owned()))
            }
            (None, Some(_)) => {
                Err(Fault::Usage("redis.url is set and amqp.url is not: set both for real servers, or none to be embedded".to_owned()))
            }
            _ => Ok(Self::new(configuration, PATIENCE)),
        }
    }

    /// The servers of a fleet that runs elsewhere.
    pub(crate) fn of_a_running_fleet(configuration: Configuration) -> Result<Self, Fault> {
        let missing = match (&configuration.amqp.url, &configuration.redis.url) {
            (Some(_), Some(_)) => return Ok(Self::new(configuration, PATIENCE)),
            (None, None) => "amqp.url and redis.url are",
            (None, Some(_)) => "amqp.url is",
            (Some(_), None) => "redis.url is",
        };
        Err(Fault::Usage(format!(
            "{missing} not set: this command talks to a fleet on servers. Give --amqp-url and --redis-url (or $GPUFLEET_AMQP_URL and $GPUFLEET_REDIS_URL, or a \
             file); `gpufleet demo` and `gpufleet up` need none"
        )))
    }

    /// The Redis of a fleet that runs elsewhere, for commands that only ask it. A server that is away is an error at once.
    pub(crate) fn redis_of_a_running_fleet(configuration: Configuration) -> Result<Self, Fault> {
        if configuration.redis.url.is_none() {
            let advice = "give --redis-url, $GPUFLEET_REDIS_URL or a file";
            return Err(Fault::Usage(format!("redis.url is not set: this command asks the Redis of a running fleet; {advice}")));
        }
        let mut configuration = configuration;
        configuration.amqp.url = None;
        Ok(Self::new(configuration, Duration::ZERO))
    }

    fn new(configuration: Configuration, patience: Duration) -> Self {
        let mut environment = system_environment();
        let traces = Traces::start(&configuration.traces, &environment);
        environment.traces = traces.as_ref().map(Traces::sink);
        let embedded = Embedded::new(&configuration, &environment.clock);
        Self { configuration, environment, traces, embedded, opened: OnceCell::new(), observatory: OnceCell::new(), patience }
    }

    /// A server that is away is an error at once.
    pub(crate) fn impatient(mut self) -> Self {
        self.patience = Duration::ZERO;
        self
    }

    /// The ports for one more worker or producer. On servers all of one process share two connections to the broker and those to Redis; embedded, each has
    /// its own.
    pub(crate) async fn connect(&self) -> Result<Backends, Fault> {
        if self.is_embedded() {
            return Ok(self.embedded.connect());
        }
        let open = || Backends::open(&self.configuration, &self.embedded, self.patience);
        Ok(self.opened.get_or_try_init(open).await?.clone())
    }

    /// The table.
    pub(crate) async fn table(&self) -> Result<Arc<dyn GpuTable>, Fault> {
        Ok(self.connect().await?.table)
    }

    /// The store.
    pub(crate) async fn store(&self) -> Result<Arc<dyn TaskStore>, Fault> {
        Ok(self.connect().await?.store)
    }

    /// What the journal, the table and the broker say of the pool, made out; as it is now.
    pub(crate) async fn observatory(&self) -> Result<&Observatory, Fault> {
        let begun = self.observatory.get_or_try_init(|| self.begin_to_observe()).await?;
        begun.refresh().await?;
        Ok(begun)
    }

    /// The same, for what needs the steps of tasks.
    pub(crate) async fn observatory_with_steps(&self) -> Result<&Observatory, Fault> {
        let observatory = self.observatory().await?;
        if observatory.keeps_steps() {
            return Ok(observatory);
        }
        Err(Fault::Failed("journal.steps_max is 0: no steps of tasks are kept, so that there are no lists and logs of them".to_owned()))
    }

    async fn begin_to_observe(&self) -> Result<Observatory, Fault> {
        let Backends { queue, table, store, .. } = self.connect().await?;
        let ports = ObservedPorts { queue, table, store, environment: self.environment.clone() };
        let Configuration { worker, gpu, journal, scaling, .. } = &self.configuration;
        Ok(Observatory::new(ports, worker.pool.clone(), gpu.multi_gpu.initial_settings(), journal.clone(), scaling.clone()))
    }

    /// Ends the connections to the broker, once the last steps of tasks were told.
    pub(crate) async fn close(&self) {
        self.told().await;
        if let Some(backends) = self.opened.get() {
            backends.queue.close().await;
        }
    }

    /// Waits until the last steps of tasks are told, and the last spans sent, for a second at most each.
    pub(crate) async fn told(&self) {
        if let Some(traces) = &self.traces {
            traces.flush().await;
        }
        if let Some(backends) = self.opened.get() {
            let _ = tokio::time::timeout(TOLD_WITHIN, backends.store.journal().flush()).await;
        }
    }

    pub(crate) const fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    pub(crate) const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The spans of this process, where it traces.
    pub(crate) const fn traces(&self) -> Option<&Traces> {
        self.traces.as_ref()
    }

    /// The process's budget for bodies in hand.
    pub(crate) const fn bodies(&self) -> &BodyBudget {
        self.embedded.bodies()
    }

    fn is_embedded(&self) -> bool {
        let redis = &self.configuration.redis;
        self.configuration.amqp.url.is_none() && redis.url.is_none() && redis.store_url.is_none()
    }

    /// Where tasks and claims are, for people.
    pub(crate) fn describe(&self) -> String {
        let url = |url: &Option<protocol::config::SecretUrl>| url.as_ref().map_or_else(|| "memory".to_owned(), |url| url.redacted());
        if self.is_embedded() {
            return "embedded: queue, table and store are in memory".to_owned();
        }
        format!("broker {}, Redis {}", url(&self.configuration.amqp.url), url(&self.configuration.redis.url))
    }
}
