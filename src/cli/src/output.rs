//! The only place that prints.
//!
//! What cannot be printed is an error of the command: a full disk must not look like success. A reader that went away (`| head`) ends it too, without a word.
//!
//! Whatever others wrote (kinds, ids, errors, results) is made harmless for a terminal on its way out, by [`harmless`]. Only [`bytes`] prints what it is given. `gpufleet top` draws on the
//! terminal by itself.

use std::io::{self, BufRead, IsTerminal, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use service::telemetry::json_line;
use tracing::Level;

use crate::harmless::{harmless, harmless_line};

/// The columns of a terminal that does not tell its own, and of what is no terminal.
const WIDTH: usize = 80;

/// Standard output took no more.
#[derive(Debug)]
pub(crate) struct Unprinted(io::Error);

/// Whether something was printed.
pub(crate) type Printed = Result<(), Unprinted>;

impl Unprinted {
    /// Whether nobody reads any more, as opposed to a disk that is full, for instance.
    pub(crate) fn is_reader_gone(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

impl From<io::Error> for Unprinted {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl std::fmt::Display for Unprinted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "write to standard output: {}", self.0)
    }
}

/// Prints a line, or several, on standard output.
pub(crate) fn line(text: &str) -> Printed {
    bytes(format!("{}\n", harmless(text)).as_bytes())
}

/// Prints a JSON text that is to arrive as its writer wrote it. A person sees it harmless, and it means the same.
pub(crate) fn exact_line(text: &str) -> Printed {
    if is_shown_to_a_person() { line(text) } else { bytes(format!("{text}\n").as_bytes()) }
}

/// Prints bytes as they are.
pub(crate) fn bytes(bytes: &[u8]) -> Printed {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// Prints a text that is shown anew again and again: in a terminal it takes the place of what was there.
pub(crate) fn page(text: &str) -> Printed {
    let clear = if io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
    bytes(format!("{clear}{}\n", harmless(text)).as_bytes())
}

/// Prints a value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Printed {
    exact_line(&json_text(value))
}

/// The text of such a line.
pub(crate) fn json_text(value: &impl Serialize) -> String {
    in_one_line(serde_json::to_string(value).expect("our own types have string keys only"))
}

/// A JSON text without line breaks. A payload or a result is as its writer wrote it, and JSON has line breaks between values only.
pub(crate) fn in_one_line(text: String) -> String {
    if text.contains(['\n', '\r']) { text.replace(['\n', '\r'], " ") } else { text }
}

/// Prints a value as indented JSON.
pub(crate) fn pretty(value: &impl Serialize) -> Printed {
    exact_line(&serde_json::to_string_pretty(value).expect("our own types have string keys only"))
}

/// Prints an error on standard error; between the lines of a log in JSON, as one of them. Where that cannot be written there is nobody left to tell.
pub(crate) fn error_line(text: &str) {
    let line = json_line(Level::ERROR, text).unwrap_or_else(|| format!("error: {}", harmless(text)));
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints a warning on standard error; between the lines of a log in JSON, as one of them.
pub(crate) fn warning(text: &str) {
    let line = json_line(Level::WARN, text).unwrap_or_else(|| format!("warning: {}", harmless(text)));
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints a note on standard error; between the lines of a log in JSON, as one of them.
pub(crate) fn note(text: &str) {
    let line = json_line(Level::INFO, text).unwrap_or_else(|| harmless(text).into_owned());
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Asks a person at the terminal. No answer is a no.
pub(crate) fn agreed(question: &str) -> bool {
    let _ = write!(io::stderr().lock(), "{} [y/N] ", harmless(question));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// Whether a person can be asked.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Whether a person watches.
pub(crate) fn is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether a person sees what is printed as it is.
pub(crate) fn is_shown_to_a_person() -> bool {
    io::stdout().is_terminal()
}

/// The columns of the terminal that standard output is; 80 where it is none.
pub(crate) fn width() -> usize {
    terminal_size::terminal_size_of(io::stdout()).map_or(WIDTH, |(width, _)| usize::from(width.0))
}

/// The rows of the terminal that standard output is, if it is one.
pub(crate) fn height() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(_, height)| usize::from(height.0))
}

/// Prints a table: the first column to the left, all others to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> Printed {
    line(&table_text(header, rows))
}

/// The text of such a table.
pub(crate) fn table_text(header: &[&str], rows: &[Vec<String>]) -> String {
    aligned(header, rows, |column| column == 0)
}

/// The text of a table whose last column is sentences: it stands to the left, as the first does.
pub(crate) fn table_of_sentences(header: &[&str], rows: &[Vec<String>]) -> String {
    aligned(header, rows, |column| column == 0 || column + 1 == header.len())
}

/// A text in one harmless line, and without its end where that is longer than so many letters.
pub(crate) fn cut(text: &str, longest: usize) -> String {
    let text = harmless_line(text);
    if text.chars().count() <= longest {
        return text.into_owned();
    }
    text.chars().take(longest.saturating_sub(1)).chain(['…']).collect()
}

fn aligned(header: &[&str], rows: &[Vec<String>], is_left: impl Fn(usize) -> bool) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        let cell = |(column, text): (usize, &String)| {
            Cell::new(harmless_line(text)).set_alignment(if is_left(column) { CellAlignment::Left } else { CellAlignment::Right })
        };
        table.add_row(row.iter().enumerate().map(cell));
    }
    table.to_string()
}
