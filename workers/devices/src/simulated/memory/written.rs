//! The bytes of a buffer.

use std::{collections::BTreeMap, ops::Range};

use bytes::Bytes;

/// What a reader finds where nobody has written: no zeroes, which might pass for data.
const UNWRITTEN: u8 = 0xDB;

/// Bytes with their places, without overlap. Parts that were written as a whole are kept as they came, so that to write, to copy and mostly also to read them copies no bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Written(BTreeMap<u64, Bytes>);

impl Written {
    /// These bytes, from the beginning.
    pub(super) fn of(bytes: Bytes) -> Self {
        let mut written = Self::default();
        written.put(0, bytes);
        written
    }

    /// Puts bytes to a place, instead of what is there.
    pub(super) fn put(&mut self, at: u64, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.cut(at);
        self.cut(at + bytes.len() as u64);
        let replaced: Vec<u64> = self.0.range(at..at + bytes.len() as u64).map(|(start, _)| *start).collect();
        for start in replaced {
            self.0.remove(&start);
        }
        self.0.insert(at, bytes);
    }

    /// Puts all of that to a place, instead of what is there.
    pub(super) fn put_all(&mut self, at: u64, other: Self) {
        for (offset, bytes) in other.0 {
            self.put(at + offset, bytes);
        }
    }

    /// Makes what lies across a place two pieces.
    fn cut(&mut self, at: u64) {
        let Some((&start, piece)) = self.0.range(..at).next_back() else { return };
        let length = (at - start) as usize;
        if length < piece.len() {
            let (head, tail) = (piece.slice(..length), piece.slice(length..));
            self.0.insert(start, head);
            self.0.insert(at, tail);
        }
    }

    /// What is in a part, as from its beginning.
    pub(super) fn part(&self, part: Range<u64>) -> Self {
        let first = self.0.range(..=part.start).next_back().map_or(part.start, |(start, _)| *start);
        let pieces = self.0.range(first..part.end.max(first)).filter_map(|(start, piece)| {
            let (from, to) = ((*start).max(part.start), (start + piece.len() as u64).min(part.end));
            (from < to).then(|| (from - part.start, piece.slice((from - start) as usize..(to - start) as usize)))
        });
        Self(pieces.collect())
    }

    /// The pieces with their places, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (u64, &Bytes)> {
        self.0.iter().map(|(at, piece)| (*at, piece))
    }

    /// The first so many bytes as one piece.
    pub(super) fn joined(&self, bytes: usize) -> Bytes {
        if let Some(whole) = self.0.get(&0).filter(|piece| piece.len() >= bytes) {
            return whole.slice(..bytes);
        }
        let mut joined = vec![UNWRITTEN; bytes];
        for (at, piece) in self.part(0..bytes as u64).pieces() {
            joined[at as usize..at as usize + piece.len()].copy_from_slice(piece);
        }
        joined.into()
    }

    /// Whether to [join](Self::joined) so many bytes copies them.
    pub(super) fn is_in_pieces(&self, bytes: usize) -> bool {
        self.0.get(&0).is_none_or(|piece| piece.len() < bytes)
    }

    /// Flips a byte in the middle.
    pub(super) fn corrupt(&mut self) {
        let middle = self.0.len() / 2;
        if let Some(piece) = self.0.values_mut().nth(middle) {
            let mut bytes = piece.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xFF;
            *piece = bytes.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_last_is_read_whatever_it_overlaps() {
        let (mut written, mut model) = (Written::default(), vec![UNWRITTEN; 40]);
        let writes = [(10, 10), (5, 3), (8, 2), (12, 4), (0, 6), (18, 15), (11, 1), (7, 30), (39, 1), (9, 0)];
        for (number, (at, length)) in (1_u8..).zip(writes) {
            written.put(at as u64, vec![number; length].into());
            model[at..at + length].fill(number);
            for (from, to) in (0..40).flat_map(|from| (from..=40).map(move |to| (from, to))) {
                let part = written.part(from as u64..to as u64);
                assert_eq!(part.joined(to - from), model[from..to], "{from}..{to} after {number}");
                let mut copied = Written::of(vec![UNWRITTEN; 50].into());
                copied.put_all(3, part);
                assert_eq!(copied.joined(50)[3..3 + to - from], model[from..to]);
            }
        }
    }

    #[test]
    fn whole_parts_are_handed_on_without_a_copy() {
        let bytes = Bytes::from(vec![7; 100]);
        let mut written = Written::default();
        written.put(50, bytes.clone());
        let part = written.part(60..90);
        assert!(!part.is_in_pieces(30) && part.is_in_pieces(31));
        assert_eq!(part.joined(30).as_ptr(), bytes[10..].as_ptr());
    }

    #[test]
    fn corruption_changes_one_byte_and_nothing_of_where_it_came_from() {
        let bytes = Bytes::from(vec![7; 100]);
        let mut written = Written::of(bytes.clone());
        written.corrupt();
        assert_eq!(written.joined(100).iter().filter(|byte| **byte != 7).count(), 1);
        assert_eq!(bytes, vec![7; 100]);
    }
}
