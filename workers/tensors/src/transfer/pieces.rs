//! Copies go piece by piece: between two pieces one can see whether it goes on, and end it.

use std::{ops::Range, time::Duration};

use super::TryFailure;

/// The pieces of so many bytes, in order, each of at most `piece` bytes.
pub(crate) fn pieces(bytes: u64, piece: u64) -> impl Iterator<Item = Range<u64>> + Send {
    (0..bytes.div_ceil(piece)).map(move |number| number * piece..((number + 1) * piece).min(bytes))
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
    use super::*;

    #[test]
    fn pieces_cover_all_bytes_once() {
        let of = |bytes, piece| pieces(bytes, piece).collect::<Vec<_>>();
        assert_eq!(of(0, 4), []);
        assert_eq!(of(8, 4), [0..4, 4..8]);
        assert_eq!(of(9, 4), [0..4, 4..8, 8..9]);
    }
}
