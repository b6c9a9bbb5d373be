//! What others wrote, made harmless for a terminal: kinds, ids, errors and results may hold anything, and a terminal obeys what it is shown.

use std::borrow::Cow;

/// A text whose control characters, and those that turn the direction of writing round, show as their JSON escapes (`\u001b`), so that JSON stays JSON. Line feeds and tabs stay as they are.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    replaced(text, |c| is_control(c) && !matches!(c, '\n' | '\t'))
}

/// The same as one line: line feeds, carriage returns and tabs are spaces.
pub(crate) fn harmless_line(text: &str) -> Cow<'_, str> {
    if text.contains(['\n', '\r', '\t']) {
        return Cow::Owned(harmless(&text.replace(['\n', '\r', '\t'], " ")).into_owned());
    }
    harmless(text)
}

fn replaced(text: &str, harms: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&harms) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harms(c) {
            // None of them is beyond the 16 bits that such an escape has.
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// What a terminal would obey, and what lets a text look like another one: the controls of both blocks, line and paragraph separators, overrides of direction.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_shows_as_an_escape() {
        let hostile = "a\x1b]0;owned\x07b\u{9b}2Jc\x7f\rd\u{202e}e";
        assert_eq!(harmless(hostile), "a\\u001b]0;owned\\u0007b\\u009b2Jc\\u007f\\u000dd\\u202ee");
    }

    #[test]
    fn plain_texts_are_left_alone() {
        for text in ["two\nlines\tand a tab", "größer, 日本語, 🙂", ""] {
            assert!(matches!(harmless(text), Cow::Borrowed(same) if same == text), "{text}");
        }
        assert_eq!(harmless_line("two\r\nlines\x1b"), "two  lines\\u001b");
    }

    #[test]
    fn json_means_the_same_afterwards() {
        let json = "{\"a\":\"\u{9b}31m\u{202e}\"}";
        let (before, after): (serde_json::Value, serde_json::Value) =
            (serde_json::from_str(json).unwrap(), serde_json::from_str(&harmless(json)).unwrap());
        assert_eq!(before, after);
    }
}
