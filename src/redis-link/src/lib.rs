//! One way to a Redis, for both back ends on it: connections, the time limit on everything, what passes by waiting, and the group commit.
//!
//! [`Link`] is a multiplexed connection for what is small and quick, and a small pool for what is large or slow, so that no quick call stands behind megabytes. [`Group`] lets
//! what a process has to tell one server at one moment travel as one call.

mod error;
mod group;
mod hash_slot;
mod link;
mod rider;
mod script_library;

pub use error::LinkError;
pub use group::{Call, Group, Item};
pub use hash_slot::hash_slot;
pub use link::Link;
pub use rider::{Ridden, Rider, ServerId};
pub use script_library::ScriptLibrary;
