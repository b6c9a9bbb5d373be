//! What the fleet costs beside a bare loop on the same GPU, in the same minute.

use std::time::{Duration, Instant};

use futures::StreamExt;
use producer::Many;
use serde_json::{Value, json};

use crate::{
    Fault, bare,
    bench::Bench,
    finding::{Checked, Finding},
    fleet::{Fleet, task},
    numbers::quantile,
    work::modules,
};

/// A small kernel: a thousand numbers there and back.
pub const COUNT: usize = 1_000;

fn small() -> Value {
    let numbers = vec![1.0; COUNT];
    let arguments = json!([{"u32": COUNT}, {"f32": 2.0}, {"in": {"f32": numbers}}, {"inout": {"f32": numbers}}]);
    json!({"module": "saxpy", "blocks": 4, "threads": 256, "arguments": arguments})
}

pub async fn overhead(bench: &Bench) -> Finding {
    let (modules, count) = (modules()?, bench.scale.of(300, 10));
    let fleet = Fleet::start(bench.open().await?, modules.path()).await?;
    let (mut round_trip_ms, mut device_ms, mut run_ms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        let started = Instant::now();
        let reply = fleet.reply("kernel", small()).await?;
        round_trip_ms.push(started.elapsed().as_secs_f64() * 1e3);
        run_ms.push(reply.timings.run_ms);
        device_ms.push(reply.timings.device_ms.ok_or("the reply has no device time")?);
    }
    fleet.end().await?;
    let bare_ms = bare::each_ms(bench, count).await?;
    let before_ms: Vec<f64> = round_trip_ms.iter().zip(&run_ms).map(|(all, run)| all - run).collect();
    let p = |values: &[f64]| format!("{:.3} / {:.3}", quantile(values, 0.5), quantile(values, 0.99));
    Ok(Checked::Passed(format!(
        "ms, median / 99 %: round trip {}, of it outside of the executor (queue, claim, store, reply; embedded) {}, kernel on the GPU {}; the same work in a bare loop {}",
        p(&round_trip_ms),
        p(&before_ms),
        p(&device_ms),
        p(&bare_ms)
    )))
}

pub async fn throughput(bench: &Bench) -> Finding {
    let (rounds, tasks) = (bench.scale.of(3, 1), bench.scale.of(2_000, 40));
    let mut ratios = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let bare = bare::per_second(bench, tasks).await?;
        let fleet = fleet_per_second(bench, tasks).await?;
        ratios.push(fleet / bare);
        rates.push((fleet, bare));
    }
    let (fleet, bare): (Vec<f64>, Vec<f64>) = rates.into_iter().unzip();
    Ok(Checked::Passed(format!(
        "{:.0} tasks/s by the fleet (8 slots, JSON in and out), {:.0}/s by a bare loop on one stream: ratio {:.2} [{:.2}..{:.2}] in {rounds} interleaved rounds of {tasks}",
        quantile(&fleet, 0.5),
        quantile(&bare, 0.5),
        quantile(&ratios, 0.5),
        quantile(&ratios, 0.0),
        quantile(&ratios, 1.0)
    )))
}

async fn fleet_per_second(bench: &Bench, count: usize) -> Result<f64, Fault> {
    let modules = modules()?;
    let fleet = Fleet::start(bench.open().await?, modules.path()).await?;
    fleet.result("kernel", small()).await?;
    let tasks = (0..count).map(|_| task("kernel", small())).collect::<Result<Vec<_>, _>>()?;
    let many = Many { in_flight: std::num::NonZeroUsize::new(64).ok_or("64 is not 0")?, timeout: Duration::from_secs(120) };
    let started = Instant::now();
    let replies: Vec<_> = fleet.producer.submit_and_wait_many(tasks, many).collect().await;
    let rate = count as f64 / started.elapsed().as_secs_f64();
    for (_, reply) in replies {
        reply?;
    }
    fleet.end().await?;
    Ok(rate)
}
