//! Owns the running of questions: what training needs from each, and what a policy gives beside full depth.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::{Error, Item, Task};
use crate::exit::{self, Input, Policy, softmax_reading};
use crate::session::{Cut, Session, TokenId};
use crate::tokenizer::{Special, Tokenizer};

/// A task's questions as token ids.
pub struct Questions {
    prefix: String,
    /// Ids that every question begins with.
    n_prefix: usize,
    label_ids: Vec<TokenId>,
}

impl Questions {
    /// Prepares a task. Labels must differ in their first token.
    pub fn new(task: &Task, tokenizer: &Tokenizer) -> Result<Questions, Error> {
        let wrong = |why: String| Error::Task { place: task.name.clone(), why };
        let first = |label: &String| tokenizer.encode(label, Special::Plain).first().copied();
        let mut label_ids = Vec::new();
        for label in &task.labels {
            let id = first(label).ok_or_else(|| wrong(format!("`labels`: {label:?} has no token")))?;
            if let Some(i) = label_ids.iter().position(|&other| other == id) {
                let other = &task.labels[i];
                return Err(wrong(format!(
                    "`labels`: expected different first tokens, found the same in {other:?} and {label:?}"
                )));
            }
            label_ids.push(id);
        }
        let prefix = task.prefix();
        // The last token of the prefix may join with what follows.
        let n_prefix = tokenizer.encode_with_bos(&prefix, Special::Plain).len().saturating_sub(1);
        Ok(Questions { prefix, n_prefix, label_ids })
    }

    /// The ids of a question.
    pub fn ids(&self, item: &Item, tokenizer: &Tokenizer) -> Vec<TokenId> {
        tokenizer.encode_with_bos(&format!("{}{}", self.prefix, item.prompt), Special::Plain)
    }

    fn best_label(&self, logits: &[f32]) -> usize {
        let of_labels: Vec<f32> = self.label_ids.iter().map(|&id| logits[id as usize]).collect();
        softmax_reading(&of_labels).label
    }
}

/// Makes of a cut what a policy reads.
struct Eye<'q> {
    input: Input,
    questions: &'q Questions,
    label_rows: Vec<Vec<f32>>,
    eps: f32,
}

