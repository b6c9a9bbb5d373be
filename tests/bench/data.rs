//! Part q: tensors that stay on GPUs and move between them: how near copies come to what their links can do, and what they cost the work beside them.
//!
//! All GPUs are simulated ones, which hold real bytes and whose copies take as long as their links need. What is measured is therefore all that the fleet adds: finding, checking, and handing over.

mod between;
mod links;
mod pipeline;
mod planes;
mod residency;
mod source;

use serde_json::json;

pub(crate) use self::source::{ROLE as SOURCE, serve};
use self::{between::Between, links::Samples as Links, pipeline::Sample as Pipeline, residency::Sample as Residency};
use crate::{
    Fault,
    client::Client,
    options::Pace,
    pool::{Pool, PoolPlan},
    report::PartReport,
    servers::Servers,
};

/// Bytes of a MB.
const MB: usize = 1_000_000;

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let links = links::measure(pace).await?;
    let between = between::measure(pace).await?;
    let plan = PoolPlan { tensors: Some(pipeline::LINK), ..PoolPlan::new("data".to_owned(), pipeline::GPUS, pipeline::SLOTS) };
    let (client, pool) = (Client::connect(&servers.amqp()).await?, Pool::start(servers, plan).await?);
    let pipeline = pipeline::measure(&client, &pool, pace).await?;
    let residency = residency::measure(&client, &pool, pace).await?;
    pool.stop().await;
    report(&links, &between, &pipeline, &residency)
}

fn report(links: &Links, between: &[Between], pipeline: &[Pipeline], residency: &[Residency]) -> Result<PartReport, Fault> {
    let mut part = PartReport::new("q: tensors on simulated GPUs, beside what their links, and the machine's memory, can do");
    links::report(&mut part, links);
    pipeline::report(&mut part, pipeline);
    between::report(&mut part, between);
    residency::report(&mut part, residency);
    part.keep_raw(json!({"links": links, "pipeline": pipeline, "between_processes": between, "residency": residency}))?;
    Ok(part)
}
