//! Part n: texts that are generated together, beside the same texts one by one; one worker process.
//!
//! The model is the one that `make model` fetches where it is there, else the built-in one, whose weights fit into a processor's cache: reading them once for several texts gains little there.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use protocol::Reply;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Fault,
    client::{Answer, Client},
    load::closed_loop,
    meter::{Cost, Meter},
    namespace::Namespace,
    options::Pace,
    report::{Bound, PartReport},
    servers::Servers,
    statistics::Spread,
    workers::Workers,
};

const MODEL: &str = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
const TOGETHER: u16 = 8;
const TOKENS: u32 = 32;
const AIM: f64 = 2.0;

/// One sample.
#[derive(Debug, Serialize)]
struct Sample {
    round: usize,
    in_flight: u16,
    tokens_per_s: f64,
    cost: Cost,
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let (client, mut meter) = (Client::connect(&servers.amqp()).await?, servers.meter().await);
    let mut names = Namespace::new("predict", TOGETHER);
    let model = Path::new(MODEL);
    names.configuration.predict.model = if model.exists() { Some(model.canonicalize()?) } else { None };
    let workers = Workers::start_under(servers, names, (1, 1)).await?;
    let mut samples = Vec::new();
    // The first round, which is left out, warms up.
    for round in 0..=pace.rounds {
        for in_flight in [1, TOGETHER] {
            let sample = sampled(&client, &mut meter, &workers, (round, in_flight, pace.large_replies)).await?;
            samples.extend(Some(sample).filter(|sample| sample.round > 0));
        }
    }
    let _names = workers.stop().await;
    report(&samples)
}

async fn sampled(
    client: &Client,
    meter: &mut Meter,
    workers: &Workers,
    (round, in_flight, lasting): (usize, u16, Duration),
) -> Result<Sample, Fault> {
    let payload = json!({"text": "It was a fine morning, and", "max_length": TOKENS, "temperature": 1, "seed": 7});
    let (question, pids, tokens) = (workers.question("predict", payload)?, workers.pids(), AtomicU64::new(0));
    let before = meter.read(&pids).await?;
    let flow = closed_loop(usize::from(in_flight), lasting, || {
        let (asking, tokens) = (client.clone().ask(question.clone()), &tokens);
        async move {
            let answer = asking.await?;
            tokens.fetch_add(tokens_of(&answer)?, Ordering::Relaxed);
            Ok(answer.latency)
        }
    })
    .await?;
    let cost = meter.read(&pids).await?.since(before, flow.tasks);
    let per_task = tokens.into_inner() as f64 / flow.tasks as f64;
    Ok(Sample { round, in_flight, tokens_per_s: flow.per_second() * per_task, cost })
}

fn tokens_of(answer: &Answer) -> Result<u64, Fault> {
    let reply: Reply = serde_json::from_slice(&answer.body)?;
    let result: Value = reply.result.to()?;
    Ok(result["tokens"].as_u64().ok_or("a reply does not say how many tokens it has")?)
}

fn report(samples: &[Sample]) -> Result<PartReport, Fault> {
    let model = if Path::new(MODEL).exists() { MODEL } else { "the built-in model" };
    let mut part = PartReport::new(format!("n: texts of {TOKENS} tokens by {model}, {TOGETHER} together; one worker process"));
    let of = |in_flight: u16| samples.iter().filter(move |sample| sample.in_flight == in_flight);
    for (what, in_flight) in [("one by one", 1), ("together", TOGETHER)] {
        let costs: Vec<&Cost> = of(in_flight).map(|sample| &sample.cost).collect();
        part.row(format!("{what}: tokens"), format!("{}/s", Spread::of(of(in_flight).map(|sample| sample.tokens_per_s))));
        part.row("    per task", Cost::describe(&costs));
    }
    let ratio = Spread::of(of(TOGETHER).zip(of(1)).map(|(many, one)| many.tokens_per_s / one.tokens_per_s));
    part.ratio("tokens per second, together / one by one", ratio);
    part.aim("together / one by one", ratio.median, Bound::AtLeast(AIM));
    part.keep_raw(json!({"texts": samples}))?;
    Ok(part)
}
