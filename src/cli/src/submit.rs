//! `gpufleet submit`.

use std::{io::Read, process::ExitCode, time::Duration};

use futures::StreamExt;
use producer::{Many, NewTask, Producer, ProducerOptions, WaitError};
use protocol::{GpuOptions, Json, Outcome, Reply, TaskBody};

use crate::{
    arguments::{Common, Submit},
    configuration,
    fault::Fault,
    gpus, output,
    servers::Servers,
    unserved,
};

/// How many tasks are under way at once.
const IN_FLIGHT: std::num::NonZeroUsize = std::num::NonZeroUsize::new(256).expect("not zero");

/// Submits tasks, and waits for them if asked.
pub(crate) async fn run(common: &Common, submit: &Submit) -> Result<ExitCode, Fault> {
    let configuration = configuration::load(common, &[])?;
    let mut task = task(submit)?;
    let servers = Servers::of_a_running_fleet(configuration)?.impatient();
    if let Some(gpu) = &submit.gpu {
        task.body.gpu_options.specific_gpu_id = Some(gpus::named(&servers, gpu).await?);
    }
    let configuration = servers.configuration();
    let options = ProducerOptions {
        pool: configuration.worker.pool.clone(),
        body_bytes_max: configuration.worker.body_bytes_max,
        ..ProducerOptions::default()
    };
    let ports = servers.connect().await?;
    if let Err(refused) = unserved::warn_of(&task, &*ports.table, configuration).await {
        ports.queue.close().await;
        return Err(refused);
    }
    let producer = Producer::new(ports.queue.clone(), ports.store, servers.environment().clone(), options);
    let tasks = std::iter::repeat_n(task, submit.count.get());
    let done = if submit.wait { wait(common, &producer, tasks, submit).await } else { send(common, &producer, tasks).await };
    ports.queue.close().await;
    done
}

fn task(submit: &Submit) -> Result<NewTask, Fault> {
    let body = TaskBody {
        payload: payload(&submit.payload)?,
        gpu_options: GpuOptions { strategy: submit.strategy.clone(), ..GpuOptions::default() },
        ..TaskBody::default()
    };
    Ok(NewTask {
        priority: submit.priority,
        task_id: submit.task_id.clone(),
        expiration: submit.expiration_ms.map(Duration::from_millis),
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

async fn send(common: &Common, producer: &Producer, tasks: impl Iterator<Item = NewTask> + Send) -> Result<ExitCode, Fault> {
    let mut submits = std::pin::pin!(producer.submit_many(tasks, IN_FLIGHT));
    let mut first_fault = None;
    while let Some((_, submitted)) = submits.next().await {
        match submitted {
            Ok(submitted) if common.json => output::json(&serde_json::json!({"task_id": submitted.task_id})),
            Ok(submitted) => output::line(submitted.task_id.as_str()),
            Err(error) => {
                first_fault.get_or_insert(Fault::from(error));
            }
        }
    }
    first_fault.map_or(Ok(ExitCode::SUCCESS), Err)
}

async fn wait(
    common: &Common,
    producer: &Producer,
    tasks: impl Iterator<Item = NewTask> + Send,
    submit: &Submit,
) -> Result<ExitCode, Fault> {
    let many = Many { in_flight: IN_FLIGHT, timeout: submit.limit() };
    let mut replies = std::pin::pin!(producer.submit_and_wait_many(tasks, many));
    let mut first_fault = None;
    let mut all_succeeded = true;
    while let Some((_, reply)) = replies.next().await {
        match reply {
            Ok(reply) => {
                all_succeeded &= reply.outcome == Outcome::Succeeded;
                show(common, &reply);
            }
            Err(error) if first_fault.is_none() => first_fault = Some(unanswered(producer, error).await),
            Err(_) => {}
        }
    }
    match first_fault {
        Some(fault) => Err(fault),
        None => Ok(if all_succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

/// Why there is no reply; where the time for it ran out, also what the task waits for, as far as the store knows.
async fn unanswered(producer: &Producer, error: WaitError) -> Fault {
    let status = match error.task_id() {
        Some(task_id) if error.is_timeout() => producer.status(task_id).await.ok().flatten(),
        _ => None,
    };
    match status.and_then(|status| status.waiting_for) {
        Some(why) => Fault::TimeLimit(format!("{error}; it goes on, and waits: {why}")),
        None => error.into(),
    }
}

fn show(common: &Common, reply: &Reply) {
    if common.json {
        output::json(reply);
        return;
    }
    match &reply.error {
        None => output::line(&output::in_one_line(reply.result.to_string())),
        Some(error) => {
            let field = error.field.as_ref().map(|field| format!(" ({field})")).unwrap_or_default();
            output::error_line(&format!("task {} {}: {}{field}: {}", reply.task_id, reply.outcome.name(), error.code, error.message));
        }
    }
}
