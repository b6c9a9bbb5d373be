//! The fleet's settings: the default strategy, and the GPUs that drain.

use gateway::drain_url;
use gpu_table::change_settings;
use hyper::Method;
use protocol::{GpuId, Strategy, claim::Settings};
use serde::Serialize;

use super::{Fleet, Gateway, http::Question};
use crate::{drain::Drain, fault::Fault, servers::Servers};

/// `PUT /api/v1/settings/strategy`.
#[derive(Serialize)]
struct StrategyRequest {
    strategy: Strategy,
}

/// `PUT /api/v1/settings/thresholds`: what is absent stays.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Thresholds {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_threshold: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) utilization_threshold: Option<f64>,
}

impl Thresholds {
    fn applied_to(self, settings: Settings) -> Settings {
        Settings {
            memory_threshold: self.memory_threshold.unwrap_or(settings.memory_threshold),
            utilization_threshold: self.utilization_threshold.unwrap_or(settings.utilization_threshold),
            ..settings
        }
    }
}

/// The thresholds of settings, for people.
fn shown(settings: &Settings) -> String {
    format!("memory {}, utilization {}", settings.memory_threshold, settings.utilization_threshold)
}

impl Fleet {
    /// The settings in force.
    pub(crate) async fn settings(&self) -> Result<Settings, Fault> {
        match self {
            Self::Servers(servers) => {
                let current = servers.table().await?.current_settings(&servers.configuration().worker.pool).await?;
                Ok(current.unwrap_or_else(|| servers.initial_settings()))
            }
            Self::Gateway(gateway) => gateway.get("/api/v1/settings").await,
        }
    }

    /// Changes the default strategy; the settings in force then.
    pub(crate) async fn set_strategy(&self, strategy: Strategy) -> Result<Settings, Fault> {
        match self {
            Self::Servers(servers) => {
                let before = self.settings().await?;
                let after = servers.change(|settings| settings.with_default_strategy(strategy)).await?;
                if before != after {
                    servers.note("set_strategy", "", format!("{} → {}", before.default_strategy, after.default_strategy)).await;
                }
                Ok(after)
            }
            Self::Gateway(gateway) => {
                let body = serde_json::to_vec(&StrategyRequest { strategy }).expect("its keys are texts").into();
                gateway.settings_after(Question { body, ..Question::new(Method::PUT, "/api/v1/settings/strategy") }).await
            }
        }
    }

    /// Changes how full a GPU may be and still take tasks; the settings in force then.
    pub(crate) async fn set_thresholds(&self, thresholds: Thresholds) -> Result<Settings, Fault> {
        match self {
            Self::Servers(servers) => {
                let before = self.settings().await?;
                let after = servers.change(|settings| thresholds.applied_to(settings)).await?;
                if before != after {
                    servers.note("set_thresholds", "", format!("{} → {}", shown(&before), shown(&after))).await;
                }
                Ok(after)
            }
            Self::Gateway(gateway) => {
                let body = serde_json::to_vec(&thresholds).expect("its keys are texts").into();
                gateway.settings_after(Question { body, ..Question::new(Method::PUT, "/api/v1/settings/thresholds") }).await
            }
        }
    }

    /// Sets or clears the flag of a GPU that the table knows; the settings in force then.
    pub(crate) async fn drain(&self, gpu_id: &GpuId, drain: Drain) -> Result<Settings, Fault> {
        match (self, drain) {
            (Self::Servers(servers), Drain::On) => {
                servers.must_know(gpu_id).await?;
                let after = servers.change(|settings| settings.with_drained(gpu_id)).await?;
                servers.note("drain", gpu_id.as_str(), "").await;
                Ok(after)
            }
            (Self::Servers(servers), Drain::Off) => {
                servers.must_know(gpu_id).await?;
                let after = servers.change(|settings| settings.with_undrained(gpu_id)).await?;
                servers.note("undrain", gpu_id.as_str(), "").await;
                Ok(after)
            }
            (Self::Gateway(gateway), Drain::On) => gateway.settings_after(Question::new(Method::PUT, drain_url(gpu_id))).await,
            (Self::Gateway(gateway), Drain::Off) => gateway.settings_after(Question::new(Method::DELETE, drain_url(gpu_id))).await,
        }
    }
}

impl Gateway {
    async fn settings_after(&self, question: Question) -> Result<Settings, Fault> {
        let answer = self.ask(&question).await?;
        self.read(&question, &answer)
    }
}

impl Servers {
    /// The settings of a fleet whose table has none yet.
    pub(super) fn initial_settings(&self) -> Settings {
        self.configuration().gpu.multi_gpu.initial_settings()
    }

    async fn change(&self, change: impl Fn(Settings) -> Settings) -> Result<Settings, Fault> {
        let (table, pool) = (self.table().await?, &self.configuration().worker.pool);
        Ok(change_settings(&*table, pool, &self.initial_settings(), change).await?)
    }

    async fn must_know(&self, gpu_id: &GpuId) -> Result<(), Fault> {
        let pool = &self.configuration().worker.pool;
        if self.table().await?.known(pool).await?.contains(gpu_id) {
            return Ok(());
        }
        Err(Fault::NotFound(format!("the pool {pool} never had a GPU {gpu_id}; `gpufleet gpus` lists those that live")))
    }
}
