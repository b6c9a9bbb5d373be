//! Letting go of what tasks have left here that failed all the same.

use protocol::{KeepAs, TensorName, TensorRef};
use tensors::DataPlane;

/// Frees all that a task has left here under these names: of a task with items, what each of so many has.
pub(crate) async fn let_go_of_all(plane: &DataPlane, keep_as: &KeepAs, items: Option<u32>, owner: &str) {
    let of_items = |name: &TensorName| -> Vec<TensorName> {
        let items = items.unwrap_or(0);
        (0..items).filter_map(|item| name.of_item(usize::try_from(item).ok()?)).collect()
    };
    let of_one = |name: &TensorName| if items.is_some() { of_items(name) } else { vec![name.clone()] };
    let names: Vec<TensorName> = keep_as.names.iter().flat_map(of_one).collect();
    for tensor in names {
        let Some(stored) = plane.store().look(&tensor).filter(|stored| stored.about.owner == owner) else { continue };
        free(plane, TensorRef { tensor, version: Some(stored.about.version) }).await;
    }
}

/// Frees an output of a task that failed; where that fails, it goes when its time is over.
pub(crate) async fn free(plane: &DataPlane, kept: TensorRef) {
    if let Err(error) = plane.free(&kept).await {
        tracing::debug!(tensor = %kept.tensor, %error, "an output of a task that failed was not freed; it goes when its time is over");
    }
}
