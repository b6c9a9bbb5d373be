//! The data planes of this process: they reach each other without a socket.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use protocol::{GpuId, Incarnation};

use super::Shared;

/// By the start of their workers, which no other process has, and their GPUs: whoever reads a record knows by it whether its copy lies in this process.
static PLANES: Mutex<BTreeMap<(Incarnation, GpuId), Weak<Shared>>> = Mutex::new(BTreeMap::new());

/// From now on the others of the process find it.
pub(crate) fn enter(plane: &Arc<Shared>) {
    let mut planes = PLANES.lock().unwrap_or_else(PoisonError::into_inner);
    planes.retain(|_, plane| plane.strong_count() > 0);
    planes.insert(key_of(plane), Arc::downgrade(plane));
}

/// From now on nobody finds it.
pub(crate) fn leave(plane: &Shared) {
    PLANES.lock().unwrap_or_else(PoisonError::into_inner).remove(&key_of(plane));
}

/// The plane of a GPU. `None`: it is another process's, or gone.
pub(crate) fn find(incarnation: &Incarnation, gpu_id: &GpuId) -> Option<Arc<Shared>> {
    let key = (incarnation.clone(), gpu_id.clone());
    PLANES.lock().unwrap_or_else(PoisonError::into_inner).get(&key)?.upgrade()
}

fn key_of(plane: &Shared) -> (Incarnation, GpuId) {
    (plane.incarnation.clone(), plane.gpu_id.clone())
}
