//! Xid events: what the driver reports when a GPU or what runs on it goes wrong, and what follows from each.

/// What a Xid asks for. Sorted as NVIDIA's Xid catalogue sorts its immediate actions, from mild to severe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Nothing: it is counted and logged.
    Ignore,
    /// A process on the GPU has to start anew. Which one, the event does not say: it may be a stranger's.
    RestartApplication,
    /// The GPU is to be reset, or the host restarted. A new process probes it: what its canary shows to work is used.
    ResetGpu,
    /// Not in our list: the GPU is taken out until its canary passes.
    Unknown,
}

/// One entry of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xid {
    /// The number.
    pub number: u64,
    /// What it asks for.
    pub action: Action,
    /// What it means.
    pub meaning: &'static str,
}

const CATALOGUE: &[(u64, Action, &str)] = &[
    (8, Action::RestartApplication, "the GPU stopped processing"),
    (13, Action::RestartApplication, "graphics engine exception"),
    (31, Action::RestartApplication, "memory page fault"),
    (32, Action::RestartApplication, "invalid or corrupted push buffer"),
    (38, Action::RestartApplication, "driver firmware error"),
    (43, Action::RestartApplication, "the GPU stopped processing a program that faulted"),
    (44, Action::RestartApplication, "graphics engine fault during a context switch"),
    (45, Action::RestartApplication, "a program was stopped and cleaned up"),
    (46, Action::ResetGpu, "the GPU stopped processing"),
    (48, Action::ResetGpu, "memory error that ECC cannot correct"),
    (61, Action::ResetGpu, "internal micro-controller breakpoint"),
    (62, Action::ResetGpu, "internal micro-controller halt"),
    (63, Action::Ignore, "a faulty memory row was retired or remapped"),
    (64, Action::ResetGpu, "a faulty memory row could not be remapped"),
    (68, Action::RestartApplication, "video decoder exception"),
    (69, Action::RestartApplication, "graphics engine class error"),
    (74, Action::ResetGpu, "NVLink error"),
    (79, Action::ResetGpu, "the GPU has fallen off the bus"),
    (92, Action::Ignore, "many memory errors that ECC corrected"),
    (94, Action::RestartApplication, "contained memory error"),
    (95, Action::ResetGpu, "uncontained memory error"),
    (109, Action::RestartApplication, "time limit of a context switch"),
    (110, Action::ResetGpu, "security fault"),
    (119, Action::ResetGpu, "the GPU's system processor does not answer"),
    (120, Action::ResetGpu, "error of the GPU's system processor"),
    (140, Action::ResetGpu, "unrecovered ECC error"),
    (143, Action::ResetGpu, "the GPU failed to initialise"),
    (154, Action::Ignore, "the recommended recovery action changed"),
];

impl Xid {
    /// The entry of a number.
    #[must_use]
    pub fn of(number: u64) -> Self {
        let entry = CATALOGUE.iter().find(|(listed, ..)| *listed == number);
        let (action, meaning) = entry.map_or((Action::Unknown, "not in this program's list"), |(_, action, meaning)| (*action, *meaning));
        Self { number, action, meaning }
    }

    /// For operators.
    #[must_use]
    pub fn describe(&self) -> String {
        let advice = match self.action {
            Action::ResetGpu => "; if it does not come back by itself, reset the GPU (`nvidia-smi --gpu-reset`) or restart its host",
            _ => "",
        };
        format!("Xid {}: {}{advice}", self.number, self.meaning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_of_the_catalogue_has_its_action() {
        let action = |number| Xid::of(number).action;
        assert_eq!(action(63), Action::Ignore);
        assert_eq!(action(31), Action::RestartApplication);
        assert_eq!(action(79), Action::ResetGpu);
        assert_eq!(action(4_711), Action::Unknown);
        assert_eq!(Xid::of(63).describe(), "Xid 63: a faulty memory row was retired or remapped");
        assert!(Xid::of(79).describe().starts_with("Xid 79: the GPU has fallen off the bus; if it does not come back"));
    }

    #[test]
    fn the_catalogue_is_sorted_and_has_no_number_twice() {
        assert!(CATALOGUE.is_sorted_by(|one, next| one.0 < next.0));
    }
}
