//! What a message says of its body (its content coding and its type), and what a body that is no JSON looks like.

use crate::refusal::quoted;

/// The content codings under which a body is read as it stands, in any case. An absent or empty one says the same. A body that is coded in another way (`gzip`, `base64`,
/// `utf-16`) is refused, and never decoded: its length would say nothing of what comes out of it.
pub const CODINGS: [&str; 4] = ["identity", "utf-8", "utf8", "us-ascii"];

/// Whether a body of this content coding is read as it stands.
#[must_use]
pub fn is_uncoded(coding: &str) -> bool {
    coding.is_empty() || CODINGS.iter().any(|accepted| coding.eq_ignore_ascii_case(accepted))
}

/// What is wrong with a content coding that [is none](is_uncoded), what would be accepted, and what to do.
#[must_use]
pub fn unknown_coding(coding: &str) -> String {
    format!("must be absent or one of {}, not {}; send the JSON uncoded, as UTF-8", CODINGS.join(", "), quoted(coding))
}

/// Whether a content type names JSON or nothing at all: whatever its parameters, `application/json`, `text/json`, one that ends in `+json`, or an empty one.
#[must_use]
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(essence.as_str(), "" | "application/json" | "text/json") || essence.ends_with("+json")
}

/// How bodies begin that clients send by mistake, and what to do instead. No JSON begins so.
const MISTAKES: [(&[u8], &str); 10] = [
    (b"\x1f\x8b", "it looks like gzip; send the JSON uncoded"),
    (b"\x78\x9c", "it looks like zlib; send the JSON uncoded"),
    (b"\x28\xb5\x2f\xfd", "it looks like zstd; send the JSON uncoded"),
    (b"\x80\x02", "it looks like a Python pickle; send JSON instead"),
    (b"\x80\x03", "it looks like a Python pickle; send JSON instead"),
    (b"\x80\x04", "it looks like a Python pickle; send JSON instead"),
    (b"\x80\x05", "it looks like a Python pickle; send JSON instead"),
    (b"\xff\xfe", "it looks like UTF-16; send the JSON as UTF-8"),
    (b"\xfe\xff", "it looks like UTF-16; send the JSON as UTF-8"),
    (b"\xef\xbb\xbf", "it begins with a byte order mark; leave that out"),
];

/// What is wrong with a body that is no JSON: where, what its type says if that is something else, and what it looks like.
pub(crate) fn no_json(body: &[u8], content_type: Option<&str>, error: &str) -> String {
    let other_type = content_type.filter(|content_type| !is_json(content_type));
    let looks = if body.is_empty() { Some("it is empty; the shortest task is {}") } else { mistake(body) };
    let parts = [
        Some(format!("the body must be JSON (UTF-8): {error}")),
        other_type.map(|content_type| format!("its content_type is {}", quoted(content_type))),
        looks.map(str::to_owned),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn mistake(body: &[u8]) -> Option<&'static str> {
    MISTAKES.iter().find(|(start, _)| body.starts_with(start)).map(|(_, words)| *words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_not_coded_is_read_whatever_it_is_called() {
        for coding in ["", "identity", "utf-8", "UTF-8", "Utf8", "US-ASCII"] {
            assert!(is_uncoded(coding), "{coding}");
        }
        for coding in ["gzip", "deflate", "br", "utf-16", "latin-1", "base64", "utf-8, gzip", "binary"] {
            assert!(!is_uncoded(coding), "{coding}");
        }
    }

    #[test]
    fn json_is_told_by_its_type() {
        for content_type in ["", "application/json", "Application/JSON; charset=utf-8", "text/json", "application/cloudevents+json"] {
            assert!(is_json(content_type), "{content_type}");
        }
        for content_type in ["application/x-python-serialize", "application/octet-stream", "text/plain", "json"] {
            assert!(!is_json(content_type), "{content_type}");
        }
    }
}
