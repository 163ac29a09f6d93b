//! Owns the rules that decide a stop and their fitting: a classifier for each checkpoint, or one for all that knows the depth.

use linfa::prelude::*;
use linfa_svm::Svm as LinfaSvm;
use ndarray::{Array1, Array2};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::classes::fit_classes;
use super::crf;
use crate::exit::{Reading, Scorer, Svm};

/// What makes a score of top and gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// Top itself.
    Threshold,
    /// Logistic regression on top and gap.
    Logistic,
    /// A support vector machine, linear.
    SvmLinear,
    /// A support vector machine with a Gaussian kernel.
    Svm,
    /// A conditional random field over the checkpoints.
    Crf,
}

/// Width of the Gaussian kernel: top, gap and depth lie between 0 and 1.
const WIDTH: f32 = 0.1;

/// The penalty of a training row on the wrong side.
const COST: f64 = 1.0;

/// Where the solver stops: LIBSVM's default. The crate's own is 10,000 times finer and takes minutes.
const TOLERANCE: f64 = 1e-3;

/// A support vector machine sees this many looks at most: its kernel matrix is square.
const SVM_LOOKS: usize = 1000;

/// A chain is fitted to this many rows at most.
const CRF_ROWS: usize = 2000;

/// What rules are fitted to: by checkpoint, by row, the reading, and whether stopping there was right.
pub(super) struct Looks<'a> {
    pub(super) readings: &'a [Vec<Reading>],
    pub(super) right: &'a [Vec<bool>],
    /// Of each checkpoint: what has run over what there is.
    pub(super) depths: &'a [f32],
}

/// top, gap, depth; and whether stopping was right.
type Look = ([f32; 3], bool);

impl RuleKind {
    /// Fits the `rows` of the looks: a scorer for each checkpoint. With `shared`, one classifier serves all checkpoints with
    /// depth as a feature; depth being constant at each, it becomes part of that checkpoint's constants.
    pub(super) fn fit(self, looks: &Looks<'_>, rows: &[usize], shared: bool, seed: u64) -> Result<Vec<Scorer>, String> {
        let n = looks.depths.len();
        let look = |i: usize, r: usize| {
            let Reading { top, gap, .. } = looks.readings[i][r];
            ([top, gap, looks.depths[i]], looks.right[i][r])
        };
        match self {
            RuleKind::Threshold => Ok(vec![Scorer::Top; n]),
            RuleKind::Crf => {
                // A chain is what one row shows from look to look.
                let chain = |&r: &usize| (0..n).map(|i| (looks.readings[i][r], looks.right[i][r])).collect();
                let chains: Vec<Vec<(Reading, bool)>> = rows.iter().take(CRF_ROWS).map(chain).collect();
                Ok(crf::fit(&chains, looks.depths, shared)?.into_iter().map(Scorer::Crf).collect())
            }
            _ if shared => {
                // Depth is one of the inputs, so looks at all checkpoints are of one kind.
                let all: Vec<Look> = (0..n).flat_map(|i| rows.iter().map(move |&r| look(i, r))).collect();
                let fitted = self.fit_classifier(all, seed)?;
                Ok(looks.depths.iter().map(|&depth| fitted.at(depth)).collect())
            }
            _ => (0..n)
                .into_par_iter()
                .map(|i| {
                    let own: Vec<Look> = rows.iter().map(|&r| look(i, r)).collect();
                    Ok(self.fit_classifier(own, seed)?.at(looks.depths[i]))
                })
                .collect(),
        }
    }

    fn fit_classifier(self, mut looks: Vec<Look>, seed: u64) -> Result<Classifier, String> {
        let n_right = looks.iter().filter(|look| look.1).count();
        // One class is nothing to tell apart, and solvers refuse it: always, or never.
        if n_right == 0 || n_right == looks.len() {
            let bias = if n_right == 0 { -1.0 } else { 1.0 };
            return Ok(Classifier::Linear { weights: [0.0; 3], bias });
        }
        if self == RuleKind::Logistic {
            let x: Vec<&[f32]> = looks.iter().map(|(x, _)| x.as_slice()).collect();
            let y: Vec<usize> = looks.iter().map(|(_, right)| usize::from(*right)).collect();
            let fitted = fit_classes(&x, &y, 1.0)?;
            let weight = |j: usize| fitted.weights[3 + j] - fitted.weights[j];
            let bias = fitted.bias[1] - fitted.bias[0];
            return Ok(Classifier::Linear { weights: [weight(0), weight(1), weight(2)], bias });
        }
        // Before they are cut off: the first rows may be of one kind.
        looks.shuffle(&mut StdRng::seed_from_u64(seed));
        looks.truncate(SVM_LOOKS);
        self.fit_svm(&looks)
    }

