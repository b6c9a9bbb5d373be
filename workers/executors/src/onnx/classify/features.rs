//! What the model sees of a content: its first and its last bytes, without white space around them.

/// Bytes at either end that are looked at, at most; no configuration of the model asks for more.
pub(super) const BLOCK_MAX: usize = 64 * 1024;

/// How much of a content the model sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// Numbers for the beginning.
    pub(super) first: usize,
    /// Numbers for the end.
    pub(super) last: usize,
    /// Bytes at either end out of which these are taken.
    pub(super) block: usize,
    /// What stands where there is no byte.
    pub(super) padding: i32,
    /// Fewer bytes than this say nothing.
    pub(super) least: usize,
}

/// What a content is for the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Features {
    /// Its numbers.
    Row(Vec<i32>),
    /// Too little for the model, and known without it.
    Known(&'static str),
}

impl Features {
    pub(super) fn row(&self) -> Option<&[i32]> {
        match self {
            Self::Row(row) => Some(row),
            Self::Known(_) => None,
        }
    }
}

/// The first and the last bytes of a long content, as a content that has the same features.
pub(super) fn ends(content: &[u8]) -> Vec<u8> {
    if content.len() <= 2 * BLOCK_MAX {
        return content.to_vec();
    }
    [&content[..BLOCK_MAX], &content[content.len() - BLOCK_MAX..]].concat()
}

impl Window {
    pub(super) fn features(&self, content: &[u8]) -> Features {
        let block = self.block.min(content.len());
        let (head, tail) = (&content[..block], &content[content.len() - block..]);
        let few = |bytes: &[u8]| Features::Known(if std::str::from_utf8(bytes).is_ok() { "txt" } else { "unknown" });
        match content.len() {
            0 => return Features::Known("empty"),
            length if length < self.least => return few(content),
            _ => {}
        }
        let first = without_leading(head);
        if first.len() < self.least {
            return few(head);
        }
        let last = without_trailing(tail);
        let number = |byte: &u8| i32::from(*byte);
        let mut row: Vec<i32> = first.iter().take(self.first).map(number).collect();
        row.resize(self.first, self.padding);
        let last = &last[last.len().saturating_sub(self.last)..];
        row.resize(self.first + self.last - last.len(), self.padding);
        row.extend(last.iter().map(number));
        Features::Row(row)
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn without_leading(bytes: &[u8]) -> &[u8] {
    let from = bytes.iter().position(|byte| !is_space(*byte)).unwrap_or(bytes.len());
    &bytes[from..]
}

fn without_trailing(bytes: &[u8]) -> &[u8] {
    let to = bytes.iter().rposition(|byte| !is_space(*byte)).map_or(0, |at| at + 1);
    &bytes[..to]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { first: 4, last: 3, block: 10, padding: 256, least: 2 };

    #[test]
    fn the_ends_are_taken_without_white_space_around_them() {
        assert_eq!(WINDOW.features(b"\n\x0babcdefgh\t "), Features::Row(vec![97, 98, 99, 100, 102, 103, 104]));
        assert_eq!(WINDOW.features(b"  ab "), Features::Row(vec![97, 98, 32, 256, 32, 97, 98]), "white space on the other side stays");
        assert_eq!(WINDOW.features(b"ab"), Features::Row(vec![97, 98, 256, 256, 256, 97, 98]), "padding is inside");
        let long: Vec<u8> = (0..30).map(|at| b'A' + at).collect();
        assert_eq!(WINDOW.features(&long), Features::Row(vec![65, 66, 67, 68, 92, 93, 94]));
    }

    #[test]
    fn too_few_bytes_are_known_without_the_model() {
        assert_eq!(WINDOW.features(b""), Features::Known("empty"));
        assert_eq!(WINDOW.features(b"a"), Features::Known("txt"));
        assert_eq!(WINDOW.features(b"\xff"), Features::Known("unknown"));
        assert_eq!(
            WINDOW.features(b"          many spaces first"),
            Features::Known("txt"),
            "of the block at the beginning nothing is left"
        );
    }

    #[test]
    fn of_a_long_content_the_ends_have_the_same_features() {
        let long: Vec<u8> = (0..3 * BLOCK_MAX).map(|at| (at % 251) as u8).collect();
        assert_eq!(ends(&long).len(), 2 * BLOCK_MAX);
        let window = Window { first: 1_024, last: 1_024, block: 4_096, padding: 256, least: 8 };
        assert_eq!(window.features(&ends(&long)), window.features(&long));
    }
}
