//! The models that GPUs keep.

use std::collections::BTreeSet;

use protocol::config::ModelsSection;

use super::Checker;

impl Checker<'_> {
    pub(super) fn models(&mut self, models: &ModelsSection) {
        self.require(models.pinned.is_empty() || models.directory.is_some(), "models.pinned", || {
            "names models, and models.directory is not set; set it to the folder that has them".to_owned()
        });
        let mut seen = BTreeSet::new();
        for name in &models.pinned {
            self.require(!name.is_empty(), "models.pinned", || "has a name that is empty; take it out".to_owned());
            self.require(seen.insert(name), "models.pinned", || format!("names {name} twice; once is enough"));
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
