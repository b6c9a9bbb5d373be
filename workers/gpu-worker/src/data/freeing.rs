//! Letting go of what tasks have left here that failed all the same.

use std::time::Duration;

use protocol::{KeepAs, TensorName, TensorRef};
use tensors::DataPlane;
use tokio::time::timeout;

/// For so long at most outputs are freed before the reply of their task goes out: the table that hears of each, or a GPU that has copies, may be away.
const LET_GO_MAX: Duration = Duration::from_secs(5);

/// Frees all that a task has left here under these names: of a task with items, what each of so many has.
pub(crate) async fn let_go_of_all(plane: &DataPlane, keep_as: &KeepAs, items: Option<u32>, owner: &str) {
    let of_items = |name: &TensorName| -> Vec<TensorName> {
        let items = items.unwrap_or(0);
        (0..items).filter_map(|item| name.of_item(usize::try_from(item).ok()?)).collect()
    };
    let of_one = |name: &TensorName| if items.is_some() { of_items(name) } else { vec![name.clone()] };
    let names: Vec<TensorName> = keep_as.names.iter().flat_map(of_one).collect();
    let freeing = async {
        for tensor in names {
            let Some(stored) = plane.store().look(&tensor).filter(|stored| stored.about.owner == owner) else { continue };
            free(plane, TensorRef { tensor, version: Some(stored.about.version) }).await;
        }
    };
    if timeout(LET_GO_MAX, freeing).await.is_err() {
        tracing::debug!(owner, "not all outputs of a task that failed were freed in time; the others go when their time is over");
    }
}

/// Frees an output of a task that failed; where that fails, it goes when its time is over.
pub(crate) async fn free(plane: &DataPlane, kept: TensorRef) {
    if let Err(error) = plane.free(&kept).await {
        tracing::debug!(tensor = %kept.tensor, %error, "an output of a task that failed was not freed; it goes when its time is over");
    }
}
