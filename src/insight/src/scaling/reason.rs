//! Why it is that number, for people.

use protocol::config::ScalingSection;

use super::Needed;
use crate::load::Load;

/// What a plan rests on.
pub(super) struct Grounds<'a> {
    pub(super) load: &'a Load,
    pub(super) section: &'a ScalingSection,
    pub(super) needed: Needed,
    pub(super) desired: u32,
    pub(super) fewer: Option<(u64, u32)>,
    /// Whether a server does not answer.
    pub(super) is_blind: bool,
    pub(super) now_ms: u64,
}

impl Grounds<'_> {
    /// One or two sentences.
    pub(super) fn said(&self) -> String {
        let need = self.need();
        match self.difference() {
            Some(difference) => format!("{need} {difference}"),
            None => need,
        }
    }

    /// What is needed.
    fn need(&self) -> String {
        let (load, workers) = (self.load, self.needed.workers);
        let objective_s = self.section.wait_objective_ms as f64 / 1_000.0;
        if load.waiting == 0 && load.held_anywhere == 0 && workers == 0 {
            return "Nothing waits, nothing runs, and nothing came lately: no worker is needed.".to_owned();
        }
        if !self.needed.learnt {
            return format!("{} tasks wait, and no run time is learnt yet: {workers} needed until one is.", load.waiting);
        }
        if load.waiting == 0 {
            return format!("{workers} needed for {:.1} slots of work that come each second, with headroom; nothing waits.", load.arriving);
        }
        format!(
            "{workers} needed for {:.1} slots of work that come each second, with headroom, and to begin {} waiting tasks ({:.0} slot-seconds) within {objective_s} s.",
            load.arriving,
            load.waiting,
            load.waiting_slot_ms / 1_000.0,
        )
    }

    /// Why it is not what is needed.
    fn difference(&self) -> Option<String> {
        let (needed, desired, section) = (self.needed.workers, self.desired, self.section);
        if desired < needed {
            return Some(format!("scaling.workers_max keeps it at {desired}."));
        }
        if desired == needed {
            return None;
        }
        if self.is_blind {
            return Some(format!("It stays at {desired} while a server does not answer."));
        }
        if let Some((since_ms, _)) = self.fewer {
            let left_ms = section.down_after_ms.saturating_sub(self.now_ms.saturating_sub(since_ms));
            return Some(format!("It stays at {desired} until fewer have been enough for another {:.0} s.", left_ms as f64 / 1_000.0));
        }
        if desired == section.workers_min {
            return Some(format!("scaling.workers_min keeps it at {desired}."));
        }
        Some(format!("It stays at {desired}: fewer would be enough with nothing to spare."))
    }
}
