//! What the fleet says of itself to people: lists of tasks, why one waits, what holds it back, how many workers it should have, what operators did.

use gateway::{status_url, url_encoded};
use protocol::{
    OperatorAction, TaskId,
    insight::{Overview, Scaling, TaskFilter, TaskLog, TaskPage, Verdict, Why},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{Fleet, Gateway, NOWHERE};
use crate::{arguments::Common, configuration, fault::Fault, output, servers::Servers};

/// `GET /api/v1/actions`.
#[derive(Deserialize)]
struct ActionList {
    actions: Vec<OperatorAction>,
}

impl Fleet {
    /// For commands that judge the fleet. Of the servers they need Redis; what the broker would say is missing where it is away or not named.
    pub(crate) async fn to_observe(common: &Common) -> Result<Self, Fault> {
        if let Some(url) = common.gateway()? {
            return Ok(Self::Gateway(Gateway::new(url)));
        }
        let configuration = configuration::load(common, Vec::new())?;
        if configuration.redis.url.is_none() {
            return Err(Fault::Usage(NOWHERE.to_owned()));
        }
        if configuration.amqp.url.is_some() {
            let servers = Servers::of_a_running_fleet(configuration.clone())?.impatient();
            match servers.connect().await {
                Ok(_) => return Ok(Self::Servers(Box::new(servers))),
                // Where Redis is what is away, the next try says so.
                Err(Fault::Unavailable(away)) => output::warning(&format!("{away}; what the broker would say is missing")),
                Err(fault) => return Err(fault),
            }
        }
        Ok(Self::Servers(Box::new(Servers::redis_of_a_running_fleet(configuration)?)))
    }

    /// The fleet at a glance.
    pub(crate) async fn overview(&self) -> Result<Overview, Fault> {
        match self {
            Self::Servers(servers) => Ok(servers.observatory().await?.overview().await?),
            Self::Gateway(gateway) => gateway.get("/api/v1/overview").await,
        }
    }

    /// What holds it back.
    pub(crate) async fn verdict(&self) -> Result<Verdict, Fault> {
        match self {
            Self::Servers(servers) => Ok(servers.observatory().await?.verdict().await?),
            Self::Gateway(gateway) => gateway.get("/api/v1/bottleneck").await,
        }
    }

    /// How many workers it should have.
    pub(crate) async fn scaling(&self) -> Result<Scaling, Fault> {
        match self {
            Self::Servers(servers) => Ok(servers.observatory().await?.scaling().await?),
            Self::Gateway(gateway) => gateway.get("/api/v1/scaling").await,
        }
    }

    /// Some tasks that pass a filter, those first that were heard of last.
    pub(crate) async fn tasks(&self, filter: &TaskFilter, after: Option<&str>, limit: u32) -> Result<TaskPage, Fault> {
        match self {
            Self::Servers(servers) => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                Ok(servers.observatory_with_steps().await?.list(filter, after, limit))
            }
            Self::Gateway(gateway) => gateway.get(&tasks_url(filter, after, limit)).await,
        }
    }

    /// The steps of a task; `None` where nobody remembers any.
    pub(crate) async fn log(&self, task_id: &TaskId) -> Result<Option<TaskLog>, Fault> {
        match self {
            Self::Servers(servers) => Ok(servers.observatory_with_steps().await?.log(task_id)),
            Self::Gateway(gateway) => gateway.get_if_there(&format!("{}/log", status_url(task_id))).await,
        }
    }

    /// Why a task is where it is; `None` where nobody knows it.
    pub(crate) async fn why(&self, task_id: &TaskId) -> Result<Option<Why>, Fault> {
        match self {
            Self::Servers(servers) => Ok(servers.observatory().await?.why(task_id).await?),
            Self::Gateway(gateway) => gateway.get_if_there(&format!("{}/why", status_url(task_id))).await,
        }
    }

    /// What operators did, the latest first.
    pub(crate) async fn actions(&self, limit: u32) -> Result<Vec<OperatorAction>, Fault> {
        match self {
            Self::Servers(servers) => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                Ok(servers.store().await?.journal().actions(limit).await?)
            }
            Self::Gateway(gateway) => Ok(gateway.get::<ActionList>(&format!("/api/v1/actions?limit={limit}")).await?.actions),
        }
    }
}

impl Gateway {
    /// `None` where the gateway says that there is no such thing.
    async fn get_if_there<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Fault> {
        match self.get(path).await {
            Err(Fault::NotFound(_)) => Ok(None),
            got => got.map(Some),
        }
    }
}

/// The URL of a page of a list of tasks. What may be repeated is a key for each value.
fn tasks_url(filter: &TaskFilter, after: Option<&str>, limit: u32) -> String {
    let TaskFilter { state, kind, priority, group, gpu_id, id_prefix, error, older_than_ms, newer_than_ms, dead, slices } = filter;
    let mut keys = vec![("limit", limit.to_string())];
    keys.extend(state.iter().map(|state| ("state", state.name().to_owned())));
    keys.extend(kind.iter().map(|kind| ("kind", kind.to_string())));
    keys.extend(priority.iter().map(|priority| ("priority", priority.to_string())));
    keys.extend(group.iter().map(|group| ("group", group.to_string())));
    keys.extend(gpu_id.iter().map(|gpu_id| ("gpu_id", gpu_id.to_string())));
    keys.extend(id_prefix.iter().map(|prefix| ("id_prefix", prefix.clone())));
    keys.extend(error.iter().map(|error| ("error", error.clone())));
    keys.extend(older_than_ms.iter().map(|ms| ("older_than_ms", ms.to_string())));
    keys.extend(newer_than_ms.iter().map(|ms| ("newer_than_ms", ms.to_string())));
    keys.extend(dead.iter().map(|dead| ("dead", dead.to_string())));
    keys.extend(slices.then(|| ("slices", "true".to_owned())));
    keys.extend(after.map(|after| ("after", after.to_owned())));
    let pairs: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={}", url_encoded(value))).collect();
    format!("/api/v1/tasks?{}", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use protocol::{GpuId, TaskState};

    use super::*;

    #[test]
    fn a_filter_goes_into_a_url_whatever_its_texts_hold() {
        assert_eq!(tasks_url(&TaskFilter::default(), None, 5), "/api/v1/tasks?limit=5");
        let filter = TaskFilter {
            state: vec![TaskState::Waiting, TaskState::Retrying],
            priority: vec![0, 9],
            gpu_id: Some(GpuId::new("sim-1").unwrap()),
            error: Some("a&b=c d".to_owned()),
            older_than_ms: Some(600_000),
            dead: Some(true),
            slices: true,
            ..TaskFilter::default()
        };
        let expected = "/api/v1/tasks?limit=5&state=waiting&state=retrying&priority=0&priority=9&gpu_id=sim-1&error=a%26b%3Dc%20d&older_than_ms=600000&dead=true&slices=true&after=x%2F1";
        assert_eq!(tasks_url(&filter, Some("x/1"), 5), expected);
    }
}
