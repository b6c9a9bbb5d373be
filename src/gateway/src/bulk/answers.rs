//! The answers to a body's lines, in their order.

use std::{collections::VecDeque, sync::Arc};

use axum::body::Bytes;
use futures::FutureExt;
use task_queue::BodyShare;
use tokio::{sync::OwnedSemaphorePermit, task::JoinHandle};
use tracing::error;

use super::{
    BulkAnswer,
    lines::{Heard, Lines},
};
use crate::{
    Gateway, Problem,
    encoding::RequestTrace,
    idempotency::Identity,
    intake,
    problem::ProblemKind,
    submit::SEE_THE_LOG,
    tasks::{self, TaskRequest},
};

/// Lines that are under way at once, or whose answers wait for their turn.
const IN_FLIGHT_MAX: usize = 512;
/// Where so many lines in a row find the fleet full or away, the rest is not read: its client would send all of it for nothing.
const REFUSED_MAX: usize = 512;
/// Answers are gathered up to about so many bytes.
const TEXT_BYTES: usize = 32 << 10;

/// What all lines of a request share.
pub(super) struct Origin {
    /// Its `Idempotency-Key`.
    pub(super) key: Option<String>,
    pub(super) trace: RequestTrace,
}

/// A line that is submitted.
struct Flight {
    line: u64,
    job: JoinHandle<BulkAnswer>,
}

/// The answers of one request.
pub(super) struct Answers {
    gateway: Gateway,
    lines: Lines,
    origin: Arc<Origin>,
    in_flight: VecDeque<Flight>,
    /// There was no memory for the next line: it waits until one in flight is answered.
    is_crowded: bool,
    /// Lines in a row, but for those that were at fault themselves, that found the fleet full or away.
    refused: usize,
    reading: Reading,
    _permit: OwnedSemaphorePermit,
}

/// Whether lines are read.
enum Reading {
    /// They are.
    On,
    /// They are not any more, and the client is to be told why.
    Stopped(Problem),
    /// The client was told, and may still send.
    Told,
    /// There are no more.
    Over,
}

impl Answers {
    pub(super) fn new(gateway: Gateway, lines: Lines, origin: Origin, permit: OwnedSemaphorePermit) -> Self {
        let (in_flight, is_crowded, refused) = Default::default();
        Self { gateway, lines, origin: Arc::new(origin), in_flight, is_crowded, refused, reading: Reading::On, _permit: permit }
    }

