//! Of several descriptions of one kind, which one is shown.

use std::collections::{BTreeMap, btree_map::Entry};

use protocol::{DescribedKind, Kind, KindDescription};

/// What a description is kept under: its kind and its version.
pub(crate) fn place(description: &KindDescription) -> String {
    format!("{} {}", description.kind, description.version())
}

/// The kinds, by name, out of all descriptions that live, each with the time at which it came up, in ms. Of several of one kind the newest is shown: a fleet that is being brought to a new version shows that
/// one, whoever told last.
pub(crate) fn newest(descriptions: impl IntoIterator<Item = (u64, KindDescription)>) -> Vec<DescribedKind> {
    let mut kinds: BTreeMap<Kind, ((u64, String), DescribedKind)> = BTreeMap::new();
    for (first_ms, description) in descriptions {
        // Two that came up at the same time: always the same one of them.
        let age = (first_ms, description.version());
        match kinds.entry(description.kind.clone()) {
            Entry::Vacant(place) => drop(place.insert((age, DescribedKind { description, differs: false }))),
            Entry::Occupied(mut place) => {
                let (shown, known) = place.get_mut();
                known.differs = true;
                if age > *shown {
                    (*shown, known.description) = (age, description);
                }
            }
        }
    }
    kinds.into_values().map(|(_, known)| known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(kind: &str, about: &str) -> KindDescription {
        KindDescription { kind: kind.parse().expect("a kind"), about: about.to_owned(), schema: None, batch_largest: None }
    }

    #[test]
    fn of_several_descriptions_the_newest_is_shown_whatever_their_order() {
        let all = [
            (5, description("embed", "old")),
            (9, description("embed", "new")),
            (7, description("echo", "same")),
            (6, description("embed", "middle")),
        ];
        for turn in 0..all.len() {
            let mut turned = all.clone();
            turned.rotate_left(turn);
            let kinds = newest(turned);
            let shown: Vec<(&str, bool)> = kinds.iter().map(|kind| (kind.description.about.as_str(), kind.differs)).collect();
            assert_eq!(shown, [("same", false), ("new", true)]);
        }
    }
}
