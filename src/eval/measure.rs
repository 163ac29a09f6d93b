//! Owns the running of questions beside each other: full depth, a policy, and a fixed set of skipped layers.

use std::time::{Duration, Instant};

use super::Error;
use crate::classify::{Asked, Item, Questions, answer, extractor, prepare};
use crate::engine::{Answer, Exits, Sequence, TokenId};
use crate::exit::{Input, Policy};
use crate::model::{Config, LayerStep};
use crate::plan::Depth;

/// What became of one question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Full depth answers truly.
    pub full_is_right: bool,
    /// The policy does.
    pub early_is_right: bool,
    /// The baseline does.
    pub fixed_is_right: bool,
    /// The policy's answer is full depth's.
    pub agrees: bool,
    /// Layers run for the policy's answer.
    pub layers: usize,
    /// Floating-point operations of full depth.
    pub full_flops: f64,
    /// Those of the policy, its looks included.
    pub early_flops: f64,
    /// Time of full depth.
    pub full_time: Duration,
    /// Time of the policy.
    pub early_time: Duration,
}

/// The outcomes of a task.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The task's name.
    pub task: String,
    /// Solved examples in every prompt.
    pub shots: usize,
    /// Layers of the model.
    pub n_layer: usize,
    /// The layers that the baseline skips.
    pub skipped: Vec<usize>,
    /// One for each question.
    pub outcomes: Vec<Outcome>,
}

/// How questions run.
#[derive(Clone, Copy, Debug)]
pub struct CompareRuns {
    /// The solved examples are evaluated once and kept, and not timed.
    pub keep_prefix: bool,
    /// Questions that run side by side.
    pub parallel: usize,
}

/// Answers questions at full depth and with a policy, by turns, and with the baseline's plan of layers.
pub fn evaluate(
    sequence: &mut Sequence,
    baseline: &mut Sequence,
    questions: &Questions<'_>,
    items: &[Item],
    policy: &Policy<Depth>,
    how: CompareRuns,
    progress: &mut dyn FnMut(usize),
) -> Result<Measured, Error> {
    let model = sequence.model().clone();
    let extractor = extractor(policy, questions, &model)?;
    let exits = Exits { checkpoints: &policy.checkpoints, extractor: &extractor };
    let cost = Cost::of(model.config(), policy);
    let mut outcomes: Vec<Outcome> = Vec::new();
    let asked: Vec<Asked> = items.iter().map(|item| questions.of_item(item)).collect();
    if let Some(first) = asked.first() {
        full_depth(sequence, std::slice::from_ref(first), how)?; // warm-up
    }
    let batches: Vec<&[Asked]> =
        asked.chunk_by(|a, b| a.prefix == b.prefix).flat_map(|same| same.chunks(how.parallel.max(1))).collect();
    for (i, batch) in batches.into_iter().enumerate() {
        let fixed = full_depth(baseline, batch, how)?.0;
        let (mut full, mut early) = (None, None);
        // By turns, so that a slow moment of the machine hits both.
        for which in [i % 2, (i + 1) % 2] {
            if which == 0 {
                full = Some(full_depth(sequence, batch, how)?);
            } else {
                early = Some(run(sequence, batch, Some(exits), how)?);
            }
        }
        let (Some((full, full_time)), Some((early, early_time))) = (full, early) else { continue };
        for (((asked, full), early), fixed) in batch.iter().zip(full).zip(early).zip(fixed) {
            let n = batch.len() as u32;
            outcomes.push(Outcome {
                full_is_right: asked.is_right(full.answer),
                early_is_right: asked.is_right(early.answer),
                fixed_is_right: asked.is_right(fixed.answer),
                agrees: full.answer == early.answer,
                // Steps and layers are one at full depth.
                layers: early.depth.0,
                full_flops: cost.of_answer(asked, full.depth, false, how),
                early_flops: cost.of_answer(asked, early.depth, true, how),
                full_time: full_time / n,
                early_time: early_time / n,
            });
        }
        progress(outcomes.len());
    }
    let n_layer = sequence.n_steps();
    let skipped = (0..n_layer).filter(|il| !baseline.plan().iter().any(|step| step.il == *il)).collect();
    let task = questions.task();
    Ok(Measured { task: task.name.clone(), shots: task.shots, n_layer, skipped, outcomes })
}

