//! Mistakes in the protocol, planted on purpose: a simulation that does not find them proves nothing.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bytes::Bytes;
use protocol::{Holding, ItemResult, Json, Slice, SliceResults, Token, batch};
use task_queue::{Outgoing, Queue, Target};
use task_store::{Begin, RecordRequest, SliceState, Split};

/// One planted mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A delivery is acked when it arrives, not when its outcome is safe.
    AckBeforeRecord,
    /// A task that is sent on counts as sent before the broker has it.
    AckBeforeConfirm,
    /// The reply goes out before the outcome is recorded.
    ReplyBeforeRecord,
    /// The outcome of a late holder is taken: its token is not checked.
    NoTokenCheck,
    /// A worker goes on telling the table that it holds slots which it has given up.
    SlotsNeverGivenUp,
    /// An attempt begins under the token of the one before it.
    TokenGivenTwice,
    /// Of two tasks that the store answers together, one gets the other's answer.
    AnswerToTheWrongTask,
    /// A task whose outcome is recorded begins again.
    BeginsAfterTheEnd,
    /// A row that is missing from the table is its worker's death, though the table was lost just now.
    TrustsAnyTable,
    /// What waits in the own queue of a GPU has no time to live: where nobody remembers the GPU, it never comes back.
    WaitsForEver,
    /// A batch is merged as soon as one of its slices has ended.
    MergesEarly,
}

impl Bug {
    pub const ALL: [Self; 11] = [
        Self::AckBeforeRecord,
        Self::AckBeforeConfirm,
        Self::ReplyBeforeRecord,
        Self::NoTokenCheck,
        Self::SlotsNeverGivenUp,
        Self::TokenGivenTwice,
        Self::AnswerToTheWrongTask,
        Self::BeginsAfterTheEnd,
        Self::TrustsAnyTable,
        Self::WaitsForEver,
        Self::MergesEarly,
    ];

    /// How long what should be safe first is not.
    pub const LAG: Duration = Duration::from_millis(60);

    /// Whether it shows only where the store forgets, which promises less: all others must show in the full promises.
    pub fn needs_an_emptied_store(self) -> bool {
        self == Self::WaitsForEver
    }

    /// What the broker gets of a message.
    pub fn message(self, message: Outgoing) -> Outgoing {
        let mut message = message;
        // One with a deadline of its own comes back by that.
        let may_wait_for_ever = message.envelope.headers.start_before_ms.is_none();
        if self == Self::WaitsForEver && may_wait_for_ever && matches!(message.target, Target::Queue(Queue::Gpu(_))) {
            message.envelope.expiration = None;
        }
        message
    }

    /// What reaches the store of an outcome.
    pub fn outcome(self, request: &RecordRequest) -> RecordRequest {
        let token = if self == Self::NoTokenCheck { request.token.map(|_| Token(u64::MAX >> 12)) } else { request.token };
        RecordRequest { token, ..request.clone() }
    }

    /// What the worker hears of a batch one of whose slices has ended.
    pub fn split(self, split: Split) -> Split {
        let ended = |(slice, state)| (slice, if self == Self::MergesEarly { SliceState::Ended } else { state });
        Split { slices: split.slices.into_iter().map(ended).collect(), ..split }
    }

    /// What the worker gets for the results of a batch: where it merges too early, nothing in the place of those that are not there.
    pub fn results(self, there: Vec<(Slice, Bytes)>, split: &Split, from: u32) -> Vec<(Slice, Bytes)> {
        if self != Self::MergesEarly {
            return there;
        }
        let nothing = |slice: Slice| {
            let nulls: Vec<Json> = (0..slice.items()).map(|_| ItemResult::succeeded(Json::null()).to_json()).collect();
            SliceResults { gpu_id: None, run_ms: 0.0, device_ms: None, batch_size: None, results: batch::list(&nulls) }.into_bytes()
        };
        let wanted = split.slices.iter().map(|(slice, _)| *slice).filter(|slice| slice.to > from);
        let of = |slice: Slice| there.iter().find(|(known, _)| *known == slice).map_or_else(|| nothing(slice), |(_, bytes)| bytes.clone());
        wanted.map(|slice| (slice, of(slice))).collect()
    }

    /// What the worker hears of a begin. `before`: the token under which the task began last, and what the store answered to the begin before this one.
    pub fn begin(self, answer: Begin, before: (Option<Token>, Option<Begin>)) -> Begin {
        match (self, &answer, before) {
            (Self::BeginsAfterTheEnd, Begin::Not(_), _) => Begin::Begun(Token(1)),
            (Self::TokenGivenTwice, Begin::Begun(_), (Some(token), _)) => Begin::Begun(token),
            (Self::AnswerToTheWrongTask, _, (_, Some(other))) => other,
            _ => answer,
        }
    }
}

/// The most slots that a worker ever told, for [`Bug::SlotsNeverGivenUp`].
#[derive(Default)]
pub struct MostHeld(AtomicU32);

impl MostHeld {
    /// What it tells instead.
    pub fn tell(&self, holding: Holding) -> Holding {
        let most = self.0.fetch_max(holding.slots, Ordering::SeqCst).max(holding.slots);
        Holding { slots: most, ..holding }
    }
}
