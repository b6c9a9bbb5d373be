//! Copying a tensor to many GPUs: each receiver is told from whom to read, and passes it on when it has it.

mod plan;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use data_link::FetchOrder;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use protocol::{GpuId, TensorRecord, TensorRef};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::plan::{Plan, Sending, Standing};
use crate::{
    Copied, CopiedTo, DataError, Destination, Moving, TellMoving,
    error::whole,
    plane::{Shared, asking::limited, here},
    transfer::TELL_EVERY,
};

/// How many copies a receiver tries to read before it is given up.
const TRIES: usize = 3;
/// How long one copy may take before its sender is taken to be free for others: so long, and as long as its bytes take at so many bytes a second.
const PATIENCE: Duration = Duration::from_millis(500);
const PATIENT_BYTES_PER_SECOND: f64 = 5e8;

impl Shared {
    /// See [`DataPlane::copy_to`](crate::DataPlane::copy_to).
    pub(crate) async fn copy_to(
        self: &Arc<Self>,
        reference: &TensorRef,
        to: &[GpuId],
        cancel: &CancellationToken,
        tell: Option<TellMoving<'_>>,
    ) -> Result<Vec<CopiedTo>, DataError> {
        let copies = self.find(std::slice::from_ref(reference)).await?;
        let destinations = limited(self.directory.destinations()).await?;
        let wanted = wanted(&destinations, &copies, to)?;
        let outcomes = cancel.run_until_cancelled(Broadcast::new(self, copies, wanted).run(destinations, tell)).await;
        outcomes.ok_or(DataError::Cancelled)
    }

    /// Has a GPU read one copy; the record of the copy that it has then.
    pub(crate) async fn order(self: &Arc<Self>, to: &Destination, from: TensorRecord, limit: Duration) -> Result<TensorRecord, String> {
        let is_own = to.incarnation == self.incarnation && to.gpu_id == self.gpu_id;
        let plane = if is_own { Some(Arc::clone(self)) } else { here::find(&to.incarnation, &to.gpu_id) };
        if let Some(plane) = plane {
            let tensor = plane.fetch_from(&from, limit).await.map_err(|error| error.to_string())?;
            return Ok(plane.record_of(&tensor));
        }
        let Some(port) = &to.port else { return Err("other processes do not reach it (data.listen)".to_owned()) };
        let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let fetched = async { self.client(port, limit + self.options.limits.stall).await?.fetch(FetchOrder { from, timeout_ms }).await };
        fetched.await.map_err(|error| whole(&error))
    }
}

/// The GPUs that are meant.
fn wanted(destinations: &[Destination], copies: &[TensorRecord], to: &[GpuId]) -> Result<Vec<GpuId>, DataError> {
    let mut wanted: Vec<GpuId> =
        if to.is_empty() { destinations.iter().map(|destination| destination.gpu_id.clone()).collect() } else { to.to_vec() };
    wanted.sort();
    wanted.dedup();
    let is_known = |gpu_id: &GpuId| {
        destinations.iter().any(|destination| destination.gpu_id == *gpu_id) || copies.iter().any(|copy| copy.gpu_id == *gpu_id)
    };
    match wanted.iter().find(|gpu_id| !is_known(gpu_id)) {
        Some(gpu_id) => Err(DataError::NoDestination {
            gpu_id: gpu_id.clone(),
            reason: "it is no living GPU of the pool that may be given data".to_owned(),
        }),
        None => Ok(wanted),
    }
}

/// One broadcast.
struct Broadcast<'a> {
    shared: &'a Arc<Shared>,
    wanted: Vec<GpuId>,
    /// By GPU.
    copies: BTreeMap<GpuId, TensorRecord>,
    limit: Duration,
    patience: Duration,
    outcomes: BTreeMap<GpuId, Result<Copied, String>>,
    /// What the tries of those came to that have no outcome yet.
    tried: BTreeMap<GpuId, Vec<String>>,
}

/// What came of telling a GPU to read.
struct Answered {
    from: usize,
    to: usize,
    took: Duration,
    outcome: Result<TensorRecord, String>,
}

impl<'a> Broadcast<'a> {
    fn new(shared: &'a Arc<Shared>, copies: Vec<TensorRecord>, wanted: Vec<GpuId>) -> Self {
        let limits = shared.options.limits;
        let bytes = copies.first().map_or(0, |copy| copy.bytes);
        let patience = PATIENCE + Duration::from_secs_f64(bytes as f64 / PATIENT_BYTES_PER_SECOND);
        let copies: BTreeMap<_, _> = copies.into_iter().map(|copy| (copy.gpu_id.clone(), copy)).collect();
        let has_it = |gpu_id: &&GpuId| copies.contains_key(*gpu_id);
        let at_once = |gpu_id: &GpuId| (gpu_id.clone(), Ok(Copied { from: gpu_id.clone(), took: Duration::ZERO }));
        let outcomes = wanted.iter().filter(has_it).map(at_once).collect();
        let limit = limits.for_bytes(bytes);
        Self { shared, wanted, copies, limit, patience: patience.min(limit), outcomes, tried: BTreeMap::new() }
    }

