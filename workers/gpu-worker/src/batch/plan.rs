//! Into which slices a batch is cut: by the GPUs that there are for it now.

use gpu_table::eligibility::fits;
use protocol::{Slice, Task};

use super::cutting::{Bounds, Seats, cut};
use crate::{claim::placing, context::Context, ports::Abandoned};

/// The slices that this batch should run as. Fewer than two: it runs whole.
///
/// Slices go to the pool's queue as tasks do, so that any worker takes any of them: what is decided here is how many there are, and nothing about where they run.
pub(super) async fn slices(context: &Context, task: &Task) -> Result<Vec<Slice>, Abandoned> {
    let (options, asked) = (&context.me.options, &task.body.gpu_options);
    let items = u32::try_from(task.body.items.as_ref().map_or(0, Vec::len)).unwrap_or(u32::MAX);
    let wanted = options.multi_gpu && asked.specific_gpu_id.is_none() && asked.batch_split.unwrap_or(options.batch_split);
    if !wanted || items / options.min_batch_size_per_gpu < 2 {
        return Ok(Vec::new());
    }
    // Its own row counts, too.
    placing::known_to_the_table(context).await?;
    let rows = context.ports.rows(&options.pool).await?;
    let request = placing::request(context, task, false);
    let settings = context.signals.settings.borrow().clone();
    let fitting = rows.iter().filter(|view| view.eligible && fits(&view.row, &settings, &request));
    let seats: Vec<Seats> = fitting.map(|view| Seats::of(&view.row, &task.kind)).collect();
    Ok(Slice::of_lengths(&cut(items, &seats, Bounds::of(options.min_batch_size_per_gpu))))
}
