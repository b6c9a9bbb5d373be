//! What became of a task's attempts, for people: lines that travel with its retries and end with its dead letter.

use protocol::{GpuId, TaskError, envelope::Headers};
use task_store::Crash;

use crate::date::date;

/// The longest message of a reply that has what a process wrote last, in bytes.
const WORDS_BYTES: usize = 8 << 10;
/// The longest message and the longest code of a line, in characters.
const MESSAGE_CHARACTERS: usize = 400;
const CODE_CHARACTERS: usize = 60;

/// An attempt that failed.
pub(crate) fn failed(attempt: u32, gpu_id: &GpuId, error: &TaskError, now_ms: u64) -> String {
    format!("attempt {attempt} on {gpu_id} failed at {}: {}: {}", date(now_ms), code(&error.code), message(&error.message))
}

/// A code in one line that is not too long.
pub(super) fn code(text: &str) -> String {
    line(text, CODE_CHARACTERS)
}

/// A message in one line that is not too long.
pub(super) fn message(text: &str) -> String {
    line(text, MESSAGE_CHARACTERS)
}

/// An executor may say anything.
fn line(text: &str, characters_max: usize) -> String {
    text.chars().take(characters_max).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A message for a reply, cut where it is too long.
pub(super) fn bounded(text: String) -> String {
    if text.len() <= WORDS_BYTES {
        return text;
    }
    let mut text = text;
    text.truncate(text.floor_char_boundary(WORDS_BYTES - '…'.len_utf8()));
    text.push('…');
    text
}

/// An attempt whose worker, or whose process, was gone.
pub(crate) fn crashed(crash: &Crash) -> String {
    let Crash { attempt, gpu_id, found_ms, alone } = crash;
    format!("attempt {attempt} on {gpu_id}{} crashed, found at {}", if *alone { " alone" } else { "" }, date(*found_ms))
}

/// The history with more lines. The oldest make room where there is too little.
pub(crate) fn with(history: Option<&str>, more: impl IntoIterator<Item = String>) -> String {
    let mut lines: Vec<String> = history.unwrap_or_default().lines().map(ToOwned::to_owned).chain(more).collect();
    let bytes = |lines: &[String]| lines.iter().map(|line| line.len() + 1).sum::<usize>();
    while bytes(&lines) > Headers::HISTORY_MAX && !lines.is_empty() {
        lines.remove(0);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_the_words_of_a_process_is_bounded_and_never_cut_within_a_letter() {
        assert_eq!(bounded("short".to_owned()), "short");
        for letter in ["x", "é", "€", "🙂"] {
            let cut = bounded(letter.repeat(10_000));
            assert!(cut.len() <= WORDS_BYTES && cut.len() > WORDS_BYTES - 8 && cut.ends_with('…'), "{letter}: {}", cut.len());
        }
    }

    #[test]
    fn a_history_has_a_line_an_attempt_and_forgets_the_oldest() {
        let error = TaskError::new("fla\nky", "line one\nline two");
        let line = failed(2, &GpuId::new("gpu-0").unwrap(), &error, 1_700_000_000_000);
        assert_eq!(line, "attempt 2 on gpu-0 failed at 2023-11-14T22:13:20Z: fla ky: line one line two");
        assert_eq!(with(Some("first"), [line.clone()]), format!("first\n{line}"));
        let long = (0..100).fold(String::new(), |history, n| with(Some(&history), [format!("{n} {}", "x".repeat(100))]));
        assert!(long.len() <= Headers::HISTORY_MAX && long.lines().count() > 30, "{}", long.len());
        assert!(long.lines().last().unwrap().starts_with("99 ") && !long.starts_with("0 "));
        assert_eq!(with(None, ["x".repeat(Headers::HISTORY_MAX + 1)]), "");
    }
}
