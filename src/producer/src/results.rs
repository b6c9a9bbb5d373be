//! The results of a batch's items in pieces, from where they are: those of its slices while it runs, and those of its reply once it has ended.

use protocol::{ErrorCode, ItemCounts, ItemResults, Json, Reply, SliceResults, TaskId, TaskState, TaskStatus, batch};
use task_store::{StoreError, TaskStore};

/// Which results are wanted, and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedResults {
    /// The first item, counted from 0. Default: 0.
    pub from: u32,
    /// Most results. Default: 1,000.
    pub limit: usize,
    /// Most bytes that they take together; one result is given in any case. Default: 8 MiB.
    pub bytes_max: usize,
}

impl Default for WantedResults {
    fn default() -> Self {
        Self { from: 0, limit: 1_000, bytes_max: 8 << 20 }
    }
}

/// Why there are no results of items.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResultsError {
    /// The store never heard of the task, or has forgotten it.
    #[error("the fleet never heard of task {task_id}, or has forgotten it")]
    Unknown {
        /// The task.
        task_id: TaskId,
    },
    /// It ended without any: it is no batch, or a batch that ended as a whole.
    #[error("task {task_id} has no results of items: {reason}")]
    NoResults {
        /// The task.
        task_id: TaskId,
        /// Why.
        reason: String,
        /// The code of the error that ended it, where one did.
        code: Option<String>,
    },
    /// It had some, or may have had, and none are kept any more.
    #[error("task {task_id} {}, and no results of its items are kept", state.name())]
    Gone {
        /// The task.
        task_id: TaskId,
        /// How it ended.
        state: TaskState,
    },
    /// The store does not answer.
    #[error("read the results of task {task_id}: {source}")]
    Store {
        /// The task.
        task_id: TaskId,
        /// Why.
        source: StoreError,
    },
    /// They are kept, and no version of this program writes them so.
    #[error("read the results of task {task_id}: they are no list of results: {reason}")]
    Unreadable {
        /// The task.
        task_id: TaskId,
        /// Why.
        reason: String,
    },
}

/// The results of a batch's items from one item on, as far as they are there. Asked again from [`ItemResults::next`] on, until nothing follows, it gives them all, also
/// where the batch's reply was too large to be made of them.
///
/// # Errors
/// [`ResultsError`] tells apart that there are none, that they are gone, and that they could not be read. Asking again is harmless.
pub async fn results_of(store: &dyn TaskStore, task_id: &TaskId, wanted: WantedResults) -> Result<ItemResults, ResultsError> {
    let status = store.status(task_id).await.map_err(|source| ResultsError::Store { task_id: task_id.clone(), source })?;
    let Some(status) = status else { return Err(ResultsError::Unknown { task_id: task_id.clone() }) };
    if let Some(reply) = status.reply.as_ref().filter(|reply| !reply.results.is_null()) {
        let all = reply.results.elements().map_err(|error| unreadable(task_id, &error))?;
        let of = u32::try_from(all.len()).unwrap_or(u32::MAX);
        let items = reply.items.unwrap_or(ItemCounts { of, done: of, failed: None });
        let skipped = usize::try_from(wanted.from).unwrap_or(usize::MAX);
        return Ok(piece(&status, Some(items), wanted, all.into_iter().skip(skipped)));
    }
    let of_slices = if may_have_slices(&status) { of_slices(store, task_id, wanted).await? } else { Vec::new() };
    let items = status.reply.as_ref().and_then(|reply| reply.items).or(status.items);
    let is_beyond = items.is_some_and(|items| wanted.from >= items.of);
    if of_slices.is_empty() && status.state.ended() && !is_beyond {
        return Err(why_none(status));
    }
    Ok(piece(&status, items, wanted, of_slices.into_iter()))
}

/// Whether results of slices may be kept. A reply that is there has them itself, unless they did not fit it.
fn may_have_slices(status: &TaskStatus) -> bool {
    match &status.reply {
        Some(reply) => has_code(reply, ErrorCode::ReplyTooLarge),
        None => status.state.ended() || status.slices.is_some() || status.items.is_some(),
    }
}

fn has_code(reply: &Reply, code: ErrorCode) -> bool {
    reply.error.as_ref().is_some_and(|error| ErrorCode::named(&error.code) == Some(code))
}

/// The results of ended slices from the wanted item on, up to the first gap.
async fn of_slices(store: &dyn TaskStore, task_id: &TaskId, wanted: WantedResults) -> Result<Vec<Json>, ResultsError> {
    let kept = store.slice_results(task_id, wanted.from, wanted.bytes_max).await;
    let kept = kept.map_err(|source| ResultsError::Store { task_id: task_id.clone(), source })?;
    let (mut at, mut found) = (wanted.from, Vec::new());
    for (slice, bytes) in kept {
        if !(slice.from..slice.to).contains(&at) {
            break;
        }
        let results = SliceResults::read(&bytes)
            .and_then(|read| read.listed(slice).results.elements())
            .map_err(|error| unreadable(task_id, &error))?;
        if u32::try_from(results.len()) != Ok(slice.items()) {
            let reason = format!("the slice {slice} has {} of them", results.len());
            return Err(ResultsError::Unreadable { task_id: task_id.clone(), reason });
        }
        let skipped = usize::try_from(at - slice.from).unwrap_or(usize::MAX);
        found.extend(results.into_iter().skip(skipped));
        at = slice.to;
    }
    Ok(found)
}

fn unreadable(task_id: &TaskId, error: &serde_json::Error) -> ResultsError {
    ResultsError::Unreadable { task_id: task_id.clone(), reason: error.to_string() }
}

/// As many of these results as are wanted at once.
fn piece(status: &TaskStatus, items: Option<ItemCounts>, wanted: WantedResults, results: impl Iterator<Item = Json>) -> ItemResults {
    let WantedResults { from, limit, bytes_max } = wanted;
    let mut bytes = 0_usize;
    let fits = |result: &Json| {
        let is_first = bytes == 0;
        bytes += result.as_bytes().len();
        is_first || bytes <= bytes_max
    };
    let taken: Vec<Json> = results.take(limit).take_while(fits).collect();
    let next = from.saturating_add(u32::try_from(taken.len()).unwrap_or(u32::MAX));
    let is_over = items.is_some_and(|items| next >= items.of) || (taken.is_empty() && status.state.ended());
    ItemResults {
        task_id: status.task_id.clone(),
        state: status.state,
        items,
        from,
        results: batch::list(&taken),
        next: (!is_over).then_some(next),
    }
}

/// Why a task that ended has no results of items.
fn why_none(status: TaskStatus) -> ResultsError {
    let TaskStatus { task_id, state, reply, .. } = status;
    let none = |reason: String, code| ResultsError::NoResults { task_id: task_id.clone(), reason, code };
    match reply {
        Some(reply) if has_code(&reply, ErrorCode::ReplyTooLarge) || has_code(&reply, ErrorCode::ReplyNotKept) => {
            ResultsError::Gone { task_id, state }
        }
        Some(Reply { error: Some(error), .. }) => {
            none(format!("it {} as a whole: {}: {}", state.name(), error.code, error.message), Some(error.code))
        }
        Some(_) => none("it is no batch, and its reply has its one result".to_owned(), None),
        None if matches!(state, TaskState::Cancelled | TaskState::Expired) => none(format!("it {} as a whole", state.name()), None),
        None => ResultsError::Gone { task_id, state },
    }
}
