//! Into which slices a batch is cut: by the room that there is for it now.

use gpu_table::eligibility::fits;
use protocol::{Slice, Task, batch::SLICES_MAX};

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
    // Where all slots of a GPU are busy, the next one that becomes free will do.
    let room: u32 = fitting.map(|view| view.row.slots.saturating_sub(view.held).max(1)).sum();
    Ok(Slice::of_lengths(&equal_lengths(items, options.min_batch_size_per_gpu, room)))
}

/// Cuts items into as many runs as there is room for, all of the same length or one longer; none is below the minimum.
fn equal_lengths(items: u32, min: u32, room: u32) -> Vec<u32> {
    let most = u32::try_from(SLICES_MAX).unwrap_or(u32::MAX);
    let count = room.min(items / min.max(1)).min(most).max(1);
    (0..count).map(|place| items / count + u32::from(place < items % count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cut_by_the_room_and_never_below_the_minimum() {
        assert_eq!(equal_lengths(64, 4, 4), [16; 4]);
        assert_eq!(equal_lengths(10, 4, 8), [5, 5]);
        assert_eq!(equal_lengths(11, 3, 3), [4, 4, 3]);
        for (items, min, room) in [(7, 4, 8), (64, 4, 0), (64, 4, 1), (1, 1, 9)] {
            assert_eq!(equal_lengths(items, min, room), [items], "{items} items, at least {min}, room for {room}");
        }
        let many = equal_lengths(10_000, 1, 4_000);
        assert_eq!((many.len(), many.iter().sum::<u32>()), (SLICES_MAX, 10_000));
    }
}
