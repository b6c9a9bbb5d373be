//! The models of this process: each is in memory once, however many workers run it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::{Model, PredictError};

static LOADED: Mutex<BTreeMap<PathBuf, Weak<Model>>> = Mutex::new(BTreeMap::new());

/// The model at `path`, loaded now unless somebody in this process still holds it. Blocks, also while another thread loads a model.
pub(super) fn model(path: &Path) -> Result<Arc<Model>, PredictError> {
    let key = path.canonicalize().map_err(|source| PredictError::read(path, source))?;
    // A panic while loading leaves the map as it was.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(model) = loaded.get(&key).and_then(Weak::upgrade) {
        return Ok(model);
    }
    let model = Arc::new(Model::load(path)?);
    loaded.retain(|_, held| held.strong_count() > 0);
    loaded.insert(key, Arc::downgrade(&model));
    Ok(model)
}
