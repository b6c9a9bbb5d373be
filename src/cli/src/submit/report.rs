//! What became of each line: a line of JSON on standard output, in the order of the file or as they come, and the exit code.

use std::{collections::BTreeMap, process::ExitCode};

use indicatif::{ProgressBar, ProgressStyle};
use protocol::{Json, Outcome, Reply, TaskError, TaskId};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    fault::Fault,
    output::{self, Printed},
};

/// Lines that are told of on standard error; of the rest, how many there are.
const TOLD_MAX: u64 = 20;
/// Where so many lines in a row find the fleet full or away, no more are submitted.
const REFUSED_MAX: u64 = 512;

/// What became of a line.
#[derive(Debug)]
pub(super) enum Fate {
    /// It was no payload, and why.
    Broken(String),
    /// Its task was not submitted, or its reply cannot be had.
    Fault(Fault),
    /// The fleet has its task, and nobody waits for it.
    Submitted,
    /// No reply came within so many seconds. The task goes on.
    Late(u64),
    /// Nobody waits for the reply any more. The task goes on, if it was submitted.
    Left(Why),
    /// Its task ended.
    Replied(Box<Reply>),
}

/// Why nobody waits any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Somebody wants it so.
    Interrupted,
    /// The fleet takes no more.
    InVain,
}

/// A line that is done with.
#[derive(Debug)]
pub(super) struct Done {
    /// Its place among the lines that have something in them, from 0.
    pub(super) place: usize,
    pub(super) line: u64,
    /// What it is worth on the bar.
    pub(super) share: u64,
    pub(super) task_id: Option<TaskId>,
    pub(super) fate: Fate,
    /// Its place in the window; given back once it is printed.
    pub(super) _permit: Option<OwnedSemaphorePermit>,
}

/// How bad it is. The more of what was asked for was not done, the worse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worst {
    #[default]
    Good,
    /// A task did not succeed.
    Unsuccessful,
    /// A reply did not come in time.
    Late,
    /// A server is away, blocked or full.
    Unavailable,
    /// A line is at fault.
    Wrong,
}

impl Worst {
    /// The exit code.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Unsuccessful => 1,
            Self::Late => 5,
            Self::Unavailable => 3,
            Self::Wrong => 2,
        }
    }

    fn of(fate: &Fate) -> Self {
        match fate {
            Fate::Broken(_) | Fate::Fault(Fault::Usage(_)) => Self::Wrong,
            Fate::Fault(Fault::Unavailable(_)) => Self::Unavailable,
            Fate::Fault(Fault::TimeLimit(_)) | Fate::Late(_) => Self::Late,
            Fate::Fault(_) => Self::Unsuccessful,
            Fate::Submitted | Fate::Left(_) => Self::Good,
            Fate::Replied(reply) => match reply.outcome {
                Outcome::Succeeded if reply.error.is_none() => Self::Good,
                _ => Self::Unsuccessful,
            },
        }
    }
}

/// What is printed of a line.
#[derive(Debug, Serialize)]
struct Told<'a> {
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<&'a TaskId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<TaskError>,
}

impl<'a> Told<'a> {
    fn of(done: &'a Done) -> Self {
        let Done { line, task_id, fate, .. } = done;
        let told = Self { line: *line, task_id: task_id.as_ref(), outcome: None, result: None, error: None };
        let not = |outcome, code: &str, message: &str| Self { outcome: Some(outcome), error: Some(TaskError::new(code, message)), ..told };
        match fate {
            Fate::Broken(problem) => not("not_submitted", "invalid_line", problem),
            Fate::Fault(fault @ Fault::Usage(_)) => not("not_submitted", word(fault), &fault.to_string()),
            // It may have been submitted all the same.
            Fate::Fault(fault) => not("unknown", word(fault), &fault.to_string()),
            Fate::Submitted => told,
            Fate::Late(seconds) => not("unfinished", "no_reply", &format!("no reply within {seconds} s; the task goes on")),
            Fate::Left(Why::Interrupted) => {
                not("unfinished", "interrupted", "nobody waits for it any more; if it was submitted, it goes on")
            }
            Fate::Left(Why::InVain) => not(
                "unfinished",
                "given_up",
                "the fleet is full or away, and nobody waits for it any more; if it was submitted, it goes on",
            ),
            Fate::Replied(reply) => Self {
                outcome: Some(reply.outcome.name()),
                result: reply.error.is_none().then_some(&reply.result),
                error: reply.error.clone(),
                ..told
            },
        }
    }
}

/// The word for programs.
const fn word(fault: &Fault) -> &'static str {
    match fault {
        Fault::Usage(_) => "refused",
        Fault::Unavailable(_) => "unavailable",
        Fault::TimeLimit(_) => "time_limit",
        Fault::NotFound(_) => "not_found",
        _ => "failed",
    }
}

/// Prints lines, and remembers the worst.
pub(super) struct Report<'a> {
    file: &'a str,
    is_ordered: bool,
    /// The place of the next line to print, where they are in order.
    next: usize,
    /// Those that came before their turn: at most a window of them.
    held: BTreeMap<usize, Done>,
    worst: Worst,
    faults: u64,
    /// Lines in a row that found the fleet full or away.
    refused: u64,
    bar: ProgressBar,
}

impl<'a> Report<'a> {
    /// `bytes`: the length of the file, where it is known.
    pub(super) fn new(file: &'a str, is_ordered: bool, bytes: Option<u64>) -> Self {
        let (next, held, worst, faults, refused) = Default::default();
        Self { file, is_ordered, next, held, worst, faults, refused, bar: bar(bytes) }
    }

