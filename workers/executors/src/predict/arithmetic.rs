//! Products of weights with rows of numbers, and what attention is made of: the sums that a model is.
//!
//! Each row is computed by itself and in one order, whatever other rows are beside it: what a text is never depends on who was generated with it. That
//! is why these products are our own: a library's take another path, with other sums, for several rows than for one. The other reason is speed: weights
//! are read once for all rows, and the instructions of AVX2 are used wherever the processor has them, in a program that was built for any.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod blocks;
mod heads;
mod matrix;
mod plain;
mod rounded;

pub(super) use blocks::unpacked;
pub(super) use heads::{attend, gate, normed};
pub(super) use matrix::{Matrix, multiply};
