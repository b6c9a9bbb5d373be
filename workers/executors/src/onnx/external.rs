//! The files of weights that a model names. They are found by the key that its format gives them, without reading the model: what it says is not trusted before it was checked.

/// How a key `location` is written: field 1, of 8 bytes. Its value follows.
const KEY: &[u8] = b"\x0a\x08location";
/// How the value is: field 2.
const VALUE: u8 = 0x12;
/// Most files of one model.
const FILES_MAX: usize = 64;

/// The names of the files beside the model that it takes weights from, without repetition.
///
/// # Errors
/// One of them leads to somewhere else.
pub(super) fn files_named_in(model: &[u8]) -> Result<Vec<String>, String> {
    let mut names = Vec::<String>::new();
    let mut rest = model;
    while let Some(at) = position(rest) {
        rest = &rest[at + KEY.len()..];
        let Some(name) = rest.split_first().filter(|(tag, _)| **tag == VALUE).and_then(|(_, text)| value(text)) else {
            return Err("it does not say plainly where its weights lie".to_owned());
        };
        if name.is_empty() || name.contains(['/', '\\', '\0']) || name == ".." || name == "." {
            return Err(format!("its weights are to come from {name:?}; only files beside the model are taken"));
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
        if names.len() > FILES_MAX {
            return Err(format!("its weights lie in more than {FILES_MAX} files"));
        }
    }
    Ok(names)
}

fn position(bytes: &[u8]) -> Option<usize> {
    // Weights hold every byte: the second one of the key, a tab's neighbour, is as rare as any, and one look at it is cheap.
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == KEY[0]) {
        if bytes[from + at..].starts_with(KEY) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// The text that follows: a length of at most two bytes, then its bytes. `None`: it is none.
fn value(bytes: &[u8]) -> Option<&str> {
    let first = usize::from(*bytes.first()?);
    let (length, from): (usize, usize) = match first {
        0..0x80 => (first, 1),
        _ => (first & 0x7f | usize::from(*bytes.get(1)?) << 7, 2),
    };
    std::str::from_utf8(bytes.get(from..from.checked_add(length)?)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming(names: &[&str]) -> Vec<u8> {
        let mut model = b"\x0a\x08locatiox\x12 anything".to_vec();
        for name in names {
            model.extend_from_slice(KEY);
            model.push(VALUE);
            model.push(u8::try_from(name.len()).unwrap());
            model.extend_from_slice(name.as_bytes());
        }
        model
    }

    #[test]
    fn weights_come_from_beside_the_model_alone() {
        assert_eq!(files_named_in(b"").unwrap(), Vec::<String>::new());
        assert_eq!(files_named_in(&naming(&["model.onnx_data", "more", "more"])).unwrap(), ["model.onnx_data", "more"]);
        for elsewhere in ["/etc/shadow", "../other/model.onnx_data", "..", "a\\b", ""] {
            assert!(files_named_in(&naming(&[elsewhere])).unwrap_err().contains("beside the model"), "{elsewhere}");
        }
        for unclear in [KEY, b"\x0a\x08location\x12\xff", b"\x12\x06hidden\x0a\x08location\x70\x01"] {
            assert!(files_named_in(unclear).unwrap_err().contains("plainly"), "{unclear:?}");
        }
    }
}