    /// The progress that a person sees.
    pub(super) fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }

    /// Takes a line that is done with, and prints what it is the turn of. False: no more should be submitted.
    pub(super) fn take(&mut self, done: Done) -> Result<bool, Fault> {
        self.bar.inc(done.share);
        let worst = Worst::of(&done.fate);
        self.worst = self.worst.max(worst);
        match worst {
            Worst::Unavailable => self.refused += 1,
            // It says nothing of the fleet.
            Worst::Wrong => {}
            _ => self.refused = 0,
        }
        self.tell_of_fault(&done);
        if self.is_ordered {
            self.held.insert(done.place, done);
            while let Some(done) = self.held.remove(&self.next) {
                self.next += 1;
                self.print(&done)?;
            }
        } else {
            self.print(&done)?;
        }
        Ok(self.refused < REFUSED_MAX)
    }

    /// Prints what is held back, and of the others that they were left.
    pub(super) fn leave(&mut self, others: impl IntoIterator<Item = Done>) -> Result<usize, Fault> {
        let mut left = 0;
        for done in others {
            left += 1;
            self.held.insert(done.place, done);
        }
        for done in std::mem::take(&mut self.held).into_values() {
            self.print(&done)?;
        }
        Ok(left)
    }

    /// Takes the bar away, and tells how many faults were not told of.
    pub(super) fn end(self) -> Worst {
        self.bar.finish_and_clear();
        if self.faults > TOLD_MAX {
            output::error_line(&format!("{}: {} more lines could not be submitted or waited for", self.file, self.faults - TOLD_MAX));
        }
        self.worst
    }

    fn print(&self, done: &Done) -> Printed {
        self.bar.suspend(|| output::json(&Told::of(done)))
    }

    fn tell_of_fault(&mut self, done: &Done) {
        let problem = match &done.fate {
            Fate::Broken(problem) => problem.clone(),
            Fate::Fault(fault) => fault.to_string(),
            _ => return,
        };
        self.faults += 1;
        if self.faults <= TOLD_MAX {
            self.bar.suspend(|| output::error_line(&format!("{}:{}: {problem}", self.file, done.line)));
        }
    }
}

impl From<Worst> for ExitCode {
    fn from(worst: Worst) -> Self {
        Self::from(worst.code())
    }
}

/// How much of the file is done with, or how many of the lines that were read where its length is not known; nothing where no person watches.
fn bar(bytes: Option<u64>) -> ProgressBar {
    if !output::is_terminal() {
        return ProgressBar::hidden();
    }
    let template =
        if bytes.is_some() { "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}" } else { "{bar:40} {pos} of {len} lines, {per_sec}" };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes.unwrap_or(0)).with_style(style)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reply(outcome: Outcome, result: &serde_json::Value, error: Option<TaskError>) -> Fate {
        let ended = Reply::ended("t".parse().expect("valid"), outcome, 1);
        Fate::Replied(Box::new(Reply { result: result.clone().into(), error, ..ended }))
    }

    fn told(fate: Fate) -> String {
        output::json_text(&Told::of(&Done { place: 0, line: 3, share: 1, task_id: Some("t".parse().expect("valid")), fate, _permit: None }))
    }

    #[test]
    fn a_line_says_what_became_of_it() {
        assert_eq!(told(Fate::Submitted), r#"{"line":3,"task_id":"t"}"#);
        let good = told(reply(Outcome::Succeeded, &json!({"a": 1}), None));
        assert_eq!(good, r#"{"line":3,"task_id":"t","outcome":"succeeded","result":{"a":1}}"#);
        let null = told(reply(Outcome::Succeeded, &json!(null), None));
        assert_eq!(null, r#"{"line":3,"task_id":"t","outcome":"succeeded","result":null}"#);
        let bad = told(reply(Outcome::Failed, &json!(null), Some(TaskError::new("broken", "as asked"))));
        assert_eq!(bad, r#"{"line":3,"task_id":"t","outcome":"failed","error":{"code":"broken","message":"as asked"}}"#);
        let late = told(Fate::Late(5));
        assert!(late.contains(r#""outcome":"unfinished","error":{"code":"no_reply""#), "{late}");
        for (why, code) in [(Why::Interrupted, "interrupted"), (Why::InVain, "given_up")] {
            let left = told(Fate::Left(why));
            assert!(left.contains(&format!(r#""outcome":"unfinished","error":{{"code":"{code}""#)), "{left}");
        }
        let away = told(Fate::Fault(Fault::Unavailable("away".to_owned())));
        assert!(away.contains(r#""error":{"code":"unavailable","message":"away"}"#), "{away}");
    }

    #[test]
    fn the_worst_has_the_say() {
        let unsuccessful = reply(Outcome::Expired, &json!(null), None);
        let fates = [
            (Fate::Submitted, 0),
            (unsuccessful, 1),
            (Fate::Late(1), 5),
            (Fate::Fault(Fault::Unavailable(String::new())), 3),
            (Fate::Broken(String::new()), 2),
            (Fate::Fault(Fault::Usage(String::new())), 2),
        ];
        let worst: Vec<Worst> = fates.iter().map(|(fate, _)| Worst::of(fate)).collect();
        assert!(worst.is_sorted(), "{worst:?}");
        assert_eq!(worst.iter().map(|worst| worst.code()).collect::<Vec<_>>(), fates.map(|(_, code)| code));
    }
}
