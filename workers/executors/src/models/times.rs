//! How long cold loads take, as learnt.

use std::{collections::BTreeMap, time::Duration};

use protocol::GpuRow;

/// How much a new load counts against what was learnt before.
const WEIGHT: f64 = 0.3;

/// What a cold load took lately, by model; of [`GpuRow::MODELS_MAX`] models at most.
#[derive(Debug, Default)]
pub(super) struct LoadTimes {
    by_model: BTreeMap<String, Learnt>,
    loads: u64,
}

#[derive(Debug, Clone, Copy)]
struct Learnt {
    ms: f64,
    /// The number of the load that taught it last.
    at: u64,
}

impl LoadTimes {
    pub(super) fn learn(&mut self, model: &str, took: Duration) {
        self.loads += 1;
        let (ms, at) = (took.as_secs_f64() * 1e3, self.loads);
        if let Some(learnt) = self.by_model.get_mut(model) {
            *learnt = Learnt { ms: learnt.ms + WEIGHT * (ms - learnt.ms), at };
            return;
        }
        if self.by_model.len() >= GpuRow::MODELS_MAX {
            let oldest = self.by_model.iter().min_by_key(|(_, learnt)| learnt.at).map(|(model, _)| model.clone());
            oldest.and_then(|oldest| self.by_model.remove(&oldest));
        }
        self.by_model.insert(model.to_owned(), Learnt { ms, at });
    }

    pub(super) fn of_each_model(&self) -> BTreeMap<String, f64> {
        self.by_model.iter().map(|(model, learnt)| (model.clone(), learnt.ms)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_longest_ago_is_forgotten_first() {
        let mut times = LoadTimes::default();
        for number in 0..=GpuRow::MODELS_MAX {
            times.learn(&format!("model-{number}"), Duration::from_millis(7));
            times.learn("model-0", Duration::from_millis(10));
        }
        let learnt = times.of_each_model();
        assert_eq!(learnt.len(), GpuRow::MODELS_MAX);
        assert!(learnt.contains_key("model-0") && !learnt.contains_key("model-1"));
    }

    #[test]
    fn a_single_slow_load_does_not_rule_for_ever() {
        let mut times = LoadTimes::default();
        times.learn("a", Duration::from_secs(60));
        for _ in 0..20 {
            times.learn("a", Duration::from_secs(1));
        }
        assert!(times.of_each_model()["a"] < 1_100.0);
    }
}
