//! Owns the decision to stop: what is read from a hidden state, what was fitted to read it, and when that is sure
//! enough. Refuses to know what a layer is, and ggml.
//!
//! AdaInfer (arXiv 2403.02181) looks, after a layer, at the probability of the best token (*top*) and its distance to
//! the second (*gap*), and lets a classifier trained on these two decide. Here a [`Checkpoint`] reads the last row's
//! hidden state in one of three ways ([`Input`]), which gives an answer, top and gap ([`Reading`]), and a [`Rule`]
//! decides.

mod file;
mod probe;
mod svm;
mod train;

pub use file::{Error, ExitFile, Fingerprint};
pub use probe::{Probe, Reading, softmax_reading};
pub use svm::Svm;
pub use train::{Options, Row, Trained, train};

/// What a checkpoint reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The hidden state itself, through a fitted read-out: \[n_embd\].
    Hidden,
    /// The logits of the task's labels, through the final norm and their rows of the output head: \[n_labels\].
    Labels,
    /// Top and gap over the whole vocabulary, as in the paper; the answer is the best label.
    Vocabulary,
}

/// What a read-out is fitted to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The answer of full depth.
    Model,
    /// The true label of the training row.
    Truth,
}

/// What decides that a reading is sure enough.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Top is at least this.
    Threshold(f32),
    /// A support vector machine on top and gap.
    Svm(Svm),
}

/// A place to stop.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Layers run before it.
    pub layer: usize,
    /// Reads the input; `None` reads the label logits as they are.
    pub probe: Option<Probe>,
    /// Decides.
    pub rule: Rule,
}

impl Checkpoint {
    /// The reading, and whether to stop with it. Of [`Input::Vocabulary`], `top_gap` are the two features.
    pub fn decide(&self, input: &[f32], top_gap: Option<[f32; 2]>) -> (Reading, bool) {
        let mut reading = self.probe.as_ref().map_or_else(|| softmax_reading(input), |probe| probe.read(input));
        if let Some([top, gap]) = top_gap {
            (reading.top, reading.gap) = (top, gap);
        }
        let stop = match &self.rule {
            Rule::Threshold(least) => reading.top >= *least,
            Rule::Svm(svm) => svm.decides([reading.top, reading.gap]),
        };
        (reading, stop)
    }
}

/// How to stop early on one task.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The task's name.
    pub task: String,
    /// The labels' texts, as they follow a prompt.
    pub labels: Vec<String>,
    /// What is read.
    pub input: Input,
    /// What it was fitted to.
    pub target: Target,
    /// Rows it was fitted on.
    pub n_rows: usize,
    /// Shots in every prompt.
    pub n_shots: usize,
    /// Where to look, in rising order of layers.
    pub checkpoints: Vec<Checkpoint>,
}
