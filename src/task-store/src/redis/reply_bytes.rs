//! The bound on all kept replies together: an estimate, kept off the hot path.
//!
//! Each client counts what it keeps, adds it to counts in Redis about every second, and gets the fleet's sum back. Between two exchanges it goes by
//! the last sum and its own count, so the bound can be exceeded by what the other clients keep within a second.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis_link::Item;
use tokio::{
    sync::Mutex,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::calls::Calls;
use crate::{StoreError, StoreOptions, Totals};

/// How often counts are exchanged while there is something to add.
const EXCHANGE_EVERY: Duration = Duration::from_secs(1);
/// Into how many buckets the retention is cut.
const BUCKETS: u64 = 60;
/// The narrowest bucket, in ms.
const BUCKET_MS_MIN: u64 = 1_000;

/// What this client kept, and what it knows of the others.
#[derive(Debug)]
pub struct ReplyBytes {
    calls: Calls,
    key: String,
    options: StoreOptions,
    /// Added to the server's time, in ms: 0 except in tests.
    offset_ms: Arc<AtomicU64>,
    pending_bytes: AtomicU64,
    pending_not_kept: AtomicU64,
    /// The fleet's sum at the last exchange.
    fleet_bytes: AtomicU64,
    /// Held during an exchange, so that nothing pending is added twice.
    exchanging: Mutex<()>,
}

impl ReplyBytes {
    pub fn new(calls: Calls, key: String, options: StoreOptions, offset_ms: Arc<AtomicU64>) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            calls,
            key,
            options,
            offset_ms,
            pending_bytes: zero(),
            pending_not_kept: zero(),
            fleet_bytes: zero(),
            exchanging: Mutex::new(()),
        }
    }

    /// Whether a reply of this size may be kept.
    pub fn admits(&self, bytes: u64) -> bool {
        let kept = self.fleet_bytes.load(Relaxed).saturating_add(self.pending_bytes.load(Relaxed));
        kept.saturating_add(bytes) <= self.options.reply_bytes_max
    }

    /// Counts a reply that was recorded with its body.
    pub fn kept(&self, bytes: u64) {
        self.pending_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts a reply that was recorded without its body.
    pub fn not_kept(&self) {
        self.pending_not_kept.fetch_add(1, Relaxed);
    }

    /// Adds what is pending to the fleet's counts. After an error it stays pending.
    pub async fn exchange(&self) -> Result<Totals, StoreError> {
        let _one_at_a_time = self.exchanging.lock().await;
        let (bytes, not_kept) = (self.pending_bytes.load(Relaxed), self.pending_not_kept.load(Relaxed));
        // On an error it may have been added all the same: then it is counted twice until its bucket leaves the sum. An estimate may err upwards.
        let totals = self.add(bytes, not_kept).await?;
        // In this order: between the two steps the count is too high, never too low.
        self.fleet_bytes.store(totals.reply_bytes, Relaxed);
        self.pending_bytes.fetch_sub(bytes, Relaxed);
        self.pending_not_kept.fetch_sub(not_kept, Relaxed);
        Ok(totals)
    }

    async fn add(&self, bytes: u64, not_kept: u64) -> Result<Totals, StoreError> {
        let retention_ms = self.options.reply_retention_ms();
        let arguments = [self.offset_ms.load(Relaxed), retention_ms, (retention_ms / BUCKETS).max(BUCKET_MS_MIN), bytes, not_kept];
        let arguments = arguments.map(|number| number.to_string().into_bytes()).to_vec();
        let item = Item { function: "reply_bytes", keys: vec![self.key.clone()], arguments };
        let answer = self.calls.run("count kept replies", item).await?;
        Ok(Totals { reply_bytes: answer.required(0)?, replies_not_kept: answer.required(1)? })
    }

    fn is_pending(&self) -> bool {
        self.pending_bytes.load(Relaxed) > 0 || self.pending_not_kept.load(Relaxed) > 0
    }

    /// Exchanges counts about every second while there is something to add, until the handle is aborted.
    pub fn exchange_regularly(self: Arc<Self>) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut tick = interval(EXCHANGE_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                if self.is_pending()
                    && let Err(error) = self.exchange().await
                {
                    tracing::debug!(%error, "kept replies were not counted; they will be at the next exchange");
                }
            }
        })
    }
}
