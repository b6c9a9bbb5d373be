//! The models that GPUs keep, and operators' wishes for them.

use gateway::model_url;
use gpu_table::{WishFailed, wish_for_model};
use hyper::Method;
use protocol::{FleetModels, GpuId, ModelAction, ModelWish, WishTaken};
use serde::Serialize;

use super::{Fleet, http::Question};
use crate::{fault::Fault, servers::Servers};

/// `POST /api/v1/models/{model}/{action}`.
#[derive(Serialize)]
struct ModelRequest<'a> {
    gpus: &'a [GpuId],
}

impl Fleet {
    /// The models of the pool's living GPUs.
    pub(crate) async fn models(&self) -> Result<FleetModels, Fault> {
        match self {
            Self::Servers(servers) => {
                let pool = servers.pool().await?;
                Ok(FleetModels::of(pool.name, pool.gpus, &self.settings().await?))
            }
            Self::Gateway(gateway) => gateway.get("/api/v1/models").await,
        }
    }

    /// Takes a wish down, for these GPUs or for all of the pool.
    pub(crate) async fn wish(&self, model: &str, action: ModelAction, gpus: &[GpuId]) -> Result<WishTaken, Fault> {
        match self {
            Self::Servers(servers) => {
                let taken = servers.wish(model, action, gpus).await?;
                let gpus: Vec<&str> = gpus.iter().map(GpuId::as_str).collect();
                let places = if gpus.is_empty() { "all GPUs of the pool".to_owned() } else { gpus.join(", ") };
                servers.note(&format!("{}_model", action.name()), model, format!("on {places}")).await;
                Ok(taken)
            }
            Self::Gateway(gateway) => {
                let body = serde_json::to_vec(&ModelRequest { gpus }).expect("its keys are texts").into();
                let question = Question { body, ..Question::new(Method::POST, model_url(model, action)) };
                let answer = gateway.ask(&question).await?;
                gateway.read(&question, &answer)
            }
        }
    }
}

impl Servers {
    async fn wish(&self, model: &str, action: ModelAction, gpus: &[GpuId]) -> Result<WishTaken, Fault> {
        let (table, pool) = (self.table().await?, self.pool().await?);
        let wish = ModelWish::new(model, action, self.environment().clock.now_ms()).on(gpus);
        match wish_for_model(&*table, &pool.name, &self.initial_settings(), &wish).await {
            Ok(taken) => Ok(WishTaken::of(taken, &pool.gpus)),
            Err(WishFailed::Table(error)) => Err(error.into()),
            Err(WishFailed::Refused(refused)) => Err(Fault::Usage(refused.to_string())),
        }
    }
}