fn full_depth(sequence: &mut Sequence, batch: &[Asked], how: CompareRuns) -> Result<(Vec<Answer>, Duration), Error> {
    run(sequence, batch, None, how)
}

/// Answers questions of one prefix side by side, with exits each as early as it may; and the time of that.
pub(super) fn run(
    sequence: &mut Sequence,
    batch: &[Asked],
    exits: Option<Exits<'_>>,
    how: CompareRuns,
) -> Result<(Vec<Answer>, Duration), Error> {
    // Outside of the time: what questions share is evaluated once for all of them.
    prepare(sequence, &batch[0], if how.keep_prefix { batch[0].n_kept } else { 0 }, exits)?;
    let start = Instant::now();
    let answers = answer(sequence, batch, exits)?;
    Ok((answers, start.elapsed()))
}

/// The baseline: the run of `n` neighbouring layers whose absence keeps most of full depth's answers to these items.
/// `sequence_of` makes a sequence that runs a plan. Returns its plan.
pub fn fixed_plan(
    sequence: &mut Sequence,
    questions: &Questions<'_>,
    items: &[Item],
    n: usize,
    how: CompareRuns,
    sequence_of: &mut dyn FnMut(Vec<LayerStep>) -> Result<Sequence, crate::engine::Error>,
) -> Result<Vec<LayerStep>, Error> {
    let n_layer = sequence.n_steps();
    if n == 0 {
        return Ok(sequence.plan().to_vec());
    }
    let asked: Vec<Asked> = items.iter().map(|item| questions.of_item(item)).collect();
    let answers = |sequence: &mut Sequence| {
        let of = |asked: &Asked| Ok(full_depth(sequence, std::slice::from_ref(asked), how)?.0[0].answer);
        asked.iter().map(of).collect::<Result<Vec<usize>, Error>>()
    };
    let full = answers(sequence)?;
    let mut best: Option<(usize, Vec<LayerStep>)> = None;
    // The first layer makes the state that all others work on.
    for first in 1..=(n_layer - n).max(1) {
        let left_out = first..first + n;
        let stays = |step: &&LayerStep| !left_out.contains(&step.il);
        let plan: Vec<LayerStep> = sequence.plan().iter().filter(stays).copied().collect();
        let mut sequence = sequence_of(plan.clone())?;
        let same = answers(&mut sequence)?.iter().zip(&full).filter(|(a, b)| a == b).count();
        if best.as_ref().is_none_or(|(most, _)| same > *most) {
            best = Some((same, plan));
        }
    }
    Ok(best.map_or_else(Vec::new, |(_, plan)| plan))
}

/// Counts floating-point operations: two for each weight of a matrix and row, and those of attention.
struct Cost<'p> {
    config: Config,
    policy: &'p Policy<Depth>,
}

