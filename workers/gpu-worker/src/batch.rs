//! Batches: one task of many items, cut into slices that run on many GPUs.

pub mod cutting;
