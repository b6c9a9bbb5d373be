//! The data planes of this process: they reach each other without a socket.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use protocol::Incarnation;

use super::Shared;

/// By the start of their workers, which no other process has: whoever reads a record knows by it whether its copy lies in this process.
static PLANES: Mutex<BTreeMap<Incarnation, Weak<Shared>>> = Mutex::new(BTreeMap::new());

/// From now on the others of the process find it.
pub(crate) fn enter(plane: &Arc<Shared>) {
    let mut planes = PLANES.lock().unwrap_or_else(PoisonError::into_inner);
    planes.retain(|_, plane| plane.strong_count() > 0);
    planes.insert(plane.incarnation.clone(), Arc::downgrade(plane));
}

/// From now on nobody finds it.
pub(crate) fn leave(incarnation: &Incarnation) {
    PLANES.lock().unwrap_or_else(PoisonError::into_inner).remove(incarnation);
}

/// The plane of a start. `None`: it is another process's, or gone.
pub(crate) fn find(incarnation: &Incarnation) -> Option<Arc<Shared>> {
    PLANES.lock().unwrap_or_else(PoisonError::into_inner).get(incarnation)?.upgrade()
}
