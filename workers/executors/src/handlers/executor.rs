//! One kind of a handler, as a worker runs it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use devices::{Device, Use};
use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use protocol::{
    Json, Kind, SegmentRef, Segments, Task,
    config::HandlerProtocol,
    frame::{JSON_BYTES_MAX, SEGMENTS_MAX},
};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    frames::FRAME_BYTES_MAX,
    handing::{Handed, hand_over},
    handler::Handler,
    line::Given,
    message::{BatchMessage, BatchMessageMember, TaskMessage, ToHandler},
    runs::{Answer, Attached, Member},
    writing::Outgoing,
};
use crate::{BatchMember, Batching, Executor, Failure, Report, Run, RunBatch, TakesTensors, occupy::occupy};

/// What a message takes beside payloads, in bytes, at most: of the message itself, and of each payload.
const BESIDE_BYTES: usize = 2 << 10;
/// Payloads that may be gathered for a kind whose handler has not said yet how many it takes; [`Executor::run_batch`] cuts them to what it does.
const LARGEST_UNTOLD: usize = 1024;

/// How long a process that is killed takes to be gone, at most.
const ENDED_WITHIN: Duration = Duration::from_secs(1);

/// Runs one kind of a handler.
pub(super) struct HandlerExecutor {
    handler: Arc<Handler>,
    kind: Kind,
    /// The processes end with the last executor, where nobody stops them.
    _guard: Arc<DropGuard>,
}

impl HandlerExecutor {
    /// One for each of a handler's kinds.
    pub(super) fn of_all(handler: &Arc<Handler>) -> Vec<Arc<dyn Executor>> {
        let guard = Arc::new(handler.stop_now.clone().drop_guard());
        let executor = |kind: &Kind| -> Arc<dyn Executor> {
            Arc::new(Self { handler: Arc::clone(handler), kind: kind.clone(), _guard: Arc::clone(&guard) })
        };
        handler.kinds.offered().map(executor).collect()
    }

