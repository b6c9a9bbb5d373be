//! The common log.

use std::collections::BTreeMap;

use gpu_host::SupervisorOptions;
use serde_json::Value;

use crate::harness::{Supervised, quick};

#[tokio::test]
async fn the_lines_of_two_chatty_children_are_whole_and_in_order() {
    let script = r#"
        print() { i=0; while [ $i -lt 1500 ]; do echo "$1 $i $filling"; i=$((i+1)); done; }
        filling=$(head -c 300 /dev/zero | tr '\0' x)
        print out & print err >&2 & wait
    "#;
    let mut supervised = Supervised::start(quick(), &[script, script]);
    supervised.ended().await.expect("both left");
    let filling = "x".repeat(300);
    let mut next = BTreeMap::new();
    for line in supervised.log.text().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [label, stream, number, rest] = words[..] else { panic!("a torn line: {line}") };
        let expected = next.entry((label.to_owned(), stream.to_owned())).or_insert(0);
        assert_eq!((number.parse(), rest), (Ok(*expected), filling.as_str()), "{line}");
        *expected += 1;
    }
    let found: Vec<_> = next.iter().map(|((label, stream), lines)| (label.as_str(), stream.as_str(), *lines)).collect();
    let streams = [("[GPU-0]", "err", 1_500), ("[GPU-0]", "out", 1_500), ("[GPU-1]", "err", 1_500), ("[GPU-1]", "out", 1_500)];
    assert_eq!(found, streams);
}

#[tokio::test]
async fn in_json_every_line_is_an_object_that_names_its_gpu() {
    let script = r#"echo '{"level":"INFO","n":1}'; echo 'thread "main" panicked' >&2; exit 0"#;
    let mut supervised = Supervised::start(SupervisorOptions { json: true, ..quick() }, &[script]);
    supervised.ended().await.expect("it left");
    let mut lines: Vec<Value> = supervised.log.text().lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    lines.sort_by_key(|line| line["level"].to_string());
    assert_eq!(lines[0], serde_json::json!({"level": "INFO", "n": 1, "gpu_id": "GPU-0"}));
    assert_eq!(lines[1], serde_json::json!({"level": "WARN", "message": "thread \"main\" panicked", "gpu_id": "GPU-0"}));
    assert_eq!(lines.len(), 2);
}

#[tokio::test]
async fn a_line_that_is_too_long_is_cut_and_says_so() {
    let mut supervised = Supervised::start(quick(), &["head -c 100000 /dev/zero | tr '\\0' x; echo; echo next"]);
    supervised.ended().await.expect("it left");
    let expected = format!("[GPU-0] {} … (34464 bytes cut)\n[GPU-0] next\n", "x".repeat(64 * 1024));
    assert!(supervised.log.text() == expected, "{} bytes", supervised.log.text().len());
}

#[tokio::test]
async fn the_last_words_of_a_child_that_crashes_are_kept() {
    let mut supervised = Supervised::start(quick(), &["[ -e again ] && exit 0; : >again; printf 'last words' >&2; kill -KILL $$"]);
    supervised.ended().await.expect("it left the second time");
    assert_eq!(supervised.log.text(), "[GPU-0] last words\n");
}
