//! `gpufleet tasks`: the index of tasks, by filters; and what is done to many of them at once.

mod filter;
mod table;
mod watch;

use std::process::ExitCode;

use protocol::{
    TaskState,
    insight::{TaskFilter, TaskPage},
};

use crate::{
    arguments::{Common, Several, TaskFilterFlags, TasksCommand},
    fault::Fault,
    fleet::Fleet,
    gpus, output, words,
};

/// The largest page that is asked for.
const PAGE_MAX: u32 = 1_000;

/// Lists, watches, cancels or requeues.
pub(crate) async fn run(common: &Common, command: TasksCommand) -> Result<ExitCode, Fault> {
    match command {
        TasksCommand::Ls { filter, limit } => list(common, &Fleet::to_ask(common)?, (&filter, limit)).await,
        TasksCommand::Watch { filter, limit } => watch::run(common, &Fleet::to_ask(common)?, (&filter, limit)).await,
        TasksCommand::Cancel(several) => cancel(common, &Fleet::to_ask(common)?, &several).await,
        TasksCommand::Requeue(several) => {
            let fleet = Fleet::to_submit(common)?;
            let done = requeue(common, &fleet, &several).await;
            fleet.close().await;
            done
        }
    }
}

/// The filter that flags make; a GPU may be named as in `gpufleet gpus`.
async fn filter_of(fleet: &Fleet, flags: &TaskFilterFlags) -> Result<TaskFilter, Fault> {
    let gpu_id = match &flags.gpu {
        Some(name) => Some(gpus::named(&fleet.pool().await?, name)?),
        None => None,
    };
    Ok(TaskFilter { gpu_id, ..flags.without_gpu() })
}

async fn list(common: &Common, fleet: &Fleet, (flags, limit): (&TaskFilterFlags, u32)) -> Result<ExitCode, Fault> {
    let page = some(fleet, &filter_of(fleet, flags).await?, limit).await?;
    if common.json {
        output::json(&page)?;
        return Ok(ExitCode::SUCCESS);
    }
    let now_ms = service::system_environment().clock.now_ms();
    output::line(&table::of(&page, now_ms, output::width()))?;
    Ok(ExitCode::SUCCESS)
}

/// So many tasks, however many pages they are on.
async fn some(fleet: &Fleet, filter: &TaskFilter, limit: u32) -> Result<TaskPage, Fault> {
    let mut all = fleet.tasks(filter, None, limit.min(PAGE_MAX)).await?;
    while let Some(next) = all.next.take() {
        let left = limit.saturating_sub(u32::try_from(all.tasks.len()).unwrap_or(u32::MAX));
        if left == 0 {
            all.next = Some(next);
            break;
        }
        let more = fleet.tasks(filter, Some(&next), left.min(PAGE_MAX)).await?;
        // A page without a task would be asked for again and again.
        let is_end = more.tasks.is_empty();
        all.tasks.extend(more.tasks);
        all.next = more.next.filter(|_| !is_end);
    }
    Ok(all)
}

async fn cancel(common: &Common, fleet: &Fleet, several: &Several) -> Result<ExitCode, Fault> {
    let (filter, said) = agreed(fleet, several, "cancel").await?;
    let done = fleet.cancel_many(&filter, &said).await?;
    if common.json {
        output::json(&done)?;
    } else {
        let tasks = words::count(done.matching, "task");
        output::line(&format!("{} of {tasks} had not ended and were asked to end; {} had ended already", done.cancelled, done.ended))?;
    }
    rest(done.more);
    Ok(ExitCode::SUCCESS)
}

async fn requeue(common: &Common, fleet: &Fleet, several: &Several) -> Result<ExitCode, Fault> {
    let (filter, said) = agreed(fleet, several, "requeue").await?;
    let done = fleet.requeue_many(&filter, &said).await?;
    if common.json {
        output::json(&done)?;
    } else {
        output::line(&format!(
            "{} requeued, {} stay (`gpufleet dead ls` shows them)",
            words::count(done.requeued, "dead letter"),
            done.refused
        ))?;
    }
    rest(done.more);
    Ok(if done.refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn rest(more: bool) {
    if more {
        output::note("more tasks pass the filter than one command takes; run it again for the rest");
    }
}

/// The filter and its words, once it is said how many tasks pass it and somebody wants it so.
async fn agreed(fleet: &Fleet, several: &Several, verb: &str) -> Result<(TaskFilter, String), Fault> {
    // Slices end with their batch, and have no dead letters.
    let mut filter = TaskFilter { slices: false, ..filter_of(fleet, &several.filter).await? };
    if filter.lets_all_through() && !several.all {
        return Err(Fault::Usage(format!("nothing was done: no filter is given; give some, or --all to {verb} all tasks of the pool")));
    }
    if verb == "cancel" && filter.state.is_empty() {
        filter.state = TaskState::OPEN.to_vec();
    }
    let said = filter::in_words(&filter);
    let counted = if verb == "requeue" { TaskFilter { dead: Some(true), ..filter.clone() } } else { filter.clone() };
    let matching = fleet.tasks(&counted, None, 1).await?.matching;
    let with = if verb == "requeue" { " with dead letters" } else { "" };
    let question = format!("{verb} {}{with}: {said}", words::count(matching, "task"));
    if several.yes {
        output::note(&question);
        return Ok((filter, said));
    }
    if output::can_ask() && output::agreed(&format!("{question}?")) {
        return Ok((filter, said));
    }
    Err(Fault::Usage(format!("nothing was done; this would {question}: give --yes to do it (`gpufleet tasks ls` shows them)")))
}
