//! What became of a task: one port, two back ends, one conformance suite.
//!
//! [`TaskStore`] is the port. The store is what makes a recorded outcome final: it is *not* soft state (its own Redis URL, AOF on).

mod crash;
mod error;
mod groups;
mod journal;
mod memory;
mod options;
mod redis;
mod slices;
mod split;
mod status;
mod store;

pub use crash::{Crash, Holder, Verdict};
pub use error::StoreError;
pub use groups::{Arrival, Counted, GroupBound, GroupCancel, GroupStore, Join, MemberEnd, MembersPage, MembersRequest};
pub use journal::{Journal, StepCursor, StepPage};
pub use memory::MemoryStore;
pub use options::{JournalBounds, StoreOptions};

pub use self::redis::{RedisStore, ServerFacts};
pub use split::{SliceRecord, SliceRecordRequest, SliceState, Split, SplitAnswer, SplitRequest};
pub use store::{
    Begin, BeginRequest, Cancel, DelayRequest, Fence, FenceRequest, KnownGpu, Look, LookRequest, ProgressAnswer, ProgressRequest, Reach,
    Record, RecordRequest, Reopen, Retry, RetryAnswer, RetryRequest, Stored, Submission, TaskStore, Totals,
};
