//! What operators wish of the models that GPUs keep. Part of the fleet's settings, so that every heartbeat carries it and it outlives the table's loss.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{GpuId, Needs};

/// What operators wish of models.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ModelWishes {
    /// The number of the newest wish, from 1; 0: there was none.
    pub number: u64,
    /// The newest wishes, oldest first; at most [`ModelWishes::LATEST_MAX`]. Workers do them once, in this order.
    pub latest: Vec<ModelWish>,
    /// The models that are pinned, by name: what the wishes to pin and to unpin came to. A worker that starts loads them. At most [`ModelWishes::PINS_MAX`].
    pub pins: Vec<ModelPin>,
}

/// One wish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelWish {
    /// Its number; each is one above the one before.
    pub number: u64,
    /// The model.
    pub model: String,
    /// What is to be done with it.
    pub action: ModelAction,
    /// On which GPUs; empty: on all of the pool that have such a model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuId>,
    /// When it was made, in Unix milliseconds.
    pub made_ms: u64,
}

/// What is to be done with a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelAction {
    /// Load it, if it is not loaded.
    Load,
    /// Take it out of memory, once nobody uses it.
    Unload,
    /// Load it, and never evict it.
    Pin,
    /// Let it be evicted.
    Unpin,
}

/// Where a model is pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelPin {
    /// The model.
    pub model: String,
    /// On every GPU of the pool, also those that join later, but for [`ModelPin::gpus`]. Otherwise only on those.
    pub everywhere: bool,
    /// The GPUs, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuId>,
}

/// Why a wish was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WishError {
    /// No model has such a name.
    #[error("a model's name has 1 to {max} characters, none of them a control character; {0:?} is none", max = Needs::MODEL_CHARACTERS_MAX)]
    Name(String),
    /// Too many GPUs are named.
    #[error("at most {max} GPUs can be named at once, not {0}; name none for all of the pool", max = ModelWishes::GPUS_MAX)]
    TooManyGpus(usize),
    /// The pin of the model would name too many GPUs.
    #[error("the pin of the model would name {0} GPUs, and at most {max} can be; pin or unpin it on all of the pool", max = ModelWishes::GPUS_MAX)]
    TooManyGpusOfPin(usize),
    /// Too many models are pinned.
    #[error("{max} models are pinned, which is as many as can be; unpin one first", max = ModelWishes::PINS_MAX)]
    TooManyPins,
}

impl ModelAction {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Load, Self::Unload, Self::Pin, Self::Unpin];

    /// The name on the wire and in commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Unload => "unload",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
        }
    }

    /// The action of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

impl ModelPin {
    /// Whether the model is pinned on this GPU.
    #[must_use]
    pub fn holds_on(&self, gpu_id: &GpuId) -> bool {
        self.gpus.contains(gpu_id) != self.everywhere
    }

    fn is_nowhere(&self) -> bool {
        !self.everywhere && self.gpus.is_empty()
    }

    fn set(&mut self, gpus: &[GpuId], pinned: bool) {
        if gpus.is_empty() {
            self.everywhere = pinned;
            self.gpus.clear();
            return;
        }
        for gpu_id in gpus {
            self.gpus.retain(|other| other != gpu_id);
            if pinned != self.everywhere {
                self.gpus.push(gpu_id.clone());
            }
        }
        self.gpus.sort();
    }
}

impl ModelWish {
    /// A wish that has no number yet, for all GPUs of the pool.
    #[must_use]
    pub fn new(model: impl Into<String>, action: ModelAction, made_ms: u64) -> Self {
        Self { number: 0, model: model.into(), action, gpus: Vec::new(), made_ms }
    }

    /// The same, for these GPUs.
    #[must_use]
    pub fn on(self, gpus: &[GpuId]) -> Self {
        Self { gpus: gpus.to_vec(), ..self }
    }

    /// Whether it is for this GPU.
    #[must_use]
    pub fn is_for(&self, gpu_id: &GpuId) -> bool {
        self.gpus.is_empty() || self.gpus.contains(gpu_id)
    }
}

