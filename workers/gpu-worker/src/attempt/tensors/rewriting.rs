//! Objects of a JSON text, replaced; everything around them stays as it was written, to the last letter.

use protocol::Json;

/// The text in which each object that has the key `key` is replaced by what `replaced` gives for it, the inner ones first; `None` leaves it as it is.
pub(super) fn with_replaced(value: &Json, key: &str, mut replaced: impl FnMut(&Json) -> Option<Json>) -> Json {
    let text = value.as_bytes();
    let mut written: Vec<u8> = Vec::with_capacity(text.len());
    // Where each object that is open begins in what was written, and whether it has the key.
    let mut open: Vec<(usize, bool)> = Vec::new();
    let mut at = 0;
    while let Some(byte) = text.get(at).copied() {
        let end = if byte == b'"' { end_of_string(text, at) } else { at + 1 };
        written.extend_from_slice(&text[at..end]);
        match byte {
            b'"' if text.get(at + 1..end - 1) == Some(key.as_bytes()) => {
                if let Some((_, has_key)) = open.last_mut() {
                    *has_key = true;
                }
            }
            b'{' => open.push((written.len() - 1, false)),
            b'}' => {
                if let Some((from, true)) = open.pop()
                    && let Ok(object) = Json::parse(written[from..].to_vec())
                    && let Some(instead) = replaced(&object)
                {
                    written.truncate(from);
                    written.extend_from_slice(instead.as_bytes());
                }
            }
            _ => {}
        }
        at = end;
    }
    Json::parse(written).expect("values in the place of values leave JSON")
}

/// The place after a string that begins at `at`.
fn end_of_string(text: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use protocol::TensorRef;

    use super::*;

    fn rewritten(text: &str) -> String {
        let value = Json::parse(text.to_owned()).unwrap();
        let written = with_replaced(&value, "tensor", |object| {
            let reference = TensorRef::read(object)?;
            (reference.tensor.as_str() != "stays").then(|| Json::of(&format!("<{}>", reference.tensor)))
        });
        written.to_string()
    }

    #[test]
    fn objects_are_replaced_at_any_depth_and_the_rest_stays_to_the_last_letter() {
        for (text, expected) in [
            (r#"{"tensor":"x"}"#, r#""<x>""#),
            (
                r#"{"a" : 1.00, "b": [ {"tensor": "x", "version": 7} ,{"tensor":"y"}], "c":-0}"#,
                r#"{"a" : 1.00, "b": [ "<x>" ,"<y>"], "c":-0}"#,
            ),
            (r#"{"a":{"tensor":"stays"},"tensor":3}"#, r#"{"a":{"tensor":"stays"},"tensor":3}"#),
            (
                r#"{"text":"{\"tensor\":\"x\"}\\","n":123456789012345678901234567890}"#,
                r#"{"text":"{\"tensor\":\"x\"}\\","n":123456789012345678901234567890}"#,
            ),
            (r#"["tensor", {"of": "tensor"}]"#, r#"["tensor", {"of": "tensor"}]"#),
            ("17", "17"),
        ] {
            assert_eq!(rewritten(text), expected);
        }
    }
}
