//! One vector out of a model's answers for each word.

/// The average of the words of a text, filled-up places left out, with the length 1. `words` are the vectors of one text's places, one after the other.
pub(super) fn pooled(words: &[f32], dimensions: usize, length: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f32; dimensions];
    for word in words.chunks_exact(dimensions).take(length) {
        sums.iter_mut().zip(word).for_each(|(sum, number)| *sum += number);
    }
    sums.iter_mut().for_each(|sum| *sum /= length.max(1) as f32);
    normalised(sums)
}

/// The same direction, with the length 1; a vector of nothing stays one.
pub(super) fn normalised(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|number| *number = (f64::from(*number) / length) as f32);
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filled_up_places_do_not_count() {
        let words = [3.0, 0.0, 0.0, 4.0, 99.0, -99.0];
        assert_eq!(pooled(&words, 2, 2), [0.6, 0.8]);
        assert_eq!(pooled(&words[..2], 2, 1), [1.0, 0.0]);
        assert_eq!(normalised(vec![0.0, 0.0]), [0.0, 0.0]);
    }
}
