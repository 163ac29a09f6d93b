//! Owns how the tokens of an answer are found: at full depth, by stops that stand, or by drafts that full depth verifies.
//! Refuses to know text.
//!
//! *Fast* is AdaInfer's way: a token that a checkpoint is sure of stands, and its deeper layers wait as pending rows.
//! *Verified* gives full depth's tokens, whatever is drafted: drafts are evaluated together, and each stands only if the
//! sampler, with the same random number, chooses it from full depth's logits. With one random number per token that is the
//! accept rule of speculative sampling (arXiv 2211.17192, sec. 2.3) with both draws coupled: the distribution is the full
//! model's, and for a given seed even the text is.

mod checkpoints;
mod decoder;
mod drafts;
mod median;
mod race;

use std::fmt;

use crate::exit::Checkpoint;
use crate::plan::Depth;

pub use decoder::Decoder;
pub use median::median;
pub use race::{Raced, race};

/// How tokens are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Every token at full depth.
    #[default]
    Off,
    /// A token that a checkpoint is sure of stands.
    Fast,
    /// Drafts from a source, verified.
    Verified(Source),
    /// Verified, with what is measured to be fastest, which may be nothing: by the name of who wants full depth's text.
    Measured,
    /// Whatever is measured to be fastest at full depth's text: today what [`Mode::Measured`] is.
    Auto,
}

/// Where drafts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The checkpoints, as long as they are sure.
    Checkpoints,
    /// Every token at one depth (LayerSkip, arXiv 2404.16710).
    Depth(Depth),
    /// The sequence's draft plan, which skips parts of layers (Draft & Verify, arXiv 2309.08168).
    Plan,
    /// What followed the same tokens before.
    Lookup,
}

/// What becomes of the deeper layers' cache rows of a token that stands early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kv {
    /// They wait, and become what full depth would have written.
    #[default]
    Deferred,
    /// They are made of the state that the token had.
    Propagate,
    /// There are none: deeper layers do not see the token.
    Mask,
}

/// How an answer is found.
#[derive(Clone, Debug)]
pub struct Options {
    /// The mode.
    pub mode: Mode,
    /// Where drafts come from, besides lookup, if the mode is [`Mode::Auto`].
    pub source: Source,
    /// Where to look, in rising order; with lenses and probes that know how sure those are.
    pub checkpoints: Vec<Checkpoint<Depth>>,
    /// Cache rows of tokens that stand early.
    pub kv: Kv,
    /// Drafts between two evaluations at full depth, or pending tokens that stand.
    pub most: usize,
}

/// What became of tokens and drafts.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Tokens drafted.
    pub drafted: usize,
    /// Drafts that were right.
    pub accepted: usize,
}

impl Mode {
    /// The name in flags.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Fast => "fast",
            Mode::Verified(_) | Mode::Measured => "verified",
            Mode::Auto => "auto",
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = 100.0 * self.accepted as f64 / self.drafted.max(1) as f64;
        write!(f, "drafts {}, right {} ({share:.1} %)", self.drafted, self.accepted)
    }
}
