//! Why ONNX Runtime, or a model of it, cannot be used.

use std::path::{Path, PathBuf};

use crate::Failure;

/// Why ONNX Runtime, or a model of it, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// The library is nowhere.
    #[error(
        "ONNX Runtime is not here: no libonnxruntime.so in {looked_in}, nor where the system's loader looks; install it (`make models` fetches it) or set models.onnx_runtime to the file"
    )]
    NoLibrary {
        /// Where it was looked for.
        looked_in: String,
    },
    /// The library is there and cannot be used.
    #[error("ONNX Runtime at {} cannot be used: {why}", path.display())]
    Library {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Models do not run where they are to run.
    #[error("ONNX models do not run on {provider} here: {why}")]
    Provider {
        /// Where they were to run.
        provider: &'static str,
        /// What happened instead.
        why: String,
    },
    /// A file of a model, or its folder, cannot be read.
    #[error("read {}: {why}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What happened.
        why: String,
    },
    /// There is no such model.
    #[error("there is no model {name:?} in the folder of models; it has {}", listed(known))]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        known: Vec<String>,
    },
    /// Its file is not what can be run.
    #[error("model {name}, version {version}, cannot be used: {why}")]
    Model {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
        /// What is wrong with it.
        why: String,
    },
}

fn listed(known: &[String]) -> String {
    const SHOWN_MAX: usize = 20;
    match known {
        [] => "none".to_owned(),
        known if known.len() <= SHOWN_MAX => known.join(", "),
        known => format!("{} and {} more", known[..SHOWN_MAX].join(", "), known.len() - SHOWN_MAX),
    }
}

impl OnnxError {
    pub(super) fn unreadable(path: &Path, why: &impl ToString) -> Self {
        Self::Unreadable { path: path.to_owned(), why: why.to_string() }
    }

    /// How it fails an attempt. Another GPU may have the model, or run it.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Unknown { .. } => Failure::invalid("payload.model", self.to_string()),
            Self::Model { .. } => Failure { retry: false, ..Failure::transient(self.to_string()) },
            Self::NoLibrary { .. } | Self::Library { .. } | Self::Provider { .. } | Self::Unreadable { .. } => {
                Failure::transient(self.to_string())
            }
        }
    }
}
