//! The models of this process: each is in memory once, however many workers run it, and their texts are generated together.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::{Model, PredictError, engine::Engine};

/// By the file; the one that is part of the program has an empty path.
static LOADED: Mutex<BTreeMap<PathBuf, Weak<Engine>>> = Mutex::new(BTreeMap::new());

/// The model at `path`, or the built-in one, loaded now unless somebody in this process still holds it. Blocks, also while another thread loads a model.
pub(super) fn engine(path: Option<&Path>) -> Result<Arc<Engine>, PredictError> {
    let key = match path {
        Some(path) => path.canonicalize().map_err(|source| PredictError::read(path, source))?,
        None => PathBuf::new(),
    };
    // A panic while loading leaves the map as it was.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(engine) = loaded.get(&key).and_then(Weak::upgrade) {
        return Ok(engine);
    }
    let engine = Arc::new(Engine::new(Arc::new(path.map_or_else(Model::built_in, Model::load)?)));
    loaded.retain(|_, held| held.strong_count() > 0);
    loaded.insert(key, Arc::downgrade(&engine));
    Ok(engine)
}
