//! The ready handlers for PyTorch, against plain PyTorch in the same minute.

use std::{
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use producer::Many;
use protocol::{Outcome, Reply};
use serde_json::{Value, json};

use crate::{
    Fault,
    bench::Bench,
    finding::{Checked, Finding},
    fleet::{Fleet, task},
    numbers::quantile,
    python::{Place, Program},
    work::modules,
};

const PLAIN: &str = include_str!("../python/plain.py");
/// What its exit codes say.
const CODES: [(i32, &str); 3] = [
    (3, "PyTorch cannot be imported here"),
    (4, "PyTorch finds no GPU: it may be built without CUDA"),
    (5, "transformers cannot be imported here"),
];
const AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);
/// Texts of different lengths: what is padded must not show.
const MIXED: [&str; AT_ONCE] = [
    "a",
    "two words",
    "Once upon a time there was a fleet of eight machines",
    "x = x + 1;",
    "Guten Tag",
    "the quick brown fox",
    "0123456789",
    "and so on, and so on",
];
/// Tokens of each text where texts are compared, and where tokens are counted.
const COMPARED: usize = 32;
const COUNTED: usize = 256;
const ROUNDS: usize = 3;
/// How far a number of a vector may lie from that of plain PyTorch: single precision, summed in another order.
const NEAR: f64 = 1e-4;

/// Plain PyTorch, with a model in the place's folder. Why there is none comes as a text.
async fn plain(place: &Place) -> Result<Result<Program, String>, Fault> {
    Program::start(PLAIN, place.folder.path(), &CODES).await
}

pub async fn generation(bench: &Bench) -> Finding {
    let place = match Place::look(bench).await? {
        Ok(place) => place,
        Err(why) => return Ok(Checked::Unchecked(why)),
    };
    let mut plain = match plain(&place).await? {
        Ok(plain) => plain,
        Err(why) => return Ok(Checked::Unchecked(why)),
    };
    let modules = modules()?;
    let fleet = place.fleet(&Arc::new(bench.open().await?), modules.path(), &[place.ready("generate.py")]).await?;
    let alone = texts(&plain.ask(&json!({"do": "alone", "texts": MIXED, "tokens": COMPARED})).await?)?;
    let (together, _) = generated(&fleet, &MIXED.map(str::to_owned), COMPARED).await?;
    if let Some(at) = (0..AT_ONCE).find(|at| together[*at] != alone[*at]) {
        return Err(format!("{:?} goes on as {:?}, and in plain PyTorch alone as {:?}", MIXED[at], together[at], alone[at]).into());
    }
    let ratios = against_plain(&fleet, &mut plain).await?;
    fleet.end().await?;
    let (fleet, plain_rate, ratio): (Vec<f64>, Vec<f64>, Vec<f64>) = ratios;
    Ok(Checked::Passed(format!(
        "{AT_ONCE} texts of different lengths at once are those that plain PyTorch generates one by one; {:.0} tokens/s through the fleet at {AT_ONCE} at once, {:.0} by a plain loop over a batch of \
         {AT_ONCE}: ratio {:.2} [{:.2}..{:.2}] in {ROUNDS} interleaved rounds of {COUNTED} tokens each (the aim is 0.95); {}, single precision",
        quantile(&fleet, 0.5),
        quantile(&plain_rate, 0.5),
        quantile(&ratio, 0.5),
        quantile(&ratio, 0.0),
        quantile(&ratio, 1.0),
        plain.said["versions"].as_str().unwrap_or_default()
    )))
}

