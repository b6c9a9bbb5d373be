//! Positions: each pair of neighbouring numbers of a head is turned by an angle that grows with the position.

/// The angles of a model.
pub(super) struct Turns {
    /// By how much a position turns each pair.
    speeds: Vec<f32>,
}

/// How Llama 3.1 and later stretch the slow turns to contexts longer than those they were trained on.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
pub(super) struct Stretch {
    factor: f32,
    low_freq_factor: f32,
    high_freq_factor: f32,
    original_max_position_embeddings: usize,
}

impl Turns {
    /// The first `turned` numbers of each head are turned, the later pairs the slower.
    pub(super) fn new(turned: usize, base: f32) -> Self {
        let speeds = (0..turned).step_by(2).map(|at| 1.0 / base.powf(at as f32 / turned as f32)).collect();
        Self { speeds }
    }

    /// Turns that take longer than the original context to go around are slowed down by the factor, quick ones are left, and those between are slowed down in part.
    pub(super) fn stretched(mut self, stretch: Stretch) -> Self {
        let Stretch { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: original } = stretch;
        for speed in &mut self.speeds {
            let rounds = original as f32 * *speed / (2.0 * std::f32::consts::PI);
            let kept = ((rounds - low) / (high - low)).clamp(0.0, 1.0);
            *speed = (1.0 - kept) * (*speed / factor) + kept * *speed;
        }
        self
    }

    /// The turn that belongs to a position.
    pub(super) fn at(&self, position: usize) -> Turn {
        Turn(self.speeds.iter().map(|speed| (position as f32 * speed).sin_cos()).collect())
    }
}

/// Sine and cosine of each pair's angle at one position.
pub(super) struct Turn(Vec<(f32, f32)>);

impl Turn {
    /// Turns one head's numbers.
    pub(super) fn turn(&self, head: &mut [f32]) {
        for ([first, second], (sin, cos)) in head.as_chunks_mut::<2>().0.iter_mut().zip(&self.0) {
            (*first, *second) = (*first * cos - *second * sin, *first * sin + *second * cos);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_distance_of_two_positions_counts() {
        let turns = Turns::new(4, 10_000.0);
        let product = |one: usize, other: usize| {
            let (mut query, mut key) = ([0.3, -1.0, 0.7, 0.2, 5.0], [0.9, 0.1, -0.4, 0.8, 2.0]);
            turns.at(one).turn(&mut query);
            turns.at(other).turn(&mut key);
            assert_eq!((query[4], key[4]), (5.0, 2.0), "beyond the turned ones nothing changes");
            query.iter().zip(key).map(|(one, other)| one * other).sum::<f32>()
        };
        assert!((product(3, 1) - product(45, 43)).abs() < 1e-4 && (product(3, 1) - product(5, 1)).abs() > 0.1);
    }

    #[test]
    fn slow_turns_are_stretched_and_quick_ones_are_left() {
        let stretch = Stretch { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8_192 };
        let (plain, stretched) = (Turns::new(128, 500_000.0), Turns::new(128, 500_000.0).stretched(stretch));
        assert_eq!((plain.speeds[0], plain.speeds[63] / 8.0), (stretched.speeds[0], stretched.speeds[63]));
        assert!(plain.speeds.iter().zip(&stretched.speeds).any(|(plain, slow)| *slow < *plain && *slow > *plain / 8.0));
    }
}
