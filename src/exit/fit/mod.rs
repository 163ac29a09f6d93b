//! What is fitted: read-outs, lenses, the rules that decide a stop, and of all that a policy. With the feature `tasks` alone.

mod classes;
mod crf;
mod lens;
mod probes;
mod rules;
mod simulate;
mod train;

pub use lens::LensFit;
pub use rules::RuleKind;
pub use train::{train, train_confidence};

use super::{Checkpoint, Input, Reading, Target};
use crate::plan::Depth;

/// Rows are predicted by fits to the others, a fifth at a time.
const FOLDS: usize = 5;

/// One training row.
#[derive(Clone, Debug)]
pub struct Row {
    /// What each candidate gives to read, \[n_in\] each; empty where readings are given.
    pub inputs: Vec<Vec<f32>>,
    /// The reading at each candidate, of inputs that are not fitted.
    pub readings: Vec<Reading>,
    /// The answer of full depth.
    pub full: usize,
    /// The true answer.
    pub truth: usize,
}

/// How to fit.
#[derive(Clone, Debug)]
pub struct Options {
    /// What is seen.
    pub input: Input,
    /// What it is fitted to.
    pub target: Target,
    /// What decides; `None` tries all and keeps the best.
    pub rule: Option<RuleKind>,
    /// Look at every candidate and decide by the classifier's sign, as in the paper, instead of choosing checkpoints and
    /// thresholds for a wanted rate.
    pub plain: bool,
    /// With [`Target::Model`], the share of rows that shall get full depth's answer.
    pub agreement: f64,
    /// With [`Target::Truth`], the accuracy that may be lost against the best policy.
    pub loss: f64,
    /// What a look costs, in steps of the plan.
    pub look_cost: f64,
    /// Of folds.
    pub seed: u64,
}

/// What a rule will do, estimated on rows that neither its fit nor its thresholds have seen.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The rule.
    pub kind: RuleKind,
    /// One for all checkpoints, with depth as a feature.
    pub shared: bool,
    /// Share of rows whose answer is the target's.
    pub right: f64,
    /// Share of rows whose answer is true.
    pub accuracy: f64,
    /// Share of rows that stop before full depth.
    pub coverage: f64,
    /// Mean steps of the plan, looks not counted.
    pub mean_steps: f64,
    /// Mean steps and what the looks cost, in steps.
    pub mean_cost: f64,
}

/// A fitted policy.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Where to look, in rising order.
    pub checkpoints: Vec<Checkpoint<Depth>>,
    /// The rules that were tried.
    pub tried: Vec<Tried>,
    /// The one that was kept.
    pub kept: usize,
    /// Of each candidate: the share of rows where its best answer is the target's.
    pub right_by_candidate: Vec<f64>,
    /// Of each candidate: the share of rows that stop there.
    pub stops_by_candidate: Vec<f64>,
}
