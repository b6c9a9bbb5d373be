//! `gpufleet doctor`: are the servers there, is the topology ours, and what can be promised on them?
//!
//! Changes nothing, but for a mark in Redis that is gone after a few seconds: it shows that writes are taken. Every finding says what is so; a bad one also says what to do.

mod broker;
mod gateway;
mod gpus;
mod onnx;
mod redis;
mod unserved;
mod ways;

use std::{collections::BTreeMap, process::ExitCode};

use protocol::GpuId;
use serde::Serialize;

use crate::{
    arguments::Common,
    configuration,
    fault::Fault,
    fleet::{Fleet, Gateway, Pool},
    gpus::{KindDown, kinds_down},
    output,
    servers::Servers,
};

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// As it should be.
    Good,
    /// Works, but something is not promised.
    Warning,
    /// Does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    verdict: Verdict,
    subject: String,
    detail: String,
}

impl Finding {
    fn good(subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, subject: subject.into(), detail: detail.into() }
    }

    fn warning(subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, subject: subject.into(), detail: detail.into() }
    }

    fn bad(subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, subject: subject.into(), detail: detail.into() }
    }
}

/// Looks at everything: at the servers and this host, or at the gateway that is named. Exit code 1 if something is bad.
pub(crate) async fn run(common: &Common) -> Result<ExitCode, Fault> {
    let findings = match common.gateway()? {
        Some(url) => {
            let gateway = Gateway::new(url);
            let mut findings = gateway::look(&gateway).await;
            // Without an answer there is no pool to tell of.
            if findings.iter().all(|finding| finding.verdict != Verdict::Bad) {
                let found = Fleet::Gateway(gateway).pool().await;
                findings.extend(down(&found));
                findings.extend(models(&found));
                findings.extend(data_ways(&found));
                findings.push(pool(found));
            }
            findings
        }
        None => on_servers(common).await?,
    };
    if common.json {
        output::json(&findings)?;
    } else {
        for finding in &findings {
            output::line(&shown(finding))?;
        }
    }
    let bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn on_servers(common: &Common) -> Result<Vec<Finding>, Fault> {
    let configuration = configuration::load(common, Vec::new())?;
    let fleet = configuration.redis.url.as_ref().map(|_| Servers::redis_of_a_running_fleet(configuration.clone())).transpose()?;
    let found = match &fleet {
        Some(servers) => Some(servers.pool().await),
        None => None,
    };
    let consuming = found.as_ref().map_or_else(Vec::new, consuming);
    let mut findings = vec![Finding::good("configuration", "right")];
    findings.extend(gpus::look(&configuration).await);
    findings.extend(onnx::look(&configuration).await);
    findings.extend(broker::look(&configuration, &consuming).await);
    findings.extend(redis::look(&configuration).await);
    if let Some(servers) = &fleet {
        findings.extend(redis::try_writes(servers).await);
        findings.extend(found.iter().flat_map(down));
        findings.extend(found.iter().flat_map(models));
        findings.extend(found.iter().flat_map(data_ways));
        findings.extend(found.map(pool));
        findings.extend(unserved::look(servers).await);
    }
    Ok(findings)
}

/// The GPUs whose workers have declared what they need: they consume.
fn consuming(pool: &Result<Pool, Fault>) -> Vec<GpuId> {
    let living = pool.iter().flat_map(|pool| &pool.gpus);
    living.filter(|view| view.row.consuming).map(|view| view.row.gpu.gpu_id.clone()).collect()
}

/// The kinds that GPUs of the pool would run and cannot now.
fn down(pool: &Result<Pool, Fault>) -> Vec<Finding> {
    let Ok(Pool { gpus, .. }) = pool else { return Vec::new() };
    let told = |down: KindDown| {
        let (reason, places) = (&down.reason, down.places());
        let next = "Its tasks wait; the log of the worker says more, and what its process wrote. Mend that, or take the kind out of the configuration";
        Finding::warning(format!("kind {}", down.kind), format!("down on {places} of {}: {reason}. {next}", gpus.len()))
    };
    kinds_down(gpus).into_iter().map(told).collect()
}

/// The models that GPUs of the pool could not load, or that are pinned and that nobody has.
fn models(pool: &Result<Pool, Fault>) -> Vec<Finding> {
    let Ok(Pool { gpus, .. }) = pool else { return Vec::new() };
    let mut counts = BTreeMap::<(&str, &str), usize>::new();
    for (model, why) in gpus.iter().flat_map(|view| &view.row.model_state.model_errors) {
        *counts.entry((model.as_str(), why.as_str())).or_default() += 1;
    }
    let told = |((model, why), count): ((&str, &str), usize)| {
        Finding::warning(format!("model {model}"), format!("{why} (on {count} of {} GPUs)", gpus.len()))
    };
    counts.into_iter().map(told).collect()
}

/// The ways of tensors between GPUs of the pool that are left out because they failed.
fn data_ways(pool: &Result<Pool, Fault>) -> Vec<Finding> {
    pool.as_ref().map_or_else(|_| Vec::new(), |pool| ways::look(&pool.gpus))
}

fn pool(pool: Result<Pool, Fault>) -> Finding {
    match pool {
        Ok(Pool { name, gpus }) if gpus.is_empty() => {
            Finding::warning("GPUs", format!("none serves the pool {name}: tasks wait until a worker starts (`gpufleet worker`)"))
        }
        Ok(Pool { name, gpus }) => {
            let eligible = gpus.iter().filter(|view| view.eligible).count();
            Finding::good("GPUs", format!("{} in the pool {name}, {eligible} eligible", gpus.len()))
        }
        Err(fault) => Finding::bad("GPUs", fault.to_string()),
    }
}

fn shown(finding: &Finding) -> String {
    let mark = match finding.verdict {
        Verdict::Good => "ok",
        Verdict::Warning => "warn",
        Verdict::Bad => "BAD",
    };
    format!("{mark:<5} {}: {}", finding.subject, finding.detail)
}
