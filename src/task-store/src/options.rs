//! What every back end is told about keeping things.

use std::time::Duration;

use protocol::config::StoreSection;

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
        Self::from(&StoreSection::default())
    }
}

impl From<&StoreSection> for StoreOptions {
    fn from(section: &StoreSection) -> Self {
        Self {
            reply_retention: Duration::from_millis(section.reply_retention_ms),
            outcome_retention: Duration::from_millis(section.outcome_retention_ms),
            reply_bytes_max: section.reply_bytes_max,
            group_members_max: section.group_members_max,
            groups_max: section.groups_max,
        }
    }
}

/// Longest retention, in ms: 100 years. A larger number would overflow a server's expiry.
const RETENTION_MS_MAX: u64 = 100 * 365 * 86_400_000;

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(RETENTION_MS_MAX)
}
