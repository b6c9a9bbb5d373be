//! The fleet that a command talks to: the servers that the configuration names, or a gateway over HTTP. A command is written once, on this.
//!
//! A gateway reaches every fleet, an embedded one too. What changes the fleet itself it serves only where its configuration says so (`gateway.operate`).

mod answer;
mod bulk;
mod dead;
mod gateway;
mod groups;
mod heard;
mod http;
mod many;
mod models;
mod noting;
mod observed;
mod parts;
mod settings;
mod submitting;
mod tensors;
mod url;

use gpu_table::KnownKinds;
use producer::{WantedResults, results_of, tell_cancel_asked};
use protocol::{ItemResults, KindView, PoolName, TaskId, TaskStatus, Unserved, batch::ITEMS_MAX, gpu::GpuView};
use task_store::{Cancel, Reach};

pub(crate) use self::{
    gateway::Gateway,
    settings::Thresholds,
    submitting::{NoReply, Submitter},
    tensors::{Coming, NewBytes},
    url::GatewayUrl,
};
use crate::{arguments::Common, configuration, fault::Fault, servers::Servers};

/// What to say where nothing says which fleet is meant.
const NOWHERE: &str = "no fleet is named: give --url http://HOST:PORT of a gateway or of `gpufleet up` (or $GPUFLEET_URL), or the fleet's servers by --amqp-url \
                       and --redis-url (or $GPUFLEET_AMQP_URL and $GPUFLEET_REDIS_URL, or a file); `gpufleet demo` and `gpufleet up` need none";

/// The fleet.
pub(crate) enum Fleet {
    /// Its servers.
    Servers(Box<Servers>),
    /// A gateway before it.
    Gateway(Gateway),
}

/// What is known of the kinds of a pool.
pub(crate) type Kinds = KnownKinds;

/// The GPUs of a pool.
pub(crate) struct Pool {
    pub(crate) name: PoolName,
    /// Those that live, by id.
    pub(crate) gpus: Vec<GpuView>,
}

impl Fleet {
    /// For commands that only ask, or change the settings: of the servers they need Redis alone.
    pub(crate) fn to_ask(common: &Common) -> Result<Self, Fault> {
        if let Some(url) = common.gateway()? {
            return Ok(Self::Gateway(Gateway::new(url)));
        }
        let configuration = configuration::load(common, Vec::new())?;
        if configuration.redis.url.is_none() {
            return Err(Fault::Usage(NOWHERE.to_owned()));
        }
        Ok(Self::Servers(Box::new(Servers::redis_of_a_running_fleet(configuration)?)))
    }

    /// For commands that submit, or handle dead letters.
    pub(crate) fn to_submit(common: &Common) -> Result<Self, Fault> {
        if let Some(url) = common.gateway()? {
            return Ok(Self::Gateway(Gateway::new(url)));
        }
        let configuration = configuration::load(common, Vec::new())?;
        if configuration.redis.url.is_none() && configuration.amqp.url.is_none() {
            return Err(Fault::Usage(NOWHERE.to_owned()));
        }
        Ok(Self::Servers(Box::new(Servers::of_a_running_fleet(configuration)?.impatient())))
    }

    /// What the fleet knows of a task; `None` if it never heard of it, or has forgotten it.
    pub(crate) async fn status(&self, task_id: &TaskId) -> Result<Option<TaskStatus>, Fault> {
        match self {
            Self::Servers(servers) => Ok(servers.store().await?.status(task_id).await?),
            Self::Gateway(gateway) => gateway.status(task_id).await,
        }
    }

    /// The results of a batch's items from one on, as far as they are there and as many as come at once.
    pub(crate) async fn results(&self, task_id: &TaskId, from: u32) -> Result<ItemResults, Fault> {
        match self {
            Self::Servers(servers) => {
                let wanted = WantedResults { from, limit: ITEMS_MAX, ..WantedResults::default() };
                Ok(results_of(&*servers.store().await?, task_id, wanted).await?)
            }
            Self::Gateway(gateway) => gateway.results(task_id, from).await,
        }
    }

    /// Asks for a task's end; what it was.
    pub(crate) async fn cancel(&self, task_id: &TaskId, reach: Reach) -> Result<Cancel, Fault> {
        match self {
            Self::Servers(servers) => {
                let store = servers.store().await?;
                let cancel = store.cancel(task_id, reach).await?;
                let (pool, now_ms) = (&servers.configuration().worker.pool, servers.environment().clock.now_ms());
                tell_cancel_asked(&*store, pool, task_id, (&cancel, now_ms));
                servers.told().await;
                Ok(cancel)
            }
            Self::Gateway(gateway) => gateway.cancel(task_id, reach).await,
        }
    }

    /// The pool, and what workers found lately that tasks ask for and no living GPU of it has.
    pub(crate) async fn unserved(&self) -> Result<(PoolName, Vec<Unserved>), Fault> {
        match self {
            Self::Servers(servers) => {
                let pool = servers.configuration().worker.pool.clone();
                let unserved = servers.table().await?.unserved(&pool).await?;
                Ok((pool, unserved))
            }
            Self::Gateway(gateway) => gateway.unserved().await,
        }
    }

    /// The pool and its kinds.
    pub(crate) async fn kinds(&self) -> Result<(PoolName, Vec<KindView>), Fault> {
        match self {
            Self::Servers(servers) => {
                let pool = servers.configuration().worker.pool.clone();
                let known = KnownKinds::look(&*servers.table().await?, &pool).await?;
                Ok((pool, known.kinds().to_vec()))
            }
            Self::Gateway(gateway) => gateway.kinds().await,
        }
    }

    /// What payloads are checked by before they are published; `None`: by nothing here. A gateway checks them itself, and a table that does not answer holds up nobody.
    pub(crate) async fn schemas(&self) -> Result<Option<Kinds>, Fault> {
        let Self::Servers(servers) = self else { return Ok(None) };
        if !servers.configuration().gateway.check_payloads {
            return Ok(None);
        }
        let pool = &servers.configuration().worker.pool;
        Ok(KnownKinds::look(&*servers.table().await?, pool).await.ok())
    }

    /// Where the gateway is that is asked, if one is.
    pub(crate) const fn gateway_url(&self) -> Option<&GatewayUrl> {
        match self {
            Self::Servers(_) => None,
            Self::Gateway(gateway) => Some(gateway.url()),
        }
    }

    /// The pool and its living GPUs.
    pub(crate) async fn pool(&self) -> Result<Pool, Fault> {
        match self {
            Self::Servers(servers) => servers.pool().await,
            Self::Gateway(gateway) => gateway.gpus().await,
        }
    }
}

impl Servers {
    /// The pool that the configuration names and its living GPUs.
    pub(crate) async fn pool(&self) -> Result<Pool, Fault> {
        let name = self.configuration().worker.pool.clone();
        let gpus = self.table().await?.rows(&name).await?;
        Ok(Pool { name, gpus: gpus.into_iter().map(GpuView::without_keys).collect() })
    }
}
