//! What is wrong, where, and what to do about it.

use std::fmt;

use super::Origin;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The dotted key, as it was written; empty where the mistake is not about one.
    pub key: String,
    /// Who wrote it.
    pub origin: Origin,
    /// What is wrong and what to do.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            return write!(formatter, "{}: {}", self.origin, self.problem);
        }
        write!(formatter, "{} ({}): {}", self.key, self.origin, self.problem)
    }
}

/// Every mistake of a configuration, one a line. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.mistakes))]
pub struct ConfigurationErrors {
    /// In the order file, environment, flags, then what does not go together.
    pub mistakes: Vec<Mistake>,
}

fn lines(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Collects mistakes while loading goes on.
#[derive(Debug, Default)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    pub fn add(&mut self, key: &str, origin: &Origin, problem: impl Into<String>) {
        self.0.push(Mistake { key: key.to_owned(), origin: origin.clone(), problem: problem.into() });
    }

    pub fn into_result(self) -> Result<(), ConfigurationErrors> {
        if self.0.is_empty() { Ok(()) } else { Err(ConfigurationErrors { mistakes: self.0 }) }
    }
}