    /// Those that take part: who has it, and who is to have it.
    fn takes_part(&self, destinations: Vec<Destination>) -> Vec<Destination> {
        let mut gpus: Vec<_> = destinations
            .into_iter()
            .filter(|destination| self.copies.contains_key(&destination.gpu_id) || self.wanted.contains(&destination.gpu_id))
            .collect();
        let known: Vec<_> = gpus.iter().map(|gpu| gpu.gpu_id.clone()).collect();
        // One that may not be given data may be read all the same. Its host is not known: it counts as one of its own.
        gpus.extend(self.copies.values().filter(|copy| !known.contains(&copy.gpu_id)).map(|copy| Destination {
            gpu_id: copy.gpu_id.clone(),
            incarnation: copy.incarnation.clone(),
            host: format!("host of {}", copy.gpu_id),
            port: copy.port.clone(),
            links: Vec::new(),
            numa_node: None,
        }));
        gpus
    }

    async fn run(mut self, destinations: Vec<Destination>, tell: Option<TellMoving<'_>>) -> Vec<CopiedTo> {
        let gpus = self.takes_part(destinations);
        let plan = Plan::new(&gpus);
        let mut standing = Standing::default();
        for (number, gpu) in gpus.iter().enumerate() {
            let side = if self.copies.contains_key(&gpu.gpu_id) { &mut standing.have } else { &mut standing.lack };
            side.insert(number);
        }
        let mut going = FuturesUnordered::new();
        let mut late_at: BTreeMap<usize, Instant> = BTreeMap::new();
        let mut tell_at = tell.map(|_| Instant::now() + TELL_EVERY);
        loop {
            for (from, to) in plan.next(&standing) {
                standing.lack.remove(&to);
                standing.going.push(Sending { from, to, is_late: false });
                late_at.insert(to, Instant::now() + self.patience);
                going.push(self.send(&gpus, from, to));
            }
            let late = late_at.values().min().copied();
            tokio::select! {
                biased;
                answered = going.next() => match answered {
                    Some(answered) => {
                        late_at.remove(&answered.to);
                        self.heard(&gpus, answered, &mut standing);
                    }
                    None => break,
                },
                () = until(late) => {
                    late_at.retain(|_, at| *at > Instant::now());
                    standing.going.iter_mut().for_each(|sending| sending.is_late = !late_at.contains_key(&sending.to));
                }
                () = until(tell_at) => {
                    tell_at = Some(Instant::now() + TELL_EVERY);
                    if let Some((tell, moving)) = tell.zip(self.moving(&gpus, &standing)) {
                        tell(&moving);
                    }
                }
            }
        }
        self.outcomes()
    }

    fn send(&self, gpus: &[Destination], from: usize, to: usize) -> BoxFuture<'static, Answered> {
        let (shared, limit, receiver) = (Arc::clone(self.shared), self.limit, gpus[to].clone());
        let copy = self.copies.get(&gpus[from].gpu_id).cloned();
        Box::pin(async move {
            let started = Instant::now();
            let ordered = async {
                let copy = copy.ok_or("the copy is not known any more")?;
                shared.order(&receiver, copy, limit).await
            };
            let outcome = tokio::time::timeout(limit, ordered).await;
            let outcome = outcome.unwrap_or_else(|_| Err(format!("it did not answer within {} ms", limit.as_millis())));
            Answered { from, to, took: started.elapsed(), outcome }
        })
    }

    fn heard(&mut self, gpus: &[Destination], answered: Answered, standing: &mut Standing) {
        let Answered { from, to, took, outcome } = answered;
        standing.going.retain(|sending| sending.to != to);
        let (sender, receiver) = (&gpus[from].gpu_id, &gpus[to].gpu_id);
        match outcome {
            Ok(copy) => {
                standing.have.insert(to);
                self.copies.insert(receiver.clone(), copy);
                self.outcomes.insert(receiver.clone(), Ok(Copied { from: sender.clone(), took }));
            }
            Err(reason) => {
                standing.failed.insert((from, to));
                let tried = self.tried.entry(receiver.clone()).or_default();
                tried.push(format!("from {sender}: {reason}"));
                if tried.len() < TRIES {
                    standing.lack.insert(to);
                }
            }
        }
    }

    /// How much of all copies has come: what GPUs of other processes are at is known when they have it.
    fn moving(&self, gpus: &[Destination], standing: &Standing) -> Option<Moving> {
        let TensorRecord { name, version, bytes, .. } = self.copies.values().next()?;
        let is_made = |gpu_id: &&GpuId| matches!(self.outcomes.get(*gpu_id), Some(Ok(_)));
        let made = self.wanted.iter().filter(is_made).count() as u64;
        let came_to = |sending: &Sending| {
            let to = &gpus[sending.to];
            here::find(&to.incarnation, &to.gpu_id)?.flights.came(name, *version)
        };
        let on_their_way: u64 = standing.going.iter().filter_map(came_to).sum();
        let (done_bytes, bytes) =
            (made.saturating_mul(*bytes).saturating_add(on_their_way), bytes.saturating_mul(self.wanted.len() as u64));
        Some(Moving { name: name.clone(), from: None, done_bytes, bytes })
    }

    fn outcomes(mut self) -> Vec<CopiedTo> {
        let failed = |tried: Option<Vec<String>>| match tried {
            Some(tried) => Err(tried.join("\n")),
            None => Err("there was no copy that it could read".to_owned()),
        };
        let outcome = |gpu_id: GpuId| {
            let outcome = self.outcomes.remove(&gpu_id).unwrap_or_else(|| failed(self.tried.remove(&gpu_id)));
            CopiedTo { gpu_id, outcome }
        };
        self.wanted.into_iter().map(outcome).collect()
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
