//! Who holds which GPU, and until when: one port, two back ends, one conformance suite.
//!
//! [`GpuTable`] is the port. `memory` is the specification in plain Rust; `redis` does the same in atomic scripts, and a property test
//! compares the two answer by answer.

mod changing;
mod copies;
mod described;
pub mod eligibility;
mod error;
mod known_kinds;
mod living;
mod memory;
mod redis;
mod table;
mod wanted;
mod weights;
mod wishing;

pub use self::redis::RedisTable;
pub use changing::change_settings;
pub use error::TableError;
pub use known_kinds::{KindsView, KnownKinds};
pub use living::{Lack, Living, PoolView};
pub use memory::{MemoryTable, TableCopy};
pub use table::{
    Beat, DESCRIPTIONS_MAX, GpuTable, Heartbeat, Leases, Seen, Sighting, TENSOR_NAMES_MAX, TENSORS_TOLD_MAX, Telling, UNSERVED_MAX,
    VersionDraw, VersionWanted,
};
pub(crate) use table::{DESCRIBED_FOR_LEASES, KNOWN_FOR, TENSOR_LOOKS, TENSORS_FOR, TENSORS_FOR_LEASES, UNSERVED_FOR};
pub use wanted::Wanted;
pub use wishing::{WishFailed, wish_for_model};
