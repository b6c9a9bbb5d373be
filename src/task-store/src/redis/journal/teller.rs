//! What this process tells of tasks, on its way to the server: gathered for a moment, packed, and sent by a job that lives only while there is something to send.
//!
//! A step that nobody tells costs nothing: there is no timer. While the server is away the job tries again with growing pauses; what is told meanwhile waits up to a bound, beyond which
//! the oldest steps are lost, and counted.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis_link::Item;
use tokio::{sync::Notify, time::timeout};

use super::super::calls::Calls;
use crate::JournalBounds;

/// How long steps gather before they go.
const GATHER: Duration = Duration::from_millis(100);
/// As soon as so many have gathered, they go.
const MANY: usize = 200;
/// How many wait at most; then the oldest make way.
const WAITING_MAX: usize = 10_000;
/// Most steps of one call: what gathered while the server was away goes in several.
const CALL_MAX: usize = 2_000;
/// Most bytes of one call, unless its only step has more.
const CALL_BYTES_MAX: usize = 512 << 10;
/// Most steps of one entry, which is read and forgotten as a whole.
const ENTRY_MAX: u64 = 200;
/// The pause after the first try that failed; it doubles with each, up to the longest.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a process that ends waits for its last steps at most.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// See the module's text.
#[derive(Debug)]
pub struct Teller {
    calls: Calls,
    /// Those of `tell`.
    keys: [String; 3],
    bounds: JournalBounds,
    /// Added to the server's time, in ms: 0 except in tests.
    offset_ms: Arc<AtomicU64>,
    /// The first part of the names of its packets, which no other teller has.
    name: String,
    waiting: Mutex<Waiting>,
    lost: AtomicU64,
    /// The server did not take the last packet: said in the log once.
    away: AtomicBool,
    /// Wakes the job before its time.
    hurry: Notify,
    /// A packet has arrived, or a try has failed.
    changed: Notify,
}

/// Steps that wait, and how far the job is.
#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    /// Whether there is a job.
    at_work: bool,
    /// The store is gone: what waits gets one more try.
    closed: bool,
    /// How many steps were told so far, and how many of them have arrived or are lost.
    told: u64,
    done: u64,
    /// How many tries failed.
    failed: u64,
    /// How many packets were made.
    packets: u64,
}

/// Steps that go together. Tried again under the same name, so that the server takes them once.
struct Packet {
    name: String,
    lines: Vec<Vec<u8>>,
}

impl Teller {
    pub fn new(calls: Calls, keys: [String; 3], bounds: JournalBounds, offset_ms: Arc<AtomicU64>) -> Self {
        // The hasher is seeded at random.
        let name = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let (waiting, lost, away) = (Mutex::default(), AtomicU64::new(0), AtomicBool::new(false));
        Self { calls, keys, bounds, offset_ms, name, waiting, lost, away, hurry: Notify::new(), changed: Notify::new() }
    }

    /// How many steps were lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Takes a step to tell. Needs a tokio runtime.
    pub fn tell(self: &Arc<Self>, line: Vec<u8>) {
        let (idle, many) = {
            let mut waiting = self.lock();
            waiting.told += 1;
            if waiting.lines.len() >= WAITING_MAX {
                waiting.lines.pop_front();
                self.lose(&mut waiting, 1);
            }
            waiting.lines.push_back(line);
            (!std::mem::replace(&mut waiting.at_work, true), waiting.lines.len() == MANY)
        };
        // Not under the lock: a runtime that is shutting down drops the job here.
        if idle {
            tokio::spawn(Job { teller: Arc::clone(self), ended: false }.run());
        }
        if many {
            self.hurry.notify_one();
        }
    }

    /// Waits until what was told before has arrived, a try has failed, or the time for it is over.
    pub async fn flush(&self) {
        let (told, failed) = {
            let waiting = self.lock();
            (waiting.told, waiting.failed)
        };
        let arriving = async {
            loop {
                let mut changed = pin!(self.changed.notified());
                changed.as_mut().enable();
                if self.is_settled(told, failed) {
                    return;
                }
                self.hurry.notify_one();
                changed.await;
            }
        };
        let _late = timeout(FLUSH_LIMIT, arriving).await;
    }

    /// Whether so many steps have arrived or are lost, or a try has failed beyond those.
    fn is_settled(&self, told: u64, failed: u64) -> bool {
        let waiting = self.lock();
        waiting.done >= told || waiting.failed > failed
    }

