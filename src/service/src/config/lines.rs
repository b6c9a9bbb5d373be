//! On which line of a YAML file a key stands. For people only: where the file is written in an unusual way, the line of an outer key, or none.

use std::collections::BTreeMap;

/// Dotted key → line, from 1.
#[derive(Debug)]
pub struct Lines(BTreeMap<String, usize>);

impl Lines {
    /// Reads keys of block style by their indentation.
    pub fn of(text: &str) -> Self {
        let mut found = BTreeMap::new();
        let mut open: Vec<(usize, &str)> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let content = line.trim_start();
            let Some((name, _)) = content.split_once(':').filter(|_| !content.starts_with(['#', '-'])) else { continue };
            let indentation = line.len() - content.len();
            while open.last().is_some_and(|(outer, _)| *outer >= indentation) {
                open.pop();
            }
            open.push((indentation, name.trim().trim_matches(['"', '\''])));
            let path: Vec<&str> = open.iter().map(|(_, name)| *name).collect();
            found.entry(path.join(".")).or_insert(number + 1);
        }
        Self(found)
    }

    /// The line of a key, or of the nearest key around it.
    pub fn of_key(&self, key: &str) -> Option<usize> {
        let line = self.0.get(key).copied();
        line.or_else(|| self.of_key(key.rsplit_once('.')?.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_their_indentation() {
        let lines =
            Lines::of("# gpu: no\ngpu:\n  multi_gpu: {enabled: true}\n\nworker:\n    lease_ms: 1 # comment: here\n    \"pool\": a\n");
        assert_eq!(lines.of_key("gpu"), Some(2));
        assert_eq!(lines.of_key("gpu.multi_gpu.enabled"), Some(3), "the line of the outer key");
        assert_eq!(lines.of_key("worker.lease_ms"), Some(6));
        assert_eq!(lines.of_key("worker.pool"), Some(7));
        assert_eq!(lines.of_key("log.level"), None);
    }
}
