//! Why a model could not be loaded.

use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
};

/// Why a model could not be loaded: which file, what is wrong with it, and what to do. Never mended by trying again.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// The configuration names no model.
    #[error("`predict.model` is not set: name a GGUF file, or a directory with config.json, tokenizer.json and *.safetensors")]
    NoModel,
    /// A file of the model cannot be read.
    #[error("read {path}: check that `predict.model` names a model (`make model` fetches one)")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the model can be read and makes no sense, or asks for what is not supported.
    #[error("{path} is not usable: {problem}; {advice}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// The loader panicked: a file so damaged that no check caught it.
    #[error("load {path}: the loader crashed, which a damaged file can cause; fetch the model again")]
    Crashed {
        /// The file or directory.
        path: PathBuf,
    },
}

/// What to do about a file whose content is wrong.
pub(super) const FETCH_AGAIN: &str = "fetch the model again, or name another one in `predict.model`";

/// What to do about a model that is whole and not supported.
pub(super) const ANOTHER_MODEL: &str = "name a model of the Llama family in `predict.model`";

impl PredictError {
    pub(super) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    /// Only the first line of `problem` is kept: libraries add backtraces.
    pub(super) fn unusable(path: &Path, problem: impl Display, advice: &'static str) -> Self {
        let problem = problem.to_string().lines().next().unwrap_or_default().to_owned();
        Self::Unusable { path: path.to_owned(), problem, advice }
    }
}