    /// The store is dropped: what waits goes now, or is lost.
    pub fn close(&self) {
        self.lock().closed = true;
        self.hurry.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, waiting: &mut Waiting, steps: u64) {
        self.lost.fetch_add(steps, Relaxed);
        waiting.done += steps;
    }

    /// How many steps an entry has at most: a tenth of the bound, so that no single one exceeds it.
    fn entry_max(&self) -> usize {
        usize::try_from((self.bounds.steps_max / 10).clamp(1, ENTRY_MAX)).unwrap_or(1)
    }

    /// The operation that brings a packet to the server.
    fn item(&self, packet: &Packet) -> Item {
        let numbers = [self.offset_ms.load(Relaxed), self.bounds.steps_max, self.bounds.age_max_ms()];
        let mut arguments = numbers.map(|number| number.to_string().into_bytes()).to_vec();
        arguments.push(packet.name.clone().into_bytes());
        for lines in packet.lines.chunks(self.entry_max()) {
            arguments.extend([lines.len().to_string().into_bytes(), lines.join(&b'\n')]);
        }
        Item { function: "journal/tell", keys: self.keys.to_vec(), arguments }
    }
}

/// Sends what waits until nothing does. There is at most one at a time.
struct Job {
    teller: Arc<Teller>,
    ended: bool,
}

impl Job {
    async fn run(mut self) {
        while self.has_more() {
            self.gather().await;
            if let Some(packet) = self.next_packet() {
                self.deliver(packet).await;
            }
        }
    }

    /// Whether anything waits. If not, the job is at its end.
    fn has_more(&mut self) -> bool {
        let mut waiting = self.teller.lock();
        let has_more = !waiting.lines.is_empty();
        if !has_more {
            waiting.at_work = false;
        }
        drop(waiting);
        self.ended = !has_more;
        has_more
    }

    /// Lets more steps come, unless there are many.
    async fn gather(&self) {
        let goes_now = {
            let waiting = self.teller.lock();
            waiting.closed || waiting.lines.len() >= MANY
        };
        if !goes_now {
            let _woken = timeout(GATHER, self.teller.hurry.notified()).await;
        }
    }

    fn next_packet(&self) -> Option<Packet> {
        let mut waiting = self.teller.lock();
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while lines.len() < CALL_MAX
            && let Some(next) = waiting.lines.front()
        {
            bytes += next.len() + 1;
            if bytes > CALL_BYTES_MAX && !lines.is_empty() {
                break;
            }
            lines.extend(waiting.lines.pop_front());
        }
        waiting.packets += 1;
        let name = format!("{}-{}", self.teller.name, waiting.packets);
        (!lines.is_empty()).then_some(Packet { name, lines })
    }

    /// Sends a packet until it has arrived, or until it has to make way for later steps.
    async fn deliver(&self, packet: Packet) {
        let (teller, steps) = (&*self.teller, packet.lines.len() as u64);
        let mut pause = PAUSE;
        loop {
            let error = match teller.calls.run("tell the steps of tasks", teller.item(&packet)).await {
                Ok(_) => {
                    self.arrived(steps);
                    return;
                }
                Err(error) => error,
            };
            if !teller.away.swap(true, Relaxed) {
                tracing::warn!(%error, "the journal of tasks is not written; its latest steps are kept until it is");
            }
            if self.gives_up(steps, error.is_transient()) {
                return;
            }
            let _woken = timeout(pause, teller.hurry.notified()).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn arrived(&self, steps: u64) {
        self.teller.lock().done += steps;
        self.teller.changed.notify_waiters();
        if self.teller.away.swap(false, Relaxed) {
            tracing::info!(steps_lost = self.teller.lost(), "the journal of tasks is written again");
        }
    }

    /// A try failed. Whether the packet is lost: nobody will ever take it, or it is the oldest of more steps than may wait.
    fn gives_up(&self, steps: u64, is_transient: bool) -> bool {
        let gives_up = {
            let mut waiting = self.teller.lock();
            waiting.failed += 1;
            let gives_up = !is_transient || waiting.closed || waiting.lines.len() >= WAITING_MAX;
            if gives_up {
                self.teller.lose(&mut waiting, steps);
            }
            gives_up
        };
        self.teller.changed.notify_waiters();
        gives_up
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Broken off by a runtime that shuts down. Once it has ended, another one may be at work already.
        if !self.ended {
            self.teller.lock().at_work = false;
        }
    }
}
