//! The pages about deployments: the files, pages and commands that they name are there.

use std::collections::BTreeSet;

use tests::{
    pages::{blocks, page, root},
    program::gpufleet,
};

use crate::prometheus::rules;

const PAGES: [&str; 4] = ["docs/deploying.md", "docs/deploying-on-hosts.md", "docs/topology.md", "docs/upgrading.md"];
/// What begins as a file of ours does, and is the reader's own or Kubernetes'.
const NOT_OURS: [&str; 2] = ["deploy/compose/.env", "deploy/gpufleet-gateway"];

/// The files of `deploy/` that a text names.
fn files(text: &str) -> BTreeSet<&str> {
    let words =
        text.split(|c: char| c.is_whitespace() || "()[]`,;:".contains(c)).map(|word| word.trim_start_matches("../").trim_end_matches('.'));
    words.filter(|word| word.starts_with("deploy/") && !NOT_OURS.contains(word)).collect()
}

/// The pages that a text leads to, as they stand there.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://"))
}

/// The commands of `gpufleet` that a page's blocks type.
fn commands(text: &str) -> BTreeSet<String> {
    let mut commands = BTreeSet::new();
    for block in blocks(text, "console") {
        for line in block.lines() {
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            for (place, _) in words.iter().enumerate().filter(|(_, word)| **word == "gpufleet") {
                let is_a_namespace = place > 0 && words[place - 1] == "-n";
                commands.extend(words.get(place + 1).filter(|_| !is_a_namespace).map(|word| (*word).to_owned()));
            }
        }
    }
    commands
}

#[test]
fn files_and_pages_that_are_named_are_there() {
    let mut named = 0;
    for name in PAGES {
        let text = page(name);
        for file in files(&text) {
            assert!(root().join(file).exists(), "{name}: {file}");
            named += 1;
        }
        for link in links(&text) {
            assert!(root().join("docs").join(link).exists(), "{name}: {link}");
            named += 1;
        }
    }
    assert!(named > 15, "{named}");
    assert!(page(PAGES[0]).contains(&format!("has {} alerts", rules().len())), "the page counts them");
}

#[tokio::test]
async fn commands_that_are_typed_are_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let typed: BTreeSet<String> = PAGES.iter().flat_map(|name| commands(&page(name))).collect();
    assert!(typed.len() > 3, "{typed:?}");
    for command in typed {
        let help = gpufleet(folder.path(), [command.as_str(), "--help"], &[]).await;
        assert_eq!(help.code, Some(0), "gpufleet {command}: {help:?}");
    }
}
