//! ONNX models: the kinds `onnx` (any model in the operator's folder), `embed` (texts to vectors) and `classify` (what a file is), on ONNX Runtime, which is loaded at run time.
//!
//! [`OnnxRuntime`] is the library, [`OnnxModels`] what can be loaded with it. Which models are in memory is the affair of the cache (`models`).

mod axis;
mod classify;
mod directory;
mod embed;
mod error;
mod executor;
mod external;
#[cfg(test)]
mod fixture;
mod graph;
mod library;
mod model;
mod nested;
mod port;
mod profile;
mod provider;
mod request;
mod session;
mod source;
mod tensor;
mod together;
mod trial;
mod written;

#[cfg(test)]
mod tests;

pub use classify::classify;
pub use embed::embed;
pub use error::OnnxError;
pub use executor::onnx;
pub use library::OnnxRuntime;
pub use provider::OnnxPlace;
pub use source::OnnxModels;
