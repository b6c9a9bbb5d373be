//! The systemd units. Nothing here starts them: systemd is not process 1 where tests run, and one that is started beside it takes over the control groups of the machine. What is run
//! of them is the program itself: tests/programs/service_manager.rs has it tell a service manager that it serves, lives and stops.

use std::{collections::BTreeMap, fs, path::Path};

use protocol::config::Configuration;
use tempfile::TempDir;
use tests::program::{binary, gpufleet};

use crate::tools::{Said, file, not_run, of_the_system, run, text_of};

const UNITS: [&str; 2] = ["gpufleet-worker.service", "gpufleet-gateway.service"];
/// Where a unit has the program.
const INSTALLED: &str = "/usr/local/bin/gpufleet";
/// What `systemd-analyze security` may make of a unit at most, in tenths of its own measure (0 to 10): a worker needs its GPUs' device files.
const EXPOSED_AT_MOST: [&str; 2] = ["45", "20"];

/// The units, with the program where it is built.
fn units_of_this_build() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for unit in UNITS {
        let text = file(&format!("systemd/{unit}"));
        let start = format!("ExecStart={INSTALLED} ");
        assert_eq!(text.matches(&start).count(), 1, "{unit}");
        fs::write(folder.path().join(unit), text.replace(&start, &format!("ExecStart={} ", binary().display()))).expect("written");
    }
    folder
}

fn verified(folder: &Path) -> Said {
    let units: Vec<_> = UNITS.iter().map(|unit| folder.join(unit)).collect();
    let arguments: Vec<&str> = ["verify", "--man=no"].into_iter().chain(units.iter().map(|unit| text_of(unit))).collect();
    run(&of_the_system("systemd-analyze"), &arguments)
}

/// The settings of a unit; a key that is there several times has its values in their order.
fn settings(unit: &str) -> BTreeMap<String, Vec<String>> {
    let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in
        file(&format!("systemd/{unit}")).lines().filter(|line| !line.starts_with(['#', '['])).filter_map(|line| line.split_once('='))
    {
        settings.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    settings
}

#[test]
fn systemd_takes_the_units_as_they_are() {
    let folder = units_of_this_build();
    let said = verified(folder.path());
    // It says of keys that it does not know that it ignores them, and is content.
    let of_ours: Vec<&str> = said.text.lines().filter(|line| line.contains("gpufleet-")).collect();
    assert!(said.is_content && of_ours.is_empty(), "{}", said.text);

    let path = folder.path().join(UNITS[0]);
    let text = fs::read_to_string(&path).expect("the unit");
    fs::write(&path, text.replace("WatchdogSec=", "WatchdogSecs=")).expect("written");
    let said = verified(folder.path());
    assert!(said.text.contains("Unknown key"), "a slip of the hand is found: {}", said.text);
    not_run("a unit by systemd itself, which is not process 1 here; tests/programs/service_manager.rs runs what it starts");
}

#[test]
fn units_give_nothing_away_that_the_program_does_not_need() {
    let folder = units_of_this_build();
    for (unit, at_most) in UNITS.iter().zip(EXPOSED_AT_MOST) {
        let threshold = format!("--threshold={at_most}");
        let path = folder.path().join(unit);
        let said = run(&of_the_system("systemd-analyze"), &["security", "--offline=true", "--no-pager", &threshold, text_of(&path)]);
        assert!(said.is_content, "{unit}: {}", said.text);
    }
}

#[test]
fn units_leave_a_drain_its_time_and_ask_for_it_once() {
    let grace_s = Configuration::default().worker.drain_grace_ms / 1_000;
    for unit in UNITS {
        let settings = settings(unit);
        let only = |key: &str| {
            let values = settings.get(key).unwrap_or_else(|| panic!("{unit} has no {key}"));
            assert_eq!(values.len(), 1, "{unit}: {key}");
            values[0].clone()
        };
        assert_eq!((only("Type"), only("KillMode")), ("notify".to_owned(), "mixed".to_owned()), "{unit}");
        assert!(only("TimeoutStopSec").parse::<u64>().expect("seconds") > grace_s + 5, "{unit}");
        assert!(only("WatchdogSec").parse::<u64>().expect("seconds") > 0, "{unit}");
        assert_eq!((only("Restart"), only("RestartPreventExitStatus")), ("always".to_owned(), "2".to_owned()), "{unit}");
    }
}

#[test]
fn a_worker_s_unit_shares_the_folder_of_locks_and_sees_the_device_files() {
    let settings = settings(UNITS[0]);
    assert_eq!(settings["PrivateTmp"], ["no"]);
    let lock_folder = Configuration::default().gpu.lock_folder;
    assert!(settings["ReadWritePaths"].iter().any(|path| lock_folder.starts_with(path)), "{}", lock_folder.display());
    for hides_devices in ["PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock"] {
        assert!(!settings.contains_key(hides_devices), "{hides_devices}");
    }
    assert_eq!(settings["OOMPolicy"], ["continue"], "a handler that the kernel kills is not the end of the fleet of a host");
    let tmpfiles = file("systemd/gpufleet.tmpfiles");
    assert!(tmpfiles.contains(&format!("d {} 1777 ", lock_folder.display())), "{tmpfiles}");
}

#[test]
fn user_and_folder_are_made_as_systemd_makes_them() {
    let root = tempfile::tempdir().expect("a folder");
    let place = |folder: &str, name: &str| {
        let folder = root.path().join(folder);
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join("gpufleet.conf"), file(&format!("systemd/{name}"))).expect("written");
    };
    place("usr/lib/sysusers.d", "gpufleet.sysusers");
    place("usr/lib/tmpfiles.d", "gpufleet.tmpfiles");
    fs::create_dir_all(root.path().join("etc")).expect("made");
    fs::write(root.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("written");
    fs::write(root.path().join("etc/group"), "root:x:0:\n").expect("written");
    let into = format!("--root={}", root.path().display());

    let said = run(&of_the_system("systemd-sysusers"), &[&into, "gpufleet.conf"]);
    let users = fs::read_to_string(root.path().join("etc/passwd")).expect("users");
    assert!(said.is_content && users.contains("\ngpufleet:"), "{}\n{users}", said.text);
    let said = run(&of_the_system("systemd-tmpfiles"), &[&into, "--create", "gpufleet.conf"]);
    if !said.is_content {
        not_run(&format!("systemd-tmpfiles, which needs root: {}", said.text.trim()));
    } else {
        assert!(root.path().join("tmp/gpufleet-locks").is_dir(), "{}", said.text);
    }
}

#[tokio::test]
async fn units_start_roles_that_the_program_has() {
    let folder = tempfile::tempdir().expect("a folder");
    for unit in UNITS {
        let settings = settings(unit);
        let role = settings["ExecStart"][0].strip_prefix(INSTALLED).expect("the program").trim().to_owned();
        let help = gpufleet(folder.path(), [role.as_str(), "--help"], &[]).await;
        assert_eq!(help.code, Some(0), "{unit}: {help:?}");
    }
}