impl Cost<'_> {
    fn of<'p>(config: &Config, policy: &'p Policy<Depth>) -> Cost<'p> {
        Cost { config: config.clone(), policy }
    }

    fn of_answer(&self, asked: &Asked, depth: Depth, early: bool, how: CompareRuns) -> f64 {
        let n_prefix = asked.prefix.len();
        let first = if how.keep_prefix { asked.n_kept } else { 0 };
        let rows_from = |first: usize, end: usize| (first..end).map(|position| self.layer(position)).sum::<f64>();
        let of_part = |part: &Vec<TokenId>| rows_from(n_prefix, n_prefix + part.len());
        let rows = rows_from(first, n_prefix) + asked.parts.iter().map(of_part).sum::<f64>();
        let shown: usize = asked.question().branches.iter().map(|branch| branch.shown).sum();
        let n_layer = self.config.n_layer;
        let heads = if depth.0 == n_layer { self.head() * shown as f64 } else { 0.0 };
        let looks = self.policy.checkpoints.iter().filter(|checkpoint| early && checkpoint.at <= depth).count();
        depth.0 as f64 * rows + heads + (looks * shown) as f64 * self.look()
    }

    /// One row through one layer.
    fn layer(&self, position: usize) -> f64 {
        let c = &self.config;
        2.0 * c.layer_weights() as f64 + 4.0 * (c.n_embd_q() * (position + 1)) as f64
    }

    fn head(&self) -> f64 {
        2.0 * self.config.head_weights() as f64
    }

    fn look(&self) -> f64 {
        let n_embd = self.config.n_embd as f64;
        let has_lens = self.policy.checkpoints.iter().any(|checkpoint| checkpoint.lens.is_some());
        match self.policy.input {
            Input::Hidden | Input::Labels => 2.0 * n_embd * self.policy.labels.len() as f64,
            Input::Confidence => 2.0 * n_embd,
            Input::Vocabulary | Input::Choices if has_lens => self.head() + 2.0 * n_embd * n_embd,
            Input::Vocabulary | Input::Choices => self.head(),
        }
    }
}

impl Measured {
    fn share(&self, is: impl Fn(&Outcome) -> bool) -> f64 {
        self.outcomes.iter().filter(|o| is(o)).count() as f64 / self.outcomes.len().max(1) as f64
    }

    /// Share of right answers at full depth.
    pub fn accuracy_full(&self) -> f64 {
        self.share(|o| o.full_is_right)
    }

    /// Share of right answers of the policy.
    pub fn accuracy_early(&self) -> f64 {
        self.share(|o| o.early_is_right)
    }

    /// Share of right answers of the baseline.
    pub fn accuracy_fixed(&self) -> f64 {
        self.share(|o| o.fixed_is_right)
    }

    /// Share of the policy's answers that are full depth's.
    pub fn agreement(&self) -> f64 {
        self.share(|o| o.agrees)
    }

    /// Mean and variance of the layers run.
    pub fn layers(&self) -> (f64, f64) {
        let n = self.outcomes.len().max(1) as f64;
        let mean = self.outcomes.iter().map(|o| o.layers as f64).sum::<f64>() / n;
        let variance = self.outcomes.iter().map(|o| (o.layers as f64 - mean).powi(2)).sum::<f64>() / n;
        (mean, variance)
    }

    /// The policy's floating-point operations over full depth's.
    pub fn flop_share(&self) -> f64 {
        let sum = |of: fn(&Outcome) -> f64| self.outcomes.iter().map(of).sum::<f64>();
        sum(|o| o.early_flops) / sum(|o| o.full_flops)
    }

    /// Seconds of all answers: full depth, policy.
    pub fn seconds(&self) -> (f64, f64) {
        let sum = |time: fn(&Outcome) -> Duration| self.outcomes.iter().map(|o| time(o).as_secs_f64()).sum();
        (sum(|o| o.full_time), sum(|o| o.early_time))
    }

    /// How many times faster the policy was.
    pub fn speedup(&self) -> f64 {
        let (full, early) = self.seconds();
        full / early
    }

    /// How many times faster it would be if time went with layers.
    pub fn ideal_speedup(&self) -> f64 {
        self.n_layer as f64 / self.layers().0
    }

    /// Half the width of the 95 % confidence interval of a share of the answers.
    pub fn half_interval(&self, p: f64) -> f64 {
        wilson(p, self.outcomes.len())
    }
}

/// Half the width of a 95 % confidence interval of a share `p` of `n` (Wilson's score interval).
pub(super) fn wilson(p: f64, n: usize) -> f64 {
    let (z, n) = (1.96f64, n.max(1) as f64);
    z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt()
}