impl ModelWishes {
    /// So many wishes are kept. A worker that missed more of them, because it reached no table, does not do the oldest.
    pub const LATEST_MAX: usize = 32;
    /// So many models can be pinned by wishes.
    pub const PINS_MAX: usize = 64;
    /// So many GPUs can be named by a wish, and by a pin.
    pub const GPUS_MAX: usize = 64;

    /// Whether there never was one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a wish may be made.
    ///
    /// # Errors
    /// [`WishError`] says why not.
    pub fn check(&self, model: &str, action: ModelAction, gpus: &[GpuId]) -> Result<(), WishError> {
        let characters = model.chars().count();
        if characters == 0 || characters > Needs::MODEL_CHARACTERS_MAX || model.chars().any(char::is_control) {
            return Err(WishError::Name(model.chars().take(Needs::MODEL_CHARACTERS_MAX).collect()));
        }
        if gpus.len() > Self::GPUS_MAX {
            return Err(WishError::TooManyGpus(gpus.len()));
        }
        let is_new = !self.pins.iter().any(|pin| pin.model == model);
        if action == ModelAction::Pin && is_new && self.pins.len() >= Self::PINS_MAX {
            return Err(WishError::TooManyPins);
        }
        let gpus_of_pin = self.pin_after(model, action, gpus).map_or(0, |pin| pin.gpus.len());
        if gpus_of_pin > Self::GPUS_MAX {
            return Err(WishError::TooManyGpusOfPin(gpus_of_pin));
        }
        Ok(())
    }

    /// How the model is pinned after such a wish; `None`: the wish changes no pin.
    fn pin_after(&self, model: &str, action: ModelAction, gpus: &[GpuId]) -> Option<ModelPin> {
        let pinned = match action {
            ModelAction::Pin => true,
            ModelAction::Unpin => false,
            ModelAction::Load | ModelAction::Unload => return None,
        };
        let known = self.pins.iter().find(|pin| pin.model == model).cloned();
        let mut pin = known.unwrap_or_else(|| ModelPin { model: model.to_owned(), everywhere: false, gpus: Vec::new() });
        pin.set(gpus, pinned);
        Some(pin)
    }

    /// These wishes, and one more, which gets the next number. Where [`ModelWishes::check`] refuses it, or it was taken before, nothing changes.
    #[must_use]
    pub fn with(mut self, wish: &ModelWish) -> Self {
        let ModelWish { model, action, gpus, .. } = wish;
        if self.taken(wish).is_some() || self.check(model, *action, gpus).is_err() {
            return self;
        }
        self.number += 1;
        if self.latest.len() >= Self::LATEST_MAX {
            self.latest.remove(0);
        }
        self.latest.push(ModelWish { number: self.number, ..wish.clone() });
        if let Some(pin) = self.pin_after(model, *action, gpus) {
            self.pins.retain(|other| other.model != pin.model);
            self.pins.extend((!pin.is_nowhere()).then_some(pin));
            self.pins.sort_by(|one, other| one.model.cmp(&other.model));
        }
        self
    }

    /// This wish as it was taken down, if it was: the same of the same moment.
    #[must_use]
    pub fn taken(&self, wish: &ModelWish) -> Option<&ModelWish> {
        self.latest.iter().find(|taken| **taken == ModelWish { number: taken.number, ..wish.clone() })
    }

