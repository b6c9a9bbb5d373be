//! The file system of the image, started: what its last stage has of ours, and of the system no more than the program names. No engine is needed for that, but root.
//!
//! The root is read-only, /tmp is memory, and the program is another user than root and process 1 of its own, as a container's `--entrypoint gpufleet` would have it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use tests::{
    pages::root,
    program::{Program, binary, is_running},
    until::until,
};

use crate::tools::{not_run, of_the_system, run, text_of};

/// Makes the folder a container's root, and becomes the program in it. The first argument is the folder.
const CONTAIN: &str = r#"
set -e
root=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount -o remount,bind,ro "$root"
exec chroot --userspec=10001:10001 "$root" "$@"
"#;

/// A root folder with the program, and the libraries that it names.
fn image() -> TempDir {
    let image = tempfile::tempdir().expect("a folder");
    fs::set_permissions(image.path(), fs::Permissions::from_mode(0o755)).expect("open to all");
    for folder in ["dev", "proc", "tmp", "etc", "usr/local/bin"] {
        fs::create_dir_all(image.path().join(folder)).expect("made");
    }
    fs::write(image.path().join("etc/passwd"), "gpufleet:x:10001:10001::/nonexistent:/usr/sbin/nologin\n").expect("written");
    fs::copy(binary(), image.path().join("usr/local/bin/gpufleet")).expect("copied");
    for library in libraries(binary()) {
        let into = image.path().join(library.strip_prefix("/").expect("a whole path"));
        fs::create_dir_all(into.parent().expect("a folder")).expect("made");
        fs::copy(&library, into).expect("copied");
    }
    image
}

/// What the loader brings for a program, itself included.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let said = run(&of_the_system("ldd"), &[text_of(program)]);
    assert!(said.is_content && !said.text.contains("not found"), "{}", said.text);
    let words = said.output.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(PathBuf::from).collect()
}

/// The arguments of `unshare` that start a command in the image.
fn contained<'a>(image: &'a TempDir, command: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", CONTAIN, "contain", text_of(image.path())];
    arguments.extend(command);
    arguments
}

/// Whether this user may have a root of its own; says so where not.
fn is_permitted() -> bool {
    let said = run(&of_the_system("unshare"), &["--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
    if !said.is_content {
        not_run(&format!("the image's file system, which needs root and mounts: {}", said.text.trim()));
    }
    said.is_content
}

#[test]
fn a_whole_fleet_runs_in_the_image_as_a_user_without_rights() {
    if !is_permitted() {
        return;
    }
    let image = image();
    let said = run(&of_the_system("unshare"), &contained(&image, &["/usr/local/bin/gpufleet", "demo", "--tasks", "200"]));
    assert!(said.is_content && said.text.contains("200 of 200 tasks got their own right reply"), "{}", said.text);
    let written: Vec<_> = fs::read_dir(image.path().join("tmp")).expect("a folder").collect();
    assert!(written.is_empty(), "the root was not read-only: {written:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_process_1_it_is_ready_by_the_image_s_own_check_and_drains_on_sigterm() {
    if !is_permitted() {
        return;
    }
    let image = image();
    let command = ["/usr/local/bin/gpufleet", "up", "--simulated", "1", "--listen", "127.0.0.1:0"];
    let up = Program::start_at(&of_the_system("unshare"), contained(&image, &command), &[]);
    let url = up.url().await;
    let port = url.rsplit_once(':').expect("a port").1.to_owned();

    let check = root().join("deploy/container/gpufleet-ready");
    until("the check says that it is ready", async || run(&check, &[&port]).is_content).await;
    let said = run(&check, &[&port, "/no-such-path"]);
    assert!(!said.is_content && said.text.contains("404"), "{}", said.text);

    let process = child_of(up.pid());
    assert!(is_running(process), "{process}");
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let of_status =
        |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().split_whitespace().last().map(str::to_owned);
    assert_eq!((of_status("Uid:").as_deref(), of_status("NSpid:").as_deref()), (Some("10001"), Some("1")), "{status}");
    let asked = Command::new("kill").arg("-TERM").arg(process.to_string()).status().expect("kill can be started");
    assert!(asked.success());
    assert_eq!(up.exit_code().await, 0, "{}", up.log());
    assert!(!run(&check, &[&port]).is_content, "nobody listens any more");
}

/// The one child of a process.
fn child_of(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("the kernel tells of children");
    children.trim().parse().unwrap_or_else(|_| panic!("one child of {pid}: {children:?}"))
}
