//! The sums for any processor.

use super::{
    matrix::{Int4Row, Int8Row},
    rounded::RoundedRow,
};

/// How many sums go on beside each other: what a processor's wide registers hold.
const LANES: usize = 8;

pub(super) fn int4(row: Int4Row<'_>, input: RoundedRow<'_>) -> f32 {
    let mut sum = 0.0;
    for (block, packed) in row.quants.iter().enumerate() {
        let other = &input.quants[block];
        let pairs = packed.iter().enumerate();
        let whole: i32 =
            pairs.map(|(at, two)| i32::from(two & 15) * i32::from(other[at]) + i32::from(two >> 4) * i32::from(other[at + 16])).sum();
        sum += whole as f32 * (row.scales[block] * input.scales[block]) + row.least[block] * input.sums[block];
    }
    sum
}

pub(super) fn int8(row: Int8Row<'_>, input: RoundedRow<'_>) -> f32 {
    let mut sum = 0.0;
    for (block, quants) in row.quants.iter().enumerate() {
        let halves = quants.as_chunks::<16>().0.iter().zip(input.quants[block].as_chunks::<16>().0);
        for ((one, other), scale) in halves.zip(row.scales[block]) {
            let whole: i32 = one.iter().zip(other).map(|(one, other)| i32::from(*one) * i32::from(*other)).sum();
            sum += whole as f32 * (scale * input.scales[block]);
        }
        sum += row.least.get(block).map_or(0.0, |least| least * input.sums[block]);
    }
    sum
}

/// The product of two rows, in [`LANES`] sums that are added in the end.
pub(super) fn float(one: &[f32], other: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (ones, rest_of_one) = one.as_chunks::<LANES>();
    let (others, rest_of_other) = other.as_chunks::<LANES>();
    for (one, other) in ones.iter().zip(others) {
        for ((sum, one), other) in sums.iter_mut().zip(one).zip(other) {
            *sum += one * other;
        }
    }
    let rest: f32 = rest_of_one.iter().zip(rest_of_other).map(|(one, other)| one * other).sum();
    added(sums) + rest
}

/// Always in the same order.
#[inline(always)]
pub(super) fn added(sums: [f32; LANES]) -> f32 {
    ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
}
