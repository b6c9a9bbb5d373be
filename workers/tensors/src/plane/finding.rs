//! Which copies references mean.

use std::collections::{BTreeMap, BTreeSet};

use protocol::{TensorName, TensorRecord, TensorRef};

use super::Shared;
use crate::DataError;

impl Shared {
    /// See [`DataPlane::find`](super::DataPlane::find).
    pub(crate) async fn find(&self, references: &[TensorRef]) -> Result<Vec<TensorRecord>, DataError> {
        if references.is_empty() {
            return Ok(Vec::new());
        }
        let mut names: Vec<TensorName> = references.iter().map(|reference| reference.tensor.clone()).collect();
        names.sort();
        names.dedup();
        let mut found = self.ask(&names).await?;
        self.add_own(&names, &mut found);
        meant(references, &found)
    }

    /// Adds what is here and not in the table, which may have lost it or not have heard of it yet.
    fn add_own(&self, names: &[TensorName], found: &mut Vec<TensorRecord>) {
        let told: BTreeSet<_> = found.iter().filter(|record| self.is_own(record)).map(|record| (&record.name, record.version)).collect();
        let here = names.iter().filter_map(|name| self.store.look(name));
        let untold = here.filter(|stored| !told.contains(&(&stored.about.name, stored.about.version)));
        let untold: Vec<_> = untold.map(|stored| self.record(&stored.about, stored.place, stored.last_used_ms)).collect();
        found.extend(untold);
    }
}

/// The copies that references mean, in their order, each once. A batch names thousands: none of them is looked for among all.
fn meant(references: &[TensorRef], found: &[TensorRecord]) -> Result<Vec<TensorRecord>, DataError> {
    let mut by_name: BTreeMap<&TensorName, Vec<&TensorRecord>> = BTreeMap::new();
    for record in found {
        by_name.entry(&record.name).or_default().push(record);
    }
    let (mut all, mut taken) = (Vec::new(), BTreeSet::new());
    for reference in references {
        let named = by_name.get(&reference.tensor).map_or(&[][..], Vec::as_slice);
        let Some(version) = version_among(reference, named.iter().copied()) else {
            return Err(DataError::Missing { name: reference.tensor.clone(), version: reference.version });
        };
        if taken.insert((&reference.tensor, version)) {
            all.extend(named.iter().filter(|record| record.version == version).map(|record| (*record).clone()));
        }
    }
    Ok(all)
}

/// Of which version there is a copy that a reference means: the one that it names, or the latest.
pub(crate) fn version_meant(reference: &TensorRef, copies: &[TensorRecord]) -> Option<u64> {
    version_among(reference, copies.iter().filter(|record| record.name == reference.tensor))
}

/// The same, among copies that all have the name.
fn version_among<'r>(reference: &TensorRef, copies: impl Iterator<Item = &'r TensorRecord>) -> Option<u64> {
    let mut versions = copies.map(|record| record.version);
    match reference.version {
        Some(version) => versions.find(|other| *other == version),
        None => versions.max(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doubles::{name, record};

    #[test]
    fn a_reference_means_the_copies_of_the_latest_version_or_of_the_one_that_it_names() {
        let found = [record("x", 1, "a", 8), record("x", 2, "b", 8), record("x", 2, "c", 8), record("y", 5, "a", 8)];
        let latest = meant(&[TensorRef::latest(name("x"))], &found).unwrap();
        assert_eq!(latest, found[1..3]);
        let named = TensorRef { tensor: name("x"), version: Some(1) };
        assert_eq!(meant(&[named.clone(), named], &found).unwrap(), found[..1], "each once");
        let gone = TensorRef { tensor: name("y"), version: Some(4) };
        let error = meant(&[TensorRef::latest(name("x")), gone], &found).unwrap_err();
        assert_eq!(error, DataError::Missing { name: name("y"), version: Some(4) });
    }

    #[test]
    fn two_versions_of_a_name_are_both_found_where_both_are_meant() {
        let found = [record("x", 1, "a", 8), record("x", 2, "b", 8)];
        let first = TensorRef { tensor: name("x"), version: Some(1) };
        assert_eq!(meant(&[TensorRef::latest(name("x")), first], &found).unwrap(), [found[1].clone(), found[0].clone()]);
    }
}
