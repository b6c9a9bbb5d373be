//! Part h: how long a small call to the store takes alone, and while fifty clients of the same process read kept replies of 8 MiB.
//!
//! Beside it the same over one multiplexed connection for everything, where a small call waits for every large reply that was asked for before it.

use std::{ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use protocol::{BodyHash, DeliveryId, GpuId, Incarnation, Kind, Outcome, TaskId};
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, Script, aio::MultiplexedConnection, io::tcp::TcpSettings};
use serde::Serialize;
use task_store::{Begin, BeginRequest, Look, LookRequest, Record, RecordRequest, RedisStore, StoreOptions, Stored, TaskStore};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Fault,
    load::{open_loop, poisson},
    options::Pace,
    report::PartReport,
    servers::Servers,
    statistics::{Percentiles, Spread},
};

const READERS: usize = 50;
const REPLY_BYTES: usize = 8 << 20;
/// Small calls come at the moments of a Poisson process, however long the earlier ones take: a caller that waited for each answer would ask least often
/// where the wait is longest.
const CALLS_PER_SECOND: f64 = 200.0;
/// Longer than any wait here, so that a slow call is a figure and no failure.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Begins every key of this part.
const PREFIX: &str = "large-replies";
/// The yardstick's large value, and what a begin is in short: the record is read, and fields of it are written.
const KEPT: &str = "large-replies-yardstick:kept";
const READ_AND_WRITE: &str = "\
local record = redis.call('HGETALL', KEYS[1])
redis.call('HSET', KEYS[1], 'attempt', '1', 'gpu', ARGV[1])
return #record
";

/// How calls reach Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Side {
    Store,
    OneConnection,
}

/// One sample, its first sixth (connections and buffers warm up) left out.
#[derive(Debug, Serialize)]
struct Sample {
    round: usize,
    side: Side,
    readers: usize,
    small_calls: usize,
    wait_ms: Percentiles,
    wait_max_ms: f64,
    /// What all readers got, in 10^6 bytes.
    read_mb_per_second: f64,
}

/// The way of one side to the server, with a large reply that is kept there. Clones share its connections.
#[derive(Clone)]
enum Way {
    Store(Arc<RedisStore>),
    OneConnection { connection: MultiplexedConnection, read_and_write: Script },
}

pub(crate) async fn measure(servers: &Servers, pace: Pace) -> Result<PartReport, Fault> {
    let ways = [Way::store(servers).await?, Way::one_connection(servers).await?];
    let mut samples = Vec::new();
    for round in 0..pace.large_reply_rounds {
        for way in &ways {
            for readers in [0, READERS] {
                samples.push(sample(way, round, readers, pace.large_replies).await?);
            }
        }
    }
    report(&samples)
}

impl Way {
    async fn store(servers: &Servers) -> Result<Self, Fault> {
        let store = RedisStore::connect(&servers.redis(), PREFIX, StoreOptions::default(), TIMEOUT).await?;
        let ended = RecordRequest {
            task_id: ended_task()?,
            body_hash: body_hash(),
            kind: None,
            outcome: Outcome::Succeeded,
            attempt: 1,
            token: None,
            reply: Bytes::from(vec![b'x'; REPLY_BYTES]),
        };
        match store.record(&ended).await? {
            Record::Recorded => Ok(Self::Store(Arc::new(store))),
            _ => Err("the store did not take the reply that is to be read".into()),
        }
    }

    async fn one_connection(servers: &Servers) -> Result<Self, Fault> {
        // As the store's own connections are set up.
        let settings = TcpSettings::default().set_nodelay(true);
        let server = servers.redis().reveal().into_connection_info()?.set_tcp_settings(settings);
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(TIMEOUT)).set_response_timeout(Some(TIMEOUT));
        let mut connection = Client::open(server)?.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("SET").arg(KEPT).arg(vec![b'x'; REPLY_BYTES]).exec_async(&mut connection).await?;
        Ok(Self::OneConnection { connection, read_and_write: Script::new(READ_AND_WRITE) })
    }

    const fn side(&self) -> Side {
        match self {
            Self::Store(_) => Side::Store,
            Self::OneConnection { .. } => Side::OneConnection,
        }
    }

    /// A call of a few bytes on a task that nothing was written of before; how long it took.
    async fn small(self) -> Result<Duration, Fault> {
        let task = uuid::Uuid::new_v4().simple().to_string();
        let asked = Instant::now();
        match self {
            Self::Store(store) => begin(&store, task).await?,
            Self::OneConnection { mut connection, read_and_write } => {
                let mut invocation = read_and_write.prepare_invoke();
                invocation.key(format!("{PREFIX}-yardstick:{task}")).arg("sim-0");
                let _fields: usize = invocation.invoke_async(&mut connection).await?;
            }
        }
        Ok(asked.elapsed())
    }

    /// Reads the kept reply; its length.
    async fn large(&self) -> Result<usize, Fault> {
        match self {
            Self::Store(store) => match store.look(&looking()?).await? {
                Look::Ended(Stored { body: Some(body), .. }) => Ok(body.len()),
                _ => Err("the store does not have the reply that is to be read".into()),
            },
            Self::OneConnection { connection, .. } => {
                let kept: Vec<u8> = redis::cmd("GET").arg(KEPT).query_async(&mut connection.clone()).await?;
                Ok(kept.len())
            }
        }
    }
}

