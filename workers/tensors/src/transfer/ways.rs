//! What a GPU knows of the ways from other GPUs to it: what they carried, and which are left out for a while.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use protocol::{DataState, GpuId, TransferWay, WayView};
use tokio::time::Instant;

/// Copies of fewer bytes tell more of latency than of bandwidth.
const MEASURED_BYTES_MIN: u64 = 1_000_000;
/// How much the latest copy counts in the bandwidth.
const LATEST: f64 = 0.3;
/// A way that fails again and again is left out for at most so many times as long as at first.
const DEMOTION_FACTOR_MAX: u32 = 10;
/// Of how many ways it knows. Beyond them the one that was used longest ago is forgotten.
const KNOWN_MAX: usize = 512;

/// The ways to one GPU.
pub(crate) struct Ways {
    demotion: Duration,
    known: Mutex<BTreeMap<(GpuId, TransferWay), Known>>,
}

struct Known {
    gb_s: Option<f64>,
    failures: u32,
    demoted: Option<Demoted>,
    used: Instant,
}

#[derive(Clone)]
struct Demoted {
    until: Instant,
    reason: String,
}

impl Ways {
    /// With the time for which a way is left out after its first failure.
    pub(crate) const fn new(demotion: Duration) -> Self {
        Self { demotion, known: Mutex::new(BTreeMap::new()) }
    }

    /// Why a way is left out now. `None`: it is not.
    pub(crate) fn left_out(&self, from: &GpuId, way: TransferWay) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let demoted = known.get(&(from.clone(), way))?.demoted.as_ref()?;
        (demoted.until > Instant::now()).then(|| demoted.reason.clone())
    }

    /// It carried so much, and is not left out any more.
    pub(crate) fn carried(&self, from: &GpuId, way: TransferWay, bytes: u64, took: Duration) {
        self.change(from, way, |known| {
            known.failures = 0;
            known.demoted = None;
            if bytes >= MEASURED_BYTES_MIN && !took.is_zero() {
                let latest = bytes as f64 / 1e9 / took.as_secs_f64();
                known.gb_s = Some(known.gb_s.map_or(latest, |before| before + LATEST * (latest - before)));
            }
        });
    }

    /// It failed: it is left out, each time for twice as long.
    pub(crate) fn failed(&self, from: &GpuId, way: TransferWay, reason: String) {
        self.change(from, way, |known| {
            let factor = 1_u32.checked_shl(known.failures).unwrap_or(DEMOTION_FACTOR_MAX).min(DEMOTION_FACTOR_MAX);
            known.failures = known.failures.saturating_add(1);
            known.demoted = Some(Demoted { until: Instant::now() + self.demotion * factor, reason });
        });
    }

    /// The pair does not have it: it is left out for the longest time.
    pub(crate) fn unsupported(&self, from: &GpuId, way: TransferWay, reason: String) {
        self.change(from, way, |known| {
            known.demoted = Some(Demoted { until: Instant::now() + self.demotion * DEMOTION_FACTOR_MAX, reason });
        });
    }

    /// What the first of these ways that was measured, and is not left out, carried lately, in GB/s.
    pub(crate) fn gb_s(&self, from: &GpuId, ways: &[TransferWay]) -> Option<f64> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let open = ways.iter().filter_map(|way| known.get(&(from.clone(), *way)));
        open.filter(|known| known.demoted.as_ref().is_none_or(|demoted| demoted.until <= now)).find_map(|known| known.gb_s)
    }

    /// For the row: those that are left out first, then those that were used last.
    pub(crate) fn view(&self) -> Vec<WayView> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut ways: Vec<_> = known.iter().collect();
        ways.sort_by_key(|(_, known)| {
            let is_demoted = known.demoted.as_ref().is_some_and(|demoted| demoted.until > now);
            (!is_demoted, now.saturating_duration_since(known.used))
        });
        ways.truncate(DataState::WAYS_MAX);
        let mut views: Vec<_> = ways.into_iter().map(|((from, way), known)| known.view(from, *way, now)).collect();
        views.sort_by(|one, other| (&one.from, one.way).cmp(&(&other.from, other.way)));
        views
    }

    fn change(&self, from: &GpuId, way: TransferWay, change: impl FnOnce(&mut Known)) {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let key = (from.clone(), way);
        if !all.contains_key(&key)
            && all.len() >= KNOWN_MAX
            && let Some(oldest) = all.iter().min_by_key(|(_, known)| known.used).map(|(key, _)| key.clone())
        {
            all.remove(&oldest);
        }
        let known = all.entry(key).or_insert(Known { gb_s: None, failures: 0, demoted: None, used: now });
        known.used = now;
        change(known);
    }
}

