//! Attention and what is done number by number.

use super::plain;

/// What one head takes from the positions before it: `keys` and `values` are rows of `width` numbers, a position each, in which this head's begin at `first`. `out` is as wide as `query`.
pub(in super::super) fn attend(query: &[f32], keys: &[f32], values: &[f32], (width, first): (usize, usize), out: &mut [f32]) {
    let head = Head { query, keys, values, width, first, out };
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(WithAvx2(head, simd));
    }
    head.attend(plain::float);
}

struct Head<'a> {
    query: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    width: usize,
    first: usize,
    out: &'a mut [f32],
}

impl Head<'_> {
    #[inline(always)]
    fn attend(self, product: impl Fn(&[f32], &[f32]) -> f32) {
        let Self { query, keys, values, width, first, out } = self;
        let size = query.len();
        let scale = 1.0 / (size as f32).sqrt();
        let mut shares: Vec<f32> = keys.chunks_exact(width).map(|key| product(query, &key[first..first + size]) * scale).collect();
        let highest = shares.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        for share in &mut shares {
            *share = (*share - highest).exp();
            total += *share;
        }
        out.fill(0.0);
        for (share, value) in shares.iter().zip(values.chunks_exact(width)) {
            let share = share / total;
            for (out, value) in out.iter_mut().zip(&value[first..first + size]) {
                *out += share * value;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
struct WithAvx2<'a>(Head<'a>, pulp::x86::V3);

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for WithAvx2<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self(head, simd) = self;
        head.attend(|one, other| {
            let [product] = super::avx2::float(simd, one, [other]);
            product
        });
    }
}

/// Rows brought to a mean square of 1, times `scales`.
pub(in super::super) fn normed(rows: &[f32], scales: &[f32], epsilon: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len());
    for row in rows.chunks_exact(scales.len()) {
        let inverse = 1.0 / (plain::float(row, row) / scales.len() as f32 + epsilon).sqrt();
        out.extend(row.iter().zip(scales).map(|(value, scale)| value * inverse * scale));
    }
    out
}

/// Each number of `gates`, times its logistic function, times the number of `ups`.
pub(in super::super) fn gate(gates: &mut [f32], ups: &[f32]) {
    for (gate, up) in gates.iter_mut().zip(ups) {
        *gate *= up / (1.0 + (-*gate).exp());
    }
}
