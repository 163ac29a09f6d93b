//! Owns the decision to stop: what is read from a hidden state, what was fitted to read it, and when that is sure
//! enough. Refuses to know what a layer is, and ggml.
//!
//! AdaInfer (arXiv 2403.02181) looks, after a layer, at the probability of the best token (*top*) and its distance to
//! the second (*gap*), and lets a classifier trained on these two decide. Here a [`Checkpoint`] makes of what it sees
//! ([`Input`]) an answer, top and gap ([`Reading`]); a [`Scorer`] says how sure that is; and the checkpoint stops where the
//! score is high enough.

mod file;
#[cfg(feature = "tasks")]
mod fit;
mod lens;
mod probe;
mod scorer;

pub use file::{Draft, Error, ExitFile, Fingerprint};
#[cfg(feature = "tasks")]
pub use fit::{LensFit, Options, Row, RuleKind, Trained, Tried, train, train_confidence};
pub use lens::Lens;
pub use probe::{Probe, Reading, reading_of, softmax_reading};
pub use scorer::{Crf, Scorer, Svm};

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

/// A place to stop.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Layers run before it.
    pub layer: usize,
    /// Goes before the output head.
    pub lens: Option<Lens>,
    /// Reads the input; of inputs that are not fitted there is none.
    pub probe: Option<Probe>,
    /// How sure is a reading?
    pub scorer: Scorer,
    /// The score that is enough.
    pub threshold: f32,
}

impl Checkpoint {
    /// The probability that the lens's best token is full depth's, by a hidden state \[n_embd\], normed as before the output head; of
    /// [`Input::Confidence`] only.
    pub fn chance(&self, x: &[f32]) -> Option<f32> {
        self.probe.as_ref()?.chance_of(Checkpoint::RIGHT, x)
    }

    /// The same, among the probabilities of the probe's labels.
    pub fn chance_among(chances: &[f32]) -> Option<f32> {
        chances.get(Checkpoint::RIGHT).copied()
    }

    /// The label that says so.
    const RIGHT: usize = 1;
}

/// How to stop early on one task.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
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
    /// Where to look, in rising order of layers.
    pub checkpoints: Vec<Checkpoint>,
}

impl Policy {
    /// The name of the policy for the tokens of a text, which reads [`Input::Confidence`].
    pub const TOKENS: &str = "tokens";
    /// The name of the policy for short answers of any kind, which reads [`Input::Vocabulary`].
    pub const OWN: &str = "self";
}

/// One answer on its way through the checkpoints.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decision {
    /// A chain's belief before the next checkpoint: log-weights of "wrong" and "right".
    belief: Option<[f32; 2]>,
}

impl Decision {
    /// Whether a checkpoint's reading is sure enough to stop.
    pub fn stops(&mut self, checkpoint: &Checkpoint, reading: &Reading) -> bool {
        self.score(&checkpoint.scorer, reading) >= checkpoint.threshold
    }

    fn score(&mut self, scorer: &Scorer, reading: &Reading) -> f32 {
        match scorer {
            Scorer::Top => reading.top,
            Scorer::Linear { weights, bias } => weights[0] * reading.top + weights[1] * reading.gap + bias,
            Scorer::Svm(svm) => svm.score([reading.top, reading.gap]),
            Scorer::Crf(step) => {
                let belief = step.follow(self.belief, [reading.top, reading.gap]);
                self.belief = Some(belief);
                belief[1] - belief[0]
            }
        }
    }
}
