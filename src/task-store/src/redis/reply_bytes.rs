//! The bound on all kept replies and results of slices together: an estimate, kept off the hot path. The last quarter is for results: they are working data, without which no batch can end.
//!
//! Each client counts what it keeps, adds it to counts in Redis about every second, and gets the fleet's sum back. Between two exchanges it goes by
//! the last sum and its own count, so the bound can be exceeded by what the other clients keep within a second.
//!
//! Replies leave the sum by their age. Results of slices are kept as long as an outcome, but most are gone within seconds: they are taken out of the count to which they were added
//! ([`ResultBytes`]) when their batch is merged, and leave it by their age only where nobody told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis_link::Item;
use tokio::{
    sync::Mutex,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{calls::Calls, result_bytes::ResultBytes};
use crate::{StoreError, StoreOptions, Totals, slices::RESULT_BYTES_ALWAYS_KEPT};

/// How often counts are exchanged while there is something to add.
const EXCHANGE_EVERY: Duration = Duration::from_secs(1);
/// Into how many buckets the retention is cut.
const BUCKETS: u64 = 60;
/// The narrowest bucket, in ms.
const BUCKET_MS_MIN: u64 = 1_000;

/// How wide a bucket is, in ms, where what is kept leaves after `retention_ms`.
fn bucket_ms(retention_ms: u64) -> u64 {
    (retention_ms / BUCKETS).max(BUCKET_MS_MIN)
}

/// What this client kept, and what it knows of the others.
#[derive(Debug)]
pub struct ReplyBytes {
    calls: Calls,
    /// The counts of replies, and of results.
    keys: [String; 2],
    options: StoreOptions,
    /// Added to the server's time, in ms: 0 except in tests.
    offset_ms: Arc<AtomicU64>,
    pending_bytes: AtomicU64,
    pending_not_kept: AtomicU64,
    results: ResultBytes,
    /// Results found no room since the last exchange: whether others have made some is worth asking.
    results_refused: AtomicBool,
    /// The fleet's sum at the last exchange.
    fleet_bytes: AtomicU64,
    /// Held during an exchange, so that nothing pending is added twice.
    exchanging: Mutex<()>,
}

impl ReplyBytes {
    pub fn new(calls: Calls, keys: [String; 2], options: StoreOptions, offset_ms: Arc<AtomicU64>) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            calls,
            keys,
            options,
            offset_ms,
            pending_bytes: zero(),
            pending_not_kept: zero(),
            results: ResultBytes::new(bucket_ms(options.outcome_retention_ms())),
            results_refused: AtomicBool::new(false),
            fleet_bytes: zero(),
            exchanging: Mutex::new(()),
        }
    }

    /// Whether a reply of this size may be kept.
    pub fn admits(&self, bytes: u64) -> bool {
        self.with(bytes) <= self.options.bytes_with_replies_max()
    }

    /// Whether the results of a slice of this size may be kept.
    pub fn admits_results(&self, bytes: u64) -> bool {
        bytes <= RESULT_BYTES_ALWAYS_KEPT || self.with(bytes) <= self.options.reply_bytes_max
    }

    /// What is kept, as far as this client knows, and so many bytes more.
    fn with(&self, bytes: u64) -> u64 {
        let kept = self.fleet_bytes.load(Relaxed).saturating_add(self.pending_bytes.load(Relaxed));
        kept.saturating_add(self.results.pending()).saturating_add(bytes)
    }

    /// Counts results that were written then, in Unix ms of the server's clock.
    pub fn results_kept(&self, written_ms: u64, bytes: u64) {
        self.results.kept(written_ms, bytes);
    }

    /// Results found no room.
    pub fn results_refused(&self) {
        self.results_refused.store(true, Relaxed);
    }

    /// Counts results that are gone: when each were written, and their bytes.
    pub fn results_gone(&self, gone: &[(u64, u64)]) {
        gone.iter().for_each(|(written_ms, bytes)| self.results.gone(*written_ms, *bytes));
    }

    /// Counts a reply that was recorded with its body.
    pub fn kept(&self, bytes: u64) {
        self.pending_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts a reply that was recorded without its body.
    pub fn not_kept(&self) {
        self.pending_not_kept.fetch_add(1, Relaxed);
    }

    /// Adds what is pending to the fleet's counts. After an error it stays pending, but for what is gone.
    pub async fn exchange(&self) -> Result<Totals, StoreError> {
        let _one_at_a_time = self.exchanging.lock().await;
        let (bytes, not_kept) = (self.pending_bytes.load(Relaxed), self.pending_not_kept.load(Relaxed));
        // On an error it may have been added all the same: then it is counted twice until its bucket leaves the sum. An estimate may err upwards.
        let results = self.results.take_changes();
        let changes = results.changes();
        self.results_refused.store(false, Relaxed);
        let (totals, results_total) = tokio::join!(self.add_replies(bytes, not_kept), self.add_results(&changes));
        let (totals, results_total) = (totals?, results_total?);
        let totals = Totals { reply_bytes: totals.reply_bytes.saturating_add(results_total.reply_bytes), ..totals };
        // In this order: between the two steps the count is too high, never too low.
        self.fleet_bytes.store(totals.reply_bytes, Relaxed);
        self.pending_bytes.fetch_sub(bytes, Relaxed);
        self.pending_not_kept.fetch_sub(not_kept, Relaxed);
        self.results.told(&results);
        Ok(totals)
    }

    async fn add_replies(&self, bytes: u64, not_kept: u64) -> Result<Totals, StoreError> {
        self.add(&self.keys[0], [self.options.reply_retention_ms(), bytes, not_kept], &[]).await
    }

    async fn add_results(&self, changes: &[(u64, i128)]) -> Result<Totals, StoreError> {
        self.add(&self.keys[1], [self.options.outcome_retention_ms(), 0, 0], changes).await
    }

    async fn add(&self, key: &str, [retention_ms, bytes, not_kept]: [u64; 3], changes: &[(u64, i128)]) -> Result<Totals, StoreError> {
        let numbers = [self.offset_ms.load(Relaxed), retention_ms, bucket_ms(retention_ms), bytes, not_kept];
        let mut arguments = numbers.map(|number| number.to_string().into_bytes()).to_vec();
        for (bucket, change) in changes {
            arguments.extend([bucket.to_string().into_bytes(), change.to_string().into_bytes()]);
        }
        let item = Item { function: "reply_bytes", keys: vec![key.to_owned()], arguments };
        let answer = self.calls.run("count kept replies", item).await?;
        Ok(Totals { reply_bytes: answer.required(0)?, replies_not_kept: answer.required(1)? })
    }

    fn is_pending(&self) -> bool {
        let results = self.results.is_pending() || self.results_refused.load(Relaxed);
        results || self.pending_bytes.load(Relaxed) > 0 || self.pending_not_kept.load(Relaxed) > 0
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
