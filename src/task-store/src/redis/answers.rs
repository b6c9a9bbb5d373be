//! What the scripts answer, as the port's words. The shapes are the contracts at the heads of the scripts.

use std::str::FromStr;

use bytes::Bytes;
use protocol::{DeliveryId, Fraction, Outcome, Progress, TaskId, TaskState, TaskStatus, Token};

use crate::{
    Begin, Cancel, Crash, Fence, Holder, Look, Record, Retry, RetryAnswer, StoreError, Stored, Submission, slices,
    status::{parse_reply, waits_for_retry},
};

/// Longest part of an answer that an error repeats, in characters.
const SHOWN: usize = 100;

/// One answer: a list of texts, some of them absent.
#[derive(Debug)]
pub struct Answer {
    operation: &'static str,
    parts: Vec<Option<Vec<u8>>>,
}

impl Answer {
    pub fn new(operation: &'static str, parts: Vec<Option<Vec<u8>>>) -> Self {
        Self { operation, parts }
    }

    /// How many parts there are.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// The first part, which says what kind of answer it is.
    pub fn word(&self) -> &str {
        self.parts.first().and_then(Option::as_deref).and_then(|part| std::str::from_utf8(part).ok()).unwrap_or_default()
    }

    /// Part `index` as a value; `None` if it is absent or empty.
    pub fn optional<T: FromStr>(&self, index: usize) -> Result<Option<T>, StoreError> {
        let Some(part) = self.parts.get(index).and_then(Option::as_deref).filter(|part| !part.is_empty()) else { return Ok(None) };
        let text = std::str::from_utf8(part).map_err(|_| self.garbled())?;
        text.parse().map(Some).map_err(|_| self.garbled())
    }

    /// Part `index` as a value.
    pub fn required<T: FromStr>(&self, index: usize) -> Result<T, StoreError> {
        self.optional(index)?.ok_or_else(|| self.garbled())
    }

    /// The answer to `submitted`.
    pub fn submission(self) -> Result<Submission, StoreError> {
        match self.word() {
            "noted" => Ok(Submission::Noted),
            "known" => Ok(Submission::Known),
            "other" => Ok(Submission::Other),
            _ => Err(self.garbled()),
        }
    }

    /// The answer to `look`.
    pub fn look(self) -> Result<Look, StoreError> {
        match self.word() {
            "open" => Ok(Look::Open),
            "unfinished" => self.holder().map(Look::Unfinished),
            "cancelled" => Ok(Look::Cancelled),
            "reused" => Ok(Look::ReusedId),
            "retried" => self.due().map(Look::Retried),
            "ended" => self.stored().map(Look::Ended),
            "split" => self.slices_now().map(Look::Split),
            "unwanted" => Ok(Look::Unwanted),
            _ => Err(self.garbled()),
        }
    }

    /// The answer to `retry`.
    pub fn retry(self) -> Result<RetryAnswer, StoreError> {
        match self.word() {
            "superseded" => Ok(RetryAnswer::Superseded),
            "retried" => self.due().map(RetryAnswer::Due),
            "open" => Err(self.garbled()),
            _ => self.look().map(RetryAnswer::Not),
        }
    }

    /// The answer to `cancel`.
    pub fn cancel(self) -> Result<Cancel, StoreError> {
        match self.word() {
            "waiting" => Ok(Cancel::Waiting),
            "unseen" => Ok(Cancel::Unseen),
            "running" => self.required(1).map(Cancel::Running),
            "ended" => self.outcome(&self.required::<String>(1)?).map(Cancel::Ended),
            _ => Err(self.garbled()),
        }
    }

    /// `retried, attempt, pause in ms`.
    fn due(&self) -> Result<Retry, StoreError> {
        Ok(Retry { attempt: self.required(1)?, after_ms: self.required(2)? })
    }

    /// The answer to `begin`.
    pub fn begin(self) -> Result<Begin, StoreError> {
        match self.word() {
            "begun" => Ok(Begin::Begun(Token(self.required(1)?))),
            "unfinished" => self.holder().map(Begin::Unfinished),
            "suspect" => Ok(Begin::Suspect),
            "condemned" => self.crashes(1).map(Begin::Condemned),
            "open" => Err(self.garbled()),
            _ => self.look().map(Begin::Not),
        }
    }

