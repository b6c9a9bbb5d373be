//! One piece of work on a lane, and what happens when nobody waits for it any more.
//!
//! Abandoned work that never ends holds the GPU for nobody, and only the end of the process frees it. Work that is merely queued behind another task's long kernel
//! looks the same from here: its overtime passes only while no work that began before it was abandoned is still wanted. Work that began later stands behind it and
//! does not count, or a steady load would hide a GPU that hangs.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    CudaError, Lane,
    context::{Shared, guarded},
    lane::LaneThread,
    wanted::Wanted,
};

/// How often abandoned work is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What work gave, and what it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran<T> {
    /// What it gave.
    pub value: T,
    /// How long the GPU took for its [timed](Lane::timed) parts.
    pub device_time: Duration,
    /// The most memory of buffers that it held at once, in bytes.
    pub peak_bytes: u64,
}

pub(super) async fn run<T: Send + 'static>(
    shared: &Arc<Shared>,
    lane: LaneThread,
    work: impl FnOnce(&Lane) -> Result<T, CudaError> + Send + 'static,
    overtime: Duration,
) -> Result<Ran<T>, CudaError> {
    let (answer, answered) = oneshot::channel();
    let (at_work, over) = mpsc::channel::<()>();
    lane.give(Box::new(move |lane| {
        let ran = lane.and_then(|lane| measured(lane, work));
        // Nobody waits if the attempt was cancelled.
        let _ = answer.send(ran);
        drop(at_work);
    }))?;
    let wanted = shared.wanted.begin();
    let mut waiting = Waiting { shared: Arc::clone(shared), lane: Some(lane), over: Some(over), wanted: Some(wanted), overtime };
    let ran = answered.await;
    waiting.back();
    let vanished = CudaError::Failed { operation: "run work on the GPU", cause: "its thread ended".to_owned() };
    ran.unwrap_or(Err(vanished)).map_err(|error| shared.noted(error))
}

fn measured<T>(lane: &Lane, work: impl FnOnce(&Lane) -> Result<T, CudaError>) -> Result<Ran<T>, CudaError> {
    lane.begin();
    let done = guarded("run work on the GPU", || work(lane));
    match (done, guarded("end work on the GPU", || lane.end())) {
        (Ok(value), Ok((device_time, peak_bytes))) => Ok(Ran { value, device_time, peak_bytes }),
        (_, Err(lost)) if lost.is_lost() => Err(lost),
        (Err(error), _) | (Ok(_), Err(error)) => Err(error),
    }
}

/// Somebody who waits for work, and what is to become of its lane.
struct Waiting {
    shared: Arc<Shared>,
    lane: Option<LaneThread>,
    over: Option<mpsc::Receiver<()>>,
    wanted: Option<Wanted>,
    overtime: Duration,
}

impl Waiting {
    fn back(&mut self) {
        self.over = None;
        self.wanted = None;
        self.shared.lanes().extend(self.lane.take());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let (Some(lane), Some(over), Some(wanted)) = (self.lane.take(), self.over.take(), self.wanted.take()) else { return };
        let before = wanted.abandoned();
        let (shared, overtime) = (Arc::clone(&self.shared), self.overtime);
        let wait_on = move || {
            if ends(&over, overtime, || before.is_wanted()) {
                return shared.lanes().push(lane);
            }
            let cause = format!("work still runs {} s after its task had ended", overtime.as_secs());
            shared.noted(CudaError::Lost { operation: "wait for abandoned work", cause, by_a_task: false });
        };
        // Without a thread the lane is lost, which costs a stream.
        let _ = thread::Builder::new().name("cuda-overtime".to_owned()).spawn(wait_on);
    }
}

/// Whether abandoned work ends within its overtime, which passes only while it has nobody else to wait for.
fn ends(over: &mpsc::Receiver<()>, mut left: Duration, waits_for_others: impl Fn() -> bool) -> bool {
    while !left.is_zero() {
        let look = left.min(LOOK);
        if over.recv_timeout(look) != Err(mpsc::RecvTimeoutError::Timeout) {
            return true;
        }
        if !waits_for_others() {
            left -= look;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn abandoned_work_that_waits_for_others_spends_no_overtime() {
        let (at_work, over) = mpsc::channel::<()>();
        let at_work = std::sync::Mutex::new(Some(at_work));
        let looks = AtomicU32::new(0);
        let waits_for_others = || {
            // It ends at the third look, far beyond its overtime of one.
            if looks.fetch_add(1, Ordering::Relaxed) == 2 {
                at_work.lock().unwrap().take();
            }
            true
        };
        assert!(ends(&over, Duration::from_millis(1), waits_for_others));
        assert_eq!(looks.into_inner(), 3);
    }

    #[test]
    fn abandoned_work_with_nobody_to_wait_for_has_its_overtime_and_no_more() {
        let (_at_work, over) = mpsc::channel::<()>();
        assert!(!ends(&over, Duration::from_millis(2), || false));
    }
}
