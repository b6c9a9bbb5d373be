//! The sums by the instructions of AVX2 and FMA, which a program that was built for any x86-64 may use where it has found them: the library's token is the proof.

use std::arch::x86_64::{__m128i, __m256, __m256i};

use pulp::{cast, x86::V3};

use super::{
    matrix::{Int4Row, Int8Row},
    plain,
    rounded::RoundedRow,
};

/// One row of weights with `N` rows of input at once: the weights are unpacked once. Each result is what it is for one row alone.
#[inline(always)]
pub(super) fn int4<const N: usize>(simd: V3, row: Int4Row<'_>, inputs: [RoundedRow<'_>; N]) -> [f32; N] {
    let blocks = row.quants.len();
    let weights = row.quants.iter().zip(row.scales).zip(row.least);
    let inputs = inputs.map(|input| cut(input, blocks));
    let (low, ones) = (simd.avx._mm256_set1_epi8(15), simd.avx._mm256_set1_epi16(1));
    let mut sums = [simd.avx._mm256_setzero_ps(); N];
    let mut under = [0.0_f32; N];
    for (block, ((quants, of_weights), least)) in weights.enumerate() {
        let packed: __m128i = cast(*quants);
        let high = simd.sse2._mm_srli_epi16::<4>(packed);
        let quants = simd.avx2._mm256_and_si256(simd.avx._mm256_set_m128i(high, packed), low);
        for (number, input) in inputs.iter().enumerate() {
            let other: __m256i = cast(input.quants[block]);
            // Pairs of at most 15 × 127 twice: they fit into 16 bits.
            let fours = simd.avx2._mm256_madd_epi16(simd.avx2._mm256_maddubs_epi16(quants, other), ones);
            let scale = simd.avx._mm256_set1_ps(of_weights * input.scales[block]);
            sums[number] = simd.fma._mm256_fmadd_ps(simd.avx._mm256_cvtepi32_ps(fours), scale, sums[number]);
            under[number] += least * input.sums[block];
        }
    }
    std::array::from_fn(|number| added(sums[number]) + under[number])
}

/// As [`int4`].
#[inline(always)]
pub(super) fn int8<const N: usize>(simd: V3, row: Int8Row<'_>, inputs: [RoundedRow<'_>; N]) -> [f32; N] {
    let blocks = row.quants.len();
    let weights = row.quants.iter().zip(row.scales);
    let inputs = inputs.map(|input| cut(input, blocks));
    let ones = simd.avx._mm256_set1_epi16(1);
    let mut sums = [simd.avx._mm256_setzero_ps(); N];
    for (block, (quants, [first, second])) in weights.enumerate() {
        let quants: __m256i = cast(*quants);
        // One side without its signs, the other with them: the product of unsigned by signed bytes is the one that there is. Pairs of at most 128 × 127 twice fit into 16 bits.
        let sizes = simd.avx2._mm256_sign_epi8(quants, quants);
        let of_weights = simd.avx._mm256_set_m128(simd.sse._mm_set1_ps(*second), simd.sse._mm_set1_ps(*first));
        for (number, input) in inputs.iter().enumerate() {
            let signed = simd.avx2._mm256_sign_epi8(cast(input.quants[block]), quants);
            let fours = simd.avx2._mm256_madd_epi16(simd.avx2._mm256_maddubs_epi16(sizes, signed), ones);
            let scale = simd.avx._mm256_mul_ps(of_weights, simd.avx._mm256_set1_ps(input.scales[block]));
            sums[number] = simd.fma._mm256_fmadd_ps(simd.avx._mm256_cvtepi32_ps(fours), scale, sums[number]);
        }
    }
    std::array::from_fn(|number| {
        let under: f32 = row.least.iter().zip(inputs[number].sums).map(|(least, sum)| least * sum).sum();
        added(sums[number]) + under
    })
}

/// As [`int4`], of numbers that were not rounded.
#[inline(always)]
pub(super) fn float<const N: usize>(simd: V3, row: &[f32], inputs: [&[f32]; N]) -> [f32; N] {
    let (chunks, rest) = row.as_chunks::<8>();
    let inputs = inputs.map(|input| input.as_chunks::<8>());
    let wide = inputs.map(|(wide, _)| &wide[..chunks.len()]);
    let mut sums = [[simd.avx._mm256_setzero_ps(); 2]; N];
    for (at, weights) in chunks.iter().enumerate() {
        let weights: __m256 = cast(*weights);
        for (number, input) in wide.iter().enumerate() {
            // Two sums in turn: an instruction need not wait for the one before it.
            let sum = &mut sums[number][at % 2];
            *sum = simd.fma._mm256_fmadd_ps(weights, cast(input[at]), *sum);
        }
    }
    std::array::from_fn(|number| {
        let rest: f32 = rest.iter().zip(inputs[number].1).map(|(one, other)| one * other).sum();
        added(simd.avx._mm256_add_ps(sums[number][0], sums[number][1])) + rest
    })
}

/// Shows the compiler that a row has that many blocks.
#[inline(always)]
fn cut(row: RoundedRow<'_>, blocks: usize) -> RoundedRow<'_> {
    RoundedRow { quants: &row.quants[..blocks], scales: &row.scales[..blocks], sums: &row.sums[..blocks] }
}

#[inline(always)]
fn added(sums: __m256) -> f32 {
    plain::added(cast(sums))
}
