//! Models that a GPU keeps between tasks.
//!
//! A [`ModelSource`] knows how a kind's models are loaded; the [`ModelCache`] keeps what was loaded, one for each GPU, shared by its slots and by all of its kinds. A [`Shelf`] is
//! both together, as the GPU's worker sees them: what can be loaded, and what operators may ask for. It does not choose where a task goes: that is the table's affair.

mod cache;
mod inner;
mod kept;
mod loading;
mod room;
mod shelf;
mod source;
mod times;

pub use cache::{ModelBounds, ModelCache, ModelCounts};
pub use kept::InUse;
pub use shelf::{Shelf, ShelfOf};
pub use source::{ListedModel, Loaded, ModelSource};

#[cfg(test)]
mod tests;
