//! `predict`: text generation on a real model of the Llama family, on the CPU.
//!
//! ```json
//! {"text": "Once upon a time", "max_length": 64, "temperature": 0.8, "seed": 7}
//! ```
//! gives `{"text": " there was", "tokens": 64, "finish_reason": "length", "model": "SmolLM2-135M-Instruct.Q4_1"}`: the text that follows,
//! without the prompt. Only `text` is required. `temperature` 0, the default, always takes the likeliest token; above it tokens are drawn, and the
//! same `seed` draws the same text. While it runs it reports its tokens so far as a share of `max_length`, and the text as it grows, in pieces of whole
//! characters: joined, they are the result's `text`. The text goes to the model as it is: no chat template is put around it.
//!
//! The texts that are in hand are generated together: each step reads the weights once for all of them, a text that ends leaves and one that waits joins between two steps. Each is, bit for
//! bit, what it is when it is generated alone: the sums of a text are made by themselves and in one order, whoever is beside it.
//!
//! [`Predict`] is the executor; [`Model`] is what it runs and can be used without it. `docs/predict.md` says how it was checked against another
//! implementation.

mod arithmetic;
mod directory;
mod engine;
mod error;
mod executor;
mod generate;
mod gguf;
mod model;
mod pieces;
mod registry;
mod request;
mod sampler;
mod sequence;
mod turns;
mod vocabulary;
mod weights;

pub use error::PredictError;
pub use executor::Predict;
pub use generate::{FinishReason, GenerateError, Generated, Watch};
pub use model::Model;
pub use request::Request;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
