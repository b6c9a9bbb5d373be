//! What becomes of a batch before it claims a slot.

use protocol::{ErrorCode, Json, Task, TaskError};
use task_queue::Queue;
use task_store::Look;

use super::plan;
use crate::{
    context::Context,
    delivery::{Identity, InHand},
    disposition::Disposition,
    ports::Abandoned,
};

/// What an item's result takes in a list beside its own bytes: `{"result":…},`.
const BESIDE_A_RESULT: usize = r#"{"result":},"#.len();

/// What becomes of a batch that has just been received; `None`: it goes on as any task does, into one slot. Only where it [is to be decided](is_to_be_decided).
///
/// A batch is looked up first, whether or not its delivery may have a history: one that was split by an earlier copy of the same publish waits for that one's end, and is answered by itself.
/// Another task pays no round trip for this.
pub(crate) async fn before_a_slot<'t>(context: &Context, in_hand: &InHand, task: &'t Task) -> Result<Option<Disposition<'t>>, Abandoned> {
    let Some(items) = task.body.items.as_ref() else { return Ok(None) };
    let identity = Identity::of(task, in_hand);
    let looking = look(context, in_hand, &identity);
    // What comes for the first time is most likely to be cut: both are asked at once.
    let (looked, planned) = if in_hand.redelivered || in_hand.envelope.headers.returned {
        (looking.await?, None)
    } else {
        let (looked, slices) = tokio::try_join!(looking, plan::slices(context, task))?;
        (looked, Some(slices))
    };
    match looked {
        Look::Open => {}
        // It runs whole, or did.
        Look::Unfinished(_) => return Ok(None),
        look => return Ok(Some(Disposition::not_run(task, look, context.me.options.lease))),
    }
    let member = (in_hand.group_of(&task.id), &task.id);
    if context.ports.is_cancelled_with_its_group(member, in_hand.envelope.timestamp).await? {
        return Ok(Some(Disposition::not_run(task, Look::Cancelled, context.me.options.lease)));
    }
    if task.start_before_ms.is_some_and(|deadline_ms| deadline_ms <= context.ports.now_ms()) {
        return Ok(Some(Disposition::expired()));
    }
    if context.stops() {
        return Ok(Some(Disposition::GiveBack));
    }
    if let Some(error) = too_large(context, task, items) {
        return Ok(Some(Disposition::fails(error)));
    }
    let slices = match planned {
        Some(slices) => slices,
        None => plan::slices(context, task).await?,
    };
    Ok((slices.len() > 1).then_some(Disposition::Split(task, slices)))
}

/// Whether it is a batch about which is to be decided before it claims a slot.
pub(crate) fn is_to_be_decided(context: &Context, in_hand: &InHand, task: &Task) -> bool {
    // What was forwarded here was decided on before, and a slot is kept free for it. A copy of one that runs here must not stand in anybody's way.
    let is_batch = task.body.items.is_some() && task.slice().is_none();
    is_batch && !matches!(in_hand.queue, Queue::Gpu(_)) && !context.begun.has_another(&task.id, in_hand.id)
}

/// What the store knows of the batch. A copy goes round of each, and when it finds the end that has most often been answered: then its reply, which may be large, is not read.
async fn look(context: &Context, in_hand: &InHand, identity: &Identity) -> Result<Look, Abandoned> {
    match context.ports.look_briefly(identity).await? {
        Look::Ended(stored) if !in_hand.was_answered(stored.published_to.as_deref()) => context.ports.look(identity).await,
        look => Ok(look),
    }
}

/// Why no reply could carry the results, where the items tell that before they run.
fn too_large(context: &Context, task: &Task, items: &[Json]) -> Option<TaskError> {
    let executor = context.gpu.executors.get(&task.kind)?;
    let bytes: usize = items.iter().map(|item| executor.result_bytes_min(item).saturating_add(BESIDE_A_RESULT)).sum();
    let bound = context.me.options.intake.body_bytes_max;
    let message = format!(
        "the results take at least {bytes} bytes together, and a reply may have {bound} (worker.body_bytes_max): submit fewer items at once; nothing was run"
    );
    (bytes > bound).then(|| TaskError::new(ErrorCode::ReplyTooLarge, message).at("items"))
}
