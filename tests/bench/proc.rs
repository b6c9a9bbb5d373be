//! What Linux says of a process and of the machine, in `/proc`.

use std::fs;

/// Clock ticks of `/proc` per second: 100 on every Linux since 2.6 that a distribution ships.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of a process, user and system, in seconds, to a hundredth.
pub(crate) fn processor_s(pid: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, a name in parentheses, may hold spaces.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}

/// The processes that this one has started, and those that they have, as far as they run.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parents: Vec<(u32, u32)> = pids.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![pid];
    let mut looked_at = 0;
    while let Some(of) = found.get(looked_at).copied() {
        found.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        looked_at += 1;
    }
    found.split_off(1)
}

fn parent(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Processor time of a process's living threads, in seconds, as the scheduler counts it: to the nanosecond, where [`processor_s`] sees a hundredth.
pub(crate) fn fine_processor_s(pid: u32) -> Option<f64> {
    of_threads(pid, "schedstat", |text| text.split_whitespace().next()?.parse::<f64>().ok()).map(|ns| ns / 1e9)
}

/// How often the process's living threads went to sleep by themselves, and so had to be woken.
pub(crate) fn wake_ups(pid: u32) -> Option<f64> {
    of_threads(pid, "status", |text| field(text, "voluntary_ctxt_switches:"))
}

/// Memory of a process in MiB, with its share of what it has in common with others (PSS).
pub(crate) fn memory_mib(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    field(&text, "Pss:").map(|kib| kib / 1_024.0)
}

/// A value summed over the threads of a process.
fn of_threads(pid: u32, file: &str, value: impl Fn(&str) -> Option<f64>) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    threads.map(|thread| value(&fs::read_to_string(thread.path().join(file)).ok()?)).sum()
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// Busy processor time of the whole machine, in seconds.
pub(crate) fn machine_s() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<f64> = text.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    let busy: f64 = [0, 1, 2, 5, 6].iter().filter_map(|index| fields.get(*index)).sum();
    Some(busy / TICKS_PER_SECOND)
}

/// The process of the broker that listens on `port`, by its environment: it is started through scripts, so it is no child of ours.
pub(crate) fn broker_pid(port: u16) -> Option<u32> {
    let wanted = format!("RABBITMQ_NODE_PORT={port}");
    let is_broker = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        name.trim() == "beam.smp" && environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(is_broker)
}
