//! Lines of bounded length out of a stream of bytes.

use std::mem;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// The longest line that is kept whole, in bytes.
pub(super) const LINE_MAX: usize = 64 * 1024;

/// One line, without its end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// At most [`LINE_MAX`] bytes.
    pub(super) bytes: Vec<u8>,
    /// How many bytes more it had.
    pub(super) cut: u64,
}

impl Line {
    fn append(&mut self, bytes: &[u8]) {
        let (kept, cut) = bytes.split_at(bytes.len().min(LINE_MAX - self.bytes.len()));
        self.bytes.extend_from_slice(kept);
        self.cut += cut.len() as u64;
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.cut == 0
    }
}

/// The lines of a stream. Reads a few KiB ahead and no more: what nobody takes stays with its writer.
#[derive(Debug)]
pub(super) struct Lines<R> {
    source: BufReader<R>,
    begun: Line,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn of(source: R) -> Self {
        Self { source: BufReader::new(source), begun: Line::default() }
    }

    /// The next line; the last one may lack its end. `None`: the stream has ended, or cannot be read. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Line> {
        while let Ok(read @ [_, ..]) = self.source.fill_buf().await {
            let end = read.iter().position(|byte| *byte == b'\n');
            self.begun.append(&read[..end.unwrap_or(read.len())]);
            let used = end.map_or(read.len(), |end| end + 1);
            self.source.consume(used);
            if end.is_some() {
                return Some(mem::take(&mut self.begun));
            }
        }
        Some(mem::take(&mut self.begun)).filter(|line| !line.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8]) -> Vec<Line> {
        let mut lines = Lines::of(text);
        let mut found = Vec::new();
        while let Some(line) = lines.next().await {
            found.push(line);
        }
        found
    }

    fn whole(text: &str) -> Line {
        Line { bytes: text.as_bytes().to_vec(), cut: 0 }
    }

    #[tokio::test]
    async fn lines_are_whole_and_the_last_needs_no_end() {
        assert_eq!(lines(b"").await, []);
        assert_eq!(lines(b"one\n\ntwo").await, [whole("one"), whole(""), whole("two")]);
        let long = "x".repeat(20_000);
        assert_eq!(lines(format!("{long}\n{long}\n").as_bytes()).await, [whole(&long), whole(&long)]);
    }

    #[tokio::test]
    async fn a_line_beyond_the_limit_is_cut_and_the_next_is_not() {
        let longest = "x".repeat(LINE_MAX);
        let text = format!("{longest}\n{longest}123456789\nnext\n");
        assert_eq!(lines(text.as_bytes()).await, [whole(&longest), Line { cut: 9, ..whole(&longest) }, whole("next")]);
    }
}
