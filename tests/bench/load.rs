//! Two ways of asking: with so many tasks in flight, or at given moments.

use std::{future::Future, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{Fault, statistics::Percentiles};

/// Longest wait for what is still in flight when a sample is over.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a closed loop measured, its first fifth (connections and caches warm up) left out.
#[derive(Debug)]
pub(crate) struct Flow {
    /// When each answer came, and how long it took.
    answered: Vec<(Duration, Duration)>,
    /// Every task that was asked for, warm-up included.
    pub(crate) tasks: usize,
}

impl Flow {
    /// Answers per second, from the first to the last.
    pub(crate) fn per_second(&self) -> f64 {
        let (Some(first), Some(last)) = (self.answered.first(), self.answered.last()) else { return f64::NAN };
        (self.answered.len() - 1) as f64 / (last.0 - first.0).as_secs_f64()
    }

    pub(crate) fn latencies_ms(&self) -> Percentiles {
        Percentiles::of(self.answered.iter().map(|(_, latency)| latency.as_secs_f64() * 1e3))
    }
}

/// Keeps `in_flight` tasks in flight for `lasting`, then waits for the rest. `ask` gives how long its task took.
///
/// # Errors
/// The first one of `ask`, or that the rest did not come.
pub(crate) async fn closed_loop<F>(in_flight: usize, lasting: Duration, mut ask: impl FnMut() -> F) -> Result<Flow, Fault>
where
    F: Future<Output = Result<Duration, Fault>>,
{
    let asking = async {
        let mut flow = Flow { answered: Vec::new(), tasks: in_flight };
        let started = Instant::now();
        let mut open: FuturesUnordered<F> = (0..in_flight).map(|_| ask()).collect();
        while let Some(answer) = open.next().await {
            let (latency, at) = (answer?, started.elapsed());
            if at > lasting {
                continue;
            }
            if at > lasting / 5 {
                flow.answered.push((at, latency));
            }
            open.push(ask());
            flow.tasks += 1;
        }
        Ok(flow)
    };
    timeout(lasting + PATIENCE, asking).await.map_err(|_| format!("no answers for {PATIENCE:?}"))?
}

/// When tasks of a Poisson process arrive within `lasting`.
pub(crate) fn poisson(seed: u64, per_second: f64, lasting: Duration) -> Vec<Duration> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut at = 0.0;
    let gaps = std::iter::repeat_with(|| -(1.0 - random.random::<f64>()).ln() / per_second);
    let moments = gaps.map(|gap| {
        at += gap;
        Duration::from_secs_f64(at)
    });
    moments.take_while(|at| *at < lasting).collect()
}

/// Asks at these moments, however slow the answers are. Gives the moment at which each was really asked, and its answer, in that order.
///
/// # Errors
/// The first one of `ask`, or that an answer did not come.
pub(crate) async fn open_loop<T, F>(arrivals: &[Duration], mut ask: impl FnMut() -> F) -> Result<Vec<(Duration, T)>, Fault>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Fault>> + Send + 'static,
{
    let started = Instant::now();
    let mut open = JoinSet::new();
    for arrival in arrivals {
        sleep_until(started + *arrival).await;
        let asking = ask();
        open.spawn(async move {
            let asked = started.elapsed();
            asking.await.map(|answer| (asked, answer))
        });
    }
    let collecting = async {
        let mut answers = Vec::with_capacity(arrivals.len());
        while let Some(answer) = open.join_next().await {
            answers.push(answer??);
        }
        Ok::<_, Fault>(answers)
    };
    let mut answers = timeout(PATIENCE, collecting).await.map_err(|_| format!("no answers for {PATIENCE:?}"))??;
    answers.sort_by_key(|(asked, _)| *asked);
    Ok(answers)
}
