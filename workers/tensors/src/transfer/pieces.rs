//! Copies go piece by piece: between two pieces one can see whether it goes on, and end it; and while one is copied, another is summed.

use std::{ops::Range, pin::pin, time::Duration};

use futures::{Stream, StreamExt, stream::FuturesUnordered};
use protocol::Checksum;

use super::TryFailure;

/// Pieces that are under way at once: one is summed, one is copied, and one waits for the link, so that the link never waits for it.
pub(super) const AT_ONCE: usize = 3;
/// Small enough that the sum of the last piece, which nothing goes on beside, does not show.
const COPIED_MIN: u64 = 4 << 20;
/// Large enough that what a device needs to begin a copy does not show, small enough that it can be ended.
const COPIED_MAX: u64 = 32 << 20;
/// In how many pieces a tensor is copied between the two.
const PIECES: u64 = 16;

/// The sums over what a source has, and over what arrived of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(super) sent: Checksum,
    pub(super) arrived: Checksum,
}

impl Sums {
    /// Those of a whole of which these and the others are pieces.
    pub(super) const fn with(self, other: Self) -> Self {
        Self { sent: self.sent.with(other.sent), arrived: self.arrived.with(other.arrived) }
    }

    /// These, if they are the same.
    ///
    /// # Errors
    /// [`TryFailure::Corrupted`].
    pub(super) fn agreed(self) -> Result<Self, TryFailure> {
        if self.sent == self.arrived { Ok(self) } else { Err(TryFailure::Corrupted) }
    }
}

/// The pieces of so many bytes, in order, each of at most `piece` bytes.
pub(crate) fn pieces(bytes: u64, piece: u64) -> impl Iterator<Item = Range<u64>> + Send {
    (0..bytes.div_ceil(piece)).map(move |number| number * piece..((number + 1) * piece).min(bytes))
}

/// Bytes of the pieces in which a device copies so many from another one.
pub(super) fn copied_at_once(bytes: u64) -> u64 {
    (bytes / PIECES).clamp(COPIED_MIN, COPIED_MAX).next_multiple_of(1 << 20)
}

/// Takes steps, at most so many at once, each begun in its order; what they come to all together. Where one fails no more are begun, and those under way are waited for: no copy goes on into memory that is to be used
/// again.
pub(super) async fn overlapped<F>(at_once: usize, steps: impl Stream<Item = Result<F, TryFailure>>) -> Result<Sums, TryFailure>
where
    F: Future<Output = Result<Sums, TryFailure>>,
{
    let mut steps = pin!(steps.fuse());
    let mut going = FuturesUnordered::new();
    let mut sums = Sums::default();
    let outcome = loop {
        tokio::select! {
            biased;
            Some(ended) = going.next() => match ended {
                Ok(of_piece) => sums = sums.with(of_piece),
                Err(failure) => break Err(failure),
            },
            Some(step) = steps.next(), if going.len() < at_once => match step {
                Ok(step) => going.push(step),
                Err(failure) => break Err(failure),
            },
            else => break Ok(sums),
        }
    };
    while going.next().await.is_some() {}
    outcome
}

/// What a step of a copy comes to, if it comes in time.
pub(crate) async fn in_time<T, E>(stall: Duration, step: impl Future<Output = Result<T, E>>) -> Result<T, TryFailure>
where
    TryFailure: From<E>,
{
    match tokio::time::timeout(stall, step).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(TryFailure::Stalled(stall)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::stream;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[test]
    fn pieces_cover_all_bytes_once() {
        let of = |bytes, piece| pieces(bytes, piece).collect::<Vec<_>>();
        assert_eq!(of(0, 4), []);
        assert_eq!(of(8, 4), [0..4, 4..8]);
        assert_eq!(of(9, 4), [0..4, 4..8, 8..9]);
    }

    #[test]
    fn the_last_piece_is_a_small_part_of_a_large_tensor() {
        for (bytes, piece) in [(0, 4 << 20), (64_000_000, 4 << 20), (256_000_000, 16 << 20), (1 << 40, 32 << 20)] {
            assert_eq!(copied_at_once(bytes), piece, "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn steps_overlap_and_where_one_fails_those_under_way_are_waited_for() {
        let ended = Cell::new(0);
        let step = async |number: u64| {
            sleep(Duration::from_secs(number)).await;
            ended.set(ended.get() + 1);
            if number == 2 { Err(TryFailure::Corrupted) } else { Ok(Sums { sent: Checksum(number), arrived: Checksum(1) }) }
        };
        let started = Instant::now();
        let all = overlapped(3, stream::iter([3, 3, 3, 3]).map(|number| Ok(step(number)))).await;
        assert_eq!(all, Ok(Sums { sent: Checksum(12), arrived: Checksum(4) }));
        assert_eq!(started.elapsed().as_secs(), 6);
        ended.set(0);
        assert_eq!(overlapped(3, stream::iter([2, 5, 4, 1]).map(|number| Ok(step(number)))).await, Err(TryFailure::Corrupted));
        assert_eq!((ended.get(), started.elapsed().as_secs()), (3, 11));
        assert_eq!(overlapped(3, stream::empty::<Result<std::future::Ready<_>, _>>()).await, Ok(Sums::default()));
    }
}