    /// The models that are pinned on this GPU.
    pub fn pinned_on<'a>(&'a self, gpu_id: &'a GpuId) -> impl Iterator<Item = &'a str> {
        self.pins.iter().filter(|pin| pin.holds_on(gpu_id)).map(|pin| pin.model.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(name: &str) -> GpuId {
        GpuId::new(name).expect("a good id")
    }

    fn pinned(wishes: &ModelWishes, name: &str) -> Vec<String> {
        wishes.pinned_on(&gpu(name)).map(str::to_owned).collect()
    }

    fn wish(model: &str, action: ModelAction, on: &[&str], made_ms: u64) -> ModelWish {
        ModelWish::new(model, action, made_ms).on(&on.iter().map(|name| gpu(name)).collect::<Vec<_>>())
    }

    /// Wishes for the model `m`, one after the other.
    fn after(wishes: &[(ModelAction, &[&str])]) -> ModelWishes {
        let numbered = (0..).zip(wishes);
        numbered.fold(ModelWishes::default(), |all, (made_ms, (action, on))| all.with(&wish("m", *action, on, made_ms)))
    }

    #[test]
    fn a_pin_everywhere_has_exceptions_and_a_pin_of_some_has_none() {
        use ModelAction::{Pin, Unpin};
        let but_a = after(&[(Pin, &[]), (Unpin, &["a"])]);
        assert_eq!((pinned(&but_a, "a"), pinned(&but_a, "b")), (vec![], vec!["m".to_owned()]));
        assert_eq!(pinned(&after(&[(Pin, &[]), (Unpin, &["a"]), (Pin, &["a"])]), "a"), ["m"]);
        let some = after(&[(Pin, &["a", "b"]), (Unpin, &["b"])]);
        assert_eq!((pinned(&some, "a"), pinned(&some, "b")), (vec!["m".to_owned()], vec![]));
        let none = after(&[(Pin, &["a"]), (Unpin, &[])]);
        assert!(none.pins.is_empty() && none.number == 2);
    }

    #[test]
    fn only_the_newest_wishes_are_kept_and_numbers_go_on() {
        let load: (ModelAction, &[&str]) = (ModelAction::Load, &[]);
        let wishes = after(&[load; 50]);
        assert_eq!((wishes.latest.len(), wishes.number, wishes.latest[0].number), (ModelWishes::LATEST_MAX, 50, 19));
    }

    #[test]
    fn the_same_wish_of_the_same_moment_is_one() {
        let once = after(&[(ModelAction::Load, &["a"])]);
        let again = wish("m", ModelAction::Load, &["a"], 0);
        assert_eq!(once.taken(&again).map(|taken| taken.number), Some(1));
        assert_eq!(once.clone().with(&again), once);
        assert_eq!(once.with(&wish("m", ModelAction::Load, &["a"], 1)).number, 2);
    }

    #[test]
    fn a_pin_of_too_many_gpus_is_refused_and_not_cut() {
        let names: Vec<String> = (0..=ModelWishes::GPUS_MAX).map(|number| format!("gpu-{number}")).collect();
        let some: Vec<&str> = names[1..].iter().map(String::as_str).collect();
        let full = ModelWishes::default().with(&wish("m", ModelAction::Pin, &some, 0));
        let one_more = [gpu("gpu-0")];
        assert_eq!(full.check("m", ModelAction::Pin, &one_more), Err(WishError::TooManyGpusOfPin(65)));
        assert_eq!(full.clone().with(&wish("m", ModelAction::Pin, &["gpu-0"], 1)), full);
        assert_eq!(full.check("m", ModelAction::Pin, &[]), Ok(()));
        let but_some = full.with(&wish("m", ModelAction::Pin, &[], 2)).with(&wish("m", ModelAction::Unpin, &some, 3));
        assert_eq!(but_some.check("m", ModelAction::Unpin, &one_more), Err(WishError::TooManyGpusOfPin(65)), "nor are exceptions");
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let pin = |name: &str| ModelWish::new(name, ModelAction::Pin, 0);
        let full = (0..ModelWishes::PINS_MAX).fold(ModelWishes::default(), |wishes, n| wishes.with(&pin(&format!("m{n}"))));
        assert_eq!(full.check("one more", ModelAction::Pin, &[]), Err(WishError::TooManyPins));
        assert_eq!(full.check("m0", ModelAction::Pin, &[gpu("a")]), Ok(()));
        assert_eq!(full.check("one more", ModelAction::Load, &[]), Ok(()));
        assert_eq!(full.clone().with(&pin("one more")), full);
        let many = vec![gpu("a"); ModelWishes::GPUS_MAX + 1];
        assert!(matches!(full.check("m", ModelAction::Load, &many), Err(WishError::TooManyGpus(65))));
        for name in ["", "a\nb", &"x".repeat(129)] {
            assert!(matches!(full.check(name, ModelAction::Load, &[]), Err(WishError::Name(_))), "{name:?}");
        }
    }
}
