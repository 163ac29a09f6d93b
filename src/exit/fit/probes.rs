//! The fitting of a policy's read-outs, one for each candidate depth.

use rayon::prelude::*;

use super::classes::fit_classes;
use super::{FOLDS, Row};
use crate::exit::{Probe, Reading};

/// Strengths of regularization that are tried for read-outs of many inputs.
const ALPHAS: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];

/// By candidate, by row: readings of probes fitted without the row's fold.
pub(super) fn probe_readings(
    rows: &[Row],
    targets: &[usize],
    folds: &[usize],
    n_candidates: usize,
    alpha: f64,
) -> Result<Vec<Vec<Reading>>, String> {
    // All of them side by side: no fit waits for another.
    let fits: Vec<(usize, usize)> = (0..n_candidates).flat_map(|i| (0..FOLDS).map(move |fold| (i, fold))).collect();
    let probes: Vec<Probe> = fits
        .into_par_iter()
        .map(|(i, fold)| fit_probe(rows, targets, i, Some((folds, fold)), alpha))
        .collect::<Result<_, String>>()?;
    let read = |i: usize, r: usize| probes[i * FOLDS + folds[r]].read(&rows[r].inputs[i]);
    Ok((0..n_candidates).into_par_iter().map(|i| (0..rows.len()).map(|r| read(i, r)).collect()).collect())
}

/// Fits the inputs of candidate `i` to the targets; with `without`, leaves out one fold.
pub(super) fn fit_probe(
    rows: &[Row],
    targets: &[usize],
    i: usize,
    without: Option<(&[usize], usize)>,
    alpha: f64,
) -> Result<Probe, String> {
    let kept: Vec<usize> = (0..rows.len()).filter(|&r| without.is_none_or(|(folds, fold)| folds[r] != fold)).collect();
    let x: Vec<&[f32]> = kept.iter().map(|&r| rows[r].inputs[i].as_slice()).collect();
    let y: Vec<usize> = kept.iter().map(|&r| targets[r]).collect();
    // On the folds that are left: what a row is predicted by must not have seen it.
    let mut probe = fit_classes(&x, &y, alpha)?;
    // All of a policy's read-outs have all labels.
    let n_labels = targets.iter().max().map_or(0, |m| m + 1).max(2);
    probe.weights.resize(n_labels * x[0].len(), 0.0);
    probe.bias.resize(n_labels, -1e3);
    Ok(probe)
}

/// The strength of regularization that predicts held-out rows best, by their log-likelihood at three of the candidates.
pub(super) fn strength(rows: &[Row], targets: &[usize], n_candidates: usize) -> Result<f64, String> {
    let cut = rows.len() * 4 / 5;
    let likelihood = |alpha: f64, i: usize| {
        let x: Vec<&[f32]> = rows.iter().map(|row| row.inputs[i].as_slice()).collect();
        let probe = fit_classes(&x[..cut], &targets[..cut], alpha)?;
        let of_row = |(x, &y): (&&[f32], &usize)| {
            let reading = probe.read(x);
            // Of the wrong label only the rest is known; bounded, or one row would decide alone.
            let p = if reading.label == y { reading.top } else { 1.0 - reading.top };
            f64::from(p.max(1e-6)).ln()
        };
        Ok(x[cut..].iter().zip(&targets[cut..]).map(of_row).sum::<f64>())
    };
    // Three stand for all: every strength is fitted at each of them.
    let places = [n_candidates / 4, n_candidates / 2, n_candidates * 3 / 4];
    let tried: Vec<(f64, f64)> = ALPHAS
        .into_par_iter()
        .map(|alpha| Ok((places.iter().map(|&i| likelihood(alpha, i)).sum::<Result<f64, String>>()?, alpha)))
        .collect::<Result<_, String>>()?;
    Ok(tried.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or(ALPHAS[0], |best| best.1))
}
