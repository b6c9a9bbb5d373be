//! Matrices of weights, and their products with rows.

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::{
    plain,
    rounded::{BLOCK, Rounded, RoundedRow},
};

/// Weights: rows of numbers, each made of `columns`.
pub(in super::super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) form: Form,
}

/// How the numbers are kept. In blocks of [`BLOCK`]: a scale times a whole number, plus the least number.
pub(super) enum Form {
    /// Whole numbers from 0 to 15, two in a byte: the first half of a block in the low halves of its bytes.
    Int4 { quants: Vec<[u8; BLOCK / 2]>, scales: Vec<f32>, least: Vec<f32> },
    /// Whole numbers with a sign. Each half of a block has a scale; `least` is empty where it is 0 everywhere.
    Int8 { quants: Vec<[i8; BLOCK]>, scales: Vec<[f32; 2]>, least: Vec<f32> },
    /// As they are.
    Float(Vec<f32>),
}

/// A row of [`Form::Int4`].
#[derive(Clone, Copy)]
pub(super) struct Int4Row<'a> {
    pub(super) quants: &'a [[u8; BLOCK / 2]],
    pub(super) scales: &'a [f32],
    pub(super) least: &'a [f32],
}

/// A row of [`Form::Int8`].
#[derive(Clone, Copy)]
pub(super) struct Int8Row<'a> {
    pub(super) quants: &'a [[i8; BLOCK]],
    pub(super) scales: &'a [[f32; 2]],
    pub(super) least: &'a [f32],
}

#[derive(Clone, Copy)]
enum Row<'a> {
    Int4(Int4Row<'a>),
    Int8(Int8Row<'a>),
    Float(&'a [f32]),
}

impl Matrix {
    /// Of numbers as they are, row by row: `rows` × `columns` of them.
    pub(in super::super) fn float(values: Vec<f32>, rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "the caller counted");
        Self { rows, columns, form: Form::Float(values) }
    }

    pub(in super::super) const fn rows(&self) -> usize {
        self.rows
    }

    /// The numbers of one row.
    pub(in super::super) fn row(&self, number: usize) -> Vec<f32> {
        match self.at(number) {
            Row::Float(row) => row.to_vec(),
            Row::Int4(row) => {
                let blocks = row.quants.iter().zip(row.scales).zip(row.least);
                let halves = |quants: &[u8; BLOCK / 2]| quants.map(|two| two & 15).into_iter().chain(quants.map(|two| two >> 4));
                blocks.flat_map(|((quants, scale), least)| halves(quants).map(move |quant| f32::from(quant) * scale + least)).collect()
            }
            Row::Int8(row) => {
                let number_at = |at: usize| {
                    let (block, within) = (at / BLOCK, at % BLOCK);
                    let least = row.least.get(block).copied().unwrap_or(0.0);
                    f32::from(row.quants[block][within]) * row.scales[block][within / (BLOCK / 2)] + least
                };
                (0..self.columns).map(number_at).collect()
            }
        }
    }

    fn at(&self, number: usize) -> Row<'_> {
        let blocks = self.columns / BLOCK;
        let range = number * blocks..(number + 1) * blocks;
        match &self.form {
            Form::Float(values) => Row::Float(&values[number * self.columns..(number + 1) * self.columns]),
            Form::Int4 { quants, scales, least } => {
                Row::Int4(Int4Row { quants: &quants[range.clone()], scales: &scales[range.clone()], least: &least[range] })
            }
            Form::Int8 { quants, scales, least } => {
                let least = least.get(range.clone()).unwrap_or_default();
                Row::Int8(Int8Row { quants: &quants[range.clone()], scales: &scales[range], least })
            }
        }
    }

    const fn is_float(&self) -> bool {
        matches!(self.form, Form::Float(_))
    }
}

