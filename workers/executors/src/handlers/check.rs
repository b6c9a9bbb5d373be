//! A handler against its contract: everything that `schemas/handler.md` says, tried on a process.

mod given;
mod trial;

use std::{path::PathBuf, time::Duration};

use protocol::{Json, Kind, PayloadSchema, payload_schema::example};

use self::trial::Trial;
use super::message::{FromHandler, Hello, HelloKind, ToHandler, VERSION};

/// What was tried, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What a handler does that keeps the contract.
    pub name: &'static str,
    /// That it did, or what was wrong.
    pub outcome: Result<(), String>,
}

/// What a check is made with.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The kind of the tasks. Default: the first of the `hello`.
    pub kind: Option<Kind>,
    /// Their payload; a task with it has to succeed. Default: one made from the kind's schema, `null` where it has none; such a task may fail, but has to be answered.
    pub payload: Option<Json>,
    /// How long it may take to say `hello`. Default: 10 s.
    pub hello_within: Option<Duration>,
}

/// Runs a handler against everything that the contract says; `launcher` is the `gpufleet` binary. `told` is called with each check as soon as it is over. What could not be tried, because
/// something before it went wrong, is left out.
pub async fn check(command: Vec<String>, launcher: PathBuf, wanted: Wanted, told: &mut dyn FnMut(&Checked)) -> Vec<Checked> {
    let mut checks = Checks { done: Vec::new(), told };
    let trial = Trial::new(command, launcher, wanted.hello_within.unwrap_or(HELLO_WITHIN));
    // The first thing that makes the rest meaningless ends it.
    let _ = checks.of_a_life(&trial, &wanted).await;
    if checks.done.iter().any(|checked| checked.name == READY && checked.outcome.is_ok()) {
        let _ = checks.of_a_lost_worker(&trial).await;
    }
    checks.done
}

const HELLO_WITHIN: Duration = Duration::from_secs(10);
const READY: &str = "is ready after its set-up";

/// Something was wrong, and is in the list.
struct Failed;

struct Checks<'a> {
    done: Vec<Checked>,
    told: &'a mut dyn FnMut(&Checked),
}

impl Checks<'_> {
    fn note<T>(&mut self, name: &'static str, outcome: Result<T, String>) -> Result<T, Failed> {
        let (checked, value) = match outcome {
            Ok(value) => (Ok(()), Ok(value)),
            Err(wrong) => (Err(wrong), Err(Failed)),
        };
        let checked = Checked { name, outcome: checked };
        (self.told)(&checked);
        self.done.push(checked);
        value
    }

    async fn of_a_life(&mut self, trial: &Trial, wanted: &Wanted) -> Result<(), Failed> {
        let mut process = self.note("starts", trial.start().await)?;
        let hello = self.note("says hello first, with its version and kinds", process.hello().await.and_then(checked_hello))?;
        let kind = self.note("runs the kind that is asked for", chosen(&hello, wanted))?;
        process.gives_tensors(kind.tensors);
        self.note(READY, process.set_up().await)?;
        // What follows is looked at one by one: one wrong answer says nothing of the others.
        let _ = self.note("answers a ping", process.ping().await);
        process.send_text(br#"{"type":"gpufleet_check_of_a_later_version","field":[1]}"#);
        let _ = self.note("passes over a message of a type that it does not know", process.ping().await);
        let payload = wanted.payload.clone().unwrap_or_else(|| kind.schema.as_ref().map_or_else(Json::null, example));
        let answered = process.task(&kind.kind, &payload).await.and_then(|answer| judged(&answer, wanted));
        let _ = self.note("answers a task under its run", answered);
        if kind.tensors {
            let answered = process.task_on_a_tensor(&kind.kind, &payload).await.and_then(|answer| judged(&answer, wanted));
            let _ = self.note("answers a task that is given a tensor", answered);
        }
        let _ = self.note("answers a task that is cancelled", process.cancelled_task(&kind.kind, &payload).await);
        let _ = self.note("answers a ping beside a task", process.ping_beside_a_task(&kind.kind, &payload).await);
        if kind.batch.is_some_and(|batch| batch.largest > 1) {
            let _ = self.note("answers each member of a batch", process.batch(&kind.kind, &payload).await);
        }
        process.send(&ToHandler::Drain {});
        self.note("ends with code 0 when it is drained", process.ends_with_code_0().await)
    }

    async fn of_a_lost_worker(&mut self, trial: &Trial) -> Result<(), Failed> {
        let again = async {
            let mut process = trial.start().await?;
            process.hello().await?;
            process.set_up().await?;
            Ok::<_, String>(process)
        };
        let mut process = match again.await {
            Ok(process) => process,
            Err(wrong) => return self.note("is ready a second time", Err(wrong)),
        };
        process.hang_up();
        self.note("ends when its socket is closed", process.ends().await)
    }
}

fn checked_hello(hello: Hello) -> Result<Hello, String> {
    if hello.version != VERSION {
        return Err(format!("it speaks version {}; this is version {VERSION}", hello.version));
    }
    if hello.kinds.is_empty() {
        return Err("it names no kinds".to_owned());
    }
    for HelloKind { kind, schema, .. } in &hello.kinds {
        if let Some(Err(wrong)) = schema.as_ref().filter(|schema| !schema.is_null()).map(PayloadSchema::compile) {
            return Err(format!("the schema of {kind} cannot be used: {wrong}"));
        }
    }
    Ok(hello)
}

fn chosen(hello: &Hello, wanted: &Wanted) -> Result<HelloKind, String> {
    let of_wanted = |kind: &Kind| {
        let names: Vec<&str> = hello.kinds.iter().map(|known| known.kind.as_str()).collect();
        let found = hello.kinds.iter().find(|known| known.kind == *kind).cloned();
        found.ok_or_else(|| format!("it names no kind {:?}; its kinds are {}", kind.as_str(), names.join(", ")))
    };
    match &wanted.kind {
        Some(kind) => of_wanted(kind),
        None => hello.kinds.first().cloned().ok_or_else(|| "it names no kinds".to_owned()),
    }
}

/// A payload that somebody gave has to succeed; a made-up one may be refused.
fn judged(answer: &FromHandler, wanted: &Wanted) -> Result<(), String> {
    match answer {
        FromHandler::Error(fault) if wanted.payload.is_some() => Err(format!("the task failed: {}", fault.message)),
        _ => Ok(()),
    }
}
