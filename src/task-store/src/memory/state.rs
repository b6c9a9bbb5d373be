//! All records, the announced GPUs, and what the bodies take together.

use std::collections::BTreeMap;

use protocol::{BodyHash, DeliveryId, GpuId, GroupName, Kind, PoolName, Progress, TaskId, Token};

use super::{
    deadlines::Deadlines,
    record::{Begun, CancelMark, Delay, Ended, KeptBody, Noted, Retried, TaskRecord},
};
use crate::{
    Begin, BeginRequest, Cancel, DelayRequest, Fence, FenceRequest, KnownGpu, Look, LookRequest, ProgressAnswer, ProgressRequest, Reach,
    Record, RecordRequest, Reopen, Retry, RetryAnswer, RetryRequest, StoreOptions, Submission, Totals, Verdict,
};

/// What the lock protects.
#[derive(Debug)]
pub struct State {
    pub(super) options: StoreOptions,
    pub(super) records: BTreeMap<TaskId, TaskRecord>,
    records_due: Deadlines,
    bodies_due: Deadlines,
    /// The results of batches that were merged.
    pub(super) results_due: Deadlines,
    gpus: BTreeMap<GpuId, KnownGpu>,
    pub(super) totals: Totals,
}

impl State {
    pub fn new(options: StoreOptions) -> Self {
        Self {
            options,
            records: BTreeMap::new(),
            records_due: Deadlines::default(),
            bodies_due: Deadlines::default(),
            results_due: Deadlines::default(),
            gpus: BTreeMap::new(),
            totals: Totals::default(),
        }
    }

    pub fn clear(&mut self) {
        *self = Self::new(self.options);
    }

    /// The task's record, unless it has expired.
    pub fn record(&self, task_id: &TaskId, now_ms: u64) -> Option<&TaskRecord> {
        self.records.get(task_id).filter(|record| record.expires_ms > now_ms)
    }

    pub fn submitted(&mut self, task_id: &TaskId, (kind, body_hash): (&Kind, &BodyHash), now_ms: u64) -> Submission {
        if let Some(record) = self.records.get_mut(task_id).filter(|record| record.expires_ms > now_ms) {
            if record.is_seen() {
                let same = record.is_of(kind, body_hash);
                // One more relies on the note now: none of them takes it back alone.
                if same && record.only_submitted > 0 {
                    record.only_submitted = record.only_submitted.saturating_add(1);
                }
                return if same { Submission::Known } else { Submission::Other };
            }
            // What is submitted now comes after the cancel.
            if record.cancelled.is_some_and(|mark| mark.unseen) {
                self.remove(task_id);
            }
        }
        let record = self.change(task_id, now_ms);
        record.only_submitted = 1;
        record.kind = Some(kind.clone());
        record.body_hash = Some(body_hash.clone());
        Submission::Noted
    }

    pub fn forget(&mut self, task_id: &TaskId, now_ms: u64) {
        let Some(record) = self.records.get_mut(task_id).filter(|record| record.expires_ms > now_ms && record.only_submitted > 0) else {
            return;
        };
        if record.only_submitted > 1 {
            record.only_submitted -= 1;
        } else if record.cancelled.is_some() {
            // A cancel that reached ahead was there before the task, and goes on waiting for the next one.
            (record.only_submitted, record.kind, record.body_hash, record.delay, record.group) = (0, None, None, None, None);
        } else {
            self.remove(task_id);
        }
    }

    pub fn delayed(&mut self, request: &DelayRequest, now_ms: u64) {
        let DelayRequest { task_id, kind, body_hash, not_before_ms, left_ms } = request;
        let known = self.record(task_id, now_ms);
        if known.is_some_and(|record| !record.may_be_delayed(kind, body_hash)) {
            return;
        }
        let only_submitted = known.map_or(0, |record| record.only_submitted);
        let record = self.change(task_id, now_ms);
        record.kind = Some(kind.clone());
        record.body_hash = Some(body_hash.clone());
        record.delay = Some(Delay { not_before_ms: *not_before_ms, until_ms: now_ms.saturating_add(*left_ms) });
        // Its expiry counts from then.
        self.change(task_id, now_ms).only_submitted = only_submitted;
    }

    /// Looks before anything is done with a delivery.
    pub fn look(&mut self, request: &LookRequest, now_ms: u64) -> Look {
        if let Some(against) = self.against_slice_of((&request.task_id, &request.body_hash), now_ms) {
            return against;
        }
        let Some(record) = self.record(&request.task_id, now_ms) else { return Look::Open };
        match record.look(&request.body_hash, (request.attempt, request.published_s), now_ms) {
            Look::Open => record.unfinished(None).map_or(Look::Open, Look::Unfinished),
            look => look,
        }
    }

