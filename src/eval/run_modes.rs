//! Owns the running of a task in several ways beside each other: full depth, fewer layers, an early stop, both, another
//! quantization.

use std::time::Duration;

use super::Error;
use super::measure::{CompareRuns, run, wilson};
use crate::classify::{Asked, Item, Questions, extractor};
use crate::engine::{Answer, Exits, Sequence};
use crate::exit::Policy;
use crate::plan::Depth;

/// A way to answer.
pub struct RunMode {
    /// What it is called.
    pub name: String,
    /// What runs.
    pub sequence: Sequence,
    /// When it stops early.
    pub policy: Option<Policy<Depth>>,
}

/// What a way made of a task.
#[derive(Clone, Debug)]
pub struct WayDone {
    /// What it is called.
    pub name: String,
    /// Questions.
    pub n: usize,
    /// True answers.
    pub right: usize,
    /// Answers that the first way gives too.
    pub same: usize,
    /// Steps that were run for all answers.
    pub steps: usize,
    /// Layers of the model that they are worth.
    pub layers: f64,
    /// Steps of its plan.
    pub n_steps: usize,
    /// Layers of the model.
    pub n_layer: usize,
    /// Time of all answers.
    pub time: Duration,
}

impl WayDone {
    /// Share of true answers.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.n.max(1) as f64
    }

    /// Half the width of its 95 % confidence interval.
    pub fn half_interval(&self) -> f64 {
        wilson(self.accuracy(), self.n)
    }

    /// Share of answers that the first way gives too.
    pub fn agreement(&self) -> f64 {
        self.same as f64 / self.n.max(1) as f64
    }

    /// Layers for an answer, on average: nothing follows an answer, so what it needs is what is executed.
    pub fn mean_layers(&self) -> f64 {
        self.layers / self.n.max(1) as f64
    }

    /// Steps for an answer, on average.
    pub fn mean_steps(&self) -> f64 {
        self.steps as f64 / self.n.max(1) as f64
    }
}

/// Answers questions in every way, by turns.
pub fn beside(
    ways: &mut [RunMode],
    questions: &Questions<'_>,
    items: &[Item],
    how: CompareRuns,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<WayDone>, Error> {
    let asked: Vec<Asked> = items.iter().map(|item| questions.of_item(item)).collect();
    let nothing = |way: &RunMode| WayDone {
        name: way.name.clone(),
        n: 0,
        right: 0,
        same: 0,
        steps: 0,
        layers: 0.0,
        n_steps: way.sequence.n_steps(),
        n_layer: way.sequence.model().config().n_layer,
        time: Duration::ZERO,
    };
    let mut done: Vec<WayDone> = ways.iter().map(nothing).collect();
    for way in ways.iter_mut() {
        asked.first().map(|first| answers(way, questions, std::slice::from_ref(first), how)).transpose()?; // warm-up
    }
    let batches = asked.chunk_by(|a, b| a.prefix == b.prefix).flat_map(|same| same.chunks(how.parallel.max(1)));
    for (i, batch) in batches.enumerate() {
        let n = ways.len();
        let mut found = vec![Vec::new(); n];
        // By turns, each first once, so that a slow moment of the machine hits all.
        for which in (0..n).map(|k| (i + k) % n) {
            let (own, time) = answers(&mut ways[which], questions, batch, how)?;
            (found[which], done[which].time) = (own, done[which].time + time);
        }
        for ((done, own), way) in done.iter_mut().zip(&found).zip(ways.iter()) {
            for ((asked, answer), first) in batch.iter().zip(own).zip(&found[0]) {
                done.n += 1;
                done.right += usize::from(asked.is_right(answer.answer));
                done.same += usize::from(answer.answer == first.answer);
                done.steps += answer.depth.0;
                done.layers += way.sequence.layers_at(answer.depth);
            }
        }
        progress(done[0].n);
    }
    Ok(done)
}

/// Answers with the steps that they took, and the time of all.
type Answers = (Vec<Answer>, Duration);

fn answers(way: &mut RunMode, questions: &Questions<'_>, batch: &[Asked], how: CompareRuns) -> Result<Answers, Error> {
    let Some(policy) = &way.policy else { return run(&mut way.sequence, batch, None, how) };
    let extractor = extractor(policy, questions, way.sequence.model())?;
    let exits = Exits { checkpoints: &policy.checkpoints, extractor: &extractor };
    run(&mut way.sequence, batch, Some(exits), how)
}
