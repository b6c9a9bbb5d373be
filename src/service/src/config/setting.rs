//! One value for one key, and who gave it.

use std::{fmt, path::PathBuf};

use serde_json::Value;

/// Who set a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: the default.
    Default,
    /// A file.
    File {
        /// Which.
        path: PathBuf,
        /// Which line, from 1, where it could be told.
        line: Option<usize>,
    },
    /// An environment variable of this name.
    Variable(String),
    /// A flag, as it is written: `--redis-url`, or `--set` with the key that it sets.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File { path, line: Some(line) } => write!(formatter, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(formatter, "{}", path.display()),
            Self::Variable(name) => write!(formatter, "variable {name}"),
            Self::Flag(flag) => formatter.write_str(flag),
        }
    }
}

/// A value that its key accepts.
#[derive(Debug)]
pub struct Setting {
    /// The dotted key.
    pub key: String,
    /// The value.
    pub value: Value,
    /// Who set it.
    pub origin: Origin,
}
