//! A batch out of a file: one task whose items are the file's lines.

use std::io::BufRead;

use protocol::{Json, TaskBody, batch::ITEMS_MAX};

use super::lines::{self, Item, Reader};
use crate::{arguments::Submit, fault::Fault};

/// What helps where a file is too large for one batch.
const ADVICE: &str = "give it in several files, or leave --as-batch out";

/// The body of the batch whose items are the lines of this file, or of standard input. The items have at most so many bytes together.
pub(super) fn body(submit: &Submit, file: &str, bytes_max: usize) -> Result<TaskBody, Fault> {
    let items = items(lines::open(file)?, lines::name_of(file), bytes_max)?;
    Ok(TaskBody { items: Some(items), on_error: submit.on_error.unwrap_or_default(), ..TaskBody::default() })
}

/// The items in a text, one JSON value in each line; lines with nothing in them are left out. `origin` is what it is read from, for people. No more is read than shows that it is no batch.
fn items(text: impl BufRead, origin: &str, bytes_max: usize) -> Result<Vec<Json>, Fault> {
    let (mut items, mut bytes, mut wrong) = (Vec::new(), 0, None);
    Reader::new(text, bytes_max).find(|Item { line, payload, .. }| {
        let problem = match payload {
            Ok(_) if items.len() == ITEMS_MAX => format!("a batch has at most {ITEMS_MAX} items; {ADVICE}"),
            Ok(item) => {
                bytes += item.as_bytes().len();
                items.push(item);
                if bytes <= bytes_max {
                    return false;
                }
                format!("the items up to here are longer than {bytes_max} bytes together; {ADVICE}")
            }
            Err(problem) => problem,
        };
        wrong = Some(format!("{origin}, line {line}: {problem}"));
        true
    });
    match wrong {
        Some(wrong) => Err(Fault::Usage(wrong)),
        None if items.is_empty() => Err(Fault::Usage(format!("{origin}: has no items; each line is one, as JSON"))),
        None => Ok(items),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twice what the largest number of items takes here.
    const BYTES_MAX: usize = 2 * ITEMS_MAX;

    fn read(text: &[u8]) -> Result<Vec<String>, String> {
        let items = items(text, "f.ndjson", BYTES_MAX).map_err(|fault| fault.to_string())?;
        Ok(items.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn each_line_is_an_item_with_its_own_text() {
        let items = read(b"{\"a\": 1.00}\r\n\n  null \n\"x\"").expect("items");
        assert_eq!(items, [r#"{"a": 1.00}"#, "null", r#""x""#]);
    }

    #[test]
    fn a_line_that_is_none_is_told_with_its_number() {
        let cases: [(&[u8], &str); 6] = [
            (b"1\n\n{\"a\":\n", "f.ndjson, line 3: is not JSON: EOF while parsing a value at column 5"),
            (b"1\nhello\n", "f.ndjson, line 2: is not JSON: expected value at column 1"),
            (b"1 2\n", "f.ndjson, line 1: is not JSON: trailing characters at column 3"),
            (b"\"\xff\"\n", "f.ndjson, line 1: is not JSON: "),
            (b"", "f.ndjson: has no items"),
            (b"\n \n", "f.ndjson: has no items"),
        ];
        for (text, words) in cases {
            let refused = read(text).expect_err("refused");
            assert!(refused.starts_with(words), "{refused}");
        }
    }

    #[test]
    fn a_batch_has_a_largest_number_of_items() {
        assert_eq!(read(&b"1\n".repeat(ITEMS_MAX)).map(|items| items.len()), Ok(ITEMS_MAX));
        let refused = read(&b"1\n".repeat(ITEMS_MAX + 1)).expect_err("one too many");
        assert!(refused.starts_with("f.ndjson, line 10001: a batch has at most 10000 items"), "{refused}");
    }

    #[test]
    fn no_more_is_read_than_shows_that_it_is_no_batch() {
        /// A text without an end: a line that is repeated for ever.
        struct Endless(&'static [u8], usize);

        impl std::io::Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                for byte in buffer.iter_mut() {
                    *byte = self.0[self.1 % self.0.len()];
                    self.1 += 1;
                }
                Ok(buffer.len())
            }
        }

        let read =
            |line: &'static [u8]| items(std::io::BufReader::new(Endless(line, 0)), "f", BYTES_MAX).expect_err("no batch").to_string();
        assert!(read(b"1\n").starts_with("f, line 10001: a batch has at most 10000 items"));
        assert!(read(b"\"0123456789\"\n").starts_with("f, line 1667: the items up to here are longer than 20000 bytes together"));
        assert!(read(b"{\n").starts_with("f, line 1: is not JSON"));
    }
}