/// The products of each matrix with the rows of `input`, which are as wide as the matrices: for each matrix its rows' results, one input row after the other.
pub(in super::super) fn multiply<const M: usize>(matrices: [&Matrix; M], input: &[f32]) -> [Vec<f32>; M] {
    /// Fewer products than this are sooner done than shared out.
    const ALONE: usize = 200_000;
    /// Parts for each thread: one that is held up leaves its last ones to the others.
    const PARTS: usize = 4;
    let columns = matrices[0].columns;
    let count = input.len() / columns;
    let rounded = if matrices.iter().all(|matrix| matrix.is_float()) { Rounded::default() } else { Rounded::of(input) };
    let rows: usize = matrices.iter().map(|matrix| matrix.rows).sum();
    let alone = rows * columns * count < ALONE;
    let part_rows = if alone { rows } else { rows.div_ceil(PARTS * rayon::current_num_threads()).next_multiple_of(4) };
    let mut results = matrices.map(|matrix| vec![0.0; matrix.rows * count]);
    let parts: Vec<Part<'_>> = matrices
        .into_iter()
        .zip(&mut results)
        .flat_map(|(matrix, out)| {
            let parts = out.chunks_mut(part_rows * count).enumerate();
            parts.map(move |(number, out)| (matrix, number * part_rows, out))
        })
        .map(|(matrix, first, out)| Part { matrix, first, count, input, rounded: &rounded, out })
        .collect();
    if alone {
        parts.into_iter().for_each(Part::compute);
    } else {
        parts.into_par_iter().for_each(Part::compute);
    }
    results.map(|result| by_input(result, count))
}

/// From a row for each row of the matrix to a row for each row of the input.
fn by_input(result: Vec<f32>, count: usize) -> Vec<f32> {
    if count == 1 {
        return result;
    }
    let rows = result.len() / count;
    let mut turned = Vec::with_capacity(result.len());
    for number in 0..count {
        turned.extend((0..rows).map(|row| result[row * count + number]));
    }
    turned
}

/// Some rows of a matrix with all rows of the input.
struct Part<'a> {
    matrix: &'a Matrix,
    first: usize,
    count: usize,
    input: &'a [f32],
    rounded: &'a Rounded,
    /// For each row of the matrix, `count` results.
    out: &'a mut [f32],
}

impl<'a> Part<'a> {
    fn compute(self) {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(WithAvx2(self, simd));
        }
        self.compute_plainly();
    }

    fn compute_plainly(self) {
        let inputs = self.inputs();
        for (row, out) in self.out.chunks_mut(self.count).enumerate() {
            let row = self.matrix.at(self.first + row);
            for (input, out) in inputs.iter().zip(out) {
                *out = match row {
                    Row::Int4(row) => plain::int4(row, input.rounded),
                    Row::Int8(row) => plain::int8(row, input.rounded),
                    Row::Float(row) => plain::float(row, input.exact),
                };
            }
        }
    }

    fn inputs(&self) -> Vec<Input<'a>> {
        let columns = self.matrix.columns;
        let input = |number: usize| Input {
            exact: &self.input[number * columns..(number + 1) * columns],
            rounded: self.rounded.row(number, if self.matrix.is_float() { 0 } else { columns / BLOCK }),
        };
        (0..self.count).map(input).collect()
    }
}

/// A row of the input in both forms; the rounded one is empty where no weights need it.
#[derive(Clone, Copy)]
struct Input<'a> {
    exact: &'a [f32],
    rounded: RoundedRow<'a>,
}

#[cfg(target_arch = "x86_64")]
struct WithAvx2<'a>(Part<'a>, pulp::x86::V3);

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for WithAvx2<'_> {
    type Output = ();

    // Inlined into the one function of the library that is compiled for these instructions.
    #[inline(always)]
    fn call(self) {
        use super::avx2::{float, int4, int8};
        let Self(part, simd) = self;
        let inputs = part.inputs();
        let (fours, singles) = inputs.as_chunks::<4>();
        for (row, out) in part.out.chunks_mut(part.count).enumerate() {
            let row = part.matrix.at(part.first + row);
            let (out_fours, out_singles) = out.as_chunks_mut::<4>();
            for (inputs, out) in fours.iter().zip(out_fours) {
                *out = match row {
                    Row::Int4(row) => int4(simd, row, inputs.map(|input| input.rounded)),
                    Row::Int8(row) => int8(simd, row, inputs.map(|input| input.rounded)),
                    Row::Float(row) => float(simd, row, inputs.map(|input| input.exact)),
                };
            }
            for (input, out) in singles.iter().zip(out_singles) {
                [*out] = match row {
                    Row::Int4(row) => int4(simd, row, [input.rounded]),
                    Row::Int8(row) => int8(simd, row, [input.rounded]),
                    Row::Float(row) => float(simd, row, [input.exact]),
                };
            }
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
