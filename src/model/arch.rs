//! Architectures as data: what a layer computes, what stands before the first and behind the last. One value for each name in
//! `general.architecture`; what a file says in its own keys is read by [`super::config`], and whether there are biases, norms of
//! queries and keys, or a head of its own is read off its tensors.

use crate::ggml::{Activation, Pairs};

/// What the models of one name have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arch {
    /// `general.architecture`.
    pub name: &'static str,
    /// Which norm, wherever there is one but for heads.
    pub norm: NormKind,
    /// Where the norms of a layer stand.
    pub norms: Norms,
    /// How a token's position gets in.
    pub positions: Positions,
    /// Of the feed-forward network.
    pub activation: Activation,
    /// Whether a file's own keys say where its norms stand, which activation it has and how wide its embeddings are.
    pub varies: bool,
    /// Whether embeddings are multiplied by the root of their width.
    pub scales_embeddings: bool,
    /// Which layers see a window only, in files that give its size.
    pub windows: Option<Windows>,
    /// Bounds on scores and logits, where a file says nothing of them.
    pub softcaps: Option<Softcaps>,
    /// The largest model of the name, by its layers, divides scores by the root of `n_embd / n_head`, the others by that of
    /// the width of a head. Files do not say so.
    pub n_layer_scaled_by_width: Option<usize>,
}

/// Values near these at most, smoothly (arXiv 2408.00118).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Softcaps {
    /// Of attention's scores.
    pub attention: f32,
    /// Of the logits.
    pub output: f32,
}

/// A kind of norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Rows divided by their root mean square (arXiv 1910.07467).
    Rms,
    /// Rows less their mean, divided by their standard deviation (arXiv 1607.06450).
    Layer,
}

/// Where the norms of half a layer stand: with `f` the attention or the feed-forward network, `h` becomes
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// `h + f(norm(h))`.
    Pre,
    /// `norm(h + f(h))`.
    Post,
    /// `h + norm(f(norm(h)))`.
    Sandwich,
}

/// How positions get into a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Each has an embedding, which is added to the token's.
    Learned,
    /// Queries and keys are rotated (arXiv 2104.09864), these elements of a head together.
    Rotary(Pairs),
}

/// Layers that see the last positions only, in a pattern that repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Windows {
    /// Layers of a pattern; the last of each sees everything.
    pub period: usize,
    /// Base of the rotary frequencies in layers with a window.
    pub freq_base: f32,
}

const LLAMA: Arch = Arch {
    name: "llama",
    norm: NormKind::Rms,
    norms: Norms::Pre,
    positions: Positions::Rotary(Pairs::Adjacent),
    activation: Activation::Swiglu,
    varies: false,
    scales_embeddings: false,
    windows: None,
    softcaps: None,
    n_layer_scaled_by_width: None,
};

/// arXiv 2407.10671: Llama but for the pairs that are rotated together; queries, keys and values have biases.
const QWEN2: Arch = Arch { name: "qwen2", positions: Positions::Rotary(Pairs::Halves), ..LLAMA };

/// arXiv 2505.09388: queries and keys are normed by head, without biases.
const QWEN3: Arch = Arch { name: "qwen3", ..QWEN2 };

/// arXiv 2408.00118: every other layer has a window.
const GEMMA2: Arch = Arch {
    name: "gemma2",
    norms: Norms::Sandwich,
    activation: Activation::Geglu,
    scales_embeddings: true,
    windows: Some(Windows { period: 2, freq_base: 10_000.0 }),
    softcaps: Some(Softcaps { attention: 50.0, output: 30.0 }),
    n_layer_scaled_by_width: Some(46),
    ..QWEN2
};

/// arXiv 2503.19786, the text model: five layers with a window to one without; norms of heads instead of bounds on scores.
const GEMMA3: Arch = Arch {
    name: "gemma3",
    windows: Some(Windows { period: 6, freq_base: 10_000.0 }),
    softcaps: None,
    n_layer_scaled_by_width: Some(62),
    ..GEMMA2
};

/// arXiv 2205.01068, and Galactica. opt-350m has its norms behind each half, and narrower embeddings: its file says so.
const OPT: Arch = Arch {
    name: "opt",
    norm: NormKind::Layer,
    norms: Norms::Pre,
    positions: Positions::Learned,
    activation: Activation::Relu,
    varies: true,
    scales_embeddings: false,
    windows: None,
    softcaps: None,
    n_layer_scaled_by_width: None,
};

/// All that run, the most common first.
pub const ARCHITECTURES: [Arch; 6] = [LLAMA, QWEN2, QWEN3, GEMMA2, GEMMA3, OPT];

impl Arch {
    /// That of a name.
    pub fn of(name: &str) -> Option<&'static Arch> {
        ARCHITECTURES.iter().find(|arch| arch.name == name)
    }

    /// The names of all that run.
    pub fn names() -> Vec<&'static str> {
        ARCHITECTURES.iter().map(|arch| arch.name).collect()
    }
}
