//! Owns the linear read-out from a vector to a task's labels.

use super::train::Fitted;

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

/// softmax(W x + b): multinomial logistic regression, the scaling of the inputs folded into W and b.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// \[n_in, n_labels\], a row per label.
    pub weights: Vec<f32>,
    /// \[n_labels\]
    pub bias: Vec<f32>,
}

impl Probe {
    /// Reads a vector \[n_in\].
    pub fn read(&self, x: &[f32]) -> Reading {
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>();
        let logits: Vec<f32> = self.weights.chunks_exact(x.len()).zip(&self.bias).map(|(w, b)| dot(w) + b).collect();
        softmax_reading(&logits)
    }

    pub(super) fn from_fit(fit: &Fitted) -> Probe {
        let [n_in, n_labels] = [fit.mean.len(), fit.bias.len()];
        let weight = |label: usize, i: usize| fit.weights[[i, label]] / fit.scale[i];
        let shift = |label: usize| (0..n_in).map(|i| weight(label, i) * fit.mean[i]).sum::<f64>();
        Probe {
            weights: (0..n_labels).flat_map(|l| (0..n_in).map(move |i| weight(l, i) as f32)).collect(),
            bias: (0..n_labels).map(|l| (fit.bias[l] - shift(l)) as f32).collect(),
        }
    }
}

/// The reading of logits; of equals the first wins.
pub fn softmax_reading(logits: &[f32]) -> Reading {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|x| (x - max).exp()).sum();
    let label = logits.iter().position(|&x| x == max).unwrap_or(0);
    let others = logits.iter().enumerate().filter(|(i, _)| *i != label).map(|(_, x)| *x);
    let second = others.fold(f32::NEG_INFINITY, f32::max);
    let top = 1.0 / sum;
    Reading { label, top, gap: top - (second - max).exp() / sum }
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
    }

    #[test]
    fn a_probe_reads_rows() {
        let probe = Probe { weights: vec![1.0, 0.0, 0.0, 1.0], bias: vec![0.0, 0.5] };
        assert_eq!(probe.read(&[1.0, 0.25]).label, 0);
        assert_eq!(probe.read(&[0.5, 0.25]).label, 1);
    }
}
