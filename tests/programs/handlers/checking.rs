//! `gpufleet handler check`.

use tests::program::{Ended, gpufleet};

use super::bench::command;

async fn checked(mode: &str, options: &[&str]) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    let command = command(folder.path(), mode);
    let arguments = ["handler", "check"].into_iter().chain(options.iter().copied()).chain(["--"]).map(str::to_owned).chain(command);
    gpufleet(folder.path(), arguments, &[]).await
}

#[tokio::test]
async fn a_handler_that_keeps_the_contract_passes() {
    let ended = checked("well", &["--kind", "pairs", "--payload", "\"a\""]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.output, ended.errors);
    assert_eq!(ended.output.lines().filter(|line| line.starts_with("ok")).count(), 12, "{}", ended.output);
    let ended = checked("well", &["--kind", "texts", "--json"]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert!(ended.output.contains(r#"{"name":"answers a task under its run","ok":true,"wrong":null}"#), "{}", ended.output);
}

#[tokio::test]
async fn one_that_takes_tensors_is_given_some() {
    let ended = checked("takes_tensors", &["--kind", "do", "--payload", r#"{"x": {"tensor": "x"}}"#]).await;
    assert_eq!(ended.code, Some(0), "{}{}", ended.output, ended.errors);
    assert!(ended.output.contains("answers a task that is given a tensor"), "{}", ended.output);
    let ended = checked("well", &["--kind", "do"]).await;
    assert!(ended.code == Some(0) && !ended.output.contains("tensor"), "{}", ended.output);
}

#[tokio::test]
async fn one_that_breaks_it_is_told_where() {
    for (mode, options, says) in [
        (
            "dies",
            &[][..],
            "BAD   says hello first, with its version and kinds: no `hello` came: it ended with exit code 1; standard error: no such model",
        ),
        ("version_2", &[], "it speaks version 2; this is version 1"),
        ("garbage", &[], "it sent no frame"),
        ("broken_schema", &[], "the schema of broken cannot be used: the schema is none"),
        ("setup_fails_twice", &[], "BAD   is ready after its set-up: it could not be set up: no model there"),
        ("drains_badly", &[], "BAD   ends with code 0 when it is drained: it ended with exit code 7"),
        (
            "well",
            &["--payload", r#"{"do": "exit"}"#],
            "BAD   ends with code 0 when it is drained: it ended with exit code 3; standard error: about to die",
        ),
        ("well", &["--kind", "unknown"], "it names no kind \"unknown\"; its kinds are do, texts, pairs"),
        (
            "well",
            &["--payload", r#"{"do": "fail", "with": {"message": "too hot"}}"#],
            "BAD   answers a task under its run: the task failed: too hot",
        ),
    ] {
        let ended = checked(mode, options).await;
        assert_eq!(ended.code, Some(1), "{mode}: {}{}", ended.output, ended.errors);
        assert!(ended.output.contains(says), "{mode}: {}", ended.output);
    }
    let ended = checked("well", &["--payload", "{"]).await;
    assert!(ended.code == Some(2) && ended.errors.contains("--payload is no JSON"), "{}", ended.errors);
}

#[tokio::test]
async fn one_that_says_nothing_is_given_up_after_the_start_timeout() {
    let arguments = ["handler", "check", "--start-timeout", "1", "--", "sleep", "600"];
    let ended = gpufleet(std::path::Path::new("/"), arguments, &[]).await;
    assert_eq!(ended.code, Some(1), "{}{}", ended.output, ended.errors);
    assert!(ended.output.contains("no `hello` came within 1 s") && ended.output.contains("`protocol: lines`"), "{}", ended.output);
}

#[tokio::test]
async fn a_failed_set_up_is_told_once_and_as_what_it_is() {
    let ended = checked("setup_fails_twice", &[]).await;
    assert_eq!(ended.output.lines().filter(|line| line.starts_with("BAD")).count(), 1, "{}", ended.output);
    assert!(!ended.output.contains("ends when its socket is closed"), "{}", ended.output);
}
