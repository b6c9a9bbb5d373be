//! Copies between simulated GPUs of one process over links of 1 GB/s: from one to another, and from one to eight.

use devices::simulated::LinkSpeed;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    MB,
    planes::{Planes, PlanesPlan, content},
};
use crate::{
    Fault,
    options::Pace,
    report::{Bound, PartReport},
    statistics::Spread,
};

/// So slow that what the fleet does beside the copy shows, and fits into a copy's time where it is done meanwhile.
const LINK: LinkSpeed = LinkSpeed::gb_s(1.0);
/// What a link of that speed needs for a MB.
const MS_A_MB: f64 = 1.0;
const SIZES_MB: [usize; 2] = [64, 256];
const AIM: f64 = 0.95;
/// How many get a broadcast, and what.
const RECEIVERS: usize = 8;
const BROADCAST_MB: usize = 64;
const AIM_BROADCAST: f64 = 1.15;

/// One copy, or one broadcast.
#[derive(Debug, Serialize)]
struct Sample {
    round: usize,
    megabytes: usize,
    took_ms: f64,
}

/// All of them.
#[derive(Debug, Default, Serialize)]
pub(super) struct Samples {
    copies: Vec<Sample>,
    broadcasts: Vec<Sample>,
}

pub(super) async fn measure(pace: Pace) -> Result<Samples, Fault> {
    let plan = PlanesPlan { name: "link", gpus: 2, host_link: LinkSpeed::gb_s(25.0), peer_link: Some(LINK), listen: None };
    let (pair, many) = (Planes::start(plan).await?, Planes::start(PlanesPlan { name: "tree", gpus: RECEIVERS + 1, ..plan }).await?);
    let mut samples = Samples::default();
    // The first round, which is left out, warms up.
    for round in 0..=pace.rounds {
        for megabytes in SIZES_MB {
            let sample = Sample { round, megabytes, took_ms: copy(&pair, megabytes).await? };
            samples.copies.extend(Some(sample).filter(|sample| sample.round > 0));
        }
        let sample = Sample { round, megabytes: BROADCAST_MB, took_ms: broadcast(&many, BROADCAST_MB).await? };
        samples.broadcasts.extend(Some(sample).filter(|sample| sample.round > 0));
    }
    pair.stop().await;
    many.stop().await;
    Ok(samples)
}

/// From the question where it is until it may be used on the other GPU.
async fn copy(planes: &Planes, megabytes: usize) -> Result<f64, Fault> {
    let bytes = content(megabytes * MB);
    let (reference, there) = (planes.keep("copied", bytes.clone()).await?, planes.plane(1));
    let started = Instant::now();
    let copies = there.find(std::slice::from_ref(&reference)).await?;
    let tensor = there.fetch(&reference, &copies, &CancellationToken::new()).await?;
    let took = started.elapsed();
    if there.read(&tensor, 0..bytes.len() as u64).await? != bytes {
        return Err("the bytes of a copy are others".into());
    }
    drop(tensor);
    there.free(&reference).await?;
    Ok(took.as_secs_f64() * 1e3)
}

/// Until every GPU has it.
async fn broadcast(planes: &Planes, megabytes: usize) -> Result<f64, Fault> {
    let reference = planes.keep("broadcast", content(megabytes * MB)).await?;
    let started = Instant::now();
    let copied = planes.plane(0).copy_to(&reference, &[], &CancellationToken::new()).await?;
    let took = started.elapsed();
    for copied in &copied {
        if let Err(reason) = &copied.outcome {
            return Err(format!("{} did not get the broadcast: {reason}", copied.gpu_id).into());
        }
    }
    if copied.len() != RECEIVERS + 1 {
        return Err(format!("{} GPUs got the broadcast", copied.len()).into());
    }
    planes.plane(0).free(&reference).await?;
    Ok(took.as_secs_f64() * 1e3)
}

/// What the links need for a broadcast at best: with each round twice as many have it.
fn tree_ms() -> f64 {
    let rounds = (RECEIVERS + 1).next_power_of_two().ilog2();
    f64::from(rounds) * BROADCAST_MB as f64 * MS_A_MB
}

pub(super) fn report(part: &mut PartReport, samples: &Samples) {
    for megabytes in SIZES_MB {
        let of = || samples.copies.iter().filter(|sample| sample.megabytes == megabytes);
        part.row(format!("{megabytes} MB to another GPU, link of 1 GB/s"), in_ms(of()));
        let achieved = Spread::of(of().map(|sample| megabytes as f64 * MS_A_MB / sample.took_ms));
        let what = format!("{megabytes} MB to another GPU: bandwidth, achieved / the link's");
        part.ratio(what.clone(), achieved);
        part.aim(what, achieved.median, Bound::AtLeast(AIM));
    }
    part.row(format!("{BROADCAST_MB} MB to {RECEIVERS} GPUs, links of 1 GB/s"), in_ms(samples.broadcasts.iter()));
    let over = Spread::of(samples.broadcasts.iter().map(|sample| sample.took_ms / tree_ms()));
    let what = format!("{BROADCAST_MB} MB to {RECEIVERS} GPUs: time / what the tree's links need ({:.0} ms)", tree_ms());
    part.ratio(what.clone(), over);
    part.aim(what, over.median, Bound::AtMost(AIM_BROADCAST));
}

fn in_ms<'a>(samples: impl Iterator<Item = &'a Sample>) -> String {
    format!("{} ms", Spread::of(samples.map(|sample| sample.took_ms)))
}
