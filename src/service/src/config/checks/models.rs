//! The models that GPUs keep.

use std::collections::BTreeSet;

use protocol::{
    Needs,
    config::{ModelsSection, SimulatedModel},
};

use super::Checker;

impl Checker<'_> {
    pub(super) fn models(&mut self, models: &ModelsSection) {
        let characters_max = Needs::MODEL_CHARACTERS_MAX;
        let is_name = |name: &str| (1..=characters_max).contains(&name.chars().count()) && !name.chars().any(char::is_control);
        let simulated = models.simulated.iter().map(|model| ("models.simulated", &model.name));
        for (key, name) in simulated.chain(models.pinned.iter().map(|name| ("models.pinned", name))) {
            self.require(is_name(name), key, || {
                format!("names a model {name:?}; a model's name has 1 to {characters_max} characters, none of them a control character")
            });
        }
        let mut seen = BTreeSet::new();
        for name in &models.pinned {
            self.require(seen.insert(name), "models.pinned", || format!("names {name} twice; once is enough"));
        }
        let mut simulated = BTreeSet::new();
        for SimulatedModel { name, .. } in &models.simulated {
            self.require(simulated.insert(name), "models.simulated", || format!("names {name} twice; give one of them another name"));
        }
        self.require(models.memory_mb != Some(0), "models.memory_mb", || {
            "is 0, so no model could ever be loaded; raise it, or leave it out".to_owned()
        });
        for (key, name) in [("models.embed", &models.embed), ("models.classify", &models.classify)] {
            self.require(name.as_deref() != Some(""), key, || "is empty; name a model, or leave the key out".to_owned());
        }
        for (model, axis) in &models.batch_axis {
            self.require(!model.is_empty() && !axis.is_empty(), "models.batch_axis", || {
                format!("has {{{model:?}: {axis:?}}}; give a model's name and that of one of its axes")
            });
        }
    }
}
