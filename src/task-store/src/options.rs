//! What every back end is told about keeping things.

use std::time::Duration;

use protocol::config::Configuration;

/// How long and how much the store keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// How long a reply's body is kept after its task ended. Default: 10 minutes. Never longer than the outcome.
    pub reply_retention: Duration,
    /// How long a task's record is kept after it ended, or, where it never ended, after its last change. Default: 1 day.
    pub outcome_retention: Duration,
    /// Bound on all kept reply bodies and results of slices together, in bytes. Beyond three quarters of it outcomes are recorded without their body: the last quarter is for results, without
    /// which no batch can end. Beyond all of it slices are not recorded with their results. Default: 1 GiB.
    pub reply_bytes_max: u64,
    /// Most members of a group. Default: 100,000.
    pub group_members_max: u32,
    /// Most groups that are known at once. Default: 10,000.
    pub groups_max: u32,
    /// How much is kept of the fleet's course.
    pub journal: JournalBounds,
}

/// How much the journal keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalBounds {
    /// Most steps of tasks. 0: none are told. Default: 200,000.
    pub steps_max: u64,
    /// How long a step is kept at most. Default: 2 days.
    pub age_max: Duration,
    /// Most actions of operators; the list is forgotten 90 days after the last one. Default: 1,000.
    pub actions_max: u32,
}

impl JournalBounds {
    pub(crate) fn age_max_ms(&self) -> u64 {
        milliseconds(self.age_max)
    }
}

impl StoreOptions {
    pub(crate) fn reply_retention_ms(&self) -> u64 {
        milliseconds(self.reply_retention.min(self.outcome_retention))
    }

    /// Bound on all that is kept, in bytes, up to which one more reply is.
    pub(crate) fn bytes_with_replies_max(&self) -> u64 {
        self.reply_bytes_max - self.reply_bytes_max / 4
    }

    pub(crate) fn outcome_retention_ms(&self) -> u64 {
        milliseconds(self.outcome_retention)
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self::from(&Configuration::default())
    }
}

impl From<&Configuration> for StoreOptions {
    fn from(configuration: &Configuration) -> Self {
        let (store, journal) = (&configuration.store, &configuration.journal);
        Self {
            reply_retention: Duration::from_millis(store.reply_retention_ms),
            outcome_retention: Duration::from_millis(store.outcome_retention_ms),
            reply_bytes_max: store.reply_bytes_max,
            group_members_max: store.group_members_max,
            groups_max: store.groups_max,
            journal: JournalBounds {
                steps_max: journal.steps_max,
                age_max: Duration::from_millis(journal.age_max_ms),
                actions_max: journal.actions_max,
            },
        }
    }
}

/// Longest retention, in ms: 100 years. A larger number would overflow a server's expiry.
const RETENTION_MS_MAX: u64 = 100 * 365 * 86_400_000;

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(RETENTION_MS_MAX)
}
