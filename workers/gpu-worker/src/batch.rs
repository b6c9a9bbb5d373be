//! Batches: one task of many items, cut into slices that run on many GPUs. Here is what is decided before a batch runs: whether it is split, and into which slices.

pub mod cutting;
pub(crate) mod deciding;
mod plan;
