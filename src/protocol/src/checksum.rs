//! A sum over bytes by which a change of them on their way is found.
//!
//! It is made so that a GPU and a processor compute the same, in any order and in pieces: each word of eight bytes is mixed with its place, and the mixed words are added. The sum over a whole is the sum of
//! the sums over its pieces. Any change within one word changes it for certain, any other but for one chance in 2^64 or so. It is no protection against somebody who means to deceive.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bytes of a word.
const WORD: u64 = 8;
/// Makes a key of a word's place: odd, so that no two places have the same.
const PLACE: u64 = 0x9E37_79B9_7F4A_7C15;
/// Spreads what was mixed: odd, so that different words stay different.
const SPREAD: u64 = 0xD6E8_FEB8_6659_FD93;

/// A sum over bytes. That over none is zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Checksum(pub u64);

impl Checksum {
    /// Of bytes that begin at `at`, counted from the beginning of the whole.
    ///
    /// # Panics
    /// Unless `at` is a multiple of eight.
    #[must_use]
    pub fn of(bytes: &[u8], at: u64) -> Self {
        assert!(at.is_multiple_of(WORD), "a piece begins at a multiple of eight bytes, not at {at}");
        let first = at / WORD;
        let (words, rest) = bytes.as_chunks::<8>();
        let sum = words.iter().zip(first..).fold(0_u64, |sum, (word, place)| sum.wrapping_add(mixed(u64::from_le_bytes(*word), place)));
        if rest.is_empty() {
            return Self(sum);
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        Self(sum.wrapping_add(mixed(u64::from_le_bytes(last), first + words.len() as u64)))
    }

    /// That of a whole of which this and the other one are pieces.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

/// A word with its place. A zero counts too, so that bytes that are missing at the end show.
const fn mixed(word: u64, place: u64) -> u64 {
    let keyed = word ^ place.wrapping_add(1).wrapping_mul(PLACE);
    let spread = keyed.wrapping_mul(SPREAD);
    spread ^ (spread >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_sum_of_a_whole_is_that_of_its_pieces(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..25) {
            let cut = (cut * 8).min(bytes.len() / 8 * 8);
            let pieces = Checksum::of(&bytes[..cut], 0).with(Checksum::of(&bytes[cut..], cut as u64));
            prop_assert_eq!(pieces, Checksum::of(&bytes, 0));
        }

        #[test]
        fn a_changed_byte_changes_it(mut bytes in prop::collection::vec(any::<u8>(), 1..200), at in any::<prop::sample::Index>(), by in 1_u8..) {
            let before = Checksum::of(&bytes, 0);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            prop_assert_ne!(Checksum::of(&bytes, 0), before);
        }
    }

    #[test]
    fn words_that_changed_places_and_words_that_are_missing_show() {
        let words = |words: [u64; 3]| words.map(u64::to_le_bytes).concat();
        assert_ne!(Checksum::of(&words([1, 2, 3]), 0), Checksum::of(&words([2, 1, 3]), 0));
        assert_ne!(Checksum::of(&words([1, 2, 0]), 0), Checksum::of(&words([1, 2, 0])[..16], 0));
    }

    #[test]
    fn a_gpu_computes_this() {
        // The numbers that the CUDA kernel and its fake must give, too.
        let bytes: Vec<u8> = (0..=20).collect();
        assert_eq!(Checksum::of(&bytes, 0), Checksum(0x69BA_4D97_8464_564C));
    }
}
