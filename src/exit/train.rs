//! Owns the fitting of a policy to what full depth did: read-outs per layer, and thresholds that reach a wanted rate.
//! Everything is decided on predictions for rows that the predicting fit has not seen.

use linfa::prelude::*;
use linfa_logistic::MultiLogisticRegression;
use ndarray::{Array1, Array2};
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::StdRng};
use rayon::prelude::*;

use super::{Checkpoint, Input, Probe, Reading, Rule, Svm, Target, softmax_reading};

/// One training row.
#[derive(Clone, Debug)]
pub struct Row {
    /// What each candidate layer gives to read: \[n_in\] each.
    pub inputs: Vec<Vec<f32>>,
    /// Top and gap over the vocabulary at each candidate layer; empty unless they are read.
    pub top_gaps: Vec<[f32; 2]>,
    /// Whether the best token of the whole vocabulary is full depth's, at each candidate layer: what the paper's classifier
    /// is fitted to; empty unless the vocabulary is read.
    pub same_token: Vec<bool>,
    /// The label that full depth gives.
    pub full: usize,
    /// The true label.
    pub truth: usize,
}

/// How to fit.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is read.
    pub input: Input,
    /// What it is fitted to.
    pub target: Target,
    /// Let a support vector machine decide on top and gap, instead of a threshold on top.
    pub svm: bool,
    /// With [`Target::Model`], the share of rows that shall get full depth's answer.
    pub agreement: f64,
    /// With [`Target::Truth`], the accuracy that may be lost against the best single layer.
    pub loss: f64,
    /// Of folds.
    pub seed: u64,
}

/// What a policy will do, estimated on rows that its fits had not seen.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Where to look, in rising order.
    pub checkpoints: Vec<Checkpoint>,
    /// Share of rows whose answer is the target's.
    pub right: f64,
    /// Mean layers.
    pub mean_layers: f64,
    /// Of each candidate layer: the share of rows where its best label is the target's.
    pub right_by_layer: Vec<f64>,
    /// Of each candidate layer: the share of rows that stop there.
    pub stops_by_layer: Vec<f64>,
}

const FOLDS: usize = 5;

/// Strengths of regularization that are tried, for every fit of many inputs.
const ALPHAS: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];

/// Fits checkpoints at the candidate `layers` (rising) of a model with `n_layer` layers.
pub fn train(rows: &[Row], layers: &[usize], n_layer: usize, options: &Options) -> Result<Trained, String> {
    let targets: Vec<usize> =
        rows.iter().map(|r| if options.target == Target::Model { r.full } else { r.truth }).collect();
    let n_labels = targets.iter().max().map_or(0, |m| m + 1);
    if rows.len() < 10 * FOLDS || n_labels < 2 {
        return Err(format!(
            "expected at least {} rows and two labels, found {} and {n_labels}",
            10 * FOLDS,
            rows.len()
        ));
    }
    let folds = folds(rows.len(), options.seed);
    let readings = match options.input {
        Input::Vocabulary => raw_readings(rows, layers.len()),
        _ => probe_readings(rows, &targets, &folds, layers.len())?,
    };
    let right_by_layer: Vec<f64> = readings.iter().map(|of_layer| share(of_layer, &targets)).collect();
    let (rules, out_of_fold) = if options.svm {
        svm_rules(rows, &readings, &targets, &folds)?
    } else {
        let wanted = match options.target {
            Target::Model => options.agreement,
            Target::Truth => right_by_layer.iter().copied().fold(0.0, f64::max) - options.loss,
        };
        let thresholds = best_thresholds(&readings, &targets, layers, n_layer, wanted, options.target);
        (thresholds.iter().map(|&t| Rule::Threshold(t)).collect(), stops_at(&thresholds, &readings))
    };
    let walked = walk(&readings, &out_of_fold, &targets, layers, n_layer, options.target);
    let mut checkpoints = Vec::new();
    for (i, rule) in rules.into_iter().enumerate() {
        if walked.stops[i] == 0 {
            continue; // nobody stops there: not worth a look
        }
        let probe = match options.input {
            Input::Vocabulary => None,
            _ => Some(Probe::from_fit(&fit_layer(rows, &targets, i, None)?)),
        };
        checkpoints.push(Checkpoint { layer: layers[i], probe, rule });
    }
    let n = rows.len() as f64;
    Ok(Trained {
        checkpoints,
        right: walked.right as f64 / n,
        mean_layers: walked.layers as f64 / n,
        right_by_layer,
        stops_by_layer: walked.stops.iter().map(|&s| s as f64 / n).collect(),
    })
}

