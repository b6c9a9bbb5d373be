//! Where standard output takes no more.

use std::{fs::OpenOptions, process::Stdio};

use tests::program::gpufleet_into;

/// Commands that need no server, one for each way that something is printed.
const COMMANDS: [&[&str]; 5] = [
    &["completions", "bash"],
    &["config", "print"],
    &["config", "check", "--json"],
    &["demo", "--gpus", "1", "--tasks", "20"],
    &["--help"],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_went_away_ends_a_command_without_a_word() {
    for command in COMMANDS {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let ended = gpufleet_into(writer, command).await;
        assert_eq!((ended.code, ended.errors.as_str()), (Some(141), ""), "{command:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_an_error() {
    for command in COMMANDS {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
        let ended = gpufleet_into(Stdio::from(full), command).await;
        let expected = "error: write to standard output: No space left on device (os error 28)\n";
        assert_eq!((ended.code, ended.errors.as_str()), (Some(1), expected), "{command:?}");
    }
}
