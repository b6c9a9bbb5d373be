//! The versions of tensors, each above the latest of its name.

use std::collections::BTreeMap;

use protocol::TensorName;

use super::pool::Pool;
use crate::{TENSORS_FOR_LEASES, VersionDraw, VersionWanted};

/// What was drawn lately, by name.
#[derive(Clone, Default)]
pub(super) struct Draws {
    by_name: BTreeMap<TensorName, Drawn>,
    /// When those were last forgotten whose time is over.
    swept_ms: u64,
}

/// The latest that was drawn for a name.
#[derive(Clone, Copy, Default)]
struct Drawn {
    latest: u64,
    /// The newest token for which one was drawn, and that one; zeros: none was.
    token: u64,
    of_token: u64,
    until_ms: u64,
}

impl Pool {
    pub(super) fn draw_tensor_version(&mut self, VersionDraw { name, owner, wanted }: &VersionDraw) -> u64 {
        let top = self.find_tensors(std::slice::from_ref(name)).pop();
        let (now_ms, lives_ms) = (self.now_ms(), self.leases.held.as_millis() as u64 * u64::from(TENSORS_FOR_LEASES));
        self.drawn.sweep(now_ms, lives_ms);
        let before = self.drawn.by_name.get(name).copied().filter(|drawn| now_ms < drawn.until_ms).unwrap_or_default();
        if let VersionWanted::Token(token) = *wanted {
            if before.token > 0 && token <= before.token {
                return if token == before.token { before.of_token } else { token };
            }
            if before.token == 0 && top.as_ref().is_some_and(|top| top.owner == *owner && top.version >= token) {
                return token;
            }
        }
        let latest = before.latest.max(top.map_or(0, |top| top.version));
        let version = wanted.number().max(latest.saturating_add(1));
        let mut drawn = Drawn { latest: version, until_ms: now_ms + lives_ms, ..before };
        if let VersionWanted::Token(token) = *wanted {
            (drawn.token, drawn.of_token) = (token, version);
        }
        self.drawn.by_name.insert(name.clone(), drawn);
        version
    }
}

impl Draws {
    /// Forgets those whose time is over, now and then: most names are drawn for once.
    fn sweep(&mut self, now_ms: u64, lives_ms: u64) {
        if now_ms >= self.swept_ms.saturating_add(lives_ms) {
            self.by_name.retain(|_, drawn| now_ms < drawn.until_ms);
            self.swept_ms = now_ms;
        }
    }
}
