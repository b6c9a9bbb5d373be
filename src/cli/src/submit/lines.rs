//! The lines of a file of payloads, read as they are wanted.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
};

use futures::{Stream, stream};
use protocol::Json;
use tokio::sync::mpsc;

use crate::fault::Fault;

/// Lines that are read ahead.
const AHEAD: usize = 64;

/// A line with something in it.
#[derive(Debug, PartialEq)]
pub(super) struct Item {
    /// Its place in the file, from 1; empty lines count.
    pub(super) line: u64,
    /// How many bytes of the file it took, with its end and the empty lines before it.
    pub(super) bytes: u64,
    /// What stands in it, or why that is no payload.
    pub(super) payload: Result<Json, String>,
}

/// The name of a file, for people.
pub(super) fn name_of(file: &str) -> &str {
    if file == "-" { "standard input" } else { file }
}

/// The lines of a file; `-` is standard input. Needs a tokio runtime.
///
/// # Errors
/// The file cannot be opened.
pub(super) fn of(file: &str, bytes_max: usize) -> Result<impl Stream<Item = Item> + use<>, Fault> {
    let mut reader = Reader::new(open(file)?, bytes_max);
    let (sender, mut receiver) = mpsc::channel(AHEAD);
    // A terminal, or a pipe, may keep a reader waiting for ever.
    tokio::task::spawn_blocking(move || {
        // Nobody wants more once the receiver is gone.
        let _wanted = reader.find(|item| sender.blocking_send(item).is_err());
    });
    Ok(stream::poll_fn(move |context| receiver.poll_recv(context)))
}

/// How many bytes a file has; `None` where nobody knows before its end.
pub(super) fn length_of(file: &str) -> Option<u64> {
    let known = std::fs::metadata(file).ok().filter(|known| file != "-" && known.is_file());
    known.map(|known| known.len())
}

/// Opens a file; `-` is standard input.
///
/// # Errors
/// The file cannot be opened.
pub(super) fn open(file: &str) -> Result<Box<dyn BufRead + Send>, Fault> {
    if file == "-" {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let opened = File::open(file).map_err(|error| Fault::Usage(format!("read the items from {file}: {error}")))?;
    Ok(Box::new(BufReader::new(opened)))
}

/// Reads lines; one that is too long is read over and not kept. The first error is the last item.
pub(super) struct Reader<R> {
    input: R,
    bytes_max: usize,
    line: u64,
    /// Read since the last line that had something in it.
    bytes: u64,
}

impl<R: BufRead> Reader<R> {
    /// A reader of lines with at most so many bytes.
    pub(super) const fn new(input: R, bytes_max: usize) -> Self {
        Self { input, bytes_max, line: 0, bytes: 0 }
    }

    /// Hands over lines until one is enough; whether one was.
    pub(super) fn find(&mut self, mut is_enough: impl FnMut(Item) -> bool) -> bool {
        loop {
            self.line += 1;
            match self.read_line() {
                Ok(None) => return false,
                Ok(Some(text)) => {
                    if let Some(payload) = self.payload(text)
                        && is_enough(self.item(payload))
                    {
                        return true;
                    }
                }
                Err(error) => return is_enough(self.item(Err(format!("cannot be read: {error}")))),
            }
        }
    }

    fn item(&mut self, payload: Result<Json, String>) -> Item {
        Item { line: self.line, bytes: std::mem::take(&mut self.bytes), payload }
    }

    /// The next line without its end, or as much of it as shows that it is too long; `None` at the end.
    fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let (mut text, mut any) = (Vec::new(), false);
        loop {
            let piece = match self.input.fill_buf() {
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if piece.is_empty() {
                return Ok(any.then_some(text));
            }
            any = true;
            let end = piece.iter().position(|byte| *byte == b'\n');
            let length = end.unwrap_or(piece.len());
            let room = (self.bytes_max + 1).saturating_sub(text.len());
            text.extend_from_slice(&piece[..length.min(room)]);
            let taken = end.map_or(length, |end| end + 1);
            self.input.consume(taken);
            self.bytes += taken as u64;
            if end.is_some() {
                return Ok(Some(text));
            }
        }
    }

    /// The payload of a line; `None` for an empty one.
    fn payload(&self, text: Vec<u8>) -> Option<Result<Json, String>> {
        if text.len() > self.bytes_max {
            return Some(Err(format!("is longer than {} bytes (pass large inputs by reference)", self.bytes_max)));
        }
        if text.trim_ascii().is_empty() {
            return None;
        }
        Some(Json::parse(text).map_err(|error| {
            format!("is not JSON: {}; each line is one JSON value (text must be quoted: \"hello\")", without_line(&error))
        }))
    }
}

/// What is wrong with a line, and its column. The JSON library calls every line the first.
fn without_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str, bytes_max: usize) -> Vec<(u64, Result<String, String>)> {
        let mut all = Vec::new();
        // Pieces that are smaller than lines.
        let input = BufReader::with_capacity(3, text.as_bytes());
        let ended = Reader::new(input, bytes_max).find(|Item { line, payload, .. }| {
            all.push((line, payload.map(|payload| payload.to_string())));
            false
        });
        assert!(!ended);
        all
    }

    #[test]
    fn each_line_is_a_payload_and_empty_ones_only_count() {
        let found = items("{\"a\": 1}\r\n\n  \n-0\n\"x\"", 100);
        let expected: [(u64, Result<String, String>); 3] =
            [(1, "{\"a\": 1}"), (4, "-0"), (5, "\"x\"")].map(|(line, text)| (line, Ok(text.to_owned())));
        assert_eq!(found, expected);
        assert!(items("", 100).is_empty());
    }

    #[test]
    fn a_broken_or_too_long_line_is_told_alone() {
        let found = items(&format!("1\n{{\n\"{}\"\n12345678\n4\n", "x".repeat(50)), 8);
        assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert!(found[1].1.as_ref().is_err_and(|problem| problem.starts_with("is not JSON: ")), "{found:?}");
        assert!(found[1].1.as_ref().is_err_and(|problem| !problem.contains("at line")), "its number is that of the file: {found:?}");
        assert!(found[2].1.as_ref().is_err_and(|problem| problem.starts_with("is longer than 8 bytes")), "{found:?}");
        assert_eq!((&found[3].1, &found[4].1), (&Ok("12345678".to_owned()), &Ok("4".to_owned())));
    }

    #[test]
    fn each_line_says_how_much_of_the_file_it_took() {
        let mut all = Vec::new();
        Reader::new(&b"1\n\n\r\n{\n\"22\""[..], 3).find(|item| {
            all.push((item.line, item.bytes));
            false
        });
        assert_eq!(all, [(1, 2), (4, 5), (5, 4)]);
    }

    #[test]
    fn who_has_enough_gets_no_more() {
        let mut got = 0;
        let ended = Reader::new(&b"1\n2\n3\n"[..], 8).find(|_| {
            got += 1;
            got == 2
        });
        assert_eq!((ended, got), (true, 2));
    }
}
