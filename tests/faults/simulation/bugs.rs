//! Mistakes in the protocol, planted on purpose: a simulation that does not find them proves nothing.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use gpu_table::Heartbeat;
use protocol::{TaskId, Token, claim::HeldClaim};
use task_store::{Begin, RecordRequest};

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
    /// Heartbeats go on renewing claims that were released.
    RenewalResurrects,
    /// A task whose outcome is recorded begins again.
    BeginsAfterTheEnd,
    /// A row that is missing from the table is its worker's death, though the table was lost just now.
    TrustsAnyTable,
}

impl Bug {
    pub const ALL: [Self; 7] = [
        Self::AckBeforeRecord,
        Self::AckBeforeConfirm,
        Self::ReplyBeforeRecord,
        Self::NoTokenCheck,
        Self::RenewalResurrects,
        Self::BeginsAfterTheEnd,
        Self::TrustsAnyTable,
    ];

    /// How long what should be safe first is not.
    pub const LAG: Duration = Duration::from_millis(60);

    /// What reaches the store of an outcome.
    pub fn outcome(self, request: &RecordRequest) -> RecordRequest {
        let token = if self == Self::NoTokenCheck { request.token.map(|_| Token(u64::MAX >> 12)) } else { request.token };
        RecordRequest { token, ..request.clone() }
    }

    /// What the worker hears of a begin.
    pub fn begin(self, answer: Begin) -> Begin {
        match answer {
            Begin::Not(_) if self == Self::BeginsAfterTheEnd => Begin::Begun,
            answer => answer,
        }
    }
}

/// The claims that a worker ever held, for [`Bug::RenewalResurrects`].
#[derive(Default)]
pub struct EverHeld(Mutex<BTreeMap<(TaskId, Token), HeldClaim>>);

impl EverHeld {
    /// The heartbeat with all of them.
    pub fn resurrect(&self, heartbeat: &Heartbeat) -> Heartbeat {
        let mut ever = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for held in &heartbeat.held {
            ever.insert((held.task_id.clone(), held.token), held.clone());
        }
        Heartbeat { held: ever.values().cloned().collect(), ..heartbeat.clone() }
    }
}
