//! A chain of three tasks on a tensor of 16 MB that stays on the GPU, beside three tasks to which the same bytes are sent, and which send as many back.
//!
//! Sent are the bytes to `echo`, the cheapest task that has any; kept, `simulate` copies them on its way, in the host's memory. With the putting before and the getting after, the kept chain too has brought the bytes there and
//! back, once.

use std::time::Duration;

use protocol::{KeepAs, Segments, TaskBody, TensorName};
use serde::Serialize;
use serde_json::{Value, json};

use super::{pipeline::on, planes::content};
use crate::{
    Fault,
    client::{Client, Question},
    options::Pace,
    pool::Pool,
    report::PartReport,
    statistics::Spread,
};

const BYTES: usize = 16_000_000;
const NUMBERS: usize = BYTES / size_of::<f32>();
const TASKS: usize = 3;
/// The GPU of all of them.
const GPU: usize = 0;

/// One round, in ms.
#[derive(Debug, Serialize)]
pub(super) struct Sample {
    round: usize,
    /// The tasks, each of which is sent the bytes.
    sent: f64,
    /// The tasks, which find them there.
    kept: f64,
    /// The same, with the putting before and the getting after.
    kept_in_all: f64,
}

pub(super) async fn measure(client: &Client, pool: &Pool, pace: Pace) -> Result<Vec<Sample>, Fault> {
    let bytes = Segments::of(vec![content(BYTES)]);
    let mut samples = Vec::new();
    // The first round, which is left out, warms up.
    for round in 0..=pace.rounds {
        let sent = answered(client, (0..TASKS).map(|_| sent(pool, &bytes)).collect::<Result<Vec<_>, Fault>>()?).await?;
        let put = answered(client, vec![put(pool, &bytes)?]).await?;
        let kept = answered(client, (0..TASKS).map(|number| kept(pool, number)).collect::<Result<Vec<_>, Fault>>()?).await?;
        let get = answered(client, vec![pool.asking("tensor.get", &on(GPU, json!({"tensor": name(TASKS)}))?)]).await?;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let sample = Sample { round, sent: ms(sent), kept: ms(kept), kept_in_all: ms(put + kept + get) };
        samples.extend(Some(sample).filter(|sample| sample.round > 0));
    }
    Ok(samples)
}

/// What the chain has after so many tasks.
fn name(tasks: usize) -> String {
    format!("chain.{tasks}")
}

fn numbers() -> Value {
    json!({"$segment": 0, "dtype": "f32", "shape": [NUMBERS]})
}

fn sent(pool: &Pool, bytes: &Segments) -> Result<Question, Fault> {
    Ok(pool.asking("echo", &TaskBody { segments: bytes.clone(), ..on(GPU, numbers())? }))
}

fn put(pool: &Pool, bytes: &Segments) -> Result<Question, Fault> {
    let body = on(GPU, json!({"name": name(0), "value": numbers()}))?;
    Ok(pool.asking("tensor.put", &TaskBody { segments: bytes.clone(), ..body }))
}

fn kept(pool: &Pool, number: usize) -> Result<Question, Fault> {
    let body = on(GPU, json!({"inputs": [{"tensor": name(number)}]}))?;
    Ok(pool.asking("simulate", &TaskBody { keep_as: Some(KeepAs::one(TensorName::new(name(number + 1))?)), ..body }))
}

/// One after the other: how long they took together.
async fn answered(client: &Client, questions: Vec<Question>) -> Result<Duration, Fault> {
    let mut took = Duration::ZERO;
    for question in questions {
        took += client.clone().ask(question).await?.latency;
    }
    Ok(took)
}

pub(super) fn report(part: &mut PartReport, samples: &[Sample]) {
    let ms = |value: fn(&Sample) -> f64| format!("{} ms", Spread::of(samples.iter().map(value)));
    let ratio = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(|sample| sample.sent / value(sample)));
    part.row("3 tasks on 16 MB, which are sent to each and back", ms(|sample| sample.sent));
    part.row("    which stay on the GPU", ms(|sample| sample.kept));
    part.row("    which stay on the GPU, put before and read after", ms(|sample| sample.kept_in_all));
    part.ratio("3 tasks on 16 MB: time, sent / kept", ratio(|sample| sample.kept));
    part.ratio("3 tasks on 16 MB: time, sent / kept, put and read included", ratio(|sample| sample.kept_in_all));
}