/// Which fold each row belongs to.
fn folds(n: usize, seed: u64) -> Vec<usize> {
    let mut folds: Vec<usize> = (0..n).map(|i| i % FOLDS).collect();
    folds.shuffle(&mut StdRng::seed_from_u64(seed));
    folds
}

fn share(readings: &[Reading], targets: &[usize]) -> f64 {
    let right = readings.iter().zip(targets).filter(|(r, t)| r.label == **t).count();
    right as f64 / targets.len() as f64
}

/// By layer, by row.
type Readings = Vec<Vec<Reading>>;

fn raw_readings(rows: &[Row], n_layers: usize) -> Readings {
    let read = |row: &Row, i: usize| {
        let [top, gap] = row.top_gaps[i];
        Reading { top, gap, ..softmax_reading(&row.inputs[i]) }
    };
    (0..n_layers).map(|i| rows.iter().map(|row| read(row, i)).collect()).collect()
}

/// Readings of probes fitted without the row's fold.
fn probe_readings(rows: &[Row], targets: &[usize], folds: &[usize], n_layers: usize) -> Result<Readings, String> {
    (0..n_layers)
        .into_par_iter()
        .map(|i| {
            let probes = (0..FOLDS)
                .map(|fold| Ok(Probe::from_fit(&fit_layer(rows, targets, i, Some((folds, fold)))?)))
                .collect::<Result<Vec<_>, String>>()?;
            Ok(rows.iter().zip(folds).map(|(row, &fold)| probes[fold].read(&row.inputs[i])).collect())
        })
        .collect()
}

/// A fitted read-out of scaled inputs.
pub(super) struct Fitted {
    /// \[n_in, n_labels\]
    pub(super) weights: Array2<f64>,
    pub(super) bias: Vec<f64>,
    pub(super) mean: Vec<f64>,
    pub(super) scale: Vec<f64>,
}

/// Fits the inputs of candidate layer `i` to the targets; with `without`, leaves out one fold.
fn fit_layer(rows: &[Row], targets: &[usize], i: usize, without: Option<(&[usize], usize)>) -> Result<Fitted, String> {
    let kept: Vec<usize> = (0..rows.len()).filter(|&r| without.is_none_or(|(folds, fold)| folds[r] != fold)).collect();
    let x: Vec<&[f32]> = kept.iter().map(|&r| rows[r].inputs[i].as_slice()).collect();
    let y: Vec<usize> = kept.iter().map(|&r| targets[r]).collect();
    // Many inputs for few rows need more of it; found with ALPHAS on the demo model's tasks.
    let alpha = if x[0].len() > 16 { strength(&x, &y)? } else { 1.0 };
    fit(&x, &y, alpha)
}

/// The strength of regularization that predicts held-out rows best, by their log-likelihood.
fn strength(x: &[&[f32]], y: &[usize]) -> Result<f64, String> {
    let cut = x.len() * 4 / 5;
    let mut best = (f64::NEG_INFINITY, ALPHAS[0]);
    for alpha in ALPHAS {
        let probe = Probe::from_fit(&fit(&x[..cut], &y[..cut], alpha)?);
        let likelihood = x[cut..].iter().zip(&y[cut..]).map(|(x, &y)| {
            let reading = probe.read(x);
            let p = if reading.label == y { reading.top } else { 1.0 - reading.top };
            f64::from(p.max(1e-6)).ln()
        });
        best = [best, (likelihood.sum(), alpha)].into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or(best);
    }
    Ok(best.1)
}

