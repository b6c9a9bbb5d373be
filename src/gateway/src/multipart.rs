//! Bodies in parts: `multipart/form-data` with a task and its segments is read, `multipart/mixed` with a status and its segments is written. No part is copied: each shares the
//! memory of what it came in.

use std::collections::BTreeSet;

use axum::body::Bytes;

/// The longest boundary that RFC 2046 allows, in bytes.
const BOUNDARY_MAX: usize = 70;
/// The longest head of a part, in bytes.
const HEAD_MAX: usize = 8 * 1024;
/// What every boundary that is written begins with. A number follows.
const BOUNDARY_PREFIX: &str = "gpufleet-segments-";
/// Digits of a number that are read behind the prefix: as many as every `u64` has room for. No content holds enough names to need more.
const NUMBER_DIGITS_MAX: usize = 19;
const LINE_END: &[u8] = b"\r\n";
const HEAD_END: &[u8] = b"\r\n\r\n";

/// A part of a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) content: Bytes,
}

/// The boundary that a content type names. `None`: it is no `multipart/form-data`, or names none that may be.
pub(crate) fn boundary(content_type: &str) -> Option<String> {
    let (essence, parameters) = content_type.split_once(';')?;
    if !essence.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameter(parameters, "boundary").filter(|boundary| (1..=BOUNDARY_MAX).contains(&boundary.len()))
}

/// A parameter among those that follow a header's value, without its quotes.
fn parameter(parameters: &str, wanted: &str) -> Option<String> {
    parameters.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        name.trim().eq_ignore_ascii_case(wanted).then(|| value.to_owned())
    })
}

/// The parts of a form, in order, at most `parts_max`.
///
/// # Errors
/// What does not fit, as the rest of a sentence that begins with the body.
pub(crate) fn read(body: &Bytes, boundary: &str, parts_max: usize) -> Result<Vec<Part>, String> {
    let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
    let opening = &delimiter[LINE_END.len()..];
    // What stands before the first delimiter is nobody's.
    let mut at = if body.starts_with(opening) {
        opening.len()
    } else {
        find(body, &delimiter, 0).ok_or("has no part: the boundary that its Content-Type names is not in it")? + delimiter.len()
    };
    let mut parts = Vec::new();
    loop {
        let rest = &body[at..];
        if rest.starts_with(b"--") {
            return Ok(parts);
        }
        let line = find(rest, LINE_END, 0).filter(|end| rest[..*end].iter().all(|byte| matches!(byte, b' ' | b'\t')));
        let line = line.ok_or("breaks off, or goes on behind a boundary where a line should end")?;
        if parts.len() == parts_max {
            return Err(format!("has more than {parts_max} parts"));
        }
        let number = parts.len() + 1;
        let head_at = at + line;
        let within = &body[head_at..body.len().min(head_at + HEAD_MAX)];
        let head_end = find(within, HEAD_END, 0).ok_or_else(|| format!("has no empty line behind the head of part {number}"))?;
        let content_at = head_at + head_end + HEAD_END.len();
        // An empty content may use up the line end of its own head.
        let searched_from = content_at - LINE_END.len();
        let end = find(body, &delimiter, searched_from).ok_or_else(|| format!("breaks off in part {number}"))?;
        let name = name_of(&body[head_at..head_at + head_end]).ok_or_else(|| format!("has no name for part {number}"))?;
        parts.push(Part { name, content: body.slice(content_at..end.max(content_at)) });
        at = end + delimiter.len();
    }
}

/// The name that the head of a part gives it.
fn name_of(head: &[u8]) -> Option<String> {
    let head = std::str::from_utf8(head).ok()?;
    head.split("\r\n").find_map(|line| {
        let (header, value) = line.split_once(':')?;
        let (_, parameters) = value.split_once(';').filter(|_| header.trim().eq_ignore_ascii_case("content-disposition"))?;
        parameter(parameters, "name")
    })
}

/// Where `needle` begins in `text`, from a place on.
fn find(text: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    let first = *needle.first()?;
    let mut at = from;
    loop {
        at += text.get(at..)?.iter().position(|byte| *byte == first)?;
        if text[at..].starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
}

/// A boundary that is in none of these contents. Each is searched once, whatever it holds.
pub(crate) fn boundary_beside<'a>(contents: impl Iterator<Item = &'a Bytes>) -> String {
    let taken: BTreeSet<u64> = contents.flat_map(|content| numbers_in(content)).collect();
    let free = (0_u64..).zip(&taken).find(|(number, taken)| number != *taken).map(|(number, _)| number);
    // Where all of them stand in a row from 0 on, the next one is free.
    format!("{BOUNDARY_PREFIX}{}", free.unwrap_or(taken.len() as u64))
}

