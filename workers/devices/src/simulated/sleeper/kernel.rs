//! A timer of the kernel's for one wait. It is a file descriptor among the others that the runtime watches: no thread of its own, one wake-up.

use std::{io, time::Duration};

/// Waits for `left`, which is not zero: the kernel would take that for no timer at all. Dropping it half-way closes the timer.
///
/// # Errors
/// The kernel gives no timer.
#[cfg(target_os = "linux")]
pub(super) async fn sleep(left: Duration) -> io::Result<()> {
    use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
    use tokio::io::{Interest, unix::AsyncFd};

    let once = Itimerspec { it_interval: Timespec::default(), it_value: Timespec::try_from(left).map_err(io::Error::other)? };
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
    // SAFETY: an `OwnedFd` is the same open file descriptor until it is dropped, and the `AsyncFd` owns it from here on.
    let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
    // Until the timer has expired there is nothing to read; then there is the number of times that it has.
    timer.async_io(Interest::READABLE, |timer| rustix::io::read(timer, &mut [0_u8; 8]).map_err(io::Error::from)).await?;
    Ok(())
}

/// Does not wait.
///
/// # Errors
/// Always: only Linux has such timers.
#[cfg(not(target_os = "linux"))]
pub(super) async fn sleep(_left: Duration) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
