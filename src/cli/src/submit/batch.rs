//! A batch out of a file: one task whose items are the file's lines.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
};

use protocol::{Json, TaskBody, batch::ITEMS_MAX};

use crate::{arguments::Submit, fault::Fault};

/// How `--items` names standard input.
const STANDARD_INPUT: &str = "-";

/// The body of the batch whose items are the lines of this file, or of standard input.
pub(super) fn body(submit: &Submit, file: &str) -> Result<TaskBody, Fault> {
    let items = if file == STANDARD_INPUT {
        items(io::stdin().lock(), "standard input")?
    } else {
        let opened = File::open(file).map_err(|error| Fault::Usage(format!("read the items from {file}: {error}")))?;
        items(BufReader::new(opened), file)?
    };
    Ok(TaskBody { items: Some(items), on_error: submit.on_error.unwrap_or_default(), ..TaskBody::default() })
}

/// The items in a text, one JSON value in each line; lines with nothing in them are left out. `origin` is what it is read from, for people.
fn items(text: impl BufRead, origin: &str) -> Result<Vec<Json>, Fault> {
    let mut items = Vec::new();
    for (number, line) in (1_u64..).zip(text.split(b'\n')) {
        let line = line.map_err(|error| Fault::Usage(format!("read the items from {origin}: {error}")))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        if items.len() == ITEMS_MAX {
            let advice = "give it in several files, or leave --as-batch out";
            return Err(Fault::Usage(format!("{origin}, line {number}: a batch has at most {ITEMS_MAX} items; {advice}")));
        }
        let item = Json::parse(line).map_err(|error| {
            let text = "each line is one item (text must be quoted: \"hello\")";
            Fault::Usage(format!("{origin}, line {number}: is not JSON: {}; {text}", without_line(&error)))
        })?;
        items.push(item);
    }
    if items.is_empty() {
        return Err(Fault::Usage(format!("{origin}: has no items; each line is one, as JSON")));
    }
    Ok(items)
}

/// What is wrong with a line, and its column. The JSON library calls every line the first.
fn without_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Vec<String>, String> {
        let items = items(text, "f.ndjson").map_err(|fault| fault.to_string())?;
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
}
