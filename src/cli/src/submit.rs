//! `gpufleet submit`.

mod batch;
mod items;
mod lines;
mod report;

use std::{io::Read, num::NonZeroUsize, process::ExitCode, time::Duration};

use futures::{StreamExt, stream};
use producer::{NewTask, ReplyTo};
use protocol::{ErrorCode, Json, Outcome, Partial, Reply, TaskBody, TaskId};

use crate::{
    arguments::{Common, Submit},
    fault::Fault,
    fleet::{Fleet, NoReply, Submitter},
    gpus,
    kinds::PayloadCheck,
    output::{self, Printed},
    segments, status, unserved, waiting,
};

/// How many tasks are under way at once.
const IN_FLIGHT: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// Submits tasks, and waits for them if asked.
pub(crate) async fn run(common: &Common, submit: &Submit) -> Result<ExitCode, Fault> {
    check_items(submit)?;
    let fleet = Fleet::to_submit(common)?;
    let mut task = task(submit, fleet.body_bytes_max())?;
    fleet.check(&task)?;
    let payloads = PayloadCheck::of(&fleet).await?;
    if let Some(gpu) = submit.gpu() {
        task.body.gpu_options.specific_gpu_id = Some(gpus::named(&fleet.pool().await?, gpu)?);
    }
    unserved::warn_of(&task, &fleet).await?;
    if let Some(file) = submit.items.as_ref().filter(|_| !submit.as_batch) {
        return items::run(&fleet, submit, file, task, payloads).await;
    }
    payloads.check(&task.kind, &task.body).map_err(|refusal| Fault::Usage(format!("{refusal}; nothing was submitted")))?;
    let submitter = fleet.submitter().await?;
    if submit.stream {
        let done = streamed(common, &fleet, &submitter, task, submit).await;
        submitter.close().await;
        return done;
    }
    let tasks = std::iter::repeat_n(task, submit.count.get());
    let done = if submit.wait { wait(common, &fleet, &submitter, tasks, submit).await } else { send(common, &submitter, tasks).await };
    submitter.close().await;
    done
}

/// What goes with one task alone does not go with many.
fn check_items(submit: &Submit) -> Result<(), Fault> {
    let given = [("--task-id", submit.task_id.is_some()), ("--progress", submit.progress), ("--keep-as", submit.keep_as().is_some())];
    match given.into_iter().find(|(_, given)| *given && submit.items.is_some() && !submit.as_batch) {
        Some((name, _)) => Err(Fault::Usage(format!(
            "{name}: with --items each line is a task of its own; leave it out, or make them one task with --as-batch"
        ))),
        None => Ok(()),
    }
}

fn task(submit: &Submit, bytes_max: usize) -> Result<NewTask, Fault> {
    let carried = match &submit.items {
        Some(file) if submit.as_batch => batch::body(submit, file, bytes_max)?,
        _ => {
            let segments = segments::read(&submit.segments, bytes_max)?;
            TaskBody { payload: payload(&submit.payload)?, segments, ..TaskBody::default() }
        }
    };
    let body = TaskBody {
        gpu_options: submit.gpu_options(),
        needs: submit.needs(),
        limits: submit.limits(),
        keep_as: submit.keep_as(),
        on_missing: submit.on_missing(),
        ..carried
    };
    let correlation_id = submit.correlation_id.clone().unwrap_or_default();
    Ok(NewTask {
        priority: submit.priority,
        task_id: submit.task_id.clone(),
        not_before_ms: submit.not_before,
        delay_ms: submit.delay,
        expiration: submit.expiration_ms.map(Duration::from_millis),
        reply_to: submit.reply_to.clone().map(|queue| ReplyTo { queue, correlation_id }),
        progress: submit.progress || submit.stream,
        group: submit.group.clone(),
        traceparent: submit.traceparent.clone(),
        ..NewTask::new(submit.kind.clone(), body)
    })
}

fn payload(given: &str) -> Result<Json, Fault> {
    let (text, origin) = match given {
        "-" => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Fault::Usage(format!("read the payload from standard input: {error}")))?;
            (text, "standard input".to_owned())
        }
        file if file.starts_with('@') => {
            let text = std::fs::read_to_string(&file[1..])
                .map_err(|error| Fault::Usage(format!("read the payload from {}: {error}", &file[1..])))?;
            (text, file[1..].to_owned())
        }
        text => (text.to_owned(), "--payload".to_owned()),
    };
    Json::parse(text).map_err(|error| Fault::Usage(format!("{origin} is not JSON: {error} (text must be quoted: '\"hello\"')")))
}

