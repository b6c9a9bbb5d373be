//! One run: its members, what they came to, and what is done where they lack the memory together.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use executors::{BatchMember, Failure, RunBatch};
use futures::FutureExt;
use protocol::{DeliveryId, Framed};
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Answer, Asked, Failed, Gatherer,
    line::{self, Occasion, Waiting},
};
use crate::attempt::{memory::lacks_memory, running::words};

/// A run that counts as under way, until this is dropped.
pub(super) struct UnderWay {
    gatherer: Arc<Gatherer>,
    /// Those whose payloads are in it.
    tasks: BTreeSet<DeliveryId>,
    is_over: bool,
}

impl UnderWay {
    pub(super) fn new(gatherer: Arc<Gatherer>, members: &[Waiting]) -> Self {
        Self { gatherer, tasks: line::tasks(members), is_over: false }
    }

    /// The run has ended: the next one starts.
    fn over(mut self) {
        self.is_over = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let tasks = std::mem::take(&mut self.tasks);
        self.gatherer.lock().run_ended(tasks);
        // A job that was cut off leaves it at that: its worker is gone.
        if self.is_over || std::thread::panicking() {
            self.gatherer.look(Occasion::RunEnded);
        }
    }
}

/// What a run gave: an answer for each member, in their order, or the words of its panic.
type CameOut = Result<Vec<Result<Framed, Failure>>, String>;

impl Gatherer {
    /// Runs the members together, and answers each of them.
    pub(super) async fn run(self: Arc<Self>, members: Vec<Waiting>, under_way: UnderWay) {
        let started = Instant::now();
        for member in &members {
            self.surroundings.metrics.batch_waited(self.kind.as_str(), (started - member.since).as_secs_f64());
        }
        let mut left = vec![members];
        while let Some(members) = left.pop() {
            left.extend(self.run_together(members).await);
        }
        // Who was answered now may have another payload, which comes along in the next run.
        tokio::task::yield_now().await;
        under_way.over();
    }

    /// One call of the executor. Gives those back that lack the memory together, in halves, the first one last.
    async fn run_together(&self, mut members: Vec<Waiting>) -> Vec<Vec<Waiting>> {
        members.retain(|member| member.answer.as_ref().is_some_and(|answer| !answer.is_closed()));
        let together = members.len();
        if together == 0 {
            return Vec::new();
        }
        self.surroundings.metrics.batch_ran(self.kind.as_str(), together);
        let results = match self.call(&mut members).await {
            None => return Vec::new(),
            Some(Ok(results)) if results.len() == together => results,
            Some(Ok(results)) => {
                let message = format!("the executor gave {} answers for {together} payloads", results.len());
                vec![Err(Failure::transient(message)); together]
            }
            Some(Err(panic)) => vec![Err(Failure::transient(format!("the executor panicked: {panic}"))); together],
        };
        let too_large = answer(members, results);
        if too_large.is_empty() {
            return Vec::new();
        }
        self.surroundings.metrics.memory_relief("halved");
        tracing::info!(kind = %self.kind, together, lacking = too_large.len(), "out of memory: fewer run together");
        halves(too_large)
    }

    /// What the executor gives. `None`: nobody waits for it any more.
    async fn call(&self, members: &mut [Waiting]) -> Option<CameOut> {
        let (asked, mut answers): (Vec<&Asked>, Vec<&mut Option<oneshot::Sender<Answer>>>) =
            members.iter_mut().map(|Waiting { asked, answer, .. }| (&*asked, answer)).unzip();
        let cancel = CancellationToken::new();
        let cancels: Vec<CancellationToken> = asked.iter().map(|asked| asked.cancel.child_token()).collect();
        let members = asked.iter().zip(&cancels).map(|(asked, cancel)| BatchMember {
            task: &asked.task,
            payload: &asked.payload,
            cancel: cancel.clone(),
            report: asked.report.clone(),
            usage: asked.usage.clone(),
        });
        let batch = RunBatch { device: &self.surroundings.device, members: members.collect(), cancel: cancel.clone() };
        let mut running = pin!(AssertUnwindSafe(self.executor.run_batch(batch)).catch_unwind());
        tokio::select! {
            biased;
            ended = &mut running => return Some(ended.map_err(|panic| words(&*panic))),
            () = poll_fn(|context| all_left(&mut answers, context)) => {}
        }
        cancel.cancel();
        cancels.iter().for_each(CancellationToken::cancel);
        if tokio::time::timeout(self.executor.notice(), running).await.is_err() {
            self.surroundings.metrics.cancel_ignored.inc();
            tracing::warn!(kind = %self.kind, "the executor did not end a run that nobody waits for; it was dropped");
        }
        None
    }
}

/// Ready once nobody waits for any of the answers. Lets those go who have left, but for the last.
fn all_left(answers: &mut [&mut Option<oneshot::Sender<Answer>>], context: &mut Context<'_>) -> Poll<()> {
    let mut staying = answers.iter().filter(|answer| answer.is_some()).count();
    for answer in answers {
        let Some(sender) = (**answer).as_mut() else { continue };
        if sender.poll_closed(context).is_pending() {
            continue;
        }
        if staying == 1 {
            return Poll::Ready(());
        }
        staying -= 1;
        **answer = None;
    }
    Poll::Pending
}

/// Answers the members, but for those that lack the memory together: these are given back. Where their process crashed, each of them hears so: any of them may have done it.
fn answer(members: Vec<Waiting>, results: Vec<Result<Framed, Failure>>) -> Vec<Waiting> {
    let together = members.len();
    let fails = |result: &Result<Framed, Failure>| {
        result.as_ref().is_err_and(|failure| failure.retry && !failure.crashed && !lacks_memory(failure))
    };
    let failed_as_a_whole = together > 1 && results.iter().all(fails);
    let mut stands_for_it = false;
    let mut too_large = Vec::new();
    for (member, result) in members.into_iter().zip(results) {
        if together > 1 && result.as_ref().is_err_and(lacks_memory) {
            too_large.push(member);
            continue;
        }
        member.asked.usage.ran_together(together);
        let beside = failed_as_a_whole && stands_for_it;
        // One that has left stands for nothing.
        let answered = member.answer.map(|answer| answer.send(result.map_err(|failure| Failed { failure, beside })));
        stands_for_it |= matches!(answered, Some(Ok(())));
    }
    too_large
}

/// At most two parts, the first one last.
fn halves(mut members: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let second = members.split_off(members.len().div_ceil(2));
    [second, members].into_iter().filter(|half| !half.is_empty()).collect()
}