fn fit(x: &[&[f32]], y: &[usize], alpha: f64) -> Result<Fitted, String> {
    let (n, n_in) = (x.len(), x[0].len());
    let column = |j: usize| x.iter().map(move |row| f64::from(row[j]));
    let mean: Vec<f64> = (0..n_in).map(|j| column(j).sum::<f64>() / n as f64).collect();
    let deviation = |j: usize| (column(j).map(|v| (v - mean[j]).powi(2)).sum::<f64>() / n as f64).sqrt();
    let scale: Vec<f64> = (0..n_in).map(|j| deviation(j).max(1e-6)).collect();
    let records = Array2::from_shape_fn((n, n_in), |(i, j)| (f64::from(x[i][j]) - mean[j]) / scale[j]);
    let dataset = Dataset::new(records, Array1::from(y.to_vec()));
    let fitted = MultiLogisticRegression::default()
        .alpha(alpha)
        .max_iterations(200)
        .gradient_tolerance(1e-3)
        .fit(&dataset)
        .map_err(|e| format!("a read-out cannot be fitted: {e}"))?;
    // A label that no row has gets no chance.
    let n_labels = y.iter().max().map_or(0, |m| m + 1);
    let mut weights = Array2::zeros((n_in, n_labels));
    let mut bias = vec![-1e3; n_labels];
    for (k, &label) in fitted.classes().iter().enumerate() {
        weights.column_mut(label).assign(&fitted.params().column(k));
        bias[label] = fitted.intercept()[k];
    }
    Ok(Fitted { weights, bias, mean, scale })
}

/// By candidate layer: the rule fitted to all rows; and by layer and row, what rules fitted without the row's fold say.
type Rules = (Vec<Rule>, Vec<Vec<bool>>);

fn svm_rules(rows: &[Row], readings: &Readings, targets: &[usize], folds: &[usize]) -> Result<Rules, String> {
    let of_layer = |(i, of_layer): (usize, &Vec<Reading>)| {
        let features: Vec<[f32; 2]> = of_layer.iter().map(|r| [r.top, r.gap]).collect();
        let label_is_right = |row: usize| of_layer[row].label == targets[row];
        let is_right = |row: usize| rows[row].same_token.get(i).copied().unwrap_or_else(|| label_is_right(row));
        let right: Vec<bool> = (0..rows.len()).map(is_right).collect();
        let mut said = vec![false; features.len()];
        for fold in 0..FOLDS {
            let kept: Vec<usize> = (0..features.len()).filter(|&i| folds[i] != fold).collect();
            let pick = |i: &usize| (features[*i], right[*i]);
            let (x, y): (Vec<_>, Vec<_>) = kept.iter().map(pick).unzip();
            let svm = Svm::fit(&x, &y)?;
            (0..said.len()).filter(|&i| folds[i] == fold).for_each(|i| said[i] = svm.decides(features[i]));
        }
        Ok((Rule::Svm(Svm::fit(&features, &right)?), said))
    };
    let both: Vec<(Rule, Vec<bool>)> = readings.par_iter().enumerate().map(of_layer).collect::<Result<_, String>>()?;
    Ok(both.into_iter().unzip())
}

/// The thresholds that save most layers while the wanted share of rows gets the target's answer: every layer gets the
/// lowest threshold above which its readings of the rows still there are right at a common rate, and that rate is the
/// lowest that will do.
fn best_thresholds(
    readings: &Readings,
    targets: &[usize],
    layers: &[usize],
    n_layer: usize,
    wanted: f64,
    target: Target,
) -> Vec<f32> {
    let mut best: Option<(usize, Vec<f32>)> = None;
    for step in 0..=60 {
        let rate = 0.7 + 0.005 * f64::from(step);
        let thresholds = thresholds_at(readings, targets, rate, target);
        let walked = walk(readings, &stops_at(&thresholds, readings), targets, layers, n_layer, target);
        let enough = walked.right as f64 >= wanted * targets.len() as f64;
        if enough && best.as_ref().is_none_or(|(layers, _)| walked.layers < *layers) {
            best = Some((walked.layers, thresholds));
        }
    }
    best.map_or_else(|| thresholds_at(readings, targets, 1.0, target), |(_, thresholds)| thresholds)
}

/// By layer, by row: whether the reading reaches the layer's threshold.
fn stops_at(thresholds: &[f32], readings: &Readings) -> Vec<Vec<bool>> {
    thresholds.iter().zip(readings).map(|(t, of_layer)| of_layer.iter().map(|r| r.top >= *t).collect()).collect()
}

