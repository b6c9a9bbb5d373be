//! The port for what the fleet remembers of its course, for people.
//!
//! Nothing rests on it: what is told while the store is away is lost, and counted. It is bounded in number and age.

mod lines;

use async_trait::async_trait;
use protocol::{HistoryPoint, HistorySpan, OperatorAction, TaskStep};

pub(crate) use self::lines::{action_of, line_of, point_of, step_of};
use crate::StoreError;

/// Up to where steps have been read: what [`Journal::steps_after`] gave, or `""` for the beginning. Cursors grow in the order of the journal, as texts of one back end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepCursor(pub String);

/// Some steps, in the order in which the journal has them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepPage {
    /// The steps. Those of one task are in their order if one process told them; those of several processes lie in the order in which they arrived.
    pub steps: Vec<TaskStep>,
    /// Where the next page begins.
    pub cursor: StepCursor,
    /// Whether more steps were there when this page was read.
    pub has_more: bool,
}

/// The most steps of one page, but for those of the last group of steps that were told together.
pub(crate) const PAGE_MAX: usize = 10_000;
/// How long the list of actions is kept after the last one, in ms: 90 days.
pub(crate) const ACTIONS_KEPT_MS: u64 = 90 * 86_400_000;

/// What the fleet remembers of its course.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Whether steps are kept at all (`journal.steps_max`): where they are not, nobody need make them.
    fn keeps_steps(&self) -> bool;

    /// Tells a step. Costs its teller no wait: it travels with others within a fraction of a second, and may get lost; see [`Journal::steps_lost`]. Texts are cut to their bound. Where an answer of the
    /// server got lost, a step may be there twice. Needs a tokio runtime.
    fn tell(&self, step: TaskStep);

    /// How many steps were not told by this process, because the store was away or too many came at once.
    fn steps_lost(&self) -> u64;

    /// Waits until what this process told so far has arrived, or one try to bring it there has failed, or a second has passed: for a process that is about to end. Cancel safe.
    async fn flush(&self);

    /// The steps after a cursor, the oldest first, some `max` of them. A cursor whose steps were forgotten meanwhile goes on with the oldest that there are.
    async fn steps_after(&self, cursor: &StepCursor, max: usize) -> Result<StepPage, StoreError>;

    /// Notes a point of a history, unless one of its time is there: of several that measure the same, the first counts. Whether it was noted: neither is one that is older
    /// than the span, by the store's clock, or as far ahead of it. Points older than the span are forgotten.
    async fn note_point(&self, span: HistorySpan, point: &HistoryPoint) -> Result<bool, StoreError>;

    /// The points of a history from a time on, the oldest first.
    async fn points(&self, span: HistorySpan, from_ms: u64) -> Result<Vec<HistoryPoint>, StoreError>;

    /// Notes what an operator did; texts are cut to their bound. The same action twice in a row is one.
    async fn note_action(&self, action: &OperatorAction) -> Result<(), StoreError>;

    /// What operators did, the latest first, at most `max`.
    async fn actions(&self, max: usize) -> Result<Vec<OperatorAction>, StoreError>;
}
