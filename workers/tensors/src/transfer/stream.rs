//! The way between hosts: a direct connection to the other worker's data port.

use std::time::Duration;

use bytes::Bytes;
use data_link::{Client, ClientLimits};
use devices::{DeviceMemory, HostBytes};
use futures::StreamExt;
use protocol::{Checksum, TensorRecord};

use super::{
    Sums, TryFailure, in_time,
    pieces::{AT_ONCE, overlapped},
};
use crate::{Arriving, plane::Shared};

/// Brings it, and gives the sums of what was read and of what arrived. A reading that breaks off goes on where it was.
pub(super) async fn carry(shared: &Shared, from: &TensorRecord, arriving: &Arriving) -> Result<Sums, TryFailure> {
    let Some(port) = &from.port else { return Err(TryFailure::Unsupported("other processes do not reach it".to_owned())) };
    let stall = shared.options.limits.stall;
    let limits = ClientLimits { timeout: stall, stall, ..ClientLimits::default() };
    let client = Client::connect(port, limits).await?;
    let writing = Writing { stall, memory: shared.memory()?, arriving };
    let mut read = 0;
    // While a piece is written the client reads the next one.
    let steps = client.read(&from.name, Some(from.version), 0..from.bytes).map(|piece| {
        let (at, bytes) = piece?;
        if at != read {
            return Err(TryFailure::Failed(format!("a piece at {at} came where one at {read} was due")));
        }
        read += bytes.len() as u64;
        Ok(writing.piece(at, bytes))
    });
    let sums = overlapped(AT_ONCE, steps).await?;
    if read != from.bytes {
        return Err(TryFailure::Failed(format!("{read} of {} bytes came", from.bytes)));
    }
    Ok(sums)
}

struct Writing<'a> {
    stall: Duration,
    memory: &'a dyn DeviceMemory,
    arriving: &'a Arriving,
}

impl Writing<'_> {
    async fn piece(&self, at: u64, bytes: Bytes) -> Result<Sums, TryFailure> {
        let (to, end) = (self.arriving.buffer(), at + bytes.len() as u64);
        let sent = Checksum::of(&bytes, at);
        in_time(self.stall, self.memory.write(to, at, HostBytes::Own(bytes))).await?;
        let sums = Sums { sent, arrived: in_time(self.stall, self.memory.checksum(to, at..end)).await? }.agreed()?;
        self.arriving.came(end - at);
        Ok(sums)
    }
}
