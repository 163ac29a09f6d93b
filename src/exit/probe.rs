//! Owns the linear read-out from a vector to a task's labels.

/// What a checkpoint makes of a vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The best label.
    pub label: usize,
    /// Its probability.
    pub top: f32,
    /// Its distance to the second best.
    pub gap: f32,
}

impl Reading {
    /// Of a label of two, by its probability alone.
    pub fn of_chance(label: usize, chance: f32) -> Reading {
        Reading { label, top: chance, gap: 2.0 * chance - 1.0 }
    }
}

/// softmax(W x + b): multinomial logistic regression, the scaling of the inputs folded into W and b.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// \[n_in, n_labels\], a row per label.
    pub weights: Vec<f32>,
    /// \[n_labels\]
    pub bias: Vec<f32>,
}

impl Probe {
    /// The label of a confidence ([`super::Input::Confidence`]) that says "right": 0 says "wrong".
    pub const RIGHT: usize = 1;

    /// Reads a vector \[n_in\].
    pub fn read(&self, x: &[f32]) -> Reading {
        softmax_reading(&self.logits(x))
    }

    /// The probability of a label, by a vector \[n_in\]; `None` of a label that the read-out does not know.
    pub fn chance_of(&self, label: usize, x: &[f32]) -> Option<f32> {
        let logits = self.logits(x);
        let own = *logits.get(label)?;
        // Beside its own logit: where another is far larger the sum is infinite, and the chance 0, as it should be.
        let others = logits.iter().map(|logit| (logit - own).exp());
        Some(1.0 / others.sum::<f32>())
    }

    fn logits(&self, x: &[f32]) -> Vec<f32> {
        self.weights.chunks_exact(x.len()).zip(&self.bias).map(|(w, b)| dot(w, x) + b).collect()
    }
}

/// A scalar product in sums side by side, which take a fraction of the time of one sum: each addition waits for the last.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    // Lanes first, the rest last: the same order whatever compiles it, so the same bits.
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum += a * b);
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// The reading of logits; of equals the first wins.
pub fn softmax_reading(logits: &[f32]) -> Reading {
    let (label, max, second) = best_two(logits);
    // The largest becomes 1, the others less: nothing overflows.
    let sum: f32 = logits.iter().map(|x| (x - max).exp()).sum();
    let top = 1.0 / sum;
    Reading { label, top, gap: top - (second - max).exp() / sum }
}

/// The reading of probabilities, at least one; of equals the first wins.
pub fn reading_of(chances: &[f32]) -> Reading {
    let (label, top, second) = best_two(chances);
    Reading { label, top, gap: top - second.max(0.0) }
}

/// The place of the largest value, the first of equals; it, and the largest of the others, -inf where there is none.
fn best_two(values: &[f32]) -> (usize, f32, f32) {
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(f32::NEG_INFINITY, f32::max);
    let best = largest(&mut values.iter().copied());
    // By place, not by value: two labels may be equally good, and then the gap is 0.
    let place = values.iter().position(|&x| x == best).unwrap_or(0);
    let second = largest(&mut values.iter().enumerate().filter(|(i, _)| *i != place).map(|(_, x)| *x));
    (place, best, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_are_probabilities() {
        let reading = softmax_reading(&[0.0, 3f32.ln(), f32::NEG_INFINITY]);
        assert_eq!(reading.label, 1);
        assert!((reading.top - 0.75).abs() < 1e-6 && (reading.gap - 0.5).abs() < 1e-6, "{reading:?}");
        assert_eq!(softmax_reading(&[1.0]), Reading { label: 0, top: 1.0, gap: 1.0 });
        assert_eq!(reading_of(&[0.25, 0.75, 0.0]), Reading { label: 1, top: 0.75, gap: 0.5 });
        assert_eq!(reading_of(&[1.0]), softmax_reading(&[1.0]));
    }

    #[test]
    fn a_probe_reads_rows() {
        let probe = Probe { weights: vec![1.0, 0.0, 0.0, 1.0], bias: vec![0.0, 0.5] };
        assert_eq!(probe.read(&[1.0, 0.25]).label, 0);
        assert_eq!(probe.read(&[0.5, 0.25]).label, 1);
    }
}
