//! Which items of a batch were told of.

use protocol::batch::ITEMS_MAX;

/// Items of a batch by their index, a bit for each: at most 1.25 kB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ItemSet(Vec<u64>);

impl ItemSet {
    /// Adds an item; whether it is new. One that no batch can have is never new.
    pub fn insert(&mut self, index: u32) -> bool {
        let Some((word, bit)) = place(index) else { return false };
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    /// Whether it holds this item.
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        place(index).is_some_and(|(word, bit)| self.0.get(word).is_some_and(|bits| bits & bit != 0))
    }
}

/// The word of an item and its bit in it.
fn place(index: u32) -> Option<(usize, u64)> {
    let index = usize::try_from(index).ok().filter(|index| *index < ITEMS_MAX)?;
    Some((index / 64, 1 << (index % 64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_new_once_and_what_no_batch_has_never() {
        let mut told = ItemSet::default();
        for index in [0, 63, 64, 9_999] {
            assert!(!told.contains(index), "{index}");
            assert_eq!((told.insert(index), told.insert(index), told.contains(index)), (true, false, true), "{index}");
        }
        for index in [10_000, u32::MAX] {
            assert_eq!((told.insert(index), told.contains(index)), (false, false), "{index}");
        }
        assert!(!told.contains(1) && told.0.len() <= ITEMS_MAX.div_ceil(64));
    }
}