    /// The answer to `fence`.
    pub fn fence(self) -> Result<Fence, StoreError> {
        match self.word() {
            "fenced" => Ok(Fence::Fenced(Token(self.required(1)?))),
            "unfinished" => self.holder().map(Fence::Unfinished),
            "ended" | "reused" | "split" | "unwanted" => self.look().map(Fence::Not),
            _ => Err(self.garbled()),
        }
    }

    /// `unfinished, token, GPU, incarnation, delivery`.
    fn holder(&self) -> Result<Holder, StoreError> {
        Ok(Holder {
            token: Token(self.required(1)?),
            gpu_id: self.required(2)?,
            incarnation: self.required(3)?,
            delivery: DeliveryId(self.required(4)?),
        })
    }

    /// The answer to `record`.
    pub fn record(self) -> Result<Record, StoreError> {
        match self.word() {
            "recorded" | "again" => Ok(Record::Recorded),
            "superseded" => Ok(Record::Superseded),
            "ended" => self.stored().map(Record::EndedBefore),
            _ => Err(self.garbled()),
        }
    }

    /// The answer to `status`.
    pub fn status(mut self, task_id: &TaskId) -> Result<Option<TaskStatus>, StoreError> {
        if self.parts.is_empty() {
            return Ok(None);
        }
        let begun_attempt: Option<u32> = self.optional(4)?;
        let due: Option<u32> = self.optional(11)?;
        let runs = self.optional::<u32>(18)?.is_some();
        let delayed = self.optional::<u32>(20)?.is_some();
        let waiting_for: Option<String> = self.optional(5)?;
        let cancelled = self.optional::<u64>(6)?.is_some();
        let outcome = self.optional::<String>(7)?.map(|name| self.outcome(&name)).transpose()?;
        let ran = self.optional::<u64>(9)?.is_some();
        let state = match outcome {
            Some(outcome) => outcome.into(),
            // Waiting is written by whoever holds the delivery now, so it tells more than an attempt that began before.
            None if runs && waiting_for.is_none() => TaskState::Running,
            None if cancelled => TaskState::Cancelled,
            None if due.is_some() && waiting_for.is_none() => TaskState::Retrying,
            None if delayed => TaskState::Delayed,
            None => TaskState::Waiting,
        };
        let waiting_for = match due {
            Some(attempt) if outcome.is_none() && !runs && waiting_for.is_none() => {
                Some(waits_for_retry(Retry { attempt, after_ms: self.required(12)? }, &self.required::<String>(13)?))
            }
            _ => waiting_for,
        };
        let is_running = state == TaskState::Running;
        let mut status = TaskStatus {
            task_id: task_id.clone(),
            state,
            kind: self.optional(2)?,
            group: self.optional(21)?,
            gpu_id: self.optional(3)?,
            attempt: if ran { self.required(8)? } else { begun_attempt.unwrap_or(0) },
            crashes: u32::try_from(self.crashes(17)?.len()).unwrap_or(u32::MAX),
            waiting_for,
            not_before_ms: self.optional(19)?,
            progress: if is_running { self.noted()? } else { None },
            items: if is_running { self.items(23)? } else { None },
            slices: None,
            first_seen_ms: self.required(0)?,
            changed_ms: self.required(1)?,
            reply: self.take(10).map(|body| parse_reply(&Bytes::from(body))).transpose()?,
        };
        if let Some(notes) = self.notes(22)? {
            slices::show(&notes, cancelled, &mut status);
        }
        Ok(Some(status))
    }

    /// Parts 14 to 16 of a status: fraction, message, time.
    fn noted(&self) -> Result<Option<Progress>, StoreError> {
        let Some(fraction) = self.optional::<f64>(14)? else { return Ok(None) };
        let fraction = Fraction::try_from(fraction).map_err(|_| self.garbled())?;
        Ok(Some(Progress { fraction, message: self.optional(15)?, at_ms: self.required(16)? }))
    }

    /// `ended, outcome, attempt, token or '', reply or nil, to whom published or nil`.
    fn stored(mut self) -> Result<Stored, StoreError> {
        let outcome = self.required::<String>(1)?;
        Ok(Stored {
            outcome: self.outcome(&outcome)?,
            attempt: self.required(2)?,
            token: self.optional(3)?.map(Token),
            published_to: self.optional(5)?,
            body: self.take(4).map(Bytes::from),
        })
    }

    /// One line a crash; an absent part is none.
    fn crashes(&self, index: usize) -> Result<Vec<Crash>, StoreError> {
        let lines: Option<String> = self.optional(index)?;
        lines.unwrap_or_default().lines().map(|line| crash(line).ok_or_else(|| self.garbled())).collect()
    }

