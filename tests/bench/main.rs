//! The bench: what the fleet costs beside yardsticks of the same run.
//!
//! Absolute numbers say more about the machine than about the code, so each is given beside something measured in the same minutes: a bare echo on
//! the same broker, bare consumers, one GPU, a small pool, an ideal queue. Client, workers, broker and Redis share the machine. Nothing fails because an aim is
//! missed. Every sample is written to `bench.json`.

mod bare;
mod batches;
mod bulk;
mod claims;
mod client;
mod commands;
mod data;
mod echo;
mod embed;
mod handler_bytes;
mod handlers;
mod ideal;
mod journal;
mod large_replies;
mod latency;
mod load;
mod meter;
mod models;
mod namespace;
mod options;
mod pipes;
mod pool;
mod predict;
mod processes;
mod raw_bytes;
mod report;
mod rest;
mod run_batches;
mod scaling;
mod servers;
mod workers;

use std::{process::ExitCode, time::Duration};

use serde_json::{Value, json};
use tests::{facts, output, proc, statistics};
use tokio::time::timeout;

use crate::{
    facts::Facts,
    options::{Options, Part},
    report::{PartReport, Report},
    servers::Servers,
};

/// Whatever keeps a part from measuring.
type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Slots of a GPU, and prefetch of a bare consumer, in the comparison of the two.
const SLOTS: u16 = 8;
/// What a simulated task takes.
const SERVICE: Duration = Duration::from_millis(20);
/// Longest time for one part. The longest part takes about half of it.
const PART_LIMIT: Duration = Duration::from_secs(240);

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == bare::ROLE).is_some() {
        return match bare::serve(arguments).await {
            Ok(never) => match never {},
            Err(fault) => failed(&fault),
        };
    }
    if arguments.next_if(|first| first == data::SOURCE).is_some() {
        return match data::serve(arguments).await {
            Ok(never) => match never {},
            Err(fault) => failed(&fault),
        };
    }
    let options = match options::parse(arguments) {
        Ok(options) => options,
        Err(usage) => {
            output::line(&usage);
            return ExitCode::from(2);
        }
    };
    match run(&options).await {
        Ok(report) if report.is_complete() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(fault) => failed(&fault),
    }
}

fn failed(fault: &Fault) -> ExitCode {
    output::note(&format!("bench: {fault}"));
    ExitCode::FAILURE
}

async fn run(options: &Options) -> Result<Report, Fault> {
    let servers = Servers::start().await?;
    let facts = Facts::gather(servers.redis_version().await);
    output::line(&facts.line());
    output::line("Medians [least..most] of the rounds; ratios are paired within a round.");
    let mut parts = Vec::new();
    for part in &options.parts {
        let report = measure(*part, &servers, options).await;
        report.print();
        parts.push(report);
    }
    let report = Report::new(facts, options.pace, parts);
    report.write()?;
    Ok(report)
}

async fn measure(part: Part, servers: &Servers, options: &Options) -> PartReport {
    let measuring = async {
        match part {
            Part::Echo => echo::measure(servers, options.pace).await,
            Part::Claims => claims::measure(options.pace).await,
            Part::Scaling => scaling::measure(servers, options.pace).await,
            Part::Latency => latency::measure(servers, options.pace).await,
            Part::Processes => processes::measure(servers, options.pace).await,
            Part::Rest => rest::measure(servers, options.pace).await,
            Part::LargeReplies => large_replies::measure(servers, options.pace).await,
            Part::Batches => batches::measure(servers, options.pace).await,
            Part::RunBatches => run_batches::measure(servers, options.pace).await,
            Part::Bulk => bulk::measure(servers, options.pace).await,
            Part::RawBytes => raw_bytes::measure(servers, options.pace).await,
            Part::Models => models::measure(servers, options.pace).await,
            Part::Predict => predict::measure(servers, options.pace).await,
            Part::Handlers => handlers::measure(servers, options.pace).await,
            Part::Embed => embed::measure(servers, options.pace).await,
            Part::Data => data::measure(servers, options.pace).await,
            Part::Journal => journal::measure(servers, options.pace).await,
        }
    };
    match timeout(PART_LIMIT, measuring).await {
        Ok(Ok(report)) => report,
        Ok(Err(fault)) => PartReport::failed(&format!("{part:?}"), &fault.to_string()),
        Err(_) => PartReport::failed(&format!("{part:?}"), &format!("not done after {PART_LIMIT:?}")),
    }
}

/// The payload of a task that takes [`SERVICE`] and carries 1 KiB.
fn simulated_work() -> Value {
    json!({"duration_ms": u64::try_from(SERVICE.as_millis()).unwrap_or(u64::MAX), "result": "x".repeat(960)})
}
