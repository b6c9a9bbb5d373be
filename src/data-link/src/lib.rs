//! How the bytes of tensors travel between processes, past broker and Redis: a data port for each GPU, and its client.
//!
//! [`Served`] is what a port serves; `workers/tensors` has the one implementation, and tests others. [`Client`] reads, writes and frees tensors through a port. Every piece carries a checksum, and a reading
//! that broke off goes on where it was.

mod client;
mod error;
mod served;
mod server;
mod wire;

pub use client::{Client, ClientLimits, Dialled, Wire};
pub use error::LinkError;
pub use served::{FetchOrder, NewTensor, Opened, Reading, Refused, RefusedBecause, Served, Writing};
pub use server::{DataServer, ServerLimits, serve_stream};
