//! Clients of the gateway that keep streams open: half of them watch the whole fleet, the others follow a task each, and then the next.
//!
//! A stream that ends is opened again, as a browser does it. One on which nothing comes, not even a heartbeat, is a failure.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::load::Load;

/// Streams that are kept open.
pub(crate) const STREAMS: usize = 200;
/// Those that watch the whole fleet.
const LIVE: usize = STREAMS / 2;
/// Longest silence of a stream: many heartbeats.
const SILENCE: Duration = Duration::from_secs(90);
/// Before a stream is opened again.
const PAUSE: Duration = Duration::from_secs(1);
/// Between the first openings.
const BETWEEN_OPENINGS: Duration = Duration::from_millis(50);

/// How the event with the reply begins.
const REPLY: &[u8] = b"event: reply";

/// What the clients saw.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    open: AtomicI64,
    opened: AtomicU64,
    bytes: AtomicU64,
    /// Streams of tasks that had their task's reply in the end.
    followed: AtomicU64,
    silent: AtomicU64,
}

/// The same as numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched {
    pub(crate) open: i64,
    pub(crate) opened: u64,
    pub(crate) bytes: u64,
    pub(crate) followed: u64,
    pub(crate) silent: u64,
}

impl Watch {
    pub(crate) fn now(&self) -> Watched {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Watched {
            open: self.open.load(Ordering::Relaxed),
            opened: of(&self.opened),
            bytes: of(&self.bytes),
            followed: of(&self.followed),
            silent: of(&self.silent),
        }
    }
}

/// Keeps all streams open until it is stopped.
pub(crate) async fn keep_open(url: String, load: Arc<Load>, watch: Arc<Watch>, stop: CancellationToken) {
    let Ok(http) = reqwest::Client::builder().no_proxy().build() else { return };
    let mut clients = JoinSet::new();
    for number in 0..STREAMS {
        let client = Client { url: url.clone(), http: http.clone(), load: load.clone(), watch: watch.clone() };
        let stop = stop.clone();
        clients.spawn(async move {
            let watching = async {
                sleep(BETWEEN_OPENINGS * u32::try_from(number).unwrap_or(0)).await;
                if number < LIVE { client.watch_the_fleet().await } else { client.follow_tasks().await }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = watching => {}
            }
        });
    }
    while clients.join_next().await.is_some() {}
}

/// One client.
struct Client {
    url: String,
    http: reqwest::Client,
    load: Arc<Load>,
    watch: Arc<Watch>,
}

impl Client {
    async fn watch_the_fleet(&self) {
        loop {
            self.read(&format!("{}/api/v1/live", self.url)).await;
            sleep(PAUSE).await;
        }
    }

    async fn follow_tasks(&self) {
        loop {
            if let Some(task_id) = self.load.submit_to_follow().await {
                let had_the_reply = self.read(&format!("{}/api/v1/tasks/{task_id}/events", self.url)).await;
                self.watch.followed.fetch_add(u64::from(had_the_reply), Ordering::Relaxed);
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads a stream to its end; whether its last event was a reply.
    async fn read(&self, url: &str) -> bool {
        let Ok(Ok(mut answer)) = timeout(SILENCE, self.http.get(url).send()).await else { return false };
        if !answer.status().is_success() {
            return false;
        }
        self.watch.opened.fetch_add(1, Ordering::Relaxed);
        let _open = Open::count(&self.watch);
        let mut has_reply = false;
        loop {
            match timeout(SILENCE, answer.chunk()).await {
                Ok(Ok(Some(piece))) => {
                    self.watch.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
                    has_reply |= piece.windows(REPLY.len()).any(|text| text == REPLY);
                }
                // It ended, or whoever it came from did.
                Ok(Ok(None) | Err(_)) => return has_reply,
                Err(_) => {
                    self.watch.silent.fetch_add(1, Ordering::Relaxed);
                    return false;
                }
            }
        }
    }
}

/// Counts a stream while it is open, also where its client is dropped.
struct Open<'a>(&'a Watch);

impl<'a> Open<'a> {
    fn count(watch: &'a Watch) -> Self {
        watch.open.fetch_add(1, Ordering::Relaxed);
        Self(watch)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