    /// Waits for a place in a process. The kind may be gone by then.
    async fn place(&self, cancel: &CancellationToken) -> Result<Given, Failure> {
        let given = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Failure::cancelled()),
            given = self.handler.line.place() => given?,
        };
        match self.handler.kinds.check(&self.kind) {
            Ok(()) => Ok(given),
            Err(why) => Err(Failure::transient(why)),
        }
    }

    /// Checks a payload against what is known of the kind, and whether a message can carry it.
    fn check(&self, payload: &Json, segments: &Segments) -> Result<(), Failure> {
        if !segments.is_empty() && self.handler.section.protocol == HandlerProtocol::Lines {
            return Err(Failure::invalid("payload", "has raw bytes beside it, which a handler with `protocol: lines` cannot take"));
        }
        let json = payload.as_bytes().len() + BESIDE_BYTES;
        if json > JSON_BYTES_MAX || json + segments.bytes() > FRAME_BYTES_MAX {
            let bounds = format!("{JSON_BYTES_MAX} bytes of JSON and {FRAME_BYTES_MAX} in all");
            return Err(Failure::invalid("payload", format!("is larger than a message to a handler may be: {bounds}")));
        }
        refers_to_its_own(payload, segments)?;
        self.handler.kinds.told(&self.kind).map_or(Ok(()), |told| told.check(payload))
    }

    /// Makes the tensors of a run ready for the process, as far as a message has room for them.
    async fn hand_over(&self, run: &Run<'_>) -> Result<Handed, Failure> {
        let (json, segments) = (run.payload.as_bytes().len() + BESIDE_BYTES, run.segments().bytes());
        let room = JSON_BYTES_MAX.min(FRAME_BYTES_MAX.saturating_sub(segments)).saturating_sub(json);
        tokio::select! {
            biased;
            () = run.cancel.cancelled() => Err(Failure::cancelled()),
            handed = hand_over(&run.tensors, run.device.as_ref(), room) => handed,
        }
    }

    /// Begins one task in a place.
    fn begin(&self, given: Given, run: &Run<'_>, handed: &Handed) -> Option<Attached> {
        let Given { place, live } = given;
        let member = Member { tensors: handed.held.clone(), ..member_of(run.task, &run.report) };
        live.begin(vec![member], place, |number| {
            let segments = run.segments();
            let message = TaskMessage {
                run: number,
                kind: self.kind.clone(),
                task_id: run.task.id.clone(),
                attempt: run.task.attempt,
                payload: run.payload.clone(),
                wants_parts: run.report.wants_partials(),
                time_ms: run.task.body.limits.attempt_timeout_ms,
                segments: segments.lengths(),
                tensors: handed.told.clone(),
                descriptors: handed.shared.len(),
            };
            Outgoing { text: ToHandler::Task(message).to_text(), segments: segments.clone(), shared: handed.shared.clone() }
        })
    }

    /// Begins payloads together in a place.
    fn begin_batch(&self, given: Given, members: &[BatchMember<'_>]) -> Option<Attached> {
        let Given { place, live } = given;
        let whose = members.iter().map(|member| member_of(member.task, &member.report)).collect();
        live.begin(whose, place, |run| {
            let mut all = Vec::new();
            let messages = members.iter().map(|member| {
                let segments_from = all.len();
                all.extend(member.segments().iter().cloned());
                BatchMessageMember {
                    task_id: member.task.id.clone(),
                    attempt: member.task.attempt,
                    payload: member.payload.clone(),
                    wants_parts: member.report.wants_partials(),
                    segments_from,
                }
            });
            let members = messages.collect();
            let segments = Segments::of(all);
            let message = BatchMessage { run, kind: self.kind.clone(), members, segments: segments.lengths() };
            Outgoing { text: ToHandler::Batch(message).to_text(), segments, shared: Vec::new() }
        })
    }

    /// Runs payloads that passed the check in one run of a process.
    async fn run_together(&self, device: &dyn Device, members: &[BatchMember<'_>], cancel: &CancellationToken) -> Vec<Answer> {
        let (attached, _work) = loop {
            let given = self.place(cancel).await;
            let (given, work) = match given.and_then(|given| Ok((given, occupy(device, of_the_gpu())?))) {
                Ok(both) => both,
                Err(failure) => return vec![Err(failure); members.len()],
            };
            if let Some(attached) = self.begin_batch(given, members) {
                break (attached, work);
            }
        };
        let cancel_member = attached.cancel_member();
        let leaving: FuturesUnordered<_> = members
            .iter()
            .enumerate()
            .map(|(number, member)| async move {
                member.cancel.cancelled().await;
                number
            })
            .collect();
        let left = async {
            leaving
                .for_each(|number| {
                    cancel_member(number);
                    std::future::ready(())
                })
                .await;
            std::future::pending::<()>().await;
        };
        let began = Instant::now();
        let answers = tokio::select! {
            biased;
            answers = attached.answers(cancel) => answers,
            () = left => unreachable!("it never ends"),
        };
        let took = began.elapsed();
        members.iter().zip(&answers).filter(|(_, answer)| answer.is_ok()).for_each(|(member, _)| member.usage.ran_for(took));
        answers
    }
}

/// Whether a payload refers to segments of its own alone. In a batch the numbers behind them are another task's bytes.
fn refers_to_its_own(payload: &Json, segments: &Segments) -> Result<(), Failure> {
    let count = segments.len();
    match SegmentRef::all_in(payload).iter().map(|reference| reference.number).find(|number| *number >= count) {
        Some(number) => Err(Failure::invalid("payload", format!("refers to segment {number}, and there are {count}"))),
        None => Ok(()),
    }
}

/// What a handler's run takes of the GPU, as far as anybody knows: it computes, and its memory is its process's.
fn of_the_gpu() -> Use {
    Use { memory_mb: 0, compute_share: 1.0 }
}

fn member_of(task: &Task, report: &Report) -> Member {
    Member { task_id: task.id.clone(), attempt: task.attempt, report: report.clone(), tensors: Vec::new() }
}

/// As many of the first payloads as one message carries, at least one.
fn fitting(members: &[BatchMember<'_>], largest: usize) -> usize {
    let (mut json, mut raw, mut segments) = (BESIDE_BYTES, 0, 0);
    let fits = |member: &&BatchMember<'_>| {
        json += member.payload.as_bytes().len() + BESIDE_BYTES;
        raw += member.segments().bytes();
        segments += member.segments().len();
        json <= JSON_BYTES_MAX && json + raw <= FRAME_BYTES_MAX && segments <= SEGMENTS_MAX
    };
    members.iter().take(largest).take_while(fits).count().max(1)
}

#[async_trait]
impl Executor for HandlerExecutor {
    fn kind(&self) -> Kind {
        self.kind.clone()
    }

    async fn run(&self, run: Run<'_>) -> Answer {
        self.check(run.payload, run.segments())?;
        let (attached, _work) = loop {
            let given = self.place(&run.cancel).await?;
            // The schema may have come with the process.
            self.check(run.payload, run.segments())?;
            // In a place, and not while it waits for one: tensors in shared memory take the host's.
            let handed = self.hand_over(&run).await?;
            let work = occupy(run.device.as_ref(), of_the_gpu())?;
            if let Some(attached) = self.begin(given, &run, &handed) {
                break (attached, work);
            }
        };
        let began = Instant::now();
        let mut answers = attached.answers(&run.cancel).await;
        let answer = answers.pop().unwrap_or_else(|| Err(Failure::transient("its run was given up")));
        if answer.is_ok() {
            run.usage.ran_for(began.elapsed());
        }
        answer
    }

    fn takes_tensors(&self) -> TakesTensors {
        if self.handler.section.protocol == HandlerProtocol::Lines {
            return TakesTensors::No;
        }
        match self.handler.kinds.told(&self.kind) {
            Some(told) if told.tensors => TakesTensors::OnGpu,
            // What takes raw bytes is given tensors as such.
            _ => TakesTensors::AsSegments,
        }
    }

    fn batching(&self) -> Option<Batching> {
        if self.handler.section.protocol == HandlerProtocol::Lines {
            return None;
        }
        let told = self.handler.kinds.told(&self.kind);
        if told.is_none() && self.handler.kinds.is_told() {
            return None;
        }
        let batching = match told {
            // It has not said anything yet; until it does, every payload runs by itself.
            None => Batching::up_to(LARGEST_UNTOLD),
            Some(told) => {
                let batch = told.batch?;
                let wait = (batch.wait_ms > 0).then(|| Duration::from_millis(batch.wait_ms));
                Batching { wait, ..Batching::up_to(batch.largest) }
            }
        };
        Some(Batching { at_once: self.handler.at_once(), ..batching })
    }

    fn takes_part(&self, _payload: &Json) -> bool {
        self.handler.kinds.told(&self.kind).is_some_and(|told| told.batch.is_some())
    }

    async fn run_batch(&self, batch: RunBatch<'_>) -> Vec<Answer> {
        let RunBatch { device, members, cancel } = batch;
        let checked: Vec<Result<(), Failure>> = members.iter().map(|member| self.check(member.payload, member.segments())).collect();
        let good: Vec<BatchMember<'_>> =
            members.into_iter().zip(&checked).filter_map(|(member, checked)| checked.is_ok().then_some(member)).collect();
        let largest = self.handler.kinds.told(&self.kind).and_then(|told| told.batch).map_or(1, |batch| batch.largest);
        let (mut left, mut runs) = (&good[..], Vec::new());
        while !left.is_empty() {
            let (together, others) = left.split_at(fitting(left, largest));
            runs.push(self.run_together(device.as_ref(), together, &cancel));
            left = others;
        }
        let mut answers = join_all(runs).await.into_iter().flatten();
        let gave_up = || Err(Failure::transient("its run was given up"));
        checked.into_iter().map(|checked| checked.and_then(|()| answers.next().unwrap_or_else(gave_up))).collect()
    }

    fn about(&self) -> String {
        self.handler.kinds.told(&self.kind).map(|told| told.about.clone()).unwrap_or_default()
    }

    fn schema(&self) -> Option<Json> {
        self.handler.kinds.told(&self.kind)?.schema.clone()
    }

    fn is_described(&self) -> bool {
        // One that speaks in lines never says more.
        self.handler.section.protocol == HandlerProtocol::Lines || self.handler.kinds.is_told()
    }

    fn is_up(&self) -> Result<(), String> {
        self.handler.is_up(&self.kind)
    }

    fn on_change(&self, told: Arc<dyn Fn() + Send + Sync>) {
        self.handler.on_change(told);
    }

    fn notice(&self) -> Duration {
        // By then a run that does not listen has ended with its process.
        2 * Duration::from_millis(self.handler.section.stop_timeout_ms) + ENDED_WITHIN
    }

    fn failures_blame_gpu(&self) -> bool {
        false
    }

    async fn stop(&self) {
        self.handler.stop().await;
    }

    async fn stop_at_once(&self) {
        self.handler.give_up().await;
    }

    fn models(&self) -> Vec<String> {
        self.handler.models()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_payload_that_refers_to_the_segments_of_the_next_one_is_refused() {
        let segments = Segments::of(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        let own = json!({"images": [{"$segment": 0}, {"$segment": 1}]});
        assert_eq!(refers_to_its_own(&own.into(), &segments), Ok(()));
        let foreign = json!({"images": [{"$segment": 1}, {"within": {"$segment": 2, "dtype": "u8"}}]});
        let refused = refers_to_its_own(&foreign.into(), &segments).unwrap_err();
        assert_eq!((refused.code.as_str(), refused.field.as_deref(), refused.retry), ("invalid_payload", Some("payload"), false));
        assert_eq!(refused.message, "refers to segment 2, and there are 2");
        assert!(refers_to_its_own(&json!({"$segment": 0}).into(), &Segments::none()).is_err());
    }
}