    /// The next answers, a line each; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        let mut text = Vec::new();
        loop {
            self.take_what_is_in_hand();
            while text.len() < TEXT_BYTES
                && let Some(answer) = first(&mut self.in_flight).now_or_never()
            {
                self.write(&answer, &mut text);
            }
            if !text.is_empty() {
                return Some(text.into());
            }
            if self.in_flight.is_empty() && !self.is_reading() {
                return self.end().await;
            }
            let takes = self.takes();
            if !takes {
                self.lines.rest();
            }
            tokio::select! {
                biased;
                () = self.gateway.closing.cancelled(), if self.is_reading() => self.stop(closing()),
                answer = first(&mut self.in_flight) => self.write(&answer, &mut text),
                heard = self.lines.next(), if takes => self.take(heard),
            }
        }
    }

    const fn is_reading(&self) -> bool {
        matches!(self.reading, Reading::On)
    }

    /// Whether one more line may be taken.
    fn takes(&self) -> bool {
        self.is_reading() && !self.is_crowded && self.in_flight.len() < IN_FLIGHT_MAX
    }

    fn take_what_is_in_hand(&mut self) {
        while self.takes()
            && let Some(heard) = self.lines.in_hand()
        {
            self.take(heard);
        }
    }

    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Line(line, Ok((text, share))) => {
                self.gateway.overloaded.accepted();
                let job = tokio::spawn(answer(self.gateway.clone(), Arc::clone(&self.origin), line, (text, share)));
                self.in_flight.push_back(Flight { line, job });
            }
            Heard::Line(line, Err(problem)) => {
                let job = tokio::spawn(std::future::ready(BulkAnswer::refused(line, problem)));
                self.in_flight.push_back(Flight { line, job });
            }
            // Those in flight give their memory back. Where there are none, others have it.
            Heard::NoMemory(_) if !self.in_flight.is_empty() => self.is_crowded = true,
            Heard::NoMemory(bytes) => self.lines.skip(self.gateway.no_memory_for(bytes)),
            Heard::End => self.reading = Reading::Over,
            Heard::Broken(problem) => self.stop(problem),
        }
    }

    fn stop(&mut self, problem: Problem) {
        self.reading = Reading::Stopped(problem);
    }

    /// Writes an answer, and decides by it whether it is worth reading on.
    fn write(&mut self, answer: &BulkAnswer, text: &mut Vec<u8>) {
        self.is_crowded = false;
        let result = answer.result();
        self.gateway.metrics.bulk_lines_total.with_label_values(&[result]).inc();
        match result {
            "accepted" => self.refused = 0,
            "full" | "unavailable" => self.refused += 1,
            // It says nothing of the fleet.
            _ => {}
        }
        if self.refused >= REFUSED_MAX && self.is_reading() {
            let retry_after_s = answer.problem.as_ref().and_then(|problem| problem.retry_after_s);
            self.stop(in_vain(retry_after_s));
        }
        put(answer, text);
    }

    /// All that was read is answered: tells why the rest was not read, if something is left.
    async fn end(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.reading, Reading::Over) {
            Reading::Stopped(problem) => {
                self.reading = Reading::Told;
                let mut text = Vec::new();
                put(&BulkAnswer::refused(self.lines.next_number(), problem), &mut text);
                Some(text.into())
            }
            Reading::Told => {
                self.lines.forget_the_rest().await;
                None
            }
            Reading::On | Reading::Over => None,
        }
    }
}

/// Submits the task of a line, and gives its memory back.
async fn answer(gateway: Gateway, origin: Arc<Origin>, line: u64, (text, share): (Bytes, BodyShare)) -> BulkAnswer {
    let identify = |task_id| Ok(Identity::of_line(origin.key.as_deref(), line, task_id));
    let taken = match intake::read::<TaskRequest>(&text) {
        Ok(request) => tasks::take(&gateway, request, identify, origin.trace.clone()).await,
        Err(problem) => Err(problem),
    };
    drop(share);
    match taken {
        Ok(accepted) => BulkAnswer::accepted(line, accepted.into_parts()),
        Err(problem) => BulkAnswer::refused(line, problem),
    }
}

/// The answer of the first line in flight; never, where there is none. Cancel safe.
async fn first(in_flight: &mut VecDeque<Flight>) -> BulkAnswer {
    let Some(Flight { line, job }) = in_flight.front_mut() else { return std::future::pending().await };
    let line = *line;
    let answer = job.await.unwrap_or_else(|error| {
        error!(%error, line, "submit a line");
        BulkAnswer::refused(line, Problem::new(ProblemKind::Internal, SEE_THE_LOG))
    });
    in_flight.pop_front();
    answer
}

fn put(answer: &BulkAnswer, text: &mut Vec<u8>) {
    serde_json::to_writer(&mut *text, answer).expect("its keys are texts, and memory takes everything");
    text.push(b'\n');
}

fn closing() -> Problem {
    let detail = "the gateway is stopping, and did not read this line nor those after it: send them again";
    Problem::new(ProblemKind::BulkStopped, detail).retry_after(CLOSING_RETRY_S)
}

/// Another gateway may be there already.
const CLOSING_RETRY_S: u64 = 1;

fn in_vain(retry_after_s: Option<u64>) -> Problem {
    let detail = format!(
        "{REFUSED_MAX} lines in a row found the fleet full or away, so this line and those after it were not read: send again later, from the first that was refused"
    );
    Problem::new(ProblemKind::BulkStopped, detail).retry_after(retry_after_s.unwrap_or(1))
}