/// The numbers whose boundary stands in a content. `12` behind the prefix holds that of 1 as well as that of 12.
fn numbers_in(content: &[u8]) -> impl Iterator<Item = u64> {
    let prefix = BOUNDARY_PREFIX.as_bytes();
    let mut searched = 0;
    let ends = std::iter::from_fn(move || {
        searched = find(content, prefix, searched)? + prefix.len();
        Some(searched)
    });
    ends.flat_map(move |end| {
        let digits = content[end..].iter().take(NUMBER_DIGITS_MAX).take_while(|byte| byte.is_ascii_digit());
        digits.scan(0_u64, |number, digit| {
            *number = *number * 10 + u64::from(*digit - b'0');
            Some(*number)
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn form(parts: &[(&str, &[u8])], boundary: &str) -> Bytes {
        let mut body = Vec::new();
        for (name, content) in parts {
            body.extend_from_slice(format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n").as_bytes());
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        body.into()
    }

    #[test]
    fn parts_are_read_without_a_copy() {
        let body = form(&[("task", b"{}"), ("segment0", b"\r\n\x00--x\r"), ("segment1", b"")], "x-1");
        let parts = read(&body, "x-1", 3).expect("a form");
        let named: Vec<(&str, &[u8])> = parts.iter().map(|part| (part.name.as_str(), &part.content[..])).collect();
        assert_eq!(named, [("task", &b"{}"[..]), ("segment0", b"\r\n\x00--x\r"), ("segment1", b"")]);
        assert!(body.as_ptr_range().contains(&parts[1].content.as_ptr()));
    }

    #[test]
    fn a_form_that_breaks_its_rules_is_told_why() {
        let whole = form(&[("a", b"1"), ("b", b"2")], "x");
        for (body, says) in [
            (Bytes::new(), "has no part"),
            (whole.slice(..whole.len() - 6), "breaks off"),
            (whole.slice(..20), "has no empty line"),
            (Bytes::from_static(b"--x\r\nContent-Type: text/plain\r\n\r\n1\r\n--x--"), "has no name for part 1"),
            (Bytes::from_static(b"--xy"), "breaks off"),
        ] {
            let problem = read(&body, "x", 9).expect_err("no form");
            assert!(problem.contains(says), "{problem} of {body:?}");
        }
        assert_eq!(read(&whole, "x", 1), Err("has more than 1 parts".to_owned()));
    }

    #[test]
    fn a_boundary_is_read_out_of_the_content_type() {
        for (content_type, named) in [
            ("multipart/form-data; boundary=abc", Some("abc")),
            ("Multipart/Form-Data; charset=utf-8; Boundary=\"a b\"", Some("a b")),
            ("multipart/form-data", None),
            ("multipart/form-data; boundary=", None),
            ("multipart/mixed; boundary=abc", None),
        ] {
            assert_eq!(boundary(content_type).as_deref(), named, "{content_type}");
        }
    }

    #[test]
    fn a_boundary_is_in_none_of_the_contents() {
        let contents = [Bytes::from_static(b"gpufleet-segments-0"), Bytes::from_static(b"x gpufleet-segments-1 y")];
        assert_eq!(boundary_beside(contents.iter()), "gpufleet-segments-2");
        let contents =
            [Bytes::from_static(b"gpufleet-segments-21 gpufleet-segments-gpufleet-segments-0 gpufleet-segments-18446744073709551616")];
        assert_eq!(
            boundary_beside(contents.iter()),
            "gpufleet-segments-3",
            "1 stands at the head of the number that is too large, 2 at that of 21"
        );
        assert_eq!(boundary_beside([Bytes::new()].iter()), "gpufleet-segments-0");
    }

    // A search of the whole for each of the names takes 30,000 times 700 kB, which is minutes.
    #[test]
    fn a_content_that_holds_many_boundaries_is_searched_once() {
        let names: String = (0..30_000).map(|number| format!("gpufleet-segments-{number}\n")).collect();
        let contents = [Bytes::from(names)];
        assert_eq!(numbers_in(&contents[0]).filter(|number| *number == 29_999).count(), 1);
        assert_eq!(boundary_beside(contents.iter()), "gpufleet-segments-30000");
    }

    proptest! {
        #[test]
        fn what_is_written_in_parts_is_read_to_the_last_byte(contents in vec(vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), any::<u8>()], 0..40), 0..5)) {
            let contents: Vec<Bytes> = contents.into_iter().map(Bytes::from).collect();
            let boundary = boundary_beside(contents.iter());
            let parts: Vec<(&str, &[u8])> = contents.iter().map(|content| ("p", &content[..])).collect();
            let read = read(&form(&parts, &boundary), &boundary, 5).expect("a form");
            prop_assert_eq!(read.into_iter().map(|part| part.content).collect::<Vec<_>>(), contents);
        }

        #[test]
        fn any_bytes_are_a_form_or_are_refused(body in vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'x'), Just(b':'), any::<u8>()], 0..60)) {
            let _either = read(&Bytes::from(body), "x", 3);
        }
    }
}
