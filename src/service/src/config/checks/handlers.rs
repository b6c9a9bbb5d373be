//! The handlers: each by itself, and all of them together. The key of what is wrong names its place: `handlers[0].file`.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive};

use protocol::{
    Kind,
    config::{HandlerProtocol, HandlerSection},
};

use super::Checker;
use crate::config::Origin;

/// Most handlers beside each GPU.
const HANDLERS_MAX: usize = 64;
/// Longest name, in bytes: it stands in every line of the log that is about it.
const NAME_MAX: usize = 64;
/// What the worker itself says to each handler.
const SAID_BY_WORKERS: [&str; 4] = ["GPUFLEET_HANDLER_FD", "GPUFLEET_HANDLER_VERSION", "GPUFLEET_GPU_ID", "CUDA_VISIBLE_DEVICES"];

/// The numbers of a handler that have a range, each with what it may be.
fn ranges(handler: &HandlerSection) -> [(&'static str, Option<u64>, RangeInclusive<u64>); 9] {
    [
        ("processes", Some(handler.processes.into()), 1..=64),
        ("concurrency", Some(handler.concurrency.into()), 1..=1_024),
        ("start_timeout_ms", Some(handler.start_timeout_ms), 100..=3_600_000),
        ("hang_timeout_ms", Some(handler.hang_timeout_ms), 100..=3_600_000),
        ("stop_timeout_ms", Some(handler.stop_timeout_ms), 10..=600_000),
        ("idle_timeout_ms", handler.idle_timeout_ms, 1_000..=u64::MAX),
        ("memory_mb", handler.memory_mb, 1..=u64::MAX),
        ("restart_after_tasks", handler.restart_after_tasks, 1..=u64::MAX),
        ("restart_after_growth_mb", handler.restart_after_growth_mb, 1..=u64::MAX),
    ]
}

impl Checker<'_> {
    pub(super) fn handlers(&mut self, handlers: &[HandlerSection]) {
        self.require(handlers.len() <= HANDLERS_MAX, "handlers", || {
            format!("has {} handlers; at most {HANDLERS_MAX} run beside each GPU", handlers.len())
        });
        let (mut names, mut kinds) = (BTreeMap::new(), BTreeMap::new());
        for (place, handler) in handlers.iter().enumerate() {
            self.program(place, handler);
            self.name(place, handler);
            self.numbers(place, handler);
            self.environment(place, handler);
            self.lines(place, handler);
            self.only_once(place, handler, (&mut names, &mut kinds));
        }
    }

    /// As [`Checker::require`], of a field of the handler in this place: who wrote it is known of the handler as a whole.
    fn of_handler(&mut self, place: usize, field: &str, holds: bool, problem: impl FnOnce() -> String) {
        if holds {
            return;
        }
        let handler = format!("handlers[{place}]");
        let origin = self.origins.get(&handler).or_else(|| self.origins.get("handlers")).unwrap_or(&Origin::Default).clone();
        let key = if field.is_empty() { handler } else { format!("{handler}.{field}") };
        self.mistakes.add(&key, &origin, problem());
    }

    fn program(&mut self, place: usize, handler: &HandlerSection) {
        let (has_file, has_command) = (handler.file.is_some(), !handler.command.is_empty());
        self.of_handler(place, "", has_file || has_command, || {
            "names no program; give `file` (Python with @task) or `command` (any program)".to_owned()
        });
        self.of_handler(place, "file", !(has_file && has_command), || "is given beside `command`; give one of the two".to_owned());
        let file_is_empty = handler.file.as_ref().is_some_and(|file| file.as_os_str().is_empty());
        self.of_handler(place, "file", !file_is_empty, || "is empty; name a Python file or module".to_owned());
        let starts_nothing = handler.command.first().is_some_and(String::is_empty);
        self.of_handler(place, "command", !starts_nothing, || "begins with nothing; its first word is the program".to_owned());
        let ends_early = handler.command.iter().any(|word| word.contains('\0'));
        self.of_handler(place, "command", !ends_early, || "has a NUL character, which no program can be given".to_owned());
        self.of_handler(place, "python", !handler.python.as_os_str().is_empty(), || {
            "is empty; name the Python that runs the file, or leave the key out for python3".to_owned()
        });
        let nowhere = handler.directory.as_ref().is_some_and(|directory| directory.as_os_str().is_empty());
        self.of_handler(place, "directory", !nowhere, || "is empty; name a folder, or leave the key out for the worker's".to_owned());
    }

    fn name(&mut self, place: usize, handler: &HandlerSection) {
        let Some(name) = &handler.name else { return };
        let accepted = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let valid = !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(accepted);
        self.of_handler(place, "name", valid, || format!("is {name:?}, and must be 1 to {NAME_MAX} letters, digits or any of \"._-\""));
    }

    fn numbers(&mut self, place: usize, handler: &HandlerSection) {
        for (field, value, range) in ranges(handler) {
            let Some(value) = value else { continue };
            self.of_handler(place, field, range.contains(&value), || {
                let (least, most) = range.clone().into_inner();
                let within = if most == u64::MAX { format!("at least {least}") } else { format!("between {least} and {most}") };
                format!("is {value}, and must be {within}")
            });
        }
    }

    fn environment(&mut self, place: usize, handler: &HandlerSection) {
        for (name, value) in &handler.environment {
            let is_name = !name.is_empty() && !name.contains(['=', '\0']);
            self.of_handler(place, "environment", is_name, || format!("has {name:?}, which is no name of a variable"));
            self.of_handler(place, "environment", !value.contains('\0'), || {
                format!("gives {name} a value with a NUL character, which no variable can hold")
            });
            self.of_handler(place, "environment", !SAID_BY_WORKERS.contains(&name.as_str()), || {
                format!("sets {name}, which the worker itself sets for each GPU; take it out")
            });
        }
    }

    fn lines(&mut self, place: usize, handler: &HandlerSection) {
        if handler.protocol != HandlerProtocol::Lines {
            return;
        }
        self.of_handler(place, "kinds", !handler.kinds.is_empty(), || {
            "is empty; with `protocol: lines` a handler cannot name its kinds itself: list them here".to_owned()
        });
        self.of_handler(place, "protocol", handler.file.is_none(), || {
            "is lines, and what runs a Python `file` speaks frames; leave the key out, or give a `command`".to_owned()
        });
        self.of_handler(place, "concurrency", handler.concurrency == 1, || {
            format!("is {}, and with `protocol: lines` a process runs one task at a time; raise `processes`", handler.concurrency)
        });
    }

    /// Names and kinds belong to one handler.
    fn only_once(
        &mut self,
        place: usize,
        handler: &HandlerSection,
        (names, kinds): (&mut BTreeMap<String, usize>, &mut BTreeMap<Kind, usize>),
    ) {
        if let Some(other) = names.insert(handler.name(), place) {
            self.of_handler(place, "name", false, || {
                format!("{:?} is what handlers[{other}] is called too; give one of them another name", handler.name())
            });
        }
        for kind in &handler.kinds {
            if let Some(other) = kinds.insert(kind.clone(), place) {
                self.of_handler(place, "kinds", false, || twice(kind, (other, place)));
            }
        }
    }
}

fn twice(kind: &dyn Display, (other, place): (usize, usize)) -> String {
    if other == place {
        return format!("names {kind} twice; once is enough");
    }
    format!("names {kind}, which handlers[{other}] runs too; one handler runs a kind")
}
