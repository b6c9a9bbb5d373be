//! One task's record, and what it answers.

use bytes::Bytes;
use protocol::{
    BodyHash, DeliveryId, GpuId, GroupName, Incarnation, ItemCounts, Kind, Outcome, Progress, TaskId, TaskState, TaskStatus, Token,
};

use super::split_batch::SplitBatch;
use crate::{
    Begin, BeginRequest, Crash, Holder, Look, Record, RecordRequest, Retry, RetryAnswer, RetryRequest, SliceRecord, SliceRecordRequest,
    SliceState, Split, StoreError, Stored, Verdict,
    slices::{self, SliceNote, split_of},
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
    /// While nothing but `submitted` was written: how many submits rely on it. The last `forget` of them takes it back.
    pub only_submitted: u32,
    /// Its kind, once known.
    pub kind: Option<Kind>,
    /// The group in which it is counted, if there is one.
    pub group: Option<GroupName>,
    /// The hash of its body, from the first attempt or outcome on.
    pub body_hash: Option<BodyHash>,
    /// Until when it must not begin.
    pub delay: Option<Delay>,
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
    /// The cancel that was asked for, on a record of its own where no task of the id was known (a tombstone). Written under the same lock as `begin`, which refuses a
    /// record whose cancel counts for it.
    pub cancelled: Option<CancelMark>,
    /// How it ended. Written once.
    pub ended: Option<Ended>,
    /// What became of its slices, if it is a batch that was split.
    pub slices: Option<SplitBatch>,
}

/// Until when a task must not begin.
#[derive(Debug, Clone, Copy)]
pub struct Delay {
    /// As its producer said it, in Unix ms.
    pub not_before_ms: u64,
    /// The same by the store's clock.
    pub until_ms: u64,
}

/// A cancel.
#[derive(Debug, Clone, Copy)]
pub struct CancelMark {
    /// When it was asked for, in Unix ms.
    pub at_ms: u64,
    /// No task of the id was known, and it does not reach ahead: it counts for what was published up to its second. Gone once a later task is submitted or begins.
    pub unseen: bool,
}

impl CancelMark {
    /// A time of publishing that is further ahead of the store's clock is none, in seconds: somebody has written milliseconds, for example.
    const AHEAD_MAX_S: u64 = 86_400;

    /// Whether it counts for what was published in that Unix second.
    pub fn counts(self, published_s: Option<u64>, now_ms: u64) -> bool {
        let believed = published_s.filter(|second| *second <= (now_ms / 1_000).saturating_add(Self::AHEAD_MAX_S));
        !self.unseen || believed.is_none_or(|second| second <= self.at_ms / 1_000)
    }
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
    /// How many of its items have ended, if it has items and said so.
    pub items: Option<ItemCounts>,
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

    /// Whether a task of the id is known: a cancel alone makes none.
    pub fn is_seen(&self) -> bool {
        self.kind.is_some() || self.body_hash.is_some()
    }

    /// Whether it is the record of this very task, as far as it tells.
    pub fn is_of(&self, kind: &Kind, body_hash: &BodyHash) -> bool {
        !self.is_of_another(body_hash) && self.kind.as_ref().is_none_or(|known| known == kind)
    }

    /// Whether a delay of this task may still be noted.
    pub fn may_be_delayed(&self, kind: &Kind, body_hash: &BodyHash) -> bool {
        self.is_of(kind, body_hash) && self.ended.is_none() && self.begun.is_none() && self.retried.is_none()
    }

    /// Whether it must not begin yet.
    fn is_delayed(&self, now_ms: u64) -> bool {
        self.begun.is_none() && self.delay.is_some_and(|delay| delay.until_ms > now_ms)
    }

    /// Whether there is a status to show: of a task, or of a cancel that waits for every task of the id.
    pub fn shows(&self) -> bool {
        self.is_seen() || self.is_cancelled()
    }

    /// Whether its task is cancelled, whenever that was published.
    fn is_cancelled(&self) -> bool {
        self.cancelled.is_some_and(|mark| !mark.unseen)
    }

    /// What stands against running this attempt of the task, whose message was published in that Unix second.
    pub fn look(&self, body_hash: &BodyHash, (attempt, published_s): (u32, Option<u64>), now_ms: u64) -> Look {
        if self.is_of_another(body_hash) {
            return Look::ReusedId;
        }
        let cancelled = self.cancelled.is_some_and(|mark| mark.counts(published_s, now_ms));
        match (&self.ended, &self.retried) {
            (Some(ended), _) => Look::Ended(ended.stored(now_ms)),
            (None, _) if cancelled => Look::Cancelled,
            (None, Some(retried)) if retried.due.attempt > attempt => Look::Retried(retried.due),
            (None, _) => self.split().map_or(Look::Open, Look::Split),
        }
    }

    /// What its slices are at, if it is a batch that was split and has not ended.
    pub fn split(&self) -> Option<Split> {
        let (notes, slices) = (self.live_notes()?, self.slices.as_ref()?);
        Some(split_of(notes, (self.body_hash.clone()?, slices.attempt, slices.token)))
    }

    /// What is written of its slices while it has not ended.
    fn live_notes(&self) -> Option<&[SliceNote]> {
        let slices = self.slices.as_ref().filter(|slices| self.ended.is_none() && !slices.notes.is_empty())?;
        Some(&slices.notes)
    }

