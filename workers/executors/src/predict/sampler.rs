//! Choosing the next token. Its own random numbers, so that a seed means the same text in every build.

/// Draws tokens from logits.
#[derive(Debug, Clone)]
pub(super) struct Sampler {
    temperature: f64,
    state: u64,
}

impl Sampler {
    pub(super) const fn new(temperature: f64, seed: u64) -> Self {
        Self { temperature, state: seed }
    }

    /// The next token: the likeliest at temperature 0, else drawn. `logits` is not empty.
    pub(super) fn choose(&mut self, logits: &[f32]) -> u32 {
        let best = likeliest(logits);
        if self.temperature == 0.0 {
            return best;
        }
        let highest = f64::from(logits[best as usize]);
        let weights: Vec<f64> = logits.iter().map(|logit| ((f64::from(*logit) - highest) / self.temperature).exp()).collect();
        let mut left = self.unit() * weights.iter().sum::<f64>();
        for (token, weight) in (0..).zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return token;
            }
        }
        best
    }

    /// A number in `0.0..1.0`, by SplitMix64.
    fn unit(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The first of the highest.
fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    u32::try_from(best).expect("vocabularies have far fewer than 2^32 tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_zero_takes_the_first_of_the_likeliest() {
        assert_eq!(Sampler::new(0.0, 1).choose(&[0.5, 3.0, -1.0, 3.0]), 1);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        // Probabilities 1/7, 2/7, 4/7.
        let logits = [1.0_f32.ln(), 2.0_f32.ln(), 4.0_f32.ln()];
        let mut sampler = Sampler::new(1.0, 42);
        let mut counts = [0.0; 3];
        for _ in 0..70_000 {
            counts[sampler.choose(&logits) as usize] += 1.0;
        }
        for (count, wanted) in counts.iter().zip([10_000.0, 20_000.0, 40_000.0_f64]) {
            assert!((count - wanted).abs() < 4.0 * wanted.sqrt(), "{counts:?}");
        }
    }

    #[test]
    fn a_low_temperature_nears_the_likeliest_and_extremes_do_no_harm() {
        let logits = [1.0, 2.0, f32::NEG_INFINITY];
        for temperature in [1e-300, 1e-3, 2.0] {
            let mut sampler = Sampler::new(temperature, 9);
            let drawn: Vec<u32> = (0..100).map(|_| sampler.choose(&logits)).collect();
            assert!(drawn.iter().all(|token| *token < 2), "{drawn:?}");
            assert!(temperature > 1.0 || drawn.iter().all(|token| *token == 1), "{drawn:?}");
        }
    }

    #[test]
    fn a_seed_always_means_the_same_draws() {
        let logits = [0.0; 1_000];
        let mut sampler = Sampler::new(1.0, 7);
        let drawn: Vec<u32> = (0..5).map(|_| sampler.choose(&logits)).collect();
        assert_eq!(drawn, [389, 16, 900, 582, 452]);
    }
}