async fn send(common: &Common, submitter: &Submitter<'_>, tasks: impl Iterator<Item = NewTask>) -> Result<ExitCode, Fault> {
    let mut submits = std::pin::pin!(stream::iter(tasks).map(|task| submitter.submit(task)).buffer_unordered(IN_FLIGHT.get()));
    let mut first_fault = None;
    // Whatever happens to one of them, or to the output: the others are submitted.
    while let Some(submitted) = submits.next().await {
        if let Err(fault) = submitted.and_then(|task_id| show_id(common, &task_id).map_err(Fault::from)) {
            first_fault.get_or_insert(fault);
        }
    }
    first_fault.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn show_id(common: &Common, task_id: &TaskId) -> Printed {
    if common.json { output::json(&serde_json::json!({ "task_id": task_id })) } else { output::line(task_id.as_str()) }
}

async fn wait(
    common: &Common,
    fleet: &Fleet,
    submitter: &Submitter<'_>,
    tasks: impl Iterator<Item = NewTask>,
    submit: &Submit,
) -> Result<ExitCode, Fault> {
    let limit = submit.limit();
    let told = |progress: &protocol::Progress| output::note(&status::how_far(progress));
    let waits = stream::iter(tasks).map(|task| submitter.submit_and_wait(task, limit, told));
    let mut replies = std::pin::pin!(waits.buffer_unordered(IN_FLIGHT.get()));
    let mut first_fault = None;
    let mut all_succeeded = true;
    while let Some(reply) = replies.next().await {
        let shown = match reply {
            Ok(reply) => {
                all_succeeded &= succeeded(&reply);
                show(common, &reply).map_err(Fault::from).and_then(|()| keep_segments(submit, &reply))
            }
            // The fleet is asked once why.
            Err(NoReply::Late(task_id)) if first_fault.is_none() => Err(waiting::too_late(fleet, &task_id, limit).await),
            Err(NoReply::Late(_)) => Ok(()),
            Err(NoReply::Fault(fault)) => Err(fault),
        };
        if let Err(fault) = shown {
            first_fault.get_or_insert(fault);
        }
    }
    match first_fault {
        Some(fault) => Err(fault),
        None => Ok(if all_succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

/// Prints each part of the result as it comes, then the result.
async fn streamed(common: &Common, fleet: &Fleet, submitter: &Submitter<'_>, task: NewTask, submit: &Submit) -> Result<ExitCode, Fault> {
    let limit = submit.limit();
    let told = |part: &Partial| {
        let text = if common.json { output::json_text(part) } else { output::in_one_line(part.value.to_string()) };
        output::exact_line(&text).map_err(Fault::from)
    };
    match submitter.submit_and_stream(task, limit, told).await {
        Ok(reply) => {
            show(common, &reply)?;
            keep_segments(submit, &reply)?;
            Ok(if succeeded(&reply) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(NoReply::Late(task_id)) => Err(waiting::too_late(fleet, &task_id, limit).await),
        Err(NoReply::Fault(fault)) => Err(fault),
    }
}

/// Whether all of a task did.
fn succeeded(reply: &Reply) -> bool {
    reply.outcome == Outcome::Succeeded && failed_items(reply) == 0
}

/// Says what raw bytes the result refers to, and saves them if that was asked for.
fn keep_segments(submit: &Submit, reply: &Reply) -> Result<(), Fault> {
    match &submit.save_segments {
        Some(directory) => segments::save(reply, directory),
        None => {
            segments::lines(reply).iter().for_each(|line| output::note(line));
            Ok(())
        }
    }
}

fn show(common: &Common, reply: &Reply) -> Printed {
    if common.json {
        return output::json(reply);
    }
    match &reply.error {
        None if !reply.results.is_null() => show_items(reply),
        None => output::exact_line(&output::in_one_line(reply.result.to_string())),
        Some(error) => {
            let field = error.field.as_ref().map(|field| format!(" ({field})")).unwrap_or_default();
            let hint = match ErrorCode::named(&error.code) {
                // With a field it was refused before anything ran.
                Some(ErrorCode::ReplyTooLarge) if error.field.is_none() => {
                    format!("; `gpufleet results {}` prints those that are kept", reply.task_id)
                }
                _ => String::new(),
            };
            output::error_line(&format!("task {} {}: {}{field}: {}{hint}", reply.task_id, reply.outcome.name(), error.code, error.message));
            Ok(())
        }
    }
}

/// How many items of a batch failed. One failed item is as one failed task: who goes on where all is well must hear of it.
fn failed_items(reply: &Reply) -> u32 {
    reply.items.and_then(|items| items.failed).unwrap_or(0)
}

/// A line for each item, in order, as `gpufleet results` prints them.
fn show_items(reply: &Reply) -> Printed {
    for came_out in reply.results.elements().unwrap_or_default() {
        output::exact_line(&output::in_one_line(came_out.to_string()))?;
    }
    let failed = failed_items(reply);
    if failed > 0 {
        let of = reply.items.map_or(0, |items| items.of);
        output::error_line(&format!("task {}: {failed} of {of} items failed", reply.task_id));
    }
    Ok(())
}
