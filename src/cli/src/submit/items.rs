//! `gpufleet submit --items`: a task for each line of a file.
//!
//! Lines are read as there is room for them: a bounded number of them has been read and not printed. Where they are printed in the order of the file, the oldest one that is not done
//! holds back at most the others of that window.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{Stream, StreamExt};
use indicatif::ProgressBar;
use producer::NewTask;
use protocol::{Environment, Progress, TaskBody, TaskId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    lines::{self, Item},
    report::{Done, Fate, Report, Why},
};
use crate::{
    arguments::Submit,
    fault::{Fault, INTERRUPTED},
    fleet::{Fleet, NoReply, Submitter},
    kinds::PayloadCheck,
    output,
};

/// Lines that were read and are not printed.
const WINDOW: usize = 512;

/// What every line needs.
struct Way<'a> {
    submitter: &'a Submitter<'a>,
    submit: &'a Submit,
    /// The task of every line, but for its payload and its id.
    task: NewTask,
    /// What the payloads must fit.
    payloads: PayloadCheck,
    environment: Environment,
    open: OpenTasks,
    bar: ProgressBar,
    /// Whether the bar has its length from the beginning: that of the file.
    is_sized: bool,
}

/// The tasks that may have been submitted and are not done with: their lines, by their places.
#[derive(Default)]
struct OpenTasks(Mutex<BTreeMap<usize, (u64, TaskId)>>);

impl OpenTasks {
    fn tasks(&self) -> MutexGuard<'_, BTreeMap<usize, (u64, TaskId)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lines whose tasks nobody waits for any more.
    fn left(&self, why: Why) -> Vec<Done> {
        let open = std::mem::take(&mut *self.tasks());
        let left = |(place, (line, task_id))| Done { place, line, share: 0, task_id: Some(task_id), fate: Fate::Left(why), _permit: None };
        open.into_iter().map(left).collect()
    }
}

/// Submits a task for each line of `file`, and waits for them if asked.
pub(super) async fn run(fleet: &Fleet, submit: &Submit, file: &str, task: NewTask, payloads: PayloadCheck) -> Result<ExitCode, Fault> {
    let items = lines::of(file, fleet.body_bytes_max())?;
    let submitter = fleet.submitter_of_many(submit.traceparent.as_deref()).await?;
    let length = lines::length_of(file);
    let mut report = Report::new(lines::name_of(file), !submit.unordered, length);
    let (environment, bar) = (service::system_environment(), report.bar());
    let way =
        Way { submitter: &submitter, submit, task, payloads, environment, open: OpenTasks::default(), bar, is_sized: length.is_some() };
    let ending = work(&way, items, &mut report).await;
    let ending = ending.and_then(|ending| conclude(ending, &way.open, &mut report));
    drop(way);
    let worst = report.end();
    submitter.close().await;
    ending.map(|code| code.unwrap_or_else(|| worst.into()))
}

/// Prints what is left to be printed. The exit code, where it is not that of the worst line.
fn conclude(ending: Ending, open: &OpenTasks, report: &mut Report<'_>) -> Result<Option<ExitCode>, Fault> {
    match ending {
        Ending::Done => Ok(None),
        Ending::Early(Why::InVain) => {
            report.leave(open.left(Why::InVain))?;
            output::error_line("so many lines in a row found the fleet full or away that the rest was not submitted");
            // One of the lines said so, and another may have been at fault.
            Ok(None)
        }
        Ending::Early(Why::Interrupted) => {
            let left = report.leave(open.left(Why::Interrupted))?;
            output::note(&format!(
                "interrupted: {left} tasks have no reply yet and go on (outcome unfinished); `gpufleet status ID` tells of one, `gpufleet cancel ID` ends it"
            ));
            Ok(Some(ExitCode::from(INTERRUPTED)))
        }
    }
}

