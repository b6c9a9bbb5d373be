//! `gpufleet doctor`: are the servers there, is the topology ours, and what can be promised on them?
//!
//! Changes nothing. Every finding says what is so; a bad one also says what to do.

mod broker;
mod gpus;
mod redis;
mod unserved;

use std::process::ExitCode;

use serde::Serialize;

use crate::{arguments::Common, configuration, fault::Fault, output, servers::Servers};

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

/// Looks at everything. Exit code 1 if something is bad.
pub(crate) async fn run(common: &Common) -> Result<ExitCode, Fault> {
    let configuration = configuration::load(common, &[])?;
    let mut findings = vec![Finding::good("configuration", "right")];
    findings.extend(gpus::look(&configuration).await);
    findings.extend(broker::look(&configuration).await);
    findings.extend(redis::look(&configuration).await);
    if configuration.redis.url.is_some() {
        let servers = Servers::redis_of_a_running_fleet(configuration)?;
        findings.push(pool(&servers).await);
        findings.extend(unserved::look(&servers).await);
    }
    if common.json {
        output::json(&findings);
    } else {
        findings.iter().for_each(show);
    }
    let bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn pool(servers: &Servers) -> Finding {
    let pool = &servers.configuration().worker.pool;
    let rows = match servers.table().await {
        Ok(table) => table.rows(pool).await.map_err(|error| error.to_string()),
        Err(_) => Err("the table does not answer".to_owned()),
    };
    match rows {
        Ok(rows) if rows.is_empty() => {
            Finding::warning("GPUs", format!("none serves the pool {pool}: tasks wait until a worker starts (`gpufleet worker`)"))
        }
        Ok(rows) => {
            let eligible = rows.iter().filter(|view| view.eligible).count();
            Finding::good("GPUs", format!("{} in the pool {pool}, {eligible} eligible", rows.len()))
        }
        Err(error) => Finding::bad("GPUs", error),
    }
}

fn show(finding: &Finding) {
    let mark = match finding.verdict {
        Verdict::Good => "ok",
        Verdict::Warning => "warn",
        Verdict::Bad => "BAD",
    };
    output::line(&format!("{mark:<5} {}: {}", finding.subject, finding.detail));
}
