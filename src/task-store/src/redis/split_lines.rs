//! The lines in which the scripts say what the slices of a batch are at. Their shapes are in `slices.lua`.

use protocol::{ItemCounts, Slice};

use crate::{SliceState, slices::SliceNote};

/// Reads one line a slice: `16..32 running 5 1 0 0`.
pub fn notes(lines: &str) -> Option<Vec<SliceNote>> {
    let notes: Vec<SliceNote> = lines.lines().map(note).collect::<Option<_>>()?;
    (!notes.is_empty()).then_some(notes)
}

fn note(line: &str) -> Option<SliceNote> {
    let mut words = line.split(' ');
    Some(SliceNote {
        slice: words.next()?.parse().ok()?,
        state: state(words.next()?)?,
        done: words.next()?.parse().ok()?,
        failed: words.next()?.parse().ok()?,
        result_bytes: words.next()?.parse().ok()?,
    })
}

fn state(word: &str) -> Option<SliceState> {
    match word {
        "waiting" => Some(SliceState::Waiting),
        "running" => Some(SliceState::Running),
        "ended" => Some(SliceState::Ended),
        _ => None,
    }
}

/// Reads how many items there are, how many have ended, and how many of those failed, if that is known: `64 17 2`.
pub fn items(line: &str) -> Option<ItemCounts> {
    let numbers: Vec<u32> = line.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    match numbers[..] {
        [of, done] => Some(ItemCounts { of, done, failed: None }),
        [of, done, failed] => Some(ItemCounts { of, done, failed: Some(failed) }),
        _ => None,
    }
}

/// Reads a slice and the bytes of its results: `16..32 1024`.
pub fn size(line: &str) -> Option<(Slice, u64)> {
    let (slice, bytes) = line.split_once(' ')?;
    Some((slice.parse().ok()?, bytes.parse().ok()?))
}

/// Reads one line a slice: Unix ms when its results were written, and their bytes.
pub fn freed(lines: &str) -> Option<Vec<(u64, u64)>> {
    let pair = |line: &str| {
        let (written_ms, bytes) = line.split_once(' ')?;
        Some((written_ms.parse().ok()?, bytes.parse().ok()?))
    };
    lines.lines().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_script_writes_is_not_understood() {
        for wrong in ["", "0..4", "0..4 resting 0 0 0", "4..0 waiting 0 0 0", "0..4 ended 4 many 9", "0..4 waiting 0 0 0\n\n"] {
            assert_eq!(notes(wrong), None, "{wrong:?}");
        }
        let slice = "16..32".parse().expect("a slice");
        let expected = SliceNote { slice, state: SliceState::Ended, done: 16, failed: 1, result_bytes: 1_024 };
        assert_eq!(notes("16..32 ended 16 1 1024 1700000000000"), Some(vec![expected]));
        assert_eq!(
            (items("64 17"), items("64 17 2").and_then(|items| items.failed)),
            (Some(ItemCounts { of: 64, done: 17, failed: None }), Some(2))
        );
        assert!(items("64").is_none() && items("64 17 -").is_none() && size("16..32").is_none());
        assert_eq!(freed("1700000000000 5\n1700000000001 6"), Some(vec![(1_700_000_000_000, 5), (1_700_000_000_001, 6)]));
        assert_eq!((freed(""), freed("5")), (Some(Vec::new()), None));
    }
}
