//! What the scripts answer of batches and their slices, as the port's words.

use protocol::{BodyHash, ItemCounts, Slice, Token};

use super::{answers::Answer, split_lines};
use crate::{
    ProgressAnswer, SliceRecord, Split, SplitAnswer, StoreError,
    slices::{SliceNote, split_of},
};

impl Answer {
    /// The answer to `split`.
    pub fn split(self) -> Result<SplitAnswer, StoreError> {
        match self.word() {
            "split" => self.slices_now().map(SplitAnswer::Split),
            "whole" => Ok(SplitAnswer::Whole),
            "open" => Err(self.garbled()),
            _ => self.look().map(SplitAnswer::Not),
        }
    }

    /// The answer to `record_slice`.
    pub fn slice_record(self) -> Result<SliceRecord, StoreError> {
        match self.word() {
            "recorded" => self.slices_now().map(SliceRecord::Recorded),
            "superseded" => Ok(SliceRecord::Superseded),
            "unwanted" => Ok(SliceRecord::Unwanted),
            "no_room" => Ok(SliceRecord::NoRoom),
            _ => Err(self.garbled()),
        }
    }

    /// The answer to `progress`.
    pub fn progress(self) -> Result<ProgressAnswer, StoreError> {
        match self.word() {
            "noted" => self.items_of_batch().map(ProgressAnswer::Noted),
            "refused" => Ok(ProgressAnswer::Refused),
            _ => Err(self.garbled()),
        }
    }

    /// `noted`, and of a slice how many items its batch has, how many of them have ended, and how many of those failed.
    fn items_of_batch(&self) -> Result<Option<ItemCounts>, StoreError> {
        let Some(of) = self.optional(1)? else { return Ok(None) };
        Ok(Some(ItemCounts { of, done: self.required(2)?, failed: Some(self.required(3)?) }))
    }

    /// `split` or `recorded`, one line a slice, hash, attempt, token.
    pub fn slices_now(&self) -> Result<Split, StoreError> {
        let of = (BodyHash::from_stored(self.required(2)?), self.required(3)?, Token(self.required(4)?));
        self.notes(1)?.map(|notes| split_of(&notes, of)).ok_or_else(|| self.garbled())
    }

    /// Part `index`, one line a slice, if it is there.
    pub fn notes(&self, index: usize) -> Result<Option<Vec<SliceNote>>, StoreError> {
        let lines: Option<String> = self.optional(index)?;
        lines.map(|lines| split_lines::notes(&lines).ok_or_else(|| self.garbled())).transpose()
    }

    /// Part `index`, the items that an attempt has noted, if it is there.
    pub fn items(&self, index: usize) -> Result<Option<ItemCounts>, StoreError> {
        let line: Option<String> = self.optional(index)?;
        line.map(|line| split_lines::items(&line).ok_or_else(|| self.garbled())).transpose()
    }

    /// `slices`, and their names with spaces between.
    pub fn slices(&self) -> Result<Vec<Slice>, StoreError> {
        let names: String = self.required(1)?;
        names.split(' ').map(|name| name.parse().map_err(|_| self.garbled())).collect()
    }

    /// What results no longer take room, if it says so: when they were written (Unix ms), and their bytes.
    pub fn freed(&self) -> Result<Vec<(u64, u64)>, StoreError> {
        let lines: String = self.optional(1)?.unwrap_or_default();
        split_lines::freed(&lines).ok_or_else(|| self.garbled())
    }

    /// Every part, read by itself.
    pub fn each<T>(&self, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, StoreError> {
        let mut all = Vec::new();
        while let Some(text) = self.optional::<String>(all.len())? {
            all.push(read(&text).ok_or_else(|| self.garbled())?);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(parts: &[&str]) -> Answer {
        Answer::new("test", parts.iter().map(|part| Some(part.as_bytes().to_vec())).collect())
    }

    #[test]
    fn an_answer_that_no_script_gives_is_garbled() {
        for parts in [&[][..], &["open"], &["split"], &["split", "0..4"], &["recorded", "0..4 ended 4 0 9 1"]] {
            assert!(answer(parts).split().is_err(), "{parts:?}");
        }
        for parts in [&[][..], &["recorded"], &["whole"], &["ended", "succeeded", "1", ""]] {
            assert!(answer(parts).slice_record().is_err(), "{parts:?}");
        }
        assert!(answer(&["noted", "64"]).progress().is_err() && answer(&["slices", "0..4 4"]).slices().is_err());
        assert!(answer(&["0..4 5", "4..8"]).each(split_lines::size).is_err());
    }

    #[test]
    fn what_the_slices_are_at_is_read_from_their_lines() {
        let SplitAnswer::Split(split) =
            answer(&["split", "0..4 ended 4 1 90 17\n4..9 running 2 2 0 0", "abc", "1", "77"]).split().expect("understood")
        else {
            panic!("it is split")
        };
        assert_eq!((split.result_bytes, split.items_failed, split.is_complete()), (90, 1, false));
        assert_eq!((split.body_hash.as_str(), split.attempt, split.token), ("abc", 1, Token(77)));
        assert_eq!(split.open().collect::<Vec<_>>(), ["4..9".parse::<Slice>().expect("a slice")]);
    }
}
