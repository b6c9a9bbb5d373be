//! Kinds that the configuration asks for and that cannot run in this process.

use executors::Executors;
use protocol::Kind;

/// Leaves a kind out: the log says why, and the row of the GPU as long as this process lives.
pub(super) fn not_offered(executors: Executors, kind: Kind, reason: &str) -> Executors {
    tracing::warn!(kind = kind.as_str(), reason, "this kind is not offered here");
    executors.with_down(kind, format!("not offered here: {reason}; it needs a new worker once that is mended"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_kind_that_is_not_offered_is_down_until_something_runs_it() {
        let echo = executors::echo();
        let kind = echo.kind();
        let without = not_offered(Executors::new(), kind.clone(), "no library");
        assert!(without.is_down(&kind) && without.get(&kind).is_none() && without.kinds().is_empty());
        let (up, down) = without.up_and_down();
        assert!(up.is_empty());
        assert_eq!(down[&kind], "not offered here: no library; it needs a new worker once that is mended");
        let with = not_offered(without.with(echo), kind.clone(), "no library");
        assert!(!with.is_down(&kind), "it runs");
        assert_eq!(with.up_and_down(), (vec![kind], BTreeMap::new()));
    }
}