    fn outcome(&self, name: &str) -> Result<Outcome, StoreError> {
        let outcomes = [Outcome::Succeeded, Outcome::Failed, Outcome::Cancelled, Outcome::Expired];
        outcomes.into_iter().find(|outcome| outcome.name() == name).ok_or_else(|| self.garbled())
    }

    /// Puts something else into part `index`, if there is one.
    pub fn put(&mut self, index: usize, part: Option<Vec<u8>>) {
        if let Some(place) = self.parts.get_mut(index) {
            *place = part;
        }
    }

    fn take(&mut self, index: usize) -> Option<Vec<u8>> {
        self.parts.get_mut(index).and_then(Option::take)
    }

    /// The parts from `index` on that are there.
    pub fn into_parts_from(self, index: usize) -> Vec<Vec<u8>> {
        self.parts.into_iter().skip(index).flatten().collect()
    }

    /// The error that this answer is not understood.
    pub fn garbled(&self) -> StoreError {
        let parts: Vec<_> = self.parts.iter().map(|part| part.as_deref().map(String::from_utf8_lossy)).collect();
        StoreError::Garbled { operation: self.operation, answer: format!("{parts:?}").chars().take(SHOWN).collect() }
    }
}

/// Reads `attempt GPU milliseconds alone`.
fn crash(line: &str) -> Option<Crash> {
    let mut words = line.split(' ');
    let crash = Crash {
        attempt: words.next()?.parse().ok()?,
        gpu_id: words.next()?.parse().ok()?,
        found_ms: words.next()?.parse().ok()?,
        alone: words.next()? == "1",
    };
    words.next().is_none().then_some(crash)
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy;

    use super::*;

    fn answer(parts: &[&str]) -> Answer {
        Answer::new("test", parts.iter().map(|part| Some(part.as_bytes().to_vec())).collect())
    }

    #[test]
    fn an_answer_that_no_script_gives_is_garbled_and_shown() {
        for parts in [&[][..], &["perhaps"], &["ended", "vanished", "1", ""], &["ended", "failed", "many", ""]] {
            let error = answer(parts).look().expect_err("garbled");
            assert!(matches!(&error, StoreError::Garbled { operation: "test", .. }), "{error}");
            assert!(!error.is_transient());
        }
        assert!(answer(&["open"]).begin().is_err(), "begin never answers open");
    }

    #[test]
    fn an_absent_reply_and_an_empty_one_are_told_apart() {
        let kept = answer(&["ended", "succeeded", "1", "7", ""]).look().expect("understood");
        let gone = answer(&["ended", "succeeded", "1", "7"]).look().expect("understood");
        let stored =
            |body| Look::Ended(Stored { outcome: Outcome::Succeeded, body, attempt: 1, token: Some(Token(7)), published_to: None });
        assert_eq!((kept, gone), (stored(Some(Bytes::new())), stored(None)));
    }

    proptest::proptest! {
        /// Whatever a store answers is understood or garbled: a panic would end a worker.
        #[test]
        fn any_answer_is_understood_or_garbled(
            word in proptest::sample::select(&["open", "ended", "retried", "running", "begun", "recorded", "noted", "split", "slices", "succeeded", "7", ""][..]),
            rest in proptest::collection::vec(
                proptest::option::of(proptest::prop_oneof![
                    proptest::collection::vec(proptest::num::u8::ANY, 0..6),
                    proptest::sample::select(&["succeeded", "1", "18446744073709551616", "gpu-0", "echo", "0..4 ended 4 0 9 1", ""][..]).prop_map(|text| text.as_bytes().to_vec()),
                ]),
                0..22,
            ),
        ) {
            let parts: Vec<Option<Vec<u8>>> = [Some(word.as_bytes().to_vec())].into_iter().chain(rest).collect();
            let answer = || Answer::new("test", parts.clone());
            let task_id = TaskId::new("t").expect("valid");
            let errors = [
                answer().look().err(), answer().retry().err(), answer().cancel().err(), answer().begin().err(), answer().record().err(),
                answer().fence().err(), answer().status(&task_id).err(), answer().submission().err(),
                answer().split().err(), answer().slice_record().err(), answer().progress().err(), answer().slices().err(), answer().freed().err(),
            ];
            for error in errors.into_iter().flatten() {
                let garbled = matches!(error, StoreError::Garbled { .. });
                proptest::prop_assert!(garbled && !error.is_transient(), "{}", error);
            }
        }
    }
}
