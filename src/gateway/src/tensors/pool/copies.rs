//! A tensor that was found, and how it is read: from one of its copies, and from the next where that one fails.

use std::ops::Range;

use axum::body::Bytes;
use data_link::{Client, LinkError};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use protocol::{TensorRecord, TensorView};

use super::connect;
use crate::tensors::TensorsError;

/// One version of a tensor, with all copies of it that the table knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTensor {
    /// At least one, those in GPUs' memory first.
    copies: Vec<TensorRecord>,
}

impl FoundTensor {
    /// The latest version among copies of one name. `None`: there are none.
    pub(super) fn of(records: Vec<TensorRecord>) -> Option<Self> {
        let latest = records.iter().map(|record| record.version).max()?;
        let mut copies: Vec<TensorRecord> = records.into_iter().filter(|record| record.version == latest).collect();
        copies.sort_by(|one, other| (one.place, &one.gpu_id).cmp(&(other.place, &other.gpu_id)));
        Some(Self { copies })
    }

    /// What is known of it. All copies of a version say the same but for where they lie.
    #[must_use]
    pub fn record(&self) -> &TensorRecord {
        &self.copies[0]
    }

    /// As operators and producers see it. `now_ms` is Unix time in ms.
    ///
    /// # Panics
    /// Never: it has a copy.
    #[must_use]
    pub fn view(&self, now_ms: u64) -> TensorView {
        TensorView::of(self.copies.clone(), now_ms).pop().expect("of one name at least one copy")
    }

    /// Its bytes within a range, in order and without gaps, in pieces; few of them are in hand at once. Where a copy fails the reading goes on with the next one, from where it was; after an error nothing follows. A
    /// range that is not within the tensor is an error of the port.
    pub fn read(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, TensorsError>> {
        let reading = Reading { copies: self.copies.clone(), turn: 0, failures: 0, wanted: range, open: None };
        let next = |mut reading: Reading| async move { reading.next().await.map(|piece| (piece, reading)) };
        stream::unfold(reading, next).boxed()
    }
}

/// A connection, and what comes over it.
type Open = (Client, BoxStream<'static, Result<(u64, Bytes), LinkError>>);

/// A reading that is under way.
struct Reading {
    copies: Vec<TensorRecord>,
    /// The copy that is read, counted over and over.
    turn: usize,
    /// How often it failed without a piece between.
    failures: usize,
    /// What has not come.
    wanted: Range<u64>,
    open: Option<Open>,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<Bytes, TensorsError>> {
        while !self.wanted.is_empty() {
            match self.piece().await {
                Ok(bytes) => {
                    self.failures = 0;
                    self.wanted.start += bytes.len() as u64;
                    return Some(Ok(bytes));
                }
                Err(cause) => {
                    let gpu_id = self.copy().gpu_id.clone();
                    tracing::debug!(%gpu_id, at = self.wanted.start, error = %cause, "read a copy of a tensor");
                    (self.open, self.turn, self.failures) = (None, self.turn + 1, self.failures + 1);
                    // Each copy had its turn, and the first one a second: a connection may be lost while all is well.
                    if self.failures > self.copies.len() {
                        self.wanted.end = self.wanted.start;
                        return Some(Err(TensorsError::Port { gpu_id, cause }));
                    }
                }
            }
        }
        None
    }

    fn copy(&self) -> &TensorRecord {
        &self.copies[self.turn % self.copies.len()]
    }

    async fn piece(&mut self) -> Result<Bytes, LinkError> {
        let (client, mut pieces) = match self.open.take() {
            Some(open) => open,
            None => {
                let copy = self.copy();
                let client = connect(copy).await?;
                let pieces = client.read(&copy.name, Some(copy.version), self.wanted.clone());
                (client, pieces)
            }
        };
        let piece = pieces.next().await;
        let left = self.wanted.end - self.wanted.start;
        let garbled = |what: String| LinkError::Garbled { address: self.copy().gpu_id.to_string(), what };
        let bytes = match piece {
            Some(Ok((at, bytes))) if at == self.wanted.start && (1..=left).contains(&(bytes.len() as u64)) => bytes,
            Some(Ok((at, bytes))) => {
                let what = format!("{} bytes from {at} on came where {left} from {} on were left", bytes.len(), self.wanted.start);
                return Err(garbled(what));
            }
            Some(Err(cause)) => return Err(cause),
            None => return Err(garbled(format!("nothing more came, and {left} bytes were left"))),
        };
        self.open = Some((client, pieces));
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use protocol::{DType, GpuId, Incarnation, TensorName, TensorPlace, TensorShape};

    use super::*;

    fn record(version: u64, gpu: &str, place: TensorPlace) -> TensorRecord {
        TensorRecord {
            name: TensorName::new("x").expect("valid"),
            version,
            shape: TensorShape { dtype: DType::F32, shape: vec![2] },
            bytes: 8,
            owner: "task".to_owned(),
            made_ms: 1_000,
            last_used_ms: 1_000,
            ttl_ms: 60_000,
            gpu_id: GpuId::new(gpu).expect("valid"),
            incarnation: Incarnation::new("i").expect("valid"),
            place,
            port: None,
        }
    }

    #[test]
    fn of_the_copies_of_the_latest_version_those_in_gpus_come_first() {
        let gpu = |version, gpu_id| record(version, gpu_id, TensorPlace::Gpu);
        let records = vec![record(2, "a", TensorPlace::Host), gpu(1, "b"), gpu(2, "d"), gpu(2, "c")];
        let found = FoundTensor::of(records).expect("copies");
        let order: Vec<&str> = found.copies.iter().map(|copy| copy.gpu_id.as_str()).collect();
        assert_eq!(order, ["c", "d", "a"]);
        assert_eq!((found.record().version, found.view(2_000).copies.len()), (2, 3));
        assert!(FoundTensor::of(Vec::new()).is_none());
    }

    #[tokio::test]
    async fn copies_that_nobody_reaches_are_tried_in_turn_and_then_it_is_over() {
        let found = FoundTensor::of(vec![record(1, "a", TensorPlace::Gpu), record(1, "b", TensorPlace::Gpu)]).expect("copies");
        let pieces: Vec<_> = found.read(0..8).collect().await;
        let [Err(TensorsError::Port { gpu_id, cause: LinkError::NoAddress })] = pieces.as_slice() else { panic!("{pieces:?}") };
        assert_eq!(gpu_id.as_str(), "a", "its second turn was the last");
        assert!(found.read(8..8).collect::<Vec<_>>().await.is_empty(), "nothing was wanted");
    }
}