/// Why no more lines are worked on.
#[derive(Debug, Clone, Copy)]
enum Ending {
    /// There are none.
    Done,
    /// There may be.
    Early(Why),
}

async fn work(way: &Way<'_>, items: impl Stream<Item = Item>, report: &mut Report<'_>) -> Result<Ending, Fault> {
    let window = Arc::new(Semaphore::new(WINDOW));
    let admitted = items.enumerate().then(|(place, item)| {
        let window = Arc::clone(&window);
        async move {
            let permit = window.acquire_owned().await.ok();
            (place, item, permit)
        }
    });
    let mut done = std::pin::pin!(admitted.map(|(place, item, permit)| one(way, place, item, permit)).buffer_unordered(WINDOW));
    let mut interrupt = std::pin::pin!(interrupt(way.submit.wait));
    loop {
        tokio::select! {
            biased;
            () = interrupt.as_mut() => return Ok(Ending::Early(Why::Interrupted)),
            next = done.next() => match next {
                Some(next) => if !report.take(next)? {
                    return Ok(Ending::Early(Why::InVain));
                },
                None => return Ok(Ending::Done),
            },
        }
    }
}

/// Ends at an interrupt, where somebody waits; where nobody does, an interrupt ends the program as it ends others.
async fn interrupt(waits: bool) {
    if !waits || tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// One line, from its payload to the end of its task.
async fn one(way: &Way<'_>, place: usize, Item { line, bytes, payload }: Item, permit: Option<OwnedSemaphorePermit>) -> Done {
    let share = if way.is_sized { bytes } else { 1 };
    if !way.is_sized {
        way.bar.inc_length(share);
    }
    let payload = match payload {
        Ok(payload) => payload,
        Err(problem) => return Done { place, line, share, task_id: None, fate: Fate::Broken(problem), _permit: permit },
    };
    let body = TaskBody { payload, ..way.task.body.clone() };
    if let Err(refusal) = way.payloads.check(&way.task.kind, &body) {
        return Done { place, line, share, task_id: None, fate: Fate::Broken(refusal.to_string()), _permit: permit };
    }
    let task_id = way.environment.fresh_task_id();
    let task = NewTask { body, task_id: Some(task_id.clone()), ..way.task.clone() };
    way.open.tasks().insert(place, (line, task_id.clone()));
    let fate = fate(way, task).await;
    way.open.tasks().remove(&place);
    Done { place, line, share, task_id: Some(task_id), fate, _permit: permit }
}

async fn fate(way: &Way<'_>, task: NewTask) -> Fate {
    let Way { submitter, submit, .. } = way;
    if !submit.wait {
        return submitter.submit(task).await.map_or_else(Fate::Fault, |_task_id| Fate::Submitted);
    }
    let untold = |_: &Progress| {};
    match submitter.submit_and_wait(task, submit.limit(), untold).await {
        Ok(reply) => Fate::Replied(Box::new(reply)),
        Err(NoReply::Late(_)) => Fate::Late(submit.timeout),
        Err(NoReply::Fault(fault)) => Fate::Fault(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submit::report::Worst;

    #[test]
    fn a_line_at_fault_is_worse_than_a_fleet_that_takes_no_more() {
        let done = |place, fate| Done { place, line: 1, share: 1, task_id: None, fate, _permit: None };
        for (others, worst) in [(vec![], Worst::Unavailable), (vec![Fate::Broken("is not JSON".to_owned())], Worst::Wrong)] {
            let mut report = Report::new("f", false, None);
            let away = Fate::Fault(Fault::Unavailable("away".to_owned()));
            for (place, fate) in [away].into_iter().chain(others).enumerate() {
                report.take(done(place, fate)).expect("printed");
            }
            let code = conclude(Ending::Early(Why::InVain), &OpenTasks::default(), &mut report).expect("printed");
            assert!(code.is_none(), "the worst line has the say");
            assert_eq!(report.end(), worst);
        }
    }
}