    pub fn begin(&mut self, request: &BeginRequest, now_us: u64) -> Begin {
        let now_ms = now_us / 1_000;
        if let Some(against) = self.against_slice_of((&request.task_id, &request.body_hash), now_ms) {
            return Begin::Not(against);
        }
        if let Some(record) = self.record(&request.task_id, now_ms) {
            match record.look(&request.body_hash, (request.attempt, request.published_s), now_ms) {
                Look::Open => {}
                look => return Begin::Not(look),
            }
            if let Some(token) = record.begun_again(request) {
                return Begin::Begun(token);
            }
            if let Some(holder) = record.unfinished(request.verdict) {
                return Begin::Unfinished(holder);
            }
        }
        self.judge(&request.task_id, request.verdict, now_ms);
        if let Some(answer) = self.record(&request.task_id, now_ms).and_then(|record| record.past_crashes(request)) {
            return answer;
        }
        let token = self.next_token(&request.task_id, now_us);
        let record = self.change(&request.task_id, now_ms);
        record.kind = Some(request.kind.clone());
        record.body_hash = Some(request.body_hash.clone());
        record.waiting_for = None;
        // A cancel that is there did not reach this task.
        record.cancelled = None;
        record.begun = Some(Begun {
            attempt: request.attempt,
            token,
            gpu_id: request.gpu_id.clone(),
            incarnation: request.incarnation.clone(),
            delivery: request.delivery,
            alone: request.alone,
            settled: false,
        });
        self.slice_began(&request.task_id, &request.gpu_id, now_ms);
        Begin::Begun(token)
    }

    pub fn fence(&mut self, request: &FenceRequest, now_us: u64) -> Fence {
        let now_ms = now_us / 1_000;
        if let Some(against @ Look::Unwanted) = self.against_slice_of((&request.task_id, &request.body_hash), now_ms) {
            return Fence::Not(against);
        }
        if let Some(record) = self.record(&request.task_id, now_ms) {
            match record.look(&request.body_hash, (request.attempt, None), now_ms) {
                look @ (Look::Ended(_) | Look::ReusedId) => return Fence::Not(look),
                Look::Open | Look::Unfinished(_) | Look::Cancelled | Look::Retried(_) | Look::Split(_) | Look::Unwanted => {}
            }
            // Also where it was cancelled: with a token, its one outcome could no longer be recorded without one.
            if let Some(split) = record.split() {
                return Fence::Not(Look::Split(split));
            }
            if let Some(holder) = record.unfinished(request.verdict) {
                return Fence::Unfinished(holder);
            }
        }
        self.judge(&request.task_id, request.verdict, now_ms);
        let token = self.next_token(&request.task_id, now_us);
        let record = self.change(&request.task_id, now_ms);
        record.body_hash = Some(request.body_hash.clone());
        record.begun = Some(Begun {
            attempt: request.attempt,
            token,
            gpu_id: request.gpu_id.clone(),
            incarnation: request.incarnation.clone(),
            delivery: DeliveryId(0),
            alone: false,
            settled: true,
        });
        self.slice_waits(&request.task_id, now_ms);
        Fence::Fenced(token)
    }

    fn judge(&mut self, task_id: &TaskId, verdict: Option<Verdict>, now_ms: u64) {
        if self.records.get_mut(task_id).is_some_and(|record| record.take_verdict(verdict, now_ms)) {
            self.change(task_id, now_ms);
            self.slice_waits(task_id, now_ms);
        }
    }

    /// Above every token of the task, and not below the time.
    pub(super) fn next_token(&self, task_id: &TaskId, now_us: u64) -> Token {
        let last = self.record(task_id, now_us / 1_000).and_then(|record| record.begun.as_ref()).map_or(0, |begun| begun.token.0);
        Token((last + 1).max(now_us))
    }

    pub fn hand_back(&mut self, task_id: &TaskId, token: Token, now_ms: u64) {
        let known = self.record(task_id, now_ms);
        if known.is_some_and(|record| record.ended.is_none() && record.begun.as_ref().is_some_and(|begun| begun.token == token)) {
            let record = self.change(task_id, now_ms);
            if let Some(begun) = &mut record.begun {
                begun.settled = true;
            }
            self.slice_waits(task_id, now_ms);
        }
    }

    pub fn progress(&mut self, request: &ProgressRequest, now_ms: u64) -> ProgressAnswer {
        if !self.record(&request.task_id, now_ms).is_some_and(|record| record.runs_under(request.token)) {
            return ProgressAnswer::Refused;
        }
        if matches!(self.against_slice(&request.task_id, now_ms), Some(Look::Unwanted)) {
            return ProgressAnswer::Refused;
        }
        let progress = Progress { fraction: request.fraction, message: request.message.clone(), at_ms: now_ms };
        self.change(&request.task_id, now_ms).progress = Some(Noted { token: request.token, progress, items: request.items });
        ProgressAnswer::Noted(self.slice_progressed(&request.task_id, request.items, now_ms))
    }

