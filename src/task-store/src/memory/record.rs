//! One task's record, and what it answers.

use bytes::Bytes;
use protocol::{BodyHash, DeliveryId, GpuId, Incarnation, Kind, Outcome, Progress, TaskId, TaskState, TaskStatus, Token};

use crate::{
    Begin, BeginRequest, Crash, Holder, Look, Record, RecordRequest, Retry, RetryAnswer, RetryRequest, StoreError, Stored, Verdict,
    status::{parse_reply, waits_for_retry},
};

/// What is known of a task. The Redis back end has the same fields (`redis/keys.rs`).
#[derive(Debug, Default)]
pub struct TaskRecord {
    /// When the store first heard of it, in Unix ms.
    pub first_seen_ms: u64,
    /// When it last changed, in Unix ms.
    pub changed_ms: u64,
    /// From when on it is forgotten, in Unix ms.
    pub expires_ms: u64,
    /// Nothing but `submitted` was written, so `forget` may take it back.
    pub only_submitted: bool,
    /// Its kind, once known.
    pub kind: Option<Kind>,
    /// The hash of its body, from the first attempt or outcome on.
    pub body_hash: Option<BodyHash>,
    /// Why it waits, since it was last asked.
    pub waiting_for: Option<String>,
    /// The attempt with the highest token that began.
    pub begun: Option<Begun>,
    /// How far an attempt said it was, perhaps an earlier one than that which runs now.
    pub progress: Option<Noted>,
    /// The latest attempt that failed and is to be tried again, with what is due.
    pub retried: Option<Retried>,
    /// Attempts whose worker crashed, oldest first.
    pub crashes: Vec<Crash>,
    /// When a cancel was asked for, in Unix ms; on a record of its own where the task was never seen (a tombstone). Written under the same lock as
    /// `begin`, which refuses a marked record; nothing clears it.
    pub cancelled: Option<u64>,
    /// How it ended. Written once.
    pub ended: Option<Ended>,
}

/// An attempt that began.
#[derive(Debug)]
pub struct Begun {
    /// Which attempt.
    pub attempt: u32,
    /// Under which token.
    pub token: Token,
    /// On which GPU.
    pub gpu_id: GpuId,
    /// In which incarnation of its worker: an attempt without an end whose incarnation is gone was a crash.
    pub incarnation: Incarnation,
    /// For which delivery.
    pub delivery: DeliveryId,
    /// Whether nothing else ran on the GPU.
    pub alone: bool,
    /// It was handed back, or judged: it is not (again) a crash.
    pub settled: bool,
}

/// How far an attempt said it was.
#[derive(Debug)]
pub struct Noted {
    /// The attempt's token: another attempt's progress is not shown.
    pub token: Token,
    /// What it said.
    pub progress: Progress,
}

/// An attempt that failed and is to be tried again.
#[derive(Debug)]
pub struct Retried {
    /// What is due after it.
    pub due: Retry,
    /// Its error, for people.
    pub error: String,
}

/// A recorded outcome.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// In which attempt.
    pub attempt: u32,
    /// Under which token, if it ran.
    pub token: Option<Token>,
    /// The hash of the reply, which outlives the reply.
    pub digest: BodyHash,
    /// The reply, unless the bound on bytes refused it.
    pub body: Option<KeptBody>,
    /// To whom the reply was first published.
    pub published_to: Option<String>,
}

/// A reply that is kept.
#[derive(Debug)]
pub struct KeptBody {
    /// Its bytes.
    pub bytes: Bytes,
    /// From when on it is gone, in Unix ms.
    pub expires_ms: u64,
}

impl TaskRecord {
    /// Whether the record belongs to a body with another hash.
    fn is_of_another(&self, body_hash: &BodyHash) -> bool {
        self.body_hash.as_ref().is_some_and(|known| known != body_hash)
    }

    /// What stands against running this attempt of the task.
    pub fn look(&self, body_hash: &BodyHash, attempt: u32, now_ms: u64) -> Look {
        if self.is_of_another(body_hash) {
            return Look::ReusedId;
        }
        match (&self.ended, self.cancelled, &self.retried) {
            (Some(ended), ..) => Look::Ended(ended.stored(now_ms)),
            (None, Some(_), _) => Look::Cancelled,
            (None, None, Some(retried)) if retried.due.attempt > attempt => Look::Retried(retried.due),
            (None, None, _) => Look::Open,
        }
    }

    /// Whether an attempt runs, as far as the store knows: it began, has no end, and was neither handed back nor judged.
    pub fn runs(&self) -> bool {
        let retried = self.retried.as_ref().map_or(0, |retried| retried.due.attempt);
        self.ended.is_none() && self.begun.as_ref().is_some_and(|begun| begun.attempt >= retried && !begun.settled)
    }

    /// Whether the attempt of this token runs, as far as the store knows.
    pub fn runs_under(&self, token: Token) -> bool {
        self.runs() && self.begun.as_ref().is_some_and(|begun| begun.token == token)
    }

    /// Whether a retry of this attempt may be written: `None` if so, else the answer.
    pub fn refuses_retry(&self, request: &RetryRequest, now_ms: u64) -> Option<RetryAnswer> {
        match self.look(&request.body_hash, request.attempt, now_ms) {
            Look::Retried(due) => Some(RetryAnswer::Due(due)),
            Look::Open if self.begun.as_ref().is_some_and(|begun| begun.token > request.token) => Some(RetryAnswer::Superseded),
            Look::Open => None,
            other => Some(RetryAnswer::Not(other)),
        }
    }

