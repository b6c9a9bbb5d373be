//! What a plane does by itself: the table hears of what went away and of what changed, what nobody uses goes, what was written anew elsewhere goes, and the numbers are kept.

use std::{sync::Arc, time::Duration};

use protocol::{TensorName, TensorPlace};
use tokio::time::Instant;

use super::{Shared, finding::version_meant, trial::is_of_trial};
use crate::{DirectoryError, StoreCounts, metrics::Held};

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(2);
/// Between two looks for newer versions elsewhere.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How many names one look asks for.
const LOOK_AT: usize = 100;
/// Of how many copies that went away it knows while the table is not to be told; the rest is found out by those who ask for them.
const UNTOLD_MAX: usize = 10_000;

struct Duties {
    shared: Arc<Shared>,
    counted: StoreCounts,
    look_at: Instant,
    /// The last name that was looked at.
    looked_to: Option<TensorName>,
}

/// Until the plane's end.
pub(crate) async fn run(shared: Arc<Shared>) {
    let ended = shared.ended.clone();
    let mut duties = Duties { shared, counted: StoreCounts::default(), look_at: Instant::now() + LOOK_EVERY, looked_to: None };
    ended.run_until_cancelled(duties.rounds()).await;
    duties.shared.metrics.forget(&duties.shared.gpu_id);
}

impl Duties {
    async fn rounds(&mut self) {
        loop {
            self.tidy().await;
            self.tell_changes().await;
            self.count();
            if Instant::now() >= self.look_at {
                self.look_at = Instant::now() + LOOK_EVERY;
                if let Err(error) = self.free_superseded().await {
                    tracing::debug!(%error, "newer versions will be looked for again");
                }
            }
            tokio::select! {
                biased;
                () = self.shared.due.notified() => {}
                () = self.next_round() => {}
            }
        }
    }

    /// Where there is nothing, there is nothing to do either.
    async fn next_round(&self) {
        if !self.shared.is_untold() {
            self.shared.store.until_any().await;
        }
        tokio::time::sleep(EVERY).await;
    }

    /// Tells the table of what went away.
    async fn tidy(&self) {
        let store = &self.shared.store;
        let mut untold = self.shared.take_untold();
        untold.extend(store.sweep());
        untold.extend(store.gone());
        untold.sort();
        untold.dedup();
        // What came back meanwhile is there.
        untold.retain(|(name, version)| store.look(name).is_none_or(|stored| stored.about.version != *version));
        untold.truncate(UNTOLD_MAX);
        if untold.is_empty() {
            return;
        }
        match self.shared.withdraw(&untold).await {
            // One that came back while the table was told may have been taken out by this. It is told anew.
            Ok(()) => self.shared.told.forget(untold.into_iter().map(|(name, _)| name)),
            Err(error) => {
                tracing::debug!(%error, copies = untold.len(), "the table will be told again of what is gone");
                self.shared.put_back_untold(untold);
            }
        }
    }

    /// Tells the table where copies lie now, and that they were used.
    async fn tell_changes(&self) {
        let changed = self.shared.told.changed(self.shared.store.list()).into_iter().filter(|stored| !is_of_trial(&stored.about.name));
        let records: Vec<_> = changed.map(|stored| self.shared.record(&stored.about, stored.place, stored.last_used_ms)).collect();
        if !records.is_empty()
            && let Err(error) = self.shared.announce(&records).await
        {
            tracing::debug!(%error, copies = records.len(), "the table will be told again of what changed");
        }
    }

    fn count(&mut self) {
        let Shared { store, metrics, gpu_id, .. } = &*self.shared;
        let (mut on_gpu, mut on_host) = (Held::default(), Held::default());
        for stored in store.list() {
            match stored.place {
                TensorPlace::Gpu => on_gpu.tensors += 1,
                TensorPlace::Host => on_host.tensors += 1,
            }
        }
        (on_gpu.bytes, on_host.bytes) = store.bytes();
        metrics.holds(gpu_id, TensorPlace::Gpu, on_gpu);
        metrics.holds(gpu_id, TensorPlace::Host, on_host);
        let counts = store.counts();
        metrics.evicted(gpu_id, self.counted, counts);
        self.counted = counts;
    }

    /// Lets go of copies whose name was written again elsewhere.
    async fn free_superseded(&mut self) -> Result<(), DirectoryError> {
        let shared = Arc::clone(&self.shared);
        let mut here: Vec<_> = shared.store.list().into_iter().map(|stored| (stored.about.name, stored.about.version)).collect();
        here.sort();
        let begin = self.looked_to.as_ref().map_or(0, |last| here.partition_point(|(name, _)| name <= last));
        let begin = if begin >= here.len() { 0 } else { begin };
        let looked: Vec<_> = here.into_iter().skip(begin).take(LOOK_AT).collect();
        self.looked_to = looked.last().map(|(name, _)| name.clone());
        if looked.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = looked.iter().map(|(name, _)| name.clone()).collect();
        let found = shared.ask(&names).await?;
        for (name, version) in looked {
            let latest = version_meant(&protocol::TensorRef::latest(name.clone()), &found);
            if let Some(latest) = latest.filter(|latest| *latest > version)
                && shared.store.free(&name, Some(version)).is_some()
            {
                tracing::debug!(tensor = %name, version, latest, "a newer version is elsewhere");
                self.shared.tell_later([(name, version)]);
            }
        }
        Ok(())
    }
}