    /// The GPU that it runs on, as far as the store knows: of a split batch, that whose slice began last.
    pub fn runs_on(&self) -> Option<&GpuId> {
        let own = self.begun.as_ref().filter(|_| self.runs()).map(|begun| &begun.gpu_id);
        let a_slice_runs = self.live_notes().is_some_and(|notes| notes.iter().any(|note| note.state == SliceState::Running));
        own.or_else(|| self.slices.as_ref().filter(|_| a_slice_runs)?.gpu_id.as_ref())
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
        // The attempt had begun before any cancel that is there now.
        match self.look(&request.body_hash, (request.attempt, None), now_ms) {
            Look::Retried(due) => Some(RetryAnswer::Due(due)),
            Look::Open if self.begun.as_ref().is_some_and(|begun| begun.token > request.token) => Some(RetryAnswer::Superseded),
            Look::Open => None,
            other => Some(RetryAnswer::Not(other)),
        }
    }

    /// The token of this very attempt, if it runs: it had begun for this delivery. Not where the caller says what became of it: then it is over.
    pub fn begun_again(&self, request: &BeginRequest) -> Option<Token> {
        let begun = self.begun.as_ref().filter(|_| self.runs())?;
        let same = begun.attempt == request.attempt && begun.incarnation == request.incarnation && begun.delivery == request.delivery;
        let is_over = request.verdict.is_some_and(|verdict| verdict.token == begun.token);
        (same && !is_over).then_some(begun.token)
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
        self.is_late(request.attempt, request.token).then_some(Record::Superseded)
    }

    /// Whether the end of a slice may be written: `None` if so, or if it ended before, else the answer.
    pub fn refuses_slice(&self, request: &SliceRecordRequest) -> Option<SliceRecord> {
        let late = self.ended.is_none() && self.is_late(request.attempt, request.token);
        (late || self.is_of_another(&request.body_hash)).then_some(SliceRecord::Superseded)
    }

    /// Whether an outcome of this attempt under this token comes after an attempt that outranks it began.
    fn is_late(&self, attempt: u32, token: Option<Token>) -> bool {
        self.begun.as_ref().is_some_and(|begun| match token {
            Some(token) => token < begun.token,
            // Never ran: only where no attempt of this number runs. A later number exists only because the earlier one was handed back.
            None => attempt <= begun.attempt,
        })
    }

    /// The status, as producers see it.
    pub fn status(&self, task_id: &TaskId, now_ms: u64) -> Result<TaskStatus, StoreError> {
        let body = self.ended.as_ref().and_then(|ended| ended.live_body(now_ms));
        let ran = self.ended.as_ref().filter(|ended| ended.token.is_some());
        let (begun, slices) = (self.begun.as_ref(), self.slices.as_ref());
        let latest = begun.map(|begun| begun.attempt).or_else(|| slices.map(|slices| slices.attempt)).unwrap_or(0);
        let mut status = TaskStatus {
            task_id: task_id.clone(),
            state: self.state(now_ms),
            kind: self.kind.clone(),
            group: self.group.clone(),
            gpu_id: begun.map(|begun| begun.gpu_id.clone()).or_else(|| slices?.gpu_id.clone()),
            attempt: ran.map_or(latest, |ended| ended.attempt),
            crashes: u32::try_from(self.crashes.len()).unwrap_or(u32::MAX),
            waiting_for: self.waiting_for.clone().or_else(|| self.last_error()),
            not_before_ms: self.delay.map(|delay| delay.not_before_ms),
            progress: self.noted(now_ms).map(|noted| noted.progress.clone()),
            items: self.noted(now_ms).and_then(|noted| noted.items),
            slices: None,
            first_seen_ms: self.first_seen_ms,
            changed_ms: self.changed_ms,
            reply: body.map(parse_reply).transpose()?,
        };
        if let Some(notes) = self.live_notes() {
            slices::show(notes, self.is_cancelled(), &mut status);
        }
        Ok(status)
    }

    /// How far the attempt is that runs now.
    fn noted(&self, now_ms: u64) -> Option<&Noted> {
        self.progress.as_ref().filter(|noted| self.runs_under(noted.token) && self.state(now_ms) == TaskState::Running)
    }

    /// Why it waits for its next attempt.
    fn last_error(&self) -> Option<String> {
        let retried = self.retried.as_ref().filter(|_| self.ended.is_none() && !self.runs())?;
        Some(waits_for_retry(retried.due, &retried.error))
    }

    fn state(&self, now_ms: u64) -> TaskState {
        match &self.ended {
            Some(ended) => ended.outcome.into(),
            // Waiting is written by whoever holds the delivery now, so it tells more than an attempt that began before.
            None if self.runs() && self.waiting_for.is_none() => TaskState::Running,
            None if self.is_cancelled() => TaskState::Cancelled,
            None if self.retried.is_some() && self.waiting_for.is_none() => TaskState::Retrying,
            None if self.is_delayed(now_ms) => TaskState::Delayed,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_without_a_task_counts_up_to_the_end_of_its_second() {
        let (mark, now_ms) = (CancelMark { at_ms: 1_700_000_000_999, unseen: true }, 1_700_000_000_999);
        let counts = |published_s| mark.counts(Some(published_s), now_ms);
        assert!(counts(1_699_999_999) && counts(1_700_000_000) && !counts(1_700_000_001));
        // A day ahead is the most that a clock is believed.
        assert!(!counts(1_700_086_400) && counts(1_700_086_401));
        assert!(mark.counts(None, now_ms));
        assert!(CancelMark { unseen: false, ..mark }.counts(Some(1_700_000_001), now_ms), "of a task that was known");
    }
}