    fn fit_svm(self, looks: &[Look]) -> Result<Classifier, String> {
        let records = Array2::from_shape_fn((looks.len(), 3), |(i, j)| f64::from(looks[i].0[j]));
        let dataset = Dataset::new(records, looks.iter().map(|look| look.1).collect::<Array1<bool>>());
        let params = LinfaSvm::<f64, bool>::params().pos_neg_weights(COST, COST).eps(TOLERANCE);
        let is_linear = self == RuleKind::SvmLinear;
        let params = if is_linear { params.linear_kernel() } else { params.gaussian_kernel(f64::from(WIDTH)) };
        let fitted = params.fit(&dataset).map_err(|e| format!("the support vector machine cannot be fitted: {e}"))?;
        let used = looks.iter().zip(&fitted.alpha).filter(|(_, alpha)| alpha.abs() > 1e-9);
        let (vectors, alpha): (Vec<[f32; 3]>, Vec<f32>) = used.map(|(look, &alpha)| (look.0, alpha as f32)).unzip();
        let rho = fitted.rho as f32;
        if is_linear {
            let weight = |j: usize| vectors.iter().zip(&alpha).map(|(v, alpha)| alpha * v[j]).sum();
            return Ok(Classifier::Linear { weights: [weight(0), weight(1), weight(2)], bias: -rho });
        }
        Ok(Classifier::Gaussian { vectors, alpha, rho })
    }
}

/// A classifier of top, gap and depth.
enum Classifier {
    Linear { weights: [f32; 3], bias: f32 },
    Gaussian { vectors: Vec<[f32; 3]>, alpha: Vec<f32>, rho: f32 },
}

impl Classifier {
    /// What it is where the depth is known.
    fn at(&self, depth: f32) -> Scorer {
        match self {
            Classifier::Linear { weights: [top, gap, slope], bias } => {
                Scorer::Linear { weights: [*top, *gap], bias: bias + slope * depth }
            }
            Classifier::Gaussian { vectors, alpha, rho } => {
                let near = |v: &[f32; 3]| (-(v[2] - depth).powi(2) / WIDTH).exp();
                Scorer::Svm(Svm {
                    vectors: vectors.iter().map(|v| [v[0], v[1]]).collect(),
                    alpha: vectors.iter().zip(alpha).map(|(v, alpha)| alpha * near(v)).collect(),
                    rho: *rho,
                    width: WIDTH,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Decision;

    #[test]
    fn every_rule_learns_where_stopping_is_right() {
        let depths = [0.4, 0.6, 0.8];
        // The deeper, the less top is needed.
        let reading = |i: usize, r: usize| Reading {
            label: 0,
            top: (r * 37 % 400) as f32 / 400.0,
            gap: (r * (i + 7) % 400) as f32 / 400.0,
        };
        let readings: Vec<Vec<Reading>> = (0..3).map(|i| (0..400).map(|r| reading(i, r)).collect()).collect();
        let right: Vec<Vec<bool>> =
            (0..3).map(|i| readings[i].iter().map(|x| x.top > 0.9 - depths[i] * 0.8).collect()).collect();
        let looks = Looks { readings: &readings, right: &right, depths: &depths };
        let rows: Vec<usize> = (0..400).collect();
        for kind in [RuleKind::Logistic, RuleKind::SvmLinear, RuleKind::Svm, RuleKind::Crf] {
            for shared in [false, true] {
                let scorers = kind.fit(&looks, &rows, shared, 1).unwrap();
                let mut agree = 0;
                for r in 0..400 {
                    let mut decision = Decision::default();
                    agree += (0..3)
                        .filter(|&i| (decision.score(&scorers[i], &readings[i][r]) >= 0.0) == right[i][r])
                        .count();
                }
                assert!(agree >= 1040, "{kind:?}, shared {shared}: {agree} of 1200");
            }
        }
    }

    #[test]
    fn the_kept_machine_is_the_librarys() {
        let looks: Vec<Look> =
            (0..150).map(|i| ([i as f32 / 150.0, (i * 7 % 150) as f32 / 150.0, 0.5], i > 90)).collect();
        let records = Array2::from_shape_fn((150, 3), |(i, j)| f64::from(looks[i].0[j]));
        let targets = looks.iter().map(|look| look.1).collect::<Array1<bool>>();
        for kind in [RuleKind::SvmLinear, RuleKind::Svm] {
            let params = LinfaSvm::<f64, bool>::params().pos_neg_weights(COST, COST).eps(TOLERANCE);
            let params =
                if kind == RuleKind::Svm { params.gaussian_kernel(f64::from(WIDTH)) } else { params.linear_kernel() };
            let library = params.fit(&Dataset::new(records.clone(), targets.clone())).unwrap();
            let ours = kind.fit_svm(&looks).unwrap().at(0.5);
            for (i, (x, _)) in looks.iter().enumerate() {
                let reading = Reading { label: 0, top: x[0], gap: x[1] };
                let says: bool = library.predict(records.row(i).to_owned());
                assert_eq!(Decision::default().score(&ours, &reading) >= 0.0, says, "{kind:?} {i}");
            }
        }
    }
}
