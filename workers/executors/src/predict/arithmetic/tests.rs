//! Each kernel against 64-bit sums of the very numbers that the matrix holds.

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use proptest::prelude::*;

use super::{super::unpacked, *};

const ROWS: usize = 7;
const COLUMNS: usize = 512;

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

fn quantised(format: GgmlDType, seed: u64) -> QTensor {
    let tensor = Tensor::from_vec(numbers(ROWS * COLUMNS, seed), (ROWS, COLUMNS), &Device::Cpu).unwrap();
    QTensor::quantize(&tensor, format).unwrap()
}

const FORMATS: [GgmlDType; 8] =
    [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q4K, GgmlDType::Q5_0, GgmlDType::Q5K, GgmlDType::Q6K, GgmlDType::Q8_0, GgmlDType::F32];

#[test]
fn every_format_is_unpacked_to_the_numbers_of_the_library() {
    for format in FORMATS {
        let tensor = quantised(format, 3);
        let theirs: Vec<Vec<f32>> = tensor.dequantize(&Device::Cpu).unwrap().to_vec2().unwrap();
        let matrix = unpacked(&tensor).unwrap();
        for (number, theirs) in theirs.iter().enumerate() {
            for (ours, theirs) in matrix.row(number).iter().zip(theirs) {
                assert!((ours - theirs).abs() <= 1e-6, "{format:?}: {ours} and {theirs}");
            }
        }
    }
}

/// What the product would be with exact sums of the rounded input.
fn exact(matrix: &Matrix, input: &[f32]) -> Vec<f64> {
    let rounded = Rounded::of(input);
    let input: Vec<f32> = if matrix.is_float() {
        input.to_vec()
    } else {
        (0..COLUMNS / BLOCK)
            .flat_map(|block| {
                let block = rounded.row(block, 1);
                block.quants[0].map(|quant| f32::from(quant) * block.scales[0])
            })
            .collect()
    };
    let product = |row: usize| matrix.row(row).iter().zip(&input).map(|(one, other)| f64::from(*one) * f64::from(*other)).sum();
    (0..ROWS).map(product).collect()
}

#[test]
fn products_are_those_of_exact_sums_with_and_without_avx2() {
    for format in FORMATS {
        let matrix = unpacked(&quantised(format, 5)).unwrap();
        let input = numbers(COLUMNS, 9);
        let [ours] = multiply([&matrix], &input);
        let mut plainly = vec![0.0; ROWS];
        let rounded = Rounded::of(&input);
        Part { matrix: &matrix, first: 0, count: 1, input: &input, rounded: &rounded, out: &mut plainly }.compute_plainly();
        for ((ours, plain), exact) in ours.iter().zip(&plainly).zip(exact(&matrix, &input)) {
            assert!(
                (f64::from(*ours) - exact).abs() < 1e-3 && (f64::from(*plain) - exact).abs() < 1e-3,
                "{format:?}: {ours}, {plain}, {exact}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_row_gives_the_same_bits_whatever_rows_are_beside_it(count in 1_usize..12, seed in any::<u64>(), format in prop::sample::select(FORMATS.to_vec())) {
        let matrix = unpacked(&quantised(format, seed)).unwrap();
        let input = numbers(COLUMNS * count, seed ^ 1);
        let [together] = multiply([&matrix], &input);
        for (number, row) in input.chunks(COLUMNS).enumerate() {
            let [alone] = multiply([&matrix], row);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&alone), bits(&together[number * ROWS..(number + 1) * ROWS]));
        }
    }
}
