//! The one place where the bench and the soak write to standard output and standard error.

use std::io::Write;

/// Writes a line, at once. A closed pipe is no reason to stop measuring: the results are in the file too.
pub fn line(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _closed = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Writes a line to standard error.
pub fn note(text: &str) {
    let _closed = writeln!(std::io::stderr(), "{text}");
}
