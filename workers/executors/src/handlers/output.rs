//! What a handler prints: read at all times, so that it never waits for a full pipe, within bounds, and written to the worker's log.

use std::{
    borrow::Cow,
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::Instant,
};

use super::runs::{Live, only_task};

/// The longest line, in bytes; what is longer is cut.
const LINE_BYTES_MAX: usize = 8 << 10;
/// Lines of one second at most.
const LINES_MAX: u32 = 1_000;
/// What is kept of the end of standard error, in bytes.
const TAIL_BYTES: usize = 4 << 10;

/// The last of what was printed.
#[derive(Debug, Default)]
pub(super) struct Tail(Mutex<VecDeque<u8>>);

impl Tail {
    /// Takes what was printed, or told for the log.
    pub(super) fn add(&self, bytes: &[u8]) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
        let over = (last.len() + bytes.len()).saturating_sub(TAIL_BYTES);
        last.drain(..over);
        last.extend(bytes);
    }

    /// It as text, without white space around it.
    pub(super) fn text(&self) -> String {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, back) = last.as_slices();
        escaped(String::from_utf8_lossy(&[front, back].concat()).trim()).into_owned()
    }
}

/// Where printed lines go to.
#[derive(Debug, Clone)]
pub(super) struct Printed {
    /// The handler's name.
    pub(super) handler: String,
    /// The GPU that it is beside.
    pub(super) gpu_id: String,
    /// `stdout` or `stderr`.
    pub(super) stream: &'static str,
    /// The process, for what runs in it at the time.
    pub(super) live: Arc<Live>,
}

impl Printed {
    /// Writes a line to the log.
    pub(super) fn log(&self, line: &str) {
        let Self { handler, gpu_id, stream, live } = self;
        let (tasks, line) = (live.running(), escaped(line));
        tracing::info!(handler, gpu_id, stream, task_id = only_task(&tasks), tasks, "{line}");
    }

    fn dropped(&self, lines: u64) {
        let Self { handler, gpu_id, stream, .. } = self;
        tracing::warn!(handler, gpu_id, stream, lines, "it prints more than {LINES_MAX} lines a second; these were dropped");
    }
}

/// Reads until the stream ends.
pub(super) async fn relay(mut stream: impl AsyncRead + Unpin, tail: Option<Arc<Tail>>, printed: Printed) {
    let (mut lines, mut pace) = (Lines::default(), Pace::new(Instant::now()));
    let mut buffer = vec![0; LINE_BYTES_MAX];
    let emit = |pace: &mut Pace, line: &str| {
        if pace.lets_pass(&printed) {
            printed.log(line);
        }
    };
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        if let Some(tail) = &tail {
            tail.add(&buffer[..read]);
        }
        lines.feed(&buffer[..read], |line| emit(&mut pace, line));
    }
    lines.finish(|line| emit(&mut pace, line));
    if pace.dropped > 0 {
        printed.dropped(pace.dropped);
    }
}

/// A text of a handler's, cut to what one line may have.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LINE_BYTES_MAX)]
}

/// A text for the log: control characters are shown and not sent to whoever reads it, but for tabs and line breaks.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    let is_raw = |character: char| character.is_control() && !matches!(character, '\t' | '\n');
    if !text.contains(is_raw) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_raw(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// The first characters of a text, as many as it may have.
pub(super) fn cut_to(mut text: String, characters_max: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(characters_max) {
        text.truncate(end);
    }
    text
}

/// Cuts bytes into lines.
#[derive(Debug, Default)]
struct Lines {
    line: Vec<u8>,
    /// Bytes of this line that were left out.
    cut: u64,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], mut emit: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (piece, is_whole) = piece.strip_suffix(b"\n").map_or((piece, false), |piece| (piece, true));
            let room = LINE_BYTES_MAX - self.line.len();
            let kept = &piece[..piece.len().min(room)];
            self.line.extend_from_slice(kept);
            self.cut += (piece.len() - kept.len()) as u64;
            if is_whole {
                self.emit(&mut emit);
            }
        }
    }

    fn finish(&mut self, mut emit: impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.emit(&mut emit);
        }
    }

    fn emit(&mut self, emit: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim_end_matches('\r');
        if self.cut > 0 {
            emit(&format!("{text} … ({} more bytes of this line were dropped)", self.cut));
        } else {
            emit(text);
        }
        self.line.clear();
        self.cut = 0;
    }
}

/// How many lines pass.
#[derive(Debug)]
pub(super) struct Pace {
    second: Instant,
    passed: u32,
    dropped: u64,
}

/// Whether a line passes.
#[derive(Debug, PartialEq, Eq)]
enum Passes {
    Yes { dropped_before: u64 },
    No,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self { second: now, passed: 0, dropped: 0 }
    }

    /// Whether a line passes now; says how many did not before it.
    pub(super) fn lets_pass(&mut self, printed: &Printed) -> bool {
        match self.passes(Instant::now()) {
            Passes::Yes { dropped_before } => {
                if dropped_before > 0 {
                    printed.dropped(dropped_before);
                }
                true
            }
            Passes::No => false,
        }
    }

    fn passes(&mut self, now: Instant) -> Passes {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.passed) = (now, 0);
        }
        if self.passed == LINES_MAX {
            self.dropped += 1;
            return Passes::No;
        }
        self.passed += 1;
        Passes::Yes { dropped_before: std::mem::take(&mut self.dropped) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        pieces.iter().for_each(|piece| lines.feed(piece, |line| all.push(line.to_owned())));
        lines.finish(|line| all.push(line.to_owned()));
        all
    }

    #[test]
    fn lines_are_put_together_however_they_arrive() {
        assert_eq!(fed(&[b"one\ntw", b"o\r\n\nlast"]), ["one", "two", "", "last"]);
        assert_eq!(fed(&[b"\xff\n"]), ["\u{fffd}"]);
    }

    #[test]
    fn a_megabyte_without_a_line_break_takes_no_more_than_one_line() {
        let piece = [b'x'; 10_000];
        let lines = fed(&vec![&piece[..]; 100]);
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].ends_with(&format!("({} more bytes of this line were dropped)", 1_000_000 - LINE_BYTES_MAX)),
            "{}",
            lines[0].len()
        );
    }

    #[test]
    fn what_is_more_than_a_thousand_lines_a_second_is_dropped_and_counted() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let passed = (0..LINES_MAX + 5).filter(|_| pace.passes(start) == Passes::Yes { dropped_before: 0 }).count();
        assert_eq!(passed, LINES_MAX as usize);
        assert_eq!(pace.passes(start + Duration::from_secs(1)), Passes::Yes { dropped_before: 5 });
        assert_eq!(pace.passes(start + Duration::from_secs(1)), Passes::Yes { dropped_before: 0 });
    }

    #[test]
    fn control_characters_are_shown_and_not_written() {
        assert_eq!(escaped("\0a\tü\x1b[31m\rb\nc"), "\\u{0}a\tü\\u{1b}[31m\\rb\nc");
        assert!(matches!(escaped("a\tü\nc"), Cow::Borrowed("a\tü\nc")));
        let tail = Tail::default();
        tail.add(b"nul: \0\n");
        assert_eq!(tail.text(), "nul: \\u{0}");
    }

    #[test]
    fn the_tail_is_the_end_and_nothing_else() {
        let tail = Tail::default();
        tail.add(&[b'a'; 5_000]);
        tail.add(b"the end\n");
        let text = tail.text();
        assert!(text.ends_with("aaathe end") && text.len() == TAIL_BYTES - 1, "{}", text.len());
    }
}
