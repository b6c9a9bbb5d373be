//! What befalls copies to and from a GPU.

use std::collections::BTreeSet;

use protocol::GpuId;
use tokio::time::Instant;

/// What the knobs ask for.
#[derive(Debug)]
pub(in super::super) struct CopyFaults {
    pub(in super::super) to_fail: u32,
    pub(in super::super) to_corrupt: u32,
    pub(in super::super) host_cut: bool,
    pub(in super::super) slowness: f64,
    stalled: bool,
    stalled_until: Option<Instant>,
    peers_cut: BTreeSet<GpuId>,
}

impl Default for CopyFaults {
    fn default() -> Self {
        Self { to_fail: 0, to_corrupt: 0, host_cut: false, slowness: 1.0, stalled: false, stalled_until: None, peers_cut: BTreeSet::new() }
    }
}

impl CopyFaults {
    pub(in super::super) fn cut_peer(&mut self, other: &GpuId, cut: bool) {
        if cut {
            self.peers_cut.insert(other.clone());
        } else {
            self.peers_cut.remove(other);
        }
    }

    pub(in super::super) fn stall(&mut self, stalled: bool) {
        if self.stalled && !stalled {
            self.stalled_until = Some(Instant::now());
        }
        self.stalled = stalled;
    }

    pub(super) const fn are_stalled(&self) -> bool {
        self.stalled
    }

    /// When what would be over by then is over, now that nothing is stalled: not before the last stall was.
    pub(super) fn over_at(&self, then: Instant) -> Instant {
        self.stalled_until.map_or(then, |stalled_until| stalled_until.max(then))
    }

    /// Whether a link carries nothing.
    pub(super) fn cuts(&self, link: Over<'_>) -> bool {
        match link {
            Over::Nothing => false,
            Over::HostLink => self.host_cut,
            Over::PeerLink(other) => self.peers_cut.contains(other),
        }
    }

    /// What becomes of the copy that begins now.
    pub(super) const fn next_fate(&mut self) -> Fate {
        if self.to_fail > 0 {
            self.to_fail -= 1;
            return Fate::Fails;
        }
        if self.to_corrupt > 0 {
            self.to_corrupt -= 1;
            return Fate::ArrivesCorrupted;
        }
        Fate::Arrives
    }
}

/// What a copy goes over, as one of its two ends sees it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Over<'a> {
    /// It stays within the GPU.
    Nothing,
    /// The link to the host.
    HostLink,
    /// The link to that GPU.
    PeerLink(&'a GpuId),
}

/// What becomes of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Arrives,
    ArrivesCorrupted,
    Fails,
}
