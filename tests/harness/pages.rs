//! Pages of the documentation, whose code the tests run.

use std::{fs, path::Path};

/// Before what a command shows, in the comment behind it: `gpufleet strategy get  # → least_loaded; the default`.
const SHOWS: &str = "→ ";

/// A command of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    /// As it is typed, without the comment behind it.
    pub line: String,
    /// What the page says that it shows, somewhere in its output.
    pub shows: Option<String>,
}

/// The workspace's folder.
///
/// # Panics
/// Never: this crate lies in a workspace.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// The text of a page: `docs/handlers.md`.
///
/// # Panics
/// If it is missing.
#[must_use]
pub fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The blocks of a text in this language, in their order.
#[must_use]
pub fn blocks(text: &str, language: &str) -> Vec<String> {
    let (opening, mut found, mut block) = (format!("```{language}"), Vec::new(), None::<String>);
    for line in text.lines() {
        match &mut block {
            None if line == opening => block = Some(String::new()),
            None => {}
            Some(_) if line == "```" => found.extend(block.take()),
            Some(lines) => {
                lines.push_str(line);
                lines.push('\n');
            }
        }
    }
    found
}

/// The commands of a block, without what they are for. What is shown ends before a `; `.
#[must_use]
pub fn commands(block: &str) -> Vec<Typed> {
    let lines = block.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let typed = lines.map(|line| {
        let (line, comment) = line.split_once(" # ").unwrap_or((line, ""));
        let shows = comment.trim().strip_prefix(SHOWS).and_then(|shows| shows.split("; ").next());
        Typed { line: line.trim().to_owned(), shows: shows.map(|shows| shows.trim().to_owned()) }
    });
    typed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_by_their_language_and_commands_by_their_comments() {
        let text = "a\n```sh\none  # what for\n\n# a note\ntwo  # → 5; always\n```\n```python\nx\n```\n```sh\nthree\n```\n";
        assert_eq!(blocks(text, "python"), ["x\n"]);
        assert_eq!(blocks(text, "rust"), [""; 0]);
        let all = blocks(text, "sh");
        assert_eq!((all.len(), all[1].as_str()), (2, "three\n"));
        let typed = |line: &str, shows: Option<&str>| Typed { line: line.to_owned(), shows: shows.map(str::to_owned) };
        assert_eq!(commands(&all[0]), [typed("one", None), typed("two", Some("5"))]);
    }
}
