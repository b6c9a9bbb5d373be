//! One attempt: its beginning in the store, its run, and what goes on beside it.

pub(crate) mod batching;
pub(crate) mod beginning;
pub(crate) mod crashing;
pub(crate) mod forecast;
pub(crate) mod items;
pub(crate) mod look_ahead;
pub(crate) mod memory;
pub(crate) mod progress;
pub(crate) mod running;
pub(crate) mod tensors;
