//! Owns the decision to stop: what is read from a hidden state, what was fitted to read it, and when that is sure
//! enough. Refuses to know what a layer is, and ggml: a checkpoint stands at a number that others give a meaning.
//!
//! AdaInfer (arXiv 2403.02181) looks, after a layer, at the probability of the best token (*top*) and its distance to
//! the second (*gap*), and lets a classifier trained on these two decide. Here an engine shows what a [`Checkpoint`] sees
//! ([`Features`], by its [`Input`]); the checkpoint makes of it an answer, top and gap ([`Reading`]); a [`Scorer`] says how
//! sure that is; and the [`Decision`] stops where the score is high enough.

mod decision;
mod file;
#[cfg(feature = "tasks")]
mod fit;
mod lens;
mod probe;
mod scorer;

pub use decision::{Decision, Features};
pub use file::{Draft, Error, ExitFile, Fingerprint};
#[cfg(feature = "tasks")]
pub use fit::{LensFit, Options, Row, RuleKind, Trained, Tried, train, train_confidence};
pub use lens::Lens;
pub use probe::{Probe, Reading, reading_of, softmax_reading};
pub use scorer::{Crf, Scorer, Svm};

use crate::plan::LayerCount;

/// What a checkpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The hidden state itself, through a fitted read-out: \[n_embd\].
    Hidden,
    /// The logits of the task's labels, through the final norm and their rows of the output head, and a fitted read-out:
    /// \[n_labels\].
    Labels,
    /// The whole vocabulary, as in the paper: the answer is a token.
    Vocabulary,
    /// The likelihoods of a question's own choices.
    Choices,
    /// The hidden state, through a read-out of how sure the lens's best token is to be full depth's: for tokens of any text,
    /// at no more than n_embd products.
    Confidence,
}

impl Input {
    /// Whether a fitted read-out names the answer; otherwise it is read as it is.
    pub fn is_fitted(self) -> bool {
        matches!(self, Input::Hidden | Input::Labels)
    }
}

/// What a read-out is fitted to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The answer of full depth.
    Model,
    /// The true label of the training row.
    Truth,
}

/// A place to stop: in an exit file behind so many layers of the model, for an engine at a depth of its plan
/// ([`crate::plan::Depth`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint<At = LayerCount> {
    /// What has run before it.
    pub at: At,
    /// Goes before the output head.
    pub lens: Option<Lens>,
    /// Reads the input; of inputs that are not fitted there is none.
    pub probe: Option<Probe>,
    /// How sure is a reading?
    pub scorer: Scorer,
    /// The score that is enough.
    pub threshold: f32,
}

/// How to stop early on one task.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy<At = LayerCount> {
    /// The task's name.
    pub task: String,
    /// The labels' texts, as they follow a prompt; empty for tasks without.
    pub labels: Vec<String>,
    /// What is seen.
    pub input: Input,
    /// What it was fitted to.
    pub target: Target,
    /// Rows it was fitted on.
    pub n_rows: usize,
    /// Shots in every prompt.
    pub n_shots: usize,
    /// Where to look, in rising order.
    pub checkpoints: Vec<Checkpoint<At>>,
}

impl Policy {
    /// The name of the policy for the tokens of a text, which reads [`Input::Confidence`].
    pub const TOKENS: &str = "tokens";
    /// The name of the policy for short answers of any kind, which reads [`Input::Vocabulary`].
    pub const OWN: &str = "self";
}

/// Checkpoints at other places: where `place` says that each is. One that has none is left out, and of several at one place
/// the last stays, which knows more: the layers between them do not run there.
pub fn placed<At, To: PartialEq>(
    checkpoints: Vec<Checkpoint<At>>,
    place: impl Fn(At) -> Option<To>,
) -> Vec<Checkpoint<To>> {
    let mut placed: Vec<Checkpoint<To>> = Vec::new();
    for Checkpoint { at, lens, probe, scorer, threshold } in checkpoints {
        // A place that nothing deeper follows is full depth: there is nothing to stop before.
        let Some(at) = place(at) else { continue };
        // In rising order those at one place are neighbours.
        placed.pop_if(|last| last.at == at);
        placed.push(Checkpoint { at, lens, probe, scorer, threshold });
    }
    placed
}

impl<At> Policy<At> {
    /// The same with its checkpoints at other places ([`placed`]).
    pub fn placed<To: PartialEq>(self, place: impl Fn(At) -> Option<To>) -> Policy<To> {
        let Policy { task, labels, input, target, n_rows, n_shots, checkpoints } = self;
        Policy { task, labels, input, target, n_rows, n_shots, checkpoints: placed(checkpoints, place) }
    }
}
