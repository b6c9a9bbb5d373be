//! Logs and metrics of a process.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{IsTerminal, Write},
    panic::PanicHookInfo,
    sync::atomic::{AtomicBool, Ordering},
};

use prometheus::{
    IntGauge, Opts, Registry,
    core::{Collector, Desc},
    process_collector::ProcessCollector,
    proto::MetricFamily,
};
use protocol::config::LogSection;
use serde_json::{Map, Value, json};
use task_queue::BodyBudget;
use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer, Registry as Spans,
    fmt::{
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Whether this process's log is JSON.
static IN_JSON: AtomicBool = AtomicBool::new(false);

/// Sends this process's log to standard error, as text or as one JSON object a line; then panics are such lines too. `level` is as in the configuration.
///
/// Only the first call of a process has an effect; it returns true. A level that is not valid (loading refuses it) counts as `info`.
pub fn start_log(section: &LogSection) -> bool {
    let filter = EnvFilter::try_new(with_quiet_client(&section.level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt::layer::<Spans>().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let layer = if section.json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    let started = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init().is_ok();
    if started && section.json {
        IN_JSON.store(true, Ordering::Relaxed);
        std::panic::set_hook(Box::new(report_panic));
    }
    started
}

/// `text` as a line of this process's log, for what must be said at every level: why the program ends, where it listens. `None` where the log is text or was not
/// started: then it is said as people read it.
#[must_use]
pub fn json_line(level: Level, text: &str) -> Option<String> {
    IN_JSON.load(Ordering::Relaxed).then(|| line(level, "gpufleet", text, Map::new()))
}

/// An object with the fields of every event.
fn line(level: Level, target: &str, message: &str, mut fields: Map<String, Value>) -> String {
    let mut timestamp = String::new();
    // A string takes everything.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    for (name, text) in [("timestamp", timestamp.as_str()), ("level", level.as_str()), ("message", message), ("target", target)] {
        fields.insert(name.to_owned(), Value::from(text));
    }
    Value::Object(fields).to_string()
}

/// Writes a panic as one line, whatever the level of the log.
fn report_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let said = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = format!("panicked: {}", said.unwrap_or("no message"));
    let mut fields = Map::new();
    fields.insert("thread".to_owned(), json!(std::thread::current().name()));
    fields.insert("location".to_owned(), json!(panic.location().map(ToString::to_string)));
    // Only where RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        fields.insert("backtrace".to_owned(), json!(backtrace.to_string()));
    }
    let _ = writeln!(std::io::stderr().lock(), "{}", line(Level::ERROR, "panic", &message, fields));
}

/// The AMQP library warns of every returned message with the message itself, payload and all; whoever published it reports the return. And it calls every channel
/// that the broker closes an error, which is how the broker says that there is no such queue; whoever asked reports what matters. A filter that names the library
/// stands as it is.
fn with_quiet_client(level: &str) -> String {
    if level.contains("lapin") { level.to_owned() } else { format!("{level},lapin=error,lapin::channel=off") }
}

/// A registry for the metrics of one program, which has those of the process (`process_cpu_seconds_total`, `process_resident_memory_bytes`,
/// `process_open_fds`, …) where the system tells them.
#[must_use]
pub fn metrics_registry() -> Registry {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self())).expect("an empty registry takes any collector");
    registry
}

/// Adds which version this program is, and from which commit it was built (`gpufleet_build_info`, always 1).
///
/// # Errors
/// The registry has it already.
pub fn show_build(registry: &Registry, version: &str, commit: &str) -> Result<(), prometheus::Error> {
    let told = Opts::new("gpufleet_build_info", "Which version of gpufleet this process is, and from which commit it was built.");
    let gauge = IntGauge::with_opts(told.const_label("version", version).const_label("commit", commit))?;
    gauge.set(1);
    registry.register(Box::new(gauge))
}

/// Adds what the bodies in the process's hand take (`gpufleet_bodies_bytes`), as it is whenever somebody looks.
///
/// # Errors
/// The registry has it already.
pub fn show_bodies(registry: &Registry, bodies: &BodyBudget) -> Result<(), prometheus::Error> {
    let gauge = IntGauge::new("gpufleet_bodies_bytes", "Bytes of bodies in this process's hand, of memory.bodies_mb.")?;
    registry.register(Box::new(BodiesInHand { gauge, bodies: bodies.clone() }))
}

/// A gauge that looks at a budget.
struct BodiesInHand {
    gauge: IntGauge,
    bodies: BodyBudget,
}

impl Collector for BodiesInHand {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(i64::try_from(self.bodies.in_use_bytes()).unwrap_or(i64::MAX));
        self.gauge.collect()
    }
}

