//! One tensor on one GPU.

use std::sync::OnceLock;

use protocol::{Checksum, TensorName, TensorShape};

use crate::store::Room;

/// What a tensor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorAbout {
    /// Its name.
    pub name: TensorName,
    /// Its version; see [`TensorRecord::version`](protocol::TensorRecord::version).
    pub version: u64,
    /// What its numbers are.
    pub shape: TensorShape,
    /// Who made it.
    pub owner: String,
    /// When it was made, Unix time in ms.
    pub made_ms: u64,
    /// How long it is kept after its last use, in ms.
    pub ttl_ms: u64,
}

impl TensorAbout {
    /// Its length; 0 where its shape is larger than can be counted, which nobody lets through.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shape.bytes().unwrap_or(0)
    }
}

/// A tensor in the memory of a GPU. While anybody has an `Arc` of it, it stays there.
#[derive(Debug)]
pub struct Tensor {
    about: TensorAbout,
    // The order matters: the memory is given back before the room for it is.
    buffer: devices::DeviceBuffer,
    /// The sum over all of its bytes, once somebody has computed it. They do not change any more.
    sum: OnceLock<Checksum>,
    _room: Option<Room>,
}

impl Tensor {
    pub(crate) const fn new(about: TensorAbout, buffer: devices::DeviceBuffer) -> Self {
        Self { about, buffer, sum: OnceLock::new(), _room: None }
    }

    /// It counts against the bounds of a store until it is let go of.
    pub(crate) fn in_room(self, room: Room) -> Self {
        Self { _room: Some(room), ..self }
    }

    /// The sum over all of its bytes that its GPU computed, where it has.
    pub(crate) fn sum(&self) -> Option<Checksum> {
        self.sum.get().copied()
    }

    /// Keeps the sum over all of its bytes that its GPU computed. The first one stays: a copy that differs from it is not handed out, also where it was this memory that changed.
    pub(crate) fn keep_sum(&self, sum: Checksum) {
        // Who comes later has computed the same.
        let _ = self.sum.set(sum);
    }

    /// What it is.
    #[must_use]
    pub const fn about(&self) -> &TensorAbout {
        &self.about
    }

    /// Its bytes, on the GPU.
    #[must_use]
    pub const fn buffer(&self) -> &devices::DeviceBuffer {
        &self.buffer
    }
}
