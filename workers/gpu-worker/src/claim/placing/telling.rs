//! What people hear of a task that looks for its place.

use std::time::Duration;

use super::Placing;
use crate::steps;

/// After so long in hand it is told that a task waits.
const LONG: Duration = Duration::from_secs(1);

impl Placing<'_> {
    /// Among how many GPUs it was placed, where anybody wants to hear that and it is known.
    pub(crate) fn among(&self) -> Option<u32> {
        let context = self.context;
        if !steps::are_kept(context) {
            return None;
        }
        let memory_threshold = context.signals.settings.borrow().memory_threshold;
        context.among.fitting(&self.request, memory_threshold, &context.ports.environment)
    }

    /// Tells why it waits apart. Whoever found first that nobody serves it has told that: its message says since when.
    pub(super) fn tell_apart(&self, reason: &str, is_unserved: bool) {
        let of = (self.task, self.in_hand);
        if !is_unserved {
            steps::waits(self.context, of, reason);
        } else if self.in_hand.envelope.headers.unserved_since_ms.is_none() {
            steps::waits(self.context, of, &format!("unserved: {reason}"));
        }
    }

    /// Tells why it waits in hand, once that has lasted. One that goes back because its worker stops does not wait here.
    pub(super) fn tell_if_long(&self, why: impl FnOnce() -> String) {
        if self.since.elapsed() >= LONG && !self.context.stops() {
            steps::waits(self.context, (self.task, self.in_hand), &why());
        }
    }
}
