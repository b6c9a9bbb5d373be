//! One piece of work on a lane, and what happens when nobody waits for it any more.

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
};

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
    let mut waiting = Waiting { shared: Arc::clone(shared), lane: Some(lane), over: Some(over), overtime };
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
    overtime: Duration,
}

impl Waiting {
    fn back(&mut self) {
        self.over = None;
        self.shared.lanes().extend(self.lane.take());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let (Some(lane), Some(over)) = (self.lane.take(), self.over.take()) else { return };
        let (shared, overtime) = (Arc::clone(&self.shared), self.overtime);
        let wait_on = move || match over.recv_timeout(overtime) {
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let cause = format!("work still runs {} s after its task had ended", overtime.as_secs());
                shared.noted(CudaError::Lost { operation: "wait for abandoned work", cause, by_a_task: false });
            }
            _ => shared.lanes().push(lane),
        };
        // Without a thread the lane is lost, which costs a stream.
        let _ = thread::Builder::new().name("cuda-overtime".to_owned()).spawn(wait_on);
    }
}
