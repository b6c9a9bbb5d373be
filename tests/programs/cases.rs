//! Every small input that once went wrong, sent as it was then: the files of `tests/cases`.

mod amqp;
mod broker;
mod case;
mod command;
mod connection;
mod expect;
mod mailbox;
mod message;
mod names;
mod prepare;
mod request;
mod signal;
mod stage;

use std::{collections::BTreeMap, fs, panic::AssertUnwindSafe, path::Path};

use futures::{FutureExt, future::join_all};

use self::{case::Case, stage::Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_input_that_once_went_wrong_ends_as_it_should() {
    let files = files();
    assert!(!files.is_empty(), "there are no cases");
    let shared = Stage::shared().await;
    let played = join_all(files.iter().map(|(name, text)| play(name, text, &shared))).await;
    let differences: Vec<String> = played.into_iter().flatten().collect();
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

/// Plays one case; what differs from what it expects. A case that panics leaves the others to be played.
async fn play(name: &str, text: &[u8], shared: &Stage) -> Vec<String> {
    let case = match Case::read(text) {
        Ok(case) => case,
        Err(problem) => return vec![format!("{name}: {problem}")],
    };
    let played = AssertUnwindSafe(case.run(shared)).catch_unwind().await;
    let differences = played.unwrap_or_else(|_| vec!["it panicked, as is told above".to_owned()]);
    differences.into_iter().map(|difference| format!("{name}: {difference}\n    ({})", case.about())).collect()
}

/// The texts of all cases by the names of their files. Whatever is not the page about them is taken for one.
fn files() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let entries = fs::read_dir(folder).expect("the folder of the cases").map(|entry| entry.expect("an entry"));
    let files = entries.filter(|entry| entry.file_name() != "README.md");
    files.map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file"))).collect()
}
