//! Rows of numbers rounded to 8 bits.

/// How many numbers share a scale.
pub(super) const BLOCK: usize = 32;

/// Rows in blocks of [`BLOCK`] numbers.
#[derive(Default)]
pub(super) struct Rounded {
    quants: Vec<[i8; BLOCK]>,
    scales: Vec<f32>,
    /// What the numbers of a block come to together.
    sums: Vec<f32>,
}

/// One of the rows.
#[derive(Clone, Copy)]
pub(super) struct RoundedRow<'a> {
    pub(super) quants: &'a [[i8; BLOCK]],
    pub(super) scales: &'a [f32],
    pub(super) sums: &'a [f32],
}

impl Rounded {
    /// The length of `values` is a multiple of [`BLOCK`].
    pub(super) fn of(values: &[f32]) -> Self {
        let mut rounded = Self::default();
        for block in values.as_chunks::<BLOCK>().0 {
            let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let scale = largest / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let quants = block.map(|value| nearest(value * inverse));
            rounded.sums.push(scale * quants.iter().map(|quant| i32::from(*quant)).sum::<i32>() as f32);
            rounded.quants.push(quants);
            rounded.scales.push(scale);
        }
        rounded
    }

    /// Row `number` of rows of `blocks` blocks.
    pub(super) fn row(&self, number: usize, blocks: usize) -> RoundedRow<'_> {
        let range = number * blocks..(number + 1) * blocks;
        RoundedRow { quants: &self.quants[range.clone()], scales: &self.scales[range.clone()], sums: &self.sums[range] }
    }
}

/// The nearest whole number, without the call that `round` is on a processor that was not asked for: adding and taking away 1.5 × 2^23 leaves no digits after the point.
fn nearest(value: f32) -> i8 {
    const SHIFT: f32 = 12_582_912.0;
    ((value + SHIFT) - SHIFT) as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_within_half_a_step_and_the_largest_is_exact() {
        let values: Vec<f32> = (0..96_i16).map(|n| f32::from(n * n % 89 - 40) * 0.37).collect();
        let rounded = Rounded::of(&values);
        for (number, block) in values.as_chunks::<BLOCK>().0.iter().enumerate() {
            let row = rounded.row(number, 1);
            let back = row.quants[0].map(|quant| f32::from(quant) * row.scales[0]);
            assert!(block.iter().zip(back).all(|(value, back)| (value - back).abs() <= row.scales[0] * 0.5001));
            assert!((back.iter().sum::<f32>() - row.sums[0]).abs() < 1e-3);
            assert!(row.quants[0].iter().any(|quant| quant.abs() == 127));
        }
        assert_eq!(Rounded::of(&[0.0; BLOCK]).row(0, 1).quants[0], [0; BLOCK]);
    }
}