    /// The token of this very attempt, if it runs: it had begun for this delivery.
    pub fn begun_again(&self, request: &BeginRequest) -> Option<Token> {
        let begun = self.begun.as_ref().filter(|_| self.runs())?;
        let same = begun.attempt == request.attempt && begun.incarnation == request.incarnation && begun.delivery == request.delivery;
        same.then_some(begun.token)
    }

    /// The holder of an attempt that runs as far as the store knows, unless the caller says what became of it.
    pub fn unfinished(&self, verdict: Option<Verdict>) -> Option<Holder> {
        let begun = self.begun.as_ref().filter(|_| self.runs())?;
        let judged = verdict.is_some_and(|verdict| verdict.token == begun.token);
        (!judged).then(|| Holder {
            token: begun.token,
            gpu_id: begun.gpu_id.clone(),
            incarnation: begun.incarnation.clone(),
            delivery: begun.delivery,
        })
    }

    /// Takes the caller's verdict on the last holder. Whether that changed anything.
    pub fn take_verdict(&mut self, verdict: Option<Verdict>, now_ms: u64) -> bool {
        let open = self.expires_ms > now_ms && self.runs();
        let (Some(begun), Some(verdict)) = (&mut self.begun, verdict) else { return false };
        if !open || begun.token != verdict.token {
            return false;
        }
        begun.settled = true;
        if verdict.gone {
            let crash = Crash { attempt: begun.attempt, gpu_id: begun.gpu_id.clone(), found_ms: now_ms, alone: begun.alone };
            self.crashes.push(crash);
        }
        true
    }

    /// What its crashes answer; `None`: they let it begin.
    pub fn past_crashes(&self, request: &BeginRequest) -> Option<Begin> {
        let used_up = self.crashes.len() >= request.crashes_max as usize;
        match self.crashes.last() {
            Some(last) if used_up && last.alone => Some(Begin::Condemned(self.crashes.clone())),
            Some(_) if !request.alone => Some(Begin::Suspect),
            _ => None,
        }
    }

    /// Whether the outcome may be written: `None` if so, else the answer.
    ///
    /// For a body of another hash the answer is `Superseded` whatever is recorded: that one's reply must not go to this one's producer.
    pub fn refuses_outcome(&self, request: &RecordRequest, now_ms: u64) -> Option<Record> {
        if self.is_of_another(&request.body_hash) {
            return Some(Record::Superseded);
        }
        if let Some(ended) = &self.ended {
            let same = ended.attempt == request.attempt && ended.token == request.token && ended.digest == BodyHash::of(&request.reply);
            return Some(if same { Record::Recorded } else { Record::EndedBefore(ended.stored(now_ms)) });
        }
        let begun = self.begun.as_ref()?;
        let late = match request.token {
            Some(token) => token < begun.token,
            // Never ran: only where no attempt of this number runs. A later number exists only because the earlier one was handed back.
            None => request.attempt <= begun.attempt,
        };
        late.then_some(Record::Superseded)
    }

    /// The status, as producers see it.
    pub fn status(&self, task_id: &TaskId, now_ms: u64) -> Result<TaskStatus, StoreError> {
        let body = self.ended.as_ref().and_then(|ended| ended.live_body(now_ms));
        let ran = self.ended.as_ref().filter(|ended| ended.token.is_some());
        Ok(TaskStatus {
            task_id: task_id.clone(),
            state: self.state(),
            kind: self.kind.clone(),
            gpu_id: self.begun.as_ref().map(|begun| begun.gpu_id.clone()),
            attempt: ran.map_or(self.begun.as_ref().map_or(0, |begun| begun.attempt), |ended| ended.attempt),
            crashes: u32::try_from(self.crashes.len()).unwrap_or(u32::MAX),
            waiting_for: self.waiting_for.clone().or_else(|| self.last_error()),
            progress: self.progress().cloned(),
            first_seen_ms: self.first_seen_ms,
            changed_ms: self.changed_ms,
            reply: body.map(|bytes| parse_reply(bytes)).transpose()?,
        })
    }

    /// How far the attempt is that runs now.
    fn progress(&self) -> Option<&Progress> {
        let noted = self.progress.as_ref().filter(|noted| self.runs_under(noted.token))?;
        (self.state() == TaskState::Running).then_some(&noted.progress)
    }

    /// Why it waits for its next attempt.
    fn last_error(&self) -> Option<String> {
        let retried = self.retried.as_ref().filter(|_| self.ended.is_none() && !self.runs())?;
        Some(waits_for_retry(retried.due, &retried.error))
    }

    fn state(&self) -> TaskState {
        match &self.ended {
            Some(ended) => ended.outcome.into(),
            // Waiting is written by whoever holds the delivery now, so it tells more than an attempt that began before.
            None if self.runs() && self.waiting_for.is_none() => TaskState::Running,
            None if self.cancelled.is_some() => TaskState::Cancelled,
            None if self.retried.is_some() && self.waiting_for.is_none() => TaskState::Retrying,
            None => TaskState::Waiting,
        }
    }
}

impl Ended {
    fn live_body(&self, now_ms: u64) -> Option<&Bytes> {
        self.body.as_ref().filter(|body| body.expires_ms > now_ms).map(|body| &body.bytes)
    }

    fn stored(&self, now_ms: u64) -> Stored {
        Stored {
            outcome: self.outcome,
            body: self.live_body(now_ms).cloned(),
            attempt: self.attempt,
            token: self.token,
            published_to: self.published_to.clone(),
        }
    }
}