impl Known {
    fn view(&self, from: &GpuId, way: TransferWay, now: Instant) -> WayView {
        let demoted = self.demoted.as_ref().filter(|demoted| demoted.until > now);
        WayView {
            from: from.clone(),
            way,
            gb_s: self.gb_s,
            demoted_for_ms: demoted.map(|demoted| u64::try_from((demoted.until - now).as_millis()).unwrap_or(u64::MAX)),
            reason: demoted.map_or_else(String::new, |demoted| demoted.reason.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const DEMOTION: Duration = Duration::from_secs(30);

    fn gpu(name: &str) -> GpuId {
        GpuId::new(name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_way_that_fails_is_left_out_twice_as_long_each_time_up_to_ten_times_and_a_success_clears_it() {
        let ways = Ways::new(DEMOTION);
        let from = gpu("a");
        for factor in [1, 2, 4, 8, 10, 10] {
            ways.failed(&from, TransferWay::Peer, "the link is down".to_owned());
            assert_eq!(ways.left_out(&from, TransferWay::Peer).as_deref(), Some("the link is down"));
            assert_eq!(ways.view()[0].demoted_for_ms, Some(30_000 * factor));
            advance(DEMOTION * u32::try_from(factor).unwrap()).await;
            assert_eq!(ways.left_out(&from, TransferWay::Peer), None);
        }
        assert_eq!(ways.left_out(&from, TransferWay::Staged), None);
        ways.failed(&from, TransferWay::Peer, "again".to_owned());
        ways.carried(&from, TransferWay::Peer, 1, Duration::from_millis(1));
        assert_eq!(ways.left_out(&from, TransferWay::Peer), None);
        ways.failed(&from, TransferWay::Peer, "anew".to_owned());
        assert_eq!(ways.view()[0].demoted_for_ms, Some(30_000), "it begins again");
    }

    #[tokio::test(start_paused = true)]
    async fn the_bandwidth_follows_large_copies_smoothly() {
        let ways = Ways::new(DEMOTION);
        let from = gpu("a");
        ways.carried(&from, TransferWay::Local, 999_999, Duration::from_millis(1));
        assert_eq!(ways.gb_s(&from, &TransferWay::ALL), None, "too small to tell");
        ways.carried(&from, TransferWay::Local, 10_000_000, Duration::from_millis(1));
        assert_eq!(ways.gb_s(&from, &TransferWay::ALL), Some(10.0));
        ways.carried(&from, TransferWay::Local, 20_000_000, Duration::from_millis(1));
        let gb_s = ways.gb_s(&from, &TransferWay::ALL).unwrap();
        assert!((gb_s - 13.0).abs() < 1e-9, "{gb_s}");
        ways.failed(&from, TransferWay::Local, "broken".to_owned());
        assert_eq!(ways.gb_s(&from, &TransferWay::ALL), None, "what is left out carries nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_tells_of_a_bounded_number_of_ways_and_of_those_that_are_left_out_for_certain() {
        let ways = Ways::new(DEMOTION);
        ways.failed(&gpu("broken"), TransferWay::Stream, "refused".to_owned());
        for number in 0..600 {
            advance(Duration::from_millis(1)).await;
            ways.carried(&gpu(&format!("g{number}")), TransferWay::Stream, 5, Duration::from_millis(1));
            if number % 100 == 0 {
                ways.failed(&gpu("broken"), TransferWay::Stream, "refused".to_owned());
            }
        }
        let view = ways.view();
        assert_eq!(view.len(), DataState::WAYS_MAX);
        assert!(view.iter().any(|way| way.from == gpu("broken") && way.reason == "refused"));
        assert!(ways.known.lock().unwrap().len() <= KNOWN_MAX);
    }
}
