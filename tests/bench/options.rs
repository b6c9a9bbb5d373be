//! What to measure, from the command line.

use std::{collections::BTreeSet, time::Duration};

/// Printed for `--help` and after a mistake.
pub(crate) const USAGE: &str = "\
usage: bench [--only a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r] [--quick]
  a, b  a bare request-reply echo beside the fleet's echo, 256 in flight and one at a time, with the processor time of
        each side's processes and the fleet's Redis commands a task (always both: they are rounds of one comparison)
  c     claims per second, and what a claim costs Redis at 8, 64 and 1,000 GPUs
  d     throughput of 1, 2, 4 and 8 GPUs
  e     latency under Poisson arrivals at 70 % load, beside the ideal queue
  f     8 worker processes of one slot and tasks of 20 ms beside 8 bare consumers: closed loop, and Poisson arrivals at 70 % load
  g     8 worker processes at rest: processor time, wake-ups, Redis commands, memory; and the time from a start to the first reply
  h     small calls to the store alone, and while 50 clients of the same process read kept replies of 8 MiB; the same over one connection
  i     batches of 1 to 512 items over 1 to 8 GPUs, one of them slower, and single tasks beside batches
  j     run batches of up to 16 tasks beside tasks that run one by one, and under Poisson arrivals at 70 % load beside the ideal queue
  k     10,000 tasks in one request to a gateway, beside our own producer that submits as many
  l     1 MB of raw bytes there and back, beside the same bytes through a pair of pipes
  m     4 models on 4 GPUs that hold 2 each: how often a task finds its model loaded, by task_specific and by least_loaded
  n     texts of predict that are generated together, 8 in flight, beside the same texts one by one
  o     echo by a handler in Python beside the built-in echo, 256 in flight; and 1 MB of raw bytes there and back through a handler alone, one at
        a time and 4 at once, beside the same bytes through a pair of pipes
  p     embed through the fleet, 1, 8 and 64 texts in flight, beside the same executor called in a loop
  q     tensors: copies over simulated links beside what the links can do, a broadcast beside its tree, a pipeline over 4 GPUs beside the same work that
        moves nothing, the ways between two processes beside a plain copy through shared memory, and a chain of tasks on a kept tensor beside sending it
  r     what the journal costs: echo and simulate under backlog with journal.steps_max 0 and with its default, the Redis commands of a task on both sides,
        and the bytes of a step in Redis
  --quick  fewer and shorter rounds: shows that everything works, measures little";

/// A part of the bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Echo,
    Claims,
    Scaling,
    Latency,
    Processes,
    Rest,
    LargeReplies,
    Batches,
    RunBatches,
    Bulk,
    RawBytes,
    Models,
    Predict,
    Handlers,
    Embed,
    Data,
    Journal,
}

const ALL: [Part; 17] = [
    Part::Echo,
    Part::Claims,
    Part::Scaling,
    Part::Latency,
    Part::Processes,
    Part::Rest,
    Part::LargeReplies,
    Part::Batches,
    Part::RunBatches,
    Part::Bulk,
    Part::RawBytes,
    Part::Models,
    Part::Predict,
    Part::Handlers,
    Part::Embed,
    Part::Data,
    Part::Journal,
];

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) parts: BTreeSet<Part>,
    pub(crate) pace: Pace,
}

/// How long and how often is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Rounds of every comparison.
    pub(crate) rounds: usize,
    /// One sample of a throughput.
    pub(crate) sample: Duration,
    /// One sample of a latency with one task in flight.
    pub(crate) single: Duration,
    /// Claims of one sample.
    pub(crate) claims: usize,
    /// One sample of the scaling.
    pub(crate) scaling: Duration,
    /// Runs with Poisson arrivals.
    pub(crate) arrival_runs: u64,
    /// One run with Poisson arrivals.
    pub(crate) arrivals: Duration,
    /// How long workers at rest are looked at.
    pub(crate) rest: Duration,
    /// Rounds of small calls beside large replies.
    pub(crate) large_reply_rounds: usize,
    /// One sample of them.
    pub(crate) large_replies: Duration,
    /// Tasks of one bulk request.
    pub(crate) bulk: usize,
}

impl Pace {
    const FULL: Self = Self {
        rounds: 5,
        sample: Duration::from_millis(2_000),
        single: Duration::from_millis(1_000),
        claims: 2_000,
        scaling: Duration::from_millis(2_500),
        arrival_runs: 3,
        arrivals: Duration::from_secs(15),
        rest: Duration::from_secs(10),
        large_reply_rounds: 2,
        large_replies: Duration::from_secs(5),
        bulk: 10_000,
    };
    const QUICK: Self = Self {
        rounds: 2,
        sample: Duration::from_millis(500),
        single: Duration::from_millis(300),
        claims: 500,
        scaling: Duration::from_millis(700),
        arrival_runs: 1,
        arrivals: Duration::from_secs(3),
        rest: Duration::from_secs(3),
        large_reply_rounds: 1,
        large_replies: Duration::from_secs(1),
        bulk: 2_000,
    };
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// The usage, with what was wrong before it.
pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { parts: ALL.into(), pace: Pace::FULL };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => options.pace = Pace::QUICK,
            "--only" => options.parts = parts(&arguments.next().unwrap_or_default())?,
            "--help" | "-h" => return Err(USAGE.to_owned()),
            unknown => return Err(format!("no such argument: {unknown}\n{USAGE}")),
        }
    }
    Ok(options)
}

fn parts(letters: &str) -> Result<BTreeSet<Part>, String> {
    letters
        .split(',')
        .map(|letter| match letter.trim() {
            "a" | "b" => Ok(Part::Echo),
            "c" => Ok(Part::Claims),
            "d" => Ok(Part::Scaling),
            "e" => Ok(Part::Latency),
            "f" => Ok(Part::Processes),
            "g" => Ok(Part::Rest),
            "h" => Ok(Part::LargeReplies),
            "i" => Ok(Part::Batches),
            "j" => Ok(Part::RunBatches),
            "k" => Ok(Part::Bulk),
            "l" => Ok(Part::RawBytes),
            "m" => Ok(Part::Models),
            "n" => Ok(Part::Predict),
            "o" => Ok(Part::Handlers),
            "p" => Ok(Part::Embed),
            "q" => Ok(Part::Data),
            "r" => Ok(Part::Journal),
            unknown => Err(format!("no such part: {unknown:?}\n{USAGE}")),
        })
        .collect()
}
