//! What Linux says of a process and of the machine, in `/proc`.

use std::{collections::BTreeSet, fs, path::PathBuf};

/// Clock ticks of `/proc` per second: 100 on every Linux since 2.6 that a distribution ships.
const TICKS_PER_SECOND: f64 = 100.0;
/// The state of an open connection in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// Processor time of a process, user and system, in seconds, to a hundredth.
#[must_use]
pub fn processor_s(pid: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, a name in parentheses, may hold spaces.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}

/// The processes that this one has started, and those that they have, as far as they run.
#[must_use]
pub fn descendants(pid: u32) -> Vec<u32> {
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
#[must_use]
pub fn fine_processor_s(pid: u32) -> Option<f64> {
    of_threads(pid, "schedstat", |text| text.split_whitespace().next()?.parse::<f64>().ok()).map(|ns| ns / 1e9)
}

/// How often the process's living threads went to sleep by themselves, and so had to be woken.
#[must_use]
pub fn wake_ups(pid: u32) -> Option<f64> {
    of_threads(pid, "status", |text| field(text, "voluntary_ctxt_switches:"))
}

/// Memory of a process in MiB, with its share of what it has in common with others (PSS).
#[must_use]
pub fn memory_mib(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    field(&text, "Pss:").map(|kib| kib / 1_024.0)
}

/// How many threads a process has.
#[must_use]
pub fn threads(pid: u32) -> Option<f64> {
    field(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "Threads:")
}

/// How many descriptors a process has open.
#[must_use]
pub fn descriptors(pid: u32) -> Option<f64> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as f64)
}

/// The own ports of a process's open TCP connections (IPv4) to one of these ports of the loopback interface.
#[must_use]
pub fn connections_to(pid: u32, ports: &[u16]) -> Option<Vec<u16>> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |link: &PathBuf| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    let sockets: BTreeSet<String> = links.filter_map(|link| inode(&link)).collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
    Some(table.lines().filter_map(|line| own_port(line, ports, &sockets)).collect())
}

/// The own port of a line of `/proc/net/tcp`, if it is an established connection to one of these ports and one of these sockets.
fn own_port(line: &str, ports: &[u16], sockets: &BTreeSet<String>) -> Option<u16> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, own, other, state, _, _, _, _, _, inode, ..] = fields[..] else { return None };
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    let is_wanted = state == ESTABLISHED && ports.contains(&port(other)?) && sockets.contains(inode);
    if is_wanted { port(own) } else { None }
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
#[must_use]
pub fn machine_s() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<f64> = text.lines().next()?.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    let busy: f64 = [0, 1, 2, 5, 6].iter().filter_map(|index| fields.get(*index)).sum();
    Some(busy / TICKS_PER_SECOND)
}

/// The process of the broker that listens on `port`, by its environment: it is started through scripts, so it is no child of ours.
#[must_use]
pub fn broker_pid(port: u16) -> Option<u32> {
    let wanted = format!("RABBITMQ_NODE_PORT={port}");
    let is_broker = |pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        name.trim() == "beam.smp" && environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(is_broker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_of_connections_counts_if_it_is_open_to_that_port_and_of_the_process() {
        let line = "   3: 0100007F:9C40 0100007F:4E20 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 20 4 30 10 -1";
        let sockets = |inode: &str| BTreeSet::from([inode.to_owned()]);
        assert_eq!(own_port(line, &[20_000], &sockets("4711")), Some(40_000));
        assert_eq!(own_port(line, &[20_001], &sockets("4711")), None, "another port");
        assert_eq!(own_port(line, &[20_000], &sockets("4712")), None, "a socket of another process");
        assert_eq!(own_port(&line.replace(" 01 ", " 0A "), &[20_000], &sockets("4711")), None, "it only listens");
        assert_eq!(own_port("  sl  local_address rem_address   st", &[20_000], &sockets("4711")), None);
    }

    #[test]
    fn this_process_has_threads_and_descriptors() {
        let own = std::process::id();
        assert!(threads(own).is_some_and(|threads| threads >= 1.0) && descriptors(own).is_some_and(|open| open >= 3.0));
    }
}