impl<'q> Eye<'q> {
    fn new(input: Input, questions: &'q Questions, session: &Session) -> Result<Eye<'q>, Error> {
        let model = session.model();
        let label_rows = model.output_rows(&questions.label_ids)?;
        Ok(Eye { input, questions, label_rows, eps: model.config().norm_eps })
    }

    fn needs_logits(&self) -> bool {
        self.input == Input::Vocabulary
    }

    /// The input of a checkpoint; of the vocabulary also top and gap.
    fn see(&self, cut: &Cut<'_>) -> (Vec<f32>, Option<[f32; 2]>) {
        match self.input {
            Input::Hidden => (self.normed(cut.hidden), None),
            Input::Labels => (self.labels(cut.hidden), None),
            Input::Vocabulary => {
                let of_labels = self.questions.label_ids.iter().map(|&id| cut.logits[id as usize]).collect();
                let whole = softmax_reading(cut.logits);
                (of_labels, Some([whole.top, whole.gap]))
            }
        }
    }

    fn labels(&self, hidden: &[f32]) -> Vec<f32> {
        let normed = self.normed(hidden);
        self.label_rows.iter().map(|row| row.iter().zip(&normed).map(|(w, x)| w * x).sum()).collect()
    }

    /// Divided by the root mean square, as the final norm does.
    fn normed(&self, hidden: &[f32]) -> Vec<f32> {
        let squares: f32 = hidden.iter().map(|x| x * x).sum();
        let scale = 1.0 / (squares / hidden.len() as f32 + self.eps).sqrt();
        hidden.iter().map(|x| x * scale).collect()
    }
}

/// Runs training rows at full depth and keeps what each of the `layers` shows. `progress` hears how many are done.
pub fn collect(
    session: &mut Session,
    tokenizer: &Tokenizer,
    questions: &Questions,
    items: &[Item],
    layers: &[usize],
    input: Input,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<exit::Row>, Error> {
    let eye = Eye::new(input, questions, session)?;
    let mut rows = Vec::new();
    for item in items {
        let (inputs, top_gaps, same_token) = (Vec::new(), Vec::new(), Vec::new());
        let mut row = exit::Row { inputs, top_gaps, same_token, full: 0, truth: item.label };
        let mut tokens = Vec::new();
        let n_layer = session.n_steps();
        let ids = questions.ids(item, tokenizer);
        let (prefix, question) = ids.split_at(questions.n_prefix);
        session.ask(prefix, &[question], layers, eye.needs_logits(), &mut |_, cut| {
            if cut.layers_run == n_layer {
                row.full = questions.best_label(cut.logits);
                let best = softmax_reading(cut.logits).label;
                row.same_token = tokens.iter().map(|&token| token == best).collect();
                return ControlFlow::Continue(());
            }
            let (seen, top_gap) = eye.see(&cut);
            row.inputs.push(seen);
            row.top_gaps.extend(top_gap);
            tokens.extend(eye.needs_logits().then(|| softmax_reading(cut.logits).label));
            ControlFlow::Continue(())
        })?;
        rows.push(row);
        progress(rows.len());
    }
    Ok(rows)
}

/// What became of one question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// The true label.
    pub truth: usize,
    /// Full depth's.
    pub full: usize,
    /// The policy's.
    pub early: usize,
    /// What the labels' logits say at the fixed layer.
    pub fixed: usize,
    /// Layers run for the policy's answer.
    pub layers: usize,
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
    /// The layer at which the baseline always stops.
    pub fixed_layer: usize,
    /// One for each question.
    pub outcomes: Vec<Outcome>,
}

/// Answers questions at full depth and with a policy, by turns. With `keep_prefix` the shots are evaluated once and
/// not timed. The baseline that always stops at `fixed_layer` is run beside them, not timed.
#[allow(clippy::too_many_arguments)] // what is measured on what, and how
pub fn evaluate(
    session: &mut Session,
    tokenizer: &Tokenizer,
    task: &Task,
    questions: &Questions,
    items: &[Item],
    policy: &Policy,
    fixed_layer: usize,
    keep_prefix: bool,
    progress: &mut dyn FnMut(usize),
) -> Result<Measured, Error> {
    let eye = Eye::new(policy.input, questions, session)?;
    let n_kept = if keep_prefix { questions.n_prefix } else { 0 };
    let mut outcomes = Vec::new();
    if let Some(item) = items.first() {
        full_answer(session, questions, &questions.ids(item, tokenizer), n_kept)?; // warm-up
    }
    for (i, item) in items.iter().enumerate() {
        let ids = questions.ids(item, tokenizer);
        let fixed = fixed_answer(session, &eye, &ids, fixed_layer, n_kept)?;
        let mut full = None;
        let mut early = None;
        // By turns, so that a slow moment of the machine hits both.
        for which in [i % 2, (i + 1) % 2] {
            if which == 0 {
                full = Some(full_answer(session, questions, &ids, n_kept)?);
            } else {
                early = Some(early_answer(session, &eye, policy, questions, &ids, n_kept)?);
            }
        }
        let (Some((full, full_time)), Some((early, layers, early_time))) = (full, early) else { continue };
        outcomes.push(Outcome { truth: item.label, full, early, fixed, layers, full_time, early_time });
        progress(outcomes.len());
    }
    let n_layer = session.model().config().n_layer;
    Ok(Measured { task: task.name.clone(), shots: task.shots, n_layer, fixed_layer, outcomes })
}

fn full_answer(
    session: &mut Session,
    questions: &Questions,
    ids: &[TokenId],
    n_kept: usize,
) -> Result<(usize, Duration), Error> {
    let start = Instant::now();
    let (prefix, question) = ids.split_at(n_kept);
    let mut label = 0;
    session.ask(prefix, &[question], &[], false, &mut |_, cut| {
        label = questions.best_label(cut.logits);
        ControlFlow::Continue(())
    })?;
    Ok((label, start.elapsed()))
}

fn early_answer(
    session: &mut Session,
    eye: &Eye<'_>,
    policy: &Policy,
    questions: &Questions,
    ids: &[TokenId],
    n_kept: usize,
) -> Result<(usize, usize, Duration), Error> {
    let start = Instant::now();
    let (prefix, question) = ids.split_at(n_kept);
    let cuts: Vec<usize> = policy.checkpoints.iter().map(|c| c.layer).collect();
    let (mut label, mut layers) = (0, 0);
    let mut next = policy.checkpoints.iter();
    session.ask(prefix, &[question], &cuts, eye.needs_logits(), &mut |_, cut| {
        layers = cut.layers_run;
        let Some(checkpoint) = next.next() else {
            label = questions.best_label(cut.logits);
            return ControlFlow::Continue(());
        };
        let (input, top_gap) = eye.see(&cut);
        let (reading, stop) = checkpoint.decide(&input, top_gap);
        label = reading.label;
        if stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok((label, layers, start.elapsed()))
}

fn fixed_answer(
    session: &mut Session,
    eye: &Eye<'_>,
    ids: &[TokenId],
    layer: usize,
    n_kept: usize,
) -> Result<usize, Error> {
    let (prefix, question) = ids.split_at(n_kept);
    let mut label = 0;
    session.ask(prefix, &[question], &[layer], false, &mut |_, cut| {
        label = softmax_reading(&eye.labels(cut.hidden)).label;
        ControlFlow::Break(())
    })?;
    Ok(label)
}

impl Measured {
    fn share(&self, is: impl Fn(&Outcome) -> bool) -> f64 {
        self.outcomes.iter().filter(|o| is(o)).count() as f64 / self.outcomes.len().max(1) as f64
    }

    /// Share of right answers at full depth.
    pub fn accuracy_full(&self) -> f64 {
        self.share(|o| o.full == o.truth)
    }

    /// Share of right answers of the policy.
    pub fn accuracy_early(&self) -> f64 {
        self.share(|o| o.early == o.truth)
    }

    /// Share of right answers of the baseline.
    pub fn accuracy_fixed(&self) -> f64 {
        self.share(|o| o.fixed == o.truth)
    }

    /// Share of the policy's answers that are full depth's.
    pub fn agreement(&self) -> f64 {
        self.share(|o| o.early == o.full)
    }

    /// Mean and variance of the layers run.
    pub fn layers(&self) -> (f64, f64) {
        let n = self.outcomes.len().max(1) as f64;
        let mean = self.outcomes.iter().map(|o| o.layers as f64).sum::<f64>() / n;
        let variance = self.outcomes.iter().map(|o| (o.layers as f64 - mean).powi(2)).sum::<f64>() / n;
        (mean, variance)
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
}

impl Measured {
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
