//! The properties of devices and functions that do not change: those of an H100, but for what the script says.

use std::ffi::{c_int, c_uint};

use crate::state::Part;

/// Threads of one block.
pub(super) const BLOCK_THREADS: u32 = 1_024;
/// Threads of one block, by dimension.
pub(super) const BLOCK: [u32; 3] = [1_024, 1_024, 64];
/// Blocks of one grid, by dimension.
pub(super) const GRID: [u32; 3] = [2_147_483_647, 65_535, 65_535];
/// Bytes of shared memory that a kernel may ask for, unless it was given more.
pub(super) const SHARED_BYTES: u32 = 49_152;
/// Bytes of shared memory that a kernel may be given.
pub(super) const SHARED_BYTES_MAX: u32 = 232_448;

/// NVIDIA's number of the property → its value.
pub(super) fn of_device(attribute: c_uint, part: &Part<'_>) -> c_int {
    let (major, minor) = part.gpu.compute_capability;
    let mut numbers = part.gpu.pci_bus_id.split([':', '.']).map(|digits| u32::from_str_radix(digits, 16).unwrap_or(0));
    let [domain, bus, slot] = [(); 3].map(|()| numbers.next().unwrap_or(0));
    let value = match attribute {
        1 => BLOCK_THREADS,
        2..=4 => BLOCK[attribute as usize - 2],
        5..=7 => GRID[attribute as usize - 5],
        8 => SHARED_BYTES,
        9 | 12 | 82 => 65_536,
        10 => 32,
        11 => 2_147_483_647,
        13 => part.gpu.sm_clock_mhz * 1_000,
        // Multiprocessors.
        16 => 132,
        // The GPU overlaps copies, maps host memory, runs kernels side by side, has one address space, stream priorities, managed memory,
        // cooperative launches, registered host memory and memory pools.
        15 | 19 | 31 | 41 | 78 | 83 | 90 | 95 | 99 | 115 => 1,
        32 => u32::from(part.gpu.ecc_enabled),
        33 => bus,
        34 => slot,
        36 => 2_619_000,
        37 => 5_120,
        38 => 52_428_800,
        39 => 2_048,
        40 => 3,
        50 => domain,
        75 => major,
        76 => minor,
        81 => 233_472,
        97 => SHARED_BYTES_MAX,
        106 => 32,
        134 => part.gpu.numa_node,
        _ => 0,
    };
    c_int::try_from(value).unwrap_or(c_int::MAX)
}
