//! Owns the running of questions beside each other: full depth, a policy, and a fixed set of skipped layers.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::features::FeatureExtractor;
use super::questions::{Asked, Questions};
use super::{Error, Item};
use crate::engine::{Branch, Cut, Sequence, TokenId, View};
use crate::exit::{Decision, Input, Lens, Policy};
use crate::model::{Config, LayerStep};

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

/// An answer and the layers it took.
pub(super) type Answer = (usize, usize);

/// Answers questions at full depth and with a policy, by turns, and with the baseline's plan of layers.
pub fn evaluate(
    sequence: &mut Sequence,
    baseline: &mut Sequence,
    questions: &Questions<'_>,
    items: &[Item],
    policy: &Policy,
    how: CompareRuns,
    progress: &mut dyn FnMut(usize),
) -> Result<Measured, Error> {
    let model = sequence.model().clone();
    let lenses: Vec<(usize, &Lens)> =
        policy.checkpoints.iter().filter_map(|c| Some((c.layer, c.lens.as_ref()?))).collect();
    let extractor = FeatureExtractor::new(policy.input, questions, lenses, &model)?;
    let cost = Cost::of(model.config(), policy);
    let mut outcomes: Vec<Outcome> = Vec::new();
    let asked: Vec<Asked> = items.iter().map(|item| questions.of_item(item)).collect();
    if let Some(first) = asked.first() {
        full_depth(sequence, questions, std::slice::from_ref(first), how)?; // warm-up
    }
    let batches: Vec<&[Asked]> =
        asked.chunk_by(|a, b| a.prefix == b.prefix).flat_map(|same| same.chunks(how.parallel.max(1))).collect();
    for (i, batch) in batches.into_iter().enumerate() {
        let fixed = full_depth(baseline, questions, batch, how)?.0;
        let (mut full, mut early) = (None, None);
        // By turns, so that a slow moment of the machine hits both.
        for which in [i % 2, (i + 1) % 2] {
            if which == 0 {
                full = Some(full_depth(sequence, questions, batch, how)?);
            } else {
                early = Some(run(sequence, questions, batch, Some((&extractor, policy)), how)?);
            }
        }
        let (Some((full, full_time)), Some((early, early_time))) = (full, early) else { continue };
        for (((asked, full), early), fixed) in batch.iter().zip(full).zip(early).zip(fixed) {
            let n = batch.len() as u32;
            outcomes.push(Outcome {
                full_is_right: asked.is_right(full.0),
                early_is_right: asked.is_right(early.0),
                fixed_is_right: asked.is_right(fixed.0),
                agrees: full.0 == early.0,
                layers: early.1,
                full_flops: cost.of_answer(asked, full.1, false, how),
                early_flops: cost.of_answer(asked, early.1, true, how),
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

fn full_depth(
    sequence: &mut Sequence,
    questions: &Questions<'_>,
    batch: &[Asked],
    how: CompareRuns,
) -> Result<(Vec<Answer>, Duration), Error> {
    run(sequence, questions, batch, None, how)
}

/// Answers questions of one prefix side by side; with a policy each as early as it may.
pub(super) fn run(
    sequence: &mut Sequence,
    questions: &Questions<'_>,
    batch: &[Asked],
    policy: Option<(&FeatureExtractor<'_>, &Policy)>,
    how: CompareRuns,
) -> Result<(Vec<Answer>, Duration), Error> {
    let parts: Vec<Branch<'_>> = batch.iter().flat_map(Asked::questions).collect();
    let owners: Vec<usize> =
        batch.iter().enumerate().flat_map(|(i, asked)| asked.parts.iter().map(move |_| i)).collect();
    let cuts: Vec<usize> = policy.iter().flat_map(|(_, policy)| policy.checkpoints.iter().map(|c| c.layer)).collect();
    let prefix = &batch[0].prefix;
    keep(sequence, &prefix[..if how.keep_prefix { batch[0].n_kept } else { 0 }])?;
    if let Some((extractor, policy)) = policy.filter(|_| sequence.model().placement().devices().len() > 1) {
        sequence.set_probes(extractor.probes(&policy.checkpoints))?;
    }
    let mut answers = vec![(0, 0); batch.len()];
    let mut decisions = vec![Decision::default(); batch.len()];
    let start = Instant::now();
    let mut look = |cuts: &[Cut]| {
        let mut stops = vec![false; cuts.len()];
        let mut first = 0;
        for own in cuts.chunk_by(|a, b| owners[a.branch] == owners[b.branch]) {
            let item = owners[own[0].branch];
            let (asked, parts) = (&batch[item], own.iter().collect::<Vec<&Cut>>());
            let layers = own[0].layers_run;
            let checkpoint = policy.and_then(|(extractor, policy)| {
                Some((extractor, policy.checkpoints.iter().find(|checkpoint| checkpoint.layer == layers)?))
            });
            let (answer, stop) = match checkpoint {
                Some((extractor, checkpoint)) => {
                    extractor.extract(asked, &parts).decide(checkpoint, &mut decisions[item])
                }
                None => (questions.read(asked, &parts).label, true),
            };
            answers[item] = (answer, layers);
            stops[first..first + own.len()].fill(stop);
            first += own.len();
        }
        stops
    };
    match policy {
        Some((extractor, _)) => extractor.with_view(|view| sequence.fan_out(prefix, &parts, &cuts, view, &mut look))?,
        None => sequence.fan_out(prefix, &parts, &[], View::Hidden, &mut look)?,
    }
    Ok((answers, start.elapsed()))
}

/// Makes the timeline these tokens, at full depth.
fn keep(sequence: &mut Sequence, tokens: &[TokenId]) -> Result<(), Error> {
    let common = sequence.tokens().iter().zip(tokens).take_while(|(a, b)| a == b).count();
    sequence.rewind(common);
    if common < tokens.len() {
        sequence.sync(tokens, &mut |_, _| ControlFlow::Continue(()))?;
    }
    Ok(())
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
        let of = |asked: &Asked| Ok(full_depth(sequence, questions, std::slice::from_ref(asked), how)?.0[0].0);
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
    policy: &'p Policy,
}

impl Cost<'_> {
    fn of<'p>(config: &Config, policy: &'p Policy) -> Cost<'p> {
        Cost { config: config.clone(), policy }
    }

    fn of_answer(&self, asked: &Asked, layers: usize, early: bool, how: CompareRuns) -> f64 {
        let n_prefix = asked.prefix.len();
        let first = if how.keep_prefix { asked.n_kept } else { 0 };
        let rows_from = |first: usize, end: usize| (first..end).map(|position| self.layer(position)).sum::<f64>();
        let of_part = |part: &Vec<TokenId>| rows_from(n_prefix, n_prefix + part.len());
        let rows = rows_from(first, n_prefix) + asked.parts.iter().map(of_part).sum::<f64>();
        let shown: usize = asked.questions().map(|question| question.shown).sum();
        let n_layer = self.config.n_layer;
        let heads = if layers == n_layer { self.head() * shown as f64 } else { 0.0 };
        let looks = self.policy.checkpoints.iter().filter(|checkpoint| early && checkpoint.layer <= layers).count();
        layers as f64 * rows + heads + (looks * shown) as f64 * self.look()
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