fn ended_task() -> Result<TaskId, Fault> {
    Ok(TaskId::new("ended")?)
}

fn looking() -> Result<LookRequest, Fault> {
    Ok(LookRequest { task_id: ended_task()?, body_hash: body_hash(), attempt: 1, published_s: None })
}

fn body_hash() -> BodyHash {
    BodyHash::of(b"{}")
}

async fn begin(store: &RedisStore, task: String) -> Result<(), Fault> {
    let request = BeginRequest {
        task_id: TaskId::new(task)?,
        body_hash: body_hash(),
        kind: Kind::new("echo")?,
        attempt: 1,
        gpu_id: GpuId::new("sim-0")?,
        incarnation: Incarnation::new("bench")?,
        delivery: DeliveryId(1),
        alone: false,
        verdict: None,
        crashes_max: 3,
        published_s: None,
    };
    match store.begin(&request).await? {
        Begin::Begun(_) => Ok(()),
        refused => Err(format!("a begin was answered {refused:?}").into()),
    }
}

async fn sample(way: &Way, round: usize, readers: usize, lasting: Duration) -> Result<Sample, Fault> {
    let warm_up = lasting / 5;
    let begins = Instant::now() + warm_up;
    let mut reading = JoinSet::new();
    for _ in 0..readers {
        reading.spawn(read(way.clone(), begins..begins + lasting));
    }
    let arrivals = poisson(round as u64, CALLS_PER_SECOND, warm_up + lasting);
    let answers = open_loop(&arrivals, || way.clone().small()).await?;
    let waits: Vec<Duration> = answers.into_iter().filter(|(asked, _)| *asked >= warm_up).map(|(_, wait)| wait).collect();
    let mut bytes = 0;
    while let Some(got) = reading.join_next().await {
        bytes += got??;
    }
    let longest = waits.iter().max().map_or(f64::NAN, |wait| wait.as_secs_f64() * 1e3);
    Ok(Sample {
        round,
        side: way.side(),
        readers,
        small_calls: waits.len(),
        wait_ms: Percentiles::of_times(waits),
        wait_max_ms: longest,
        read_mb_per_second: bytes as f64 / 1e6 / lasting.as_secs_f64(),
    })
}

/// Reads one reply after the other until `counted` is over; the bytes of those that came within it.
async fn read(way: Way, counted: Range<Instant>) -> Result<usize, Fault> {
    let mut bytes = 0;
    while Instant::now() < counted.end {
        let length = way.large().await?;
        if length != REPLY_BYTES {
            return Err(format!("a kept reply of {REPLY_BYTES} bytes came back with {length}").into());
        }
        if counted.contains(&Instant::now()) {
            bytes += length;
        }
    }
    Ok(bytes)
}

fn report(samples: &[Sample]) -> Result<PartReport, Fault> {
    let mut part = PartReport::new(format!("h: small calls to the store, alone and beside {READERS} clients that read replies of 8 MiB"));
    for (side, name) in [(Side::Store, "store"), (Side::OneConnection, "one connection")] {
        part.row(format!("{name}: alone, p50 / p95 / p99 / max in ms"), waits(of(samples, side, 0)));
        let got = Spread::of(of(samples, side, READERS).map(|sample| sample.read_mb_per_second));
        let beside = waits(of(samples, side, READERS));
        part.row(format!("{name}: beside the readers"), format!("{beside}; the readers got {got} MB/s"));
    }
    for (side, name) in [(Side::Store, "store"), (Side::OneConnection, "one connection")] {
        let ratio = paired(of(samples, side, READERS), of(samples, side, 0));
        part.ratio(format!("{name}: p99, beside the readers / alone"), ratio);
    }
    let both = paired(of(samples, Side::Store, READERS), of(samples, Side::OneConnection, READERS));
    part.ratio("beside the readers: p99, store / one connection", both);
    part.keep_raw(samples)?;
    Ok(part)
}

fn of(samples: &[Sample], side: Side, readers: usize) -> impl Iterator<Item = &Sample> {
    samples.iter().filter(move |sample| (sample.side, sample.readers) == (side, readers))
}

/// The medians of the rounds, and the longest wait of all.
fn waits<'a>(samples: impl Iterator<Item = &'a Sample>) -> String {
    let samples: Vec<&Sample> = samples.collect();
    let longest = Spread::of(samples.iter().map(|sample| sample.wait_max_ms)).max;
    format!("{} / {longest:.2}", Percentiles::medians(samples.iter().map(|sample| sample.wait_ms)))
}

/// How many times the p99 of the others each of these has, round by round.
fn paired<'a>(samples: impl Iterator<Item = &'a Sample>, others: impl Iterator<Item = &'a Sample>) -> Spread {
    Spread::of(samples.zip(others).map(|(sample, other)| sample.wait_ms.p99 / other.wait_ms.p99))
}
