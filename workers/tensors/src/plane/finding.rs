//! Which copies references mean.

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
        for name in names {
            if let Some(stored) = self.store.look(name)
                && !found.iter().any(|record| record.name == *name && record.version == stored.about.version && self.is_own(record))
            {
                found.push(self.record(&stored.about, stored.place, stored.last_used_ms));
            }
        }
    }
}

/// The copies that references mean, in their order, each once.
fn meant(references: &[TensorRef], found: &[TensorRecord]) -> Result<Vec<TensorRecord>, DataError> {
    let mut all: Vec<TensorRecord> = Vec::new();
    for reference in references {
        let Some(version) = version_meant(reference, found) else {
            return Err(DataError::Missing { name: reference.tensor.clone(), version: reference.version });
        };
        let before = all.len();
        for record in found.iter().filter(|record| record.name == reference.tensor && record.version == version) {
            if !all[..before].contains(record) {
                all.push(record.clone());
            }
        }
    }
    Ok(all)
}

/// Of which version there is a copy that a reference means: the one that it names, or the latest.
pub(crate) fn version_meant(reference: &TensorRef, copies: &[TensorRecord]) -> Option<u64> {
    let versions = copies.iter().filter(|record| record.name == reference.tensor).map(|record| record.version);
    match reference.version {
        Some(version) => versions.into_iter().find(|other| *other == version),
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
}