fn thresholds_at(readings: &Readings, targets: &[usize], rate: f64, target: Target) -> Vec<f32> {
    /// Fewer rows than this say nothing about a rate.
    const LEAST: usize = 10;
    let mut remaining: Vec<usize> = (0..targets.len()).collect();
    let mut thresholds = Vec::new();
    for of_layer in readings {
        remaining.sort_by(|&a, &b| of_layer[b].top.total_cmp(&of_layer[a].top));
        let (mut right, mut n_stop) = (0, 0);
        for (i, &row) in remaining.iter().enumerate() {
            right += usize::from(of_layer[row].label == targets[row]);
            if i + 1 >= LEAST && right as f64 >= rate * (i + 1) as f64 {
                n_stop = i + 1;
            }
        }
        // Between the last row that stops and the first that goes on.
        let at = |i: usize| remaining.get(i).map_or(0.0, |&row| of_layer[row].top);
        thresholds.push(if n_stop == 0 { f32::INFINITY } else { (at(n_stop - 1) + at(n_stop)) / 2.0 });
        let threshold = thresholds[thresholds.len() - 1];
        remaining.retain(|&row| of_layer[row].top < threshold);
    }
    // Fitted to the truth, the last read-out knows more than full depth: whoever is left stops there.
    if target == Target::Truth
        && let Some(last) = thresholds.last_mut()
    {
        *last = 0.0;
    }
    thresholds
}

/// What happens to the training rows.
struct Walked {
    right: usize,
    layers: usize,
    stops: Vec<usize>,
}

fn walk(
    readings: &Readings,
    stops: &[Vec<bool>],
    targets: &[usize],
    layers: &[usize],
    n_layer: usize,
    target: Target,
) -> Walked {
    let mut walked = Walked { right: 0, layers: 0, stops: vec![0; layers.len()] };
    for (row, &wanted) in targets.iter().enumerate() {
        match (0..layers.len()).find(|&i| stops[i][row]) {
            Some(i) => {
                walked.right += usize::from(readings[i][row].label == wanted);
                walked.layers += layers[i];
                walked.stops[i] += 1;
            }
            None => {
                walked.right += usize::from(target == Target::Model);
                walked.layers += n_layer;
            }
        }
    }
    walked
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    /// Rows whose first input says the label better from layer to layer.
    fn rows(n: usize) -> Vec<Row> {
        let mut rng = StdRng::seed_from_u64(7);
        let row = |_| {
            let truth = rng.random_range(0..2usize);
            let sign = if truth == 1 { 1.0 } else { -1.0 };
            let mut input = |clarity: f32| {
                (0..4).map(|i| rng.random_range(-1.0..1.0) + if i == 0 { sign * clarity } else { 0.0 }).collect()
            };
            Row {
                inputs: vec![input(0.3), input(0.8), input(2.0)],
                top_gaps: Vec::new(),
                same_token: Vec::new(),
                full: truth,
                truth,
            }
        };
        (0..n).map(row).collect()
    }

    #[test]
    fn thresholds_reach_the_wanted_rate_and_save_layers() {
        let options =
            Options { input: Input::Hidden, target: Target::Model, svm: false, agreement: 0.97, loss: 0.0, seed: 1 };
        let trained = train(&rows(400), &[2, 4, 6], 8, &options).unwrap();
        assert!(trained.right >= 0.97, "{trained:?}");
        assert!(trained.mean_layers < 6.0, "{trained:?}");
        assert!(trained.right_by_layer.is_sorted(), "{trained:?}");
        let again = train(&rows(400), &[2, 4, 6], 8, &options).unwrap();
        assert_eq!(trained.checkpoints, again.checkpoints, "the same seed gives the same policy");
        let unseen = rows(1000).split_off(400);
        let last = trained.checkpoints.last().unwrap();
        let right = unseen.iter().filter(|r| last.decide(&r.inputs[2], None).0.label == r.truth).count();
        assert!(right > 570, "{right} of 600");
    }

    #[test]
    fn too_few_rows_are_refused() {
        let options =
            Options { input: Input::Hidden, target: Target::Truth, svm: false, agreement: 0.97, loss: 0.0, seed: 1 };
        assert!(train(&rows(20), &[2, 4, 6], 8, &options).unwrap_err().starts_with("expected at least 50 rows"));
    }
}