/// Whether `level` is one level, or a filter of `target=level` parts separated by commas.
///
/// # Errors
/// What is wrong, and what would be accepted. (The filter's own parser takes a misspelt level for the name of a module.)
pub(crate) fn check_level(level: &str) -> Result<(), String> {
    for part in level.split(',') {
        let word = part.rsplit_once('=').map_or(part, |(_, word)| word);
        if !LEVELS.contains(&word.to_ascii_lowercase().as_str()) {
            return Err(format!("{word:?} is not a level; use one of {}, or target=level parts separated by commas", LEVELS.join(", ")));
        }
    }
    EnvFilter::try_new(level).map(drop).map_err(|problem| format!("is not a filter: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starting_the_log_twice_is_harmless() {
        start_log(&LogSection::default());
        assert!(!start_log(&LogSection { level: "debug".to_owned(), json: true }));
    }

    #[test]
    fn a_line_is_one_object_with_the_fields_of_an_event() {
        let written = line(Level::WARN, "gpufleet", "two\nlines and a \"quote\"", Map::new());
        let read: Map<String, Value> = serde_json::from_str(&written).expect("an object");
        assert_eq!((&read["level"], &read["message"]), (&json!("WARN"), &json!("two\nlines and a \"quote\"")));
        assert!(!written.contains('\n') && read["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{written}");
    }

    /// In a process of its own: the log and the hook are a process's.
    #[test]
    fn a_panic_is_one_line_of_a_json_log() {
        const ROLE: &str = "GPUFLEET_TEST_PANICS";
        if std::env::var_os(ROLE).is_some() {
            assert!(start_log(&LogSection { level: "off".to_owned(), json: true }));
            let broken = std::thread::Builder::new().name("broken".to_owned()).spawn(|| panic!("two\nlines")).expect("a thread");
            assert!(broken.join().is_err());
            return;
        }
        let mut command = std::process::Command::new(std::env::current_exe().expect("a running binary"));
        command.args(["--exact", "telemetry::tests::a_panic_is_one_line_of_a_json_log", "--nocapture"]);
        let ended = command.env(ROLE, "1").env_remove("RUST_BACKTRACE").output().expect("this binary can be started");
        assert!(ended.status.success(), "{ended:?}");
        let written = String::from_utf8(ended.stderr).expect("text");
        let read: Map<String, Value> = serde_json::from_str(&written).expect("one object and nothing else");
        assert_eq!(
            (&read["level"], &read["message"], &read["thread"]),
            (&json!("ERROR"), &json!("panicked: two\nlines"), &json!("broken"))
        );
        assert!(read["location"].as_str().is_some_and(|place| place.contains("telemetry.rs:")), "{written}");
    }

    #[test]
    fn a_misspelt_level_is_refused_and_a_filter_is_taken() {
        for good in ["info", "WARN", "info,gpu_worker=debug", "warn,task_store::redis=trace", "off"] {
            assert_eq!(check_level(good), Ok(()), "{good}");
        }
        for bad in ["", "inof", "info,gpu_worker=loud", "info,,", "info, warn"] {
            assert!(check_level(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_amqp_library_is_quiet_unless_it_is_named() {
        let quiet = with_quiet_client("info,gpu_worker=debug");
        assert_eq!(check_level(&quiet), Ok(()));
        assert!(quiet.contains("lapin::channel=off"));
        assert_eq!(with_quiet_client("info,lapin=trace"), "info,lapin=trace");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_registry_has_the_metrics_of_the_process() {
        let families = metrics_registry().gather();
        assert!(families.iter().any(|family| family.name() == "process_resident_memory_bytes"));
    }

    #[test]
    fn the_build_shows_with_its_version_and_its_commit() {
        let registry = Registry::new();
        show_build(&registry, "0.1.0", "0123456789ab").unwrap();
        let families = registry.gather();
        let metric = &families[0].get_metric()[0];
        let labels: Vec<_> = metric.get_label().iter().map(|label| (label.name(), label.value())).collect();
        assert_eq!((families[0].name(), metric.get_gauge().get_value()), ("gpufleet_build_info", 1.0));
        assert_eq!(labels, [("commit", "0123456789ab"), ("version", "0.1.0")]);
    }

    #[test]
    fn bodies_in_hand_show_as_they_are_now() {
        let (registry, bodies) = (Registry::new(), BodyBudget::new(1));
        show_bodies(&registry, &bodies).unwrap();
        let shown = || registry.gather()[0].get_metric()[0].get_gauge().get_value();
        let share = bodies.try_take(4_096).unwrap();
        assert_eq!(shown(), 4_096.0);
        drop(share);
        assert_eq!(shown(), 0.0);
    }
}
