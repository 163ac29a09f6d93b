//! The fitting of a linear read-out: multinomial logistic regression.

use linfa::prelude::*;
use linfa_logistic::MultiLogisticRegression;
use ndarray::{Array1, Array2};

use crate::exit::Probe;

/// Fits the classes `y` of rows `x`, with inputs scaled to a mean of 0 and a deviation of 1. `alpha` is the strength of
/// regularization: half of it times the squared weights is added to the negative log-likelihood of all rows.
pub(super) fn fit_classes(x: &[&[f32]], y: &[usize], alpha: f64) -> Result<Probe, String> {
    let (n, n_in) = (x.len(), x[0].len());
    let column = |j: usize| x.iter().map(move |row| f64::from(row[j]));
    let mean: Vec<f64> = (0..n_in).map(|j| column(j).sum::<f64>() / n as f64).collect();
    let deviation = |j: usize| (column(j).map(|v| (v - mean[j]).powi(2)).sum::<f64>() / n as f64).sqrt();
    // An input that never changes has no deviation: the bound keeps its weight finite.
    let scale: Vec<f64> = (0..n_in).map(|j| deviation(j).max(1e-6)).collect();
    let records = Array2::from_shape_fn((n, n_in), |(i, j)| (f64::from(x[i][j]) - mean[j]) / scale[j]);
    let dataset = Dataset::new(records, Array1::from(y.to_vec()));
    let fitted = MultiLogisticRegression::default()
        .alpha(alpha)
        .max_iterations(100)
        .gradient_tolerance(TOLERANCE * n as f64)
        .fit(&dataset)
        .map_err(|e| format!("a read-out cannot be fitted: {e}"))?;
    let n_labels = y.iter().max().map_or(0, |m| m + 1);
    // A label that no row has gets no chance.
    let mut probe = Probe { weights: vec![0.0; n_in * n_labels], bias: vec![-1e3; n_labels] };
    for (k, &label) in fitted.classes().iter().enumerate() {
        let weight = |i: usize| fitted.params()[[i, k]] / scale[i];
        // Scaling and shifting go into the weights: whoever reads a vector reads it as it is.
        let shift: f64 = (0..n_in).map(|i| weight(i) * mean[i]).sum();
        (0..n_in).for_each(|i| probe.weights[label * n_in + i] = weight(i) as f32);
        probe.bias[label] = (fitted.intercept()[k] - shift) as f32;
    }
    Ok(probe)
}

/// A fit ends when its gradient, per row, is shorter than this: a hundredth of it changes no figure of docs/src/results.
const TOLERANCE: f64 = 1e-4;