    pub fn record_outcome(&mut self, request: &RecordRequest, now_ms: u64) -> Record {
        if let Some(answer) = self.record(&request.task_id, now_ms).and_then(|record| record.refuses_outcome(request, now_ms)) {
            return answer;
        }
        // First the record: making it clears what an expired one of the same id still occupies.
        self.change(&request.task_id, now_ms);
        let body = self.keep_body(request, now_ms);
        let record = self.change(&request.task_id, now_ms);
        record.kind = request.kind.clone().or(record.kind.take());
        record.body_hash = Some(request.body_hash.clone());
        record.waiting_for = None;
        record.ended = Some(Ended {
            outcome: request.outcome,
            attempt: request.attempt,
            token: request.token,
            digest: BodyHash::of(&request.reply),
            body,
            published_to: None,
        });
        Record::Recorded
    }

    pub fn retry(&mut self, request: &RetryRequest, now_ms: u64) -> RetryAnswer {
        if let Some(against) = self.against_slice_of((&request.task_id, &request.body_hash), now_ms) {
            return RetryAnswer::Not(against);
        }
        if let Some(answer) = self.record(&request.task_id, now_ms).and_then(|record| record.refuses_retry(request, now_ms)) {
            return answer;
        }
        let due = Retry { attempt: request.attempt + 1, after_ms: request.after_ms };
        let record = self.change(&request.task_id, now_ms);
        record.body_hash = Some(request.body_hash.clone());
        record.waiting_for = None;
        record.retried = Some(Retried { due, error: request.error.clone() });
        if !record.runs() {
            self.slice_waits(&request.task_id, now_ms);
        }
        RetryAnswer::Due(due)
    }

    pub fn reopen(&mut self, task_id: &TaskId, body_hash: &BodyHash, now_ms: u64) -> Reopen {
        match self.record(task_id, now_ms) {
            None => return Reopen::Open,
            Some(record) if record.body_hash.as_ref().is_some_and(|known| known != body_hash) => return Reopen::ReusedId,
            Some(record) if record.ended.is_none() => return Reopen::NotEnded,
            Some(_) => {}
        }
        self.remove_slices(task_id);
        self.remove(task_id);
        Reopen::Open
    }

    pub fn cancel(&mut self, task_id: &TaskId, reach: Reach, now_ms: u64) -> Cancel {
        let known = self.record(task_id, now_ms);
        let before = known.and_then(|record| record.cancelled);
        let answer = match known {
            Some(TaskRecord { ended: Some(ended), .. }) => return Cancel::Ended(ended.outcome),
            Some(record) if !record.is_seen() => Cancel::Unseen,
            Some(record) => record.runs_on().map_or(Cancel::Waiting, |gpu_id| Cancel::Running(gpu_id.clone())),
            None => Cancel::Unseen,
        };
        let bounded = answer == Cancel::Unseen && reach == Reach::Published && before.is_none_or(|mark| mark.unseen);
        let at_ms = before.filter(|_| !bounded).map_or(now_ms, |mark| mark.at_ms);
        self.change(task_id, now_ms).cancelled = Some(CancelMark { at_ms, unseen: bounded });
        answer
    }

    pub fn published(&mut self, task_id: &TaskId, to: &str, now_ms: u64) {
        let ended = self.records.get_mut(task_id).filter(|record| record.expires_ms > now_ms).and_then(|record| record.ended.as_mut());
        if let Some(ended) = ended {
            ended.published_to.get_or_insert_with(|| to.to_owned());
        }
    }

    pub fn waits_for(&mut self, task_id: &TaskId, kind: &Kind, reason: &str, now_ms: u64) {
        self.drop_stale(task_id, now_ms);
        if self.record(task_id, now_ms).is_none_or(|record| record.ended.is_none()) {
            let record = self.change(task_id, now_ms);
            record.kind.get_or_insert_with(|| kind.clone());
            record.waiting_for = Some(reason.to_owned());
            self.slice_stays(task_id, now_ms);
        }
    }

    /// The task is counted in this group. Of two groups the first one shows.
    pub fn belongs_to(&mut self, task_id: &TaskId, group: &GroupName, now_ms: u64) {
        if let Some(record) = self.records.get_mut(task_id).filter(|record| record.expires_ms > now_ms && record.is_seen()) {
            record.group.get_or_insert_with(|| group.clone());
        }
    }

