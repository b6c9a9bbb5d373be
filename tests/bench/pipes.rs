//! The yardstick of raw bytes: 1 MB through one pipe to another thread, which sends it back through a second one when it has it all.
//!
//! That is what any two programs on one machine pay at least: there and back, each byte is written once and read once each way.

use std::{
    io::{PipeReader, PipeWriter, Read, Write, pipe},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use crate::{Fault, statistics::Percentiles};

/// What goes there and back.
pub(crate) const BYTES: usize = 1_000_000;
/// Rounds through the pipes in one sample.
const COPIES: usize = 200;

/// Bytes of every value, none of which could be left out.
pub(crate) fn bytes() -> Bytes {
    (0..BYTES).map(|place| (place * 31 % 251) as u8).collect()
}

/// How long each of a sample's rounds takes, in ms.
pub(crate) async fn measure() -> Result<Percentiles, Fault> {
    Ok(Percentiles::of_times(spawn_blocking(through_pipes).await??))
}

fn through_pipes() -> Result<Vec<Duration>, std::io::Error> {
    let ((mut there, mut forth), (mut back, mut home)) = (pipe()?, pipe()?);
    let echo = thread::spawn(move || (0..COPIES).try_for_each(|_| carry(&mut there, &mut home)));
    let (sent, mut took) = (bytes(), Vec::with_capacity(COPIES));
    for _ in 0..COPIES {
        let started = Instant::now();
        forth.write_all(&sent)?;
        let mut came = vec![0; BYTES];
        back.read_exact(&mut came)?;
        took.push(started.elapsed());
    }
    echo.join().map_err(|_| std::io::Error::other("the other end of the pipes ended before its time"))??;
    Ok(took)
}

fn carry(from: &mut PipeReader, to: &mut PipeWriter) -> Result<(), std::io::Error> {
    let mut bytes = vec![0; BYTES];
    from.read_exact(&mut bytes)?;
    to.write_all(&bytes)
}
