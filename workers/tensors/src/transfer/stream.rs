//! The way between hosts: a direct connection to the other worker's data port.

use data_link::{Client, ClientLimits};
use devices::HostBytes;
use futures::StreamExt;
use protocol::{Checksum, TensorRecord};

use super::{TryFailure, in_time};
use crate::{Arriving, plane::Shared};

/// Brings it, and gives the sum of what was read. A reading that breaks off goes on where it was.
pub(super) async fn carry(shared: &Shared, from: &TensorRecord, arriving: &Arriving) -> Result<Checksum, TryFailure> {
    let Some(port) = &from.port else { return Err(TryFailure::Unsupported("other processes do not reach it".to_owned())) };
    let stall = shared.options.limits.stall;
    let limits = ClientLimits { timeout: stall, stall, ..ClientLimits::default() };
    let client = Client::connect(port, limits).await?;
    let mut read = client.read(&from.name, Some(from.version), 0..from.bytes);
    let (mut sum, mut arrived) = (Checksum::default(), 0);
    // While a piece is written the client reads the next one.
    while let Some((at, bytes)) = read.next().await.transpose()? {
        if at != arrived {
            return Err(TryFailure::Failed(format!("a piece at {at} came where one at {arrived} was due")));
        }
        arrived += bytes.len() as u64;
        sum = sum.with(Checksum::of(&bytes, at));
        in_time(stall, arriving.write(at, HostBytes::Own(bytes))).await?;
    }
    if arrived != from.bytes {
        return Err(TryFailure::Failed(format!("{arrived} of {} bytes came", from.bytes)));
    }
    Ok(sum)
}
