//! How far bytes are that are brought somewhere, for those who want to know.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use protocol::{GpuId, TensorName};

/// So often who waits hears how far it is: what takes less time tells nothing.
pub(crate) const TELL_EVERY: Duration = Duration::from_millis(500);

/// How far a tensor is on its way, or several that become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moving {
    /// Its name.
    pub name: TensorName,
    /// The GPU that it is read from, where it is one.
    pub from: Option<GpuId>,
    /// How many bytes have come. After a try that failed it begins anew.
    pub done_bytes: u64,
    /// How many are to come in all.
    pub bytes: u64,
}

impl Moving {
    /// The share of the bytes that has come.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        if self.bytes == 0 { 1.0 } else { (self.done_bytes as f64 / self.bytes as f64).min(1.0) }
    }

    /// The same, in whole percent.
    #[must_use]
    pub fn percent(&self) -> u8 {
        (self.fraction() * 100.0) as u8
    }
}

/// Hears about twice a second how far it is. It must not wait for anything.
pub type TellMoving<'a> = &'a (dyn Fn(&Moving) + Send + Sync + 'a);

/// Where a transfer counts what has come. Nobody but those who wait for long looks at it.
#[derive(Debug, Default)]
pub(crate) struct SoFar {
    from: Mutex<Option<GpuId>>,
    came: Arc<AtomicU64>,
}

impl SoFar {
    /// It is read from this GPU from now on, from its beginning.
    pub(crate) fn begins(&self, from: &GpuId) {
        *self.from.lock().unwrap_or_else(PoisonError::into_inner) = Some(from.clone());
        self.came.store(0, Ordering::Relaxed);
    }

    /// Where its bytes are counted.
    pub(crate) const fn came(&self) -> &Arc<AtomicU64> {
        &self.came
    }

    pub(crate) fn moving(&self, name: &TensorName, bytes: u64) -> Moving {
        let from = self.from.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Moving { name: name.clone(), from, done_bytes: self.came.load(Ordering::Relaxed), bytes }
    }
}

/// Tells again and again how far it is, for as long as it is polled.
pub(crate) async fn telling(tell: Option<TellMoving<'_>>, moving: impl Fn() -> Moving) -> Infallible {
    let Some(tell) = tell else { return std::future::pending().await };
    loop {
        tokio::time::sleep(TELL_EVERY).await;
        tell(&moving());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doubles::name;

    #[test]
    fn a_share_is_told_in_whole_percent_and_never_more_than_all() {
        let percent = |done_bytes, bytes| Moving { name: name("x"), from: None, done_bytes, bytes }.percent();
        assert_eq!([percent(0, 8), percent(2, 5), percent(8, 8), percent(9, 8), percent(0, 0)], [0, 40, 100, 100, 100]);
    }
}
