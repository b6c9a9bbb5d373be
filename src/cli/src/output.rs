//! The only place that prints.

use std::io::{IsTerminal, Write};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use service::telemetry::json_line;
use tracing::Level;

/// Prints a line on standard output. A reader that went away (`| head`) is no error.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints a text that is shown anew again and again: in a terminal it takes the place of what was there.
///
/// # Errors
/// The reader went away: there is nobody to show more to.
pub(crate) fn page(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        write!(out, "\x1b[H\x1b[2J")?;
    }
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints a value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) {
    line(&json_text(value));
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
pub(crate) fn pretty(value: &impl Serialize) {
    line(&serde_json::to_string_pretty(value).expect("our own types have string keys only"));
}

/// Prints an error on standard error; between the lines of a log in JSON, as one of them.
pub(crate) fn error_line(text: &str) {
    let line = json_line(Level::ERROR, text).unwrap_or_else(|| format!("error: {text}"));
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints a note on standard error; between the lines of a log in JSON, as one of them.
pub(crate) fn note(text: &str) {
    let line = json_line(Level::INFO, text).unwrap_or_else(|| text.to_owned());
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Whether a person watches.
pub(crate) fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Prints a table: the first column to the left, all others to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    line(&table_text(header, rows));
}

/// The text of such a table.
pub(crate) fn table_text(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        let aligned = |(column, text): (usize, &String)| {
            Cell::new(text).set_alignment(if column == 0 { CellAlignment::Left } else { CellAlignment::Right })
        };
        table.add_row(row.iter().enumerate().map(aligned));
    }
    table.to_string()
}