/// Tokens a second of the fleet and of the plain loop, and the one over the other, in each round.
async fn against_plain(fleet: &Fleet, plain: &mut Program) -> Result<(Vec<f64>, Vec<f64>, Vec<f64>), Fault> {
    let (mut fleet_rates, mut plain_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    // The first round makes what the others find.
    for round in 0..=ROUNDS {
        // Of one length, so that the plain loop needs no padding.
        let prompts: Vec<String> = (0..AT_ONCE).map(|number| format!("round {round}, text {number}: ")).collect();
        let answer = plain.ask(&json!({"do": "together", "texts": prompts, "tokens": COUNTED})).await?;
        let (_, took) = generated(fleet, &prompts, COUNTED).await?;
        if round == 0 {
            continue;
        }
        let tokens = (AT_ONCE * COUNTED) as f64;
        let plain_rate = tokens / answer["seconds"].as_f64().ok_or("no seconds")?;
        let fleet_rate = tokens / took.as_secs_f64();
        fleet_rates.push(fleet_rate);
        plain_rates.push(plain_rate);
        ratios.push(fleet_rate / plain_rate);
    }
    Ok((fleet_rates, plain_rates, ratios))
}

/// The texts that the fleet generates after these, all at once, and how long that took.
async fn generated(fleet: &Fleet, prompts: &[String], tokens: usize) -> Result<(Vec<String>, Duration), Fault> {
    let payloads = prompts.iter().map(|text| json!({"text": text, "max_length": tokens}));
    let (replies, took) = replies(fleet, "generate", payloads.collect()).await?;
    let mut texts = Vec::new();
    for reply in &replies {
        let result: Value = reply.result.to()?;
        if result["tokens"] != json!(tokens) {
            return Err(format!("a text has {} tokens, not {tokens}", result["tokens"]).into());
        }
        texts.push(result["text"].as_str().ok_or("no text")?.to_owned());
    }
    Ok((texts, took))
}

/// Replies to these payloads, in their order. All must succeed.
async fn replies(fleet: &Fleet, kind: &str, payloads: Vec<Value>) -> Result<(Vec<Reply>, Duration), Fault> {
    let tasks = payloads.into_iter().map(|payload| task(kind, payload)).collect::<Result<Vec<_>, _>>()?;
    let many = Many { in_flight: NonZeroUsize::new(AT_ONCE).ok_or("8 is not 0")?, timeout: PATIENCE };
    let started = Instant::now();
    let mut answered: Vec<_> = fleet.producer.submit_and_wait_many(tasks, many).collect().await;
    let took = started.elapsed();
    answered.sort_by_key(|(place, _)| *place);
    let mut replies = Vec::new();
    for (_, reply) in answered {
        let reply = reply?;
        if reply.outcome != Outcome::Succeeded {
            return Err(format!("{kind} ended otherwise: {:?}", reply.error).into());
        }
        replies.push(reply);
    }
    Ok((replies, took))
}

fn texts(answer: &Value) -> Result<Vec<String>, Fault> {
    Ok(serde_json::from_value(answer["texts"].clone())?)
}

pub async fn embeddings(bench: &Bench) -> Finding {
    let place = match Place::look(bench).await? {
        Ok(place) => place,
        Err(why) => return Ok(Checked::Unchecked(why)),
    };
    let mut plain = match plain(&place).await? {
        Ok(plain) => plain,
        Err(why) => return Ok(Checked::Unchecked(why)),
    };
    let modules = modules()?;
    let fleet = place.fleet(&Arc::new(bench.open().await?), modules.path(), &[place.ready("embeddings.py")]).await?;
    let expected: Vec<Vec<f64>> = serde_json::from_value(plain.ask(&json!({"do": "embed", "texts": MIXED})).await?["vectors"].clone())?;
    let payloads = MIXED.iter().map(|text| json!({"text": text})).collect();
    let (replies, _) = replies(&fleet, "embeddings", payloads).await?;
    fleet.end().await?;
    let mut farthest = 0.0_f64;
    for (reply, expected) in replies.iter().zip(&expected) {
        let given = singles(reply.segments.get(0).ok_or("the vector is no raw bytes")?);
        if given.len() != expected.len() {
            return Err(format!("a vector has {} numbers, and plain PyTorch gives {}", given.len(), expected.len()).into());
        }
        farthest = given.iter().zip(expected).map(|(given, expected)| (given - expected).abs()).fold(farthest, f64::max);
    }
    if farthest > NEAR {
        return Err(format!("a number of a vector is {farthest:.1e} from that of plain PyTorch, more than {NEAR:e}").into());
    }
    Ok(Checked::Passed(format!(
        "{AT_ONCE} vectors of {} numbers as raw bytes, at most {farthest:.1e} from those of plain PyTorch, one by one",
        expected.first().map_or(0, Vec::len)
    )))
}

/// Single-precision numbers, as they travel.
fn singles(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(4).map(|four| f64::from(f32::from_le_bytes([four[0], four[1], four[2], four[3]]))).collect()
}
