//! The trace context of W3C: whether a text is one.
//!
//! A trace context tells where a task came from and decides over nothing. What is none is left behind, wherever it turns up; no task fails for it.

use crate::envelope::Headers;

/// The length of version 00, in bytes. No later version may be shorter.
const LENGTH: usize = 55;

/// Whether `text` is a `traceparent` by the grammar of W3C Trace Context: version, trace id, parent id and flags (2, 32, 16 and 2 lower-case hexadecimal digits)
/// with a hyphen between each two, and neither id of zeros alone. Version `ff` is none. Version `00` ends there; a later one may go on after a further hyphen,
/// in visible ASCII and up to [`Headers::TEXT_MAX`] bytes in all.
#[must_use]
pub fn is_traceparent(text: &str) -> bool {
    let Some((head, rest)) = text.as_bytes().split_at_checked(LENGTH) else { return false };
    let (version, trace_id, parent_id, flags) = (&head[..2], &head[3..35], &head[36..52], &head[53..]);
    let hexadecimal = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let names_something = |id: &[u8]| id.iter().any(|byte| *byte != b'0');
    [2, 35, 52].into_iter().all(|place| head[place] == b'-')
        && [version, trace_id, parent_id, flags].into_iter().all(hexadecimal)
        && version != b"ff"
        && names_something(trace_id)
        && names_something(parent_id)
        && (rest.is_empty() || (version != b"00" && goes_on(rest) && text.len() <= Headers::TEXT_MAX))
}

/// Whether this may stand behind the flags in a version that is not known yet.
fn goes_on(rest: &[u8]) -> bool {
    rest[0] == b'-' && rest.iter().all(u8::is_ascii_graphic)
}

/// The trace id in a `traceparent`: the 32 hexadecimal digits under which every system of the same trace logs. `None`: the text is no trace context.
#[must_use]
pub fn trace_id_of(traceparent: &str) -> Option<&str> {
    is_traceparent(traceparent).then(|| traceparent.get(3..35)).flatten()
}

/// The longest accepted `tracestate`, in bytes: what W3C asks everybody to carry.
const TRACESTATE_MAX: usize = 512;
/// Most members of a `tracestate`.
const MEMBERS_MAX: usize = 32;

/// Whether `text` may be carried as a `tracestate`: 1 to 32 members `key=value` with commas between, in printable ASCII and up to 512 bytes. What they mean is their vendors' matter.
#[must_use]
pub fn is_tracestate(text: &str) -> bool {
    let is_member = |member: &str| member.trim().split_once('=').is_some_and(|(key, value)| !key.is_empty() && !value.is_empty());
    text.len() <= TRACESTATE_MAX
        && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && text.split(',').count() <= MEMBERS_MAX
        && text.split(',').all(is_member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracestate_is_a_list_of_members() {
        for good in ["a=1", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "a=1, b@c=x y"] {
            assert!(is_tracestate(good), "{good}");
        }
        let long = format!("a={}", "x".repeat(TRACESTATE_MAX));
        let many = vec!["a=1"; MEMBERS_MAX + 1].join(",");
        for bad in ["", "a", "a=", "=1", "a=1,", "a=\n", "a=ü", &long, &many] {
            assert!(!is_tracestate(bad), "{bad}");
        }
    }

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const PARENT: &str = "b7ad6b7169203331";

    #[test]
    fn a_trace_context_keeps_the_grammar_of_its_version() {
        for good in [
            format!("00-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-ff"),
            format!("cc-{TRACE}-{PARENT}-01"),
            format!("cc-{TRACE}-{PARENT}-01-what-the-future-says"),
        ] {
            assert!(is_traceparent(&good), "{good}");
        }
        let (no_trace, no_parent) = ("0".repeat(32), "0".repeat(16));
        for bad in [
            String::new(),
            "00-xyz".to_owned(),
            "0".repeat(LENGTH),
            "é".repeat(LENGTH),
            format!("00-{TRACE}-{PARENT}-0"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("cc-{TRACE}-{PARENT}-01.more"),
            format!("cc-{TRACE}-{PARENT}-01-two words"),
            format!("cc-{TRACE}-{PARENT}-01-{}", "x".repeat(Headers::TEXT_MAX)),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{no_trace}-{PARENT}-01"),
            format!("00-{TRACE}-{no_parent}-01"),
            format!("00_{TRACE}-{PARENT}-01"),
            format!(" 00-{TRACE}-{PARENT}-01"),
        ] {
            assert!(!is_traceparent(&bad), "{bad}");
        }
    }

    #[test]
    fn the_trace_id_is_the_second_part() {
        assert_eq!(trace_id_of(&format!("00-{TRACE}-{PARENT}-01")), Some(TRACE));
        assert_eq!(trace_id_of(&format!("00-{TRACE}-{PARENT}-1")), None);
    }
}