    pub fn announce(&mut self, gpu_id: &GpuId, pool: &PoolName, now_ms: u64) {
        let known = KnownGpu { gpu_id: gpu_id.clone(), pool: pool.clone(), announced_ms: now_ms };
        self.gpus.insert(gpu_id.clone(), known);
    }

    pub fn announced(&self) -> Vec<KnownGpu> {
        self.gpus.values().cloned().collect()
    }

    pub fn withdraw(&mut self, gpu: &KnownGpu) {
        if self.gpus.get(&gpu.gpu_id).is_some_and(|known| known.announced_ms <= gpu.announced_ms) {
            self.gpus.remove(&gpu.gpu_id);
        }
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Gives back what at most `at_most` expired records and as many expired bodies occupy.
    pub fn clear_expired(&mut self, now_ms: u64, at_most: usize) {
        for _ in 0..at_most {
            let Some(task_id) = self.records_due.pop_due(now_ms) else { break };
            self.remove(&task_id);
        }
        for _ in 0..at_most {
            let Some(task_id) = self.bodies_due.pop_due(now_ms) else { break };
            self.drop_body(&task_id);
        }
        for _ in 0..at_most {
            let Some(batch) = self.results_due.pop_due(now_ms) else { break };
            self.drop_results(&batch);
        }
    }

    /// The task's record to be changed now: made if there is none, its expiry counted from now, or from when it is due. No longer only submitted.
    pub(super) fn change(&mut self, task_id: &TaskId, now_ms: u64) -> &mut TaskRecord {
        if self.records.get(task_id).is_some_and(|record| record.expires_ms <= now_ms) {
            self.remove(task_id);
        }
        let due_ms = self.records.get(task_id).and_then(|record| record.delay).map_or(0, |delay| delay.until_ms);
        let expires_ms = now_ms.max(due_ms).saturating_add(self.options.outcome_retention_ms());
        let before = self.records.get(task_id).map(|record| record.expires_ms);
        self.records_due.set(task_id, before, expires_ms);
        let record = self.records.entry(task_id.clone()).or_insert_with(|| TaskRecord { first_seen_ms: now_ms, ..TaskRecord::default() });
        record.changed_ms = now_ms;
        record.expires_ms = expires_ms;
        record.only_submitted = 0;
        record
    }

    /// The reply to keep, if the bound on bytes leaves room for it.
    fn keep_body(&mut self, request: &RecordRequest, now_ms: u64) -> Option<KeptBody> {
        let with_it = self.totals.reply_bytes.saturating_add(request.reply.len() as u64);
        if with_it > self.options.bytes_with_replies_max() {
            self.totals.replies_not_kept += 1;
            return None;
        }
        self.totals.reply_bytes = with_it;
        let expires_ms = now_ms.saturating_add(self.options.reply_retention_ms());
        self.bodies_due.set(&request.task_id, None, expires_ms);
        Some(KeptBody { bytes: request.reply.clone(), expires_ms })
    }

    pub(super) fn remove(&mut self, task_id: &TaskId) {
        self.drop_body(task_id);
        self.drop_results(task_id);
        if let Some(record) = self.records.remove(task_id) {
            self.records_due.clear(task_id, Some(record.expires_ms));
        }
    }

    fn drop_body(&mut self, task_id: &TaskId) {
        let ended = self.records.get_mut(task_id).and_then(|record| record.ended.as_mut());
        if let Some(body) = ended.and_then(|ended| ended.body.take()) {
            self.totals.reply_bytes -= body.bytes.len() as u64;
            self.bodies_due.clear(task_id, Some(body.expires_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use protocol::Outcome;

    use super::*;

    fn request(number: u64) -> RecordRequest {
        RecordRequest {
            task_id: TaskId::new(format!("task-{number}")).unwrap(),
            body_hash: BodyHash::of(b"body"),
            kind: None,
            outcome: Outcome::Failed,
            attempt: 1,
            token: None,
            reply: Bytes::from_static(b"reply"),
        }
    }

    #[test]
    fn expired_records_are_given_back_a_few_at_a_time() {
        let retention = Duration::from_secs(10);
        let mut state = State::new(StoreOptions { reply_retention: retention, outcome_retention: retention, ..StoreOptions::default() });
        for number in 0..100 {
            state.record_outcome(&request(number), 0);
        }
        state.clear_expired(10_000, 4);
        assert_eq!(state.records.len(), 96);
        assert!(state.record(&request(99).task_id, 10_000).is_none(), "an expired record is not answered while it still lies there");
        for _ in 0..24 {
            state.clear_expired(10_000, 4);
        }
        assert!(state.records.is_empty());
        assert_eq!(state.totals(), Totals::default());
    }
}
