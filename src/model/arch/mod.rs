//! Architectures as data: what a layer computes, what stands before the first and behind the last. One value for each name in
//! `general.architecture`; what a file says in its own keys is read by [`super::config`], and whether there are biases, norms of
//! queries and keys, experts, or a head of its own is read off its tensors.

mod table;
mod words;

pub use table::ARCHITECTURES;

use crate::ggml::{Activation, Pairs};

/// What the models of one name have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arch {
    /// `general.architecture`.
    pub name: &'static str,
    /// Which models these are, for people.
    pub models: &'static str,
    /// Which norm, wherever there is one.
    pub norm: NormKind,
    /// Where the norms of a layer stand.
    pub norms: Norms,
    /// Whether the halves of a layer come one after the other or side by side.
    pub halves: Halves,
    /// How a token's position gets in.
    pub positions: Positions,
    /// Which layers rotate queries and keys, where any do.
    pub rotates: Rotates,
    /// Of the feed-forward network.
    pub activation: Activation,
    /// Whether a file's own keys say where its norms stand, which activation it has and how wide its embeddings are.
    pub varies: bool,
    /// Whether embeddings are multiplied by the root of their width.
    pub scales_embeddings: bool,
    /// What the key `logit_scale` does to logits.
    pub logit_scale: LogitScale,
    /// Which layers see a window only, in files that give its size.
    pub windows: Option<Windows>,
    /// Bounds on scores and logits, where a file says nothing of them.
    pub softcaps: Option<Softcaps>,
    /// The largest model of the name, by its layers, divides scores by the root of `n_embd / n_head`, the others by that of
    /// the width of a head. Files do not say so.
    pub n_layer_scaled_by_width: Option<usize>,
    /// Whether feed-forward networks may be several, of which each token takes a few.
    pub has_experts: bool,
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
    /// `h + norm(f(h))`.
    Inner,
}

impl Norms {
    /// Whether a norm comes first.
    pub fn come_first(self) -> bool {
        matches!(self, Norms::Pre | Norms::Sandwich)
    }

    /// Whether what a half finds is normed before it is added.
    pub fn come_before_the_sum(self) -> bool {
        matches!(self, Norms::Sandwich | Norms::Inner)
    }
}

/// What the feed-forward network of a layer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halves {
    /// What attention left.
    InTurn,
    /// What attention took.
    SideBySide,
    /// The second unless `use_parallel_residual` is false.
    AsTheFileSays,
}

/// How positions get into a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Each has an embedding, which is added to the token's.
    Learned,
    /// Queries and keys are rotated (arXiv 2104.09864), these elements of a head together.
    Rotary(Pairs),
}

/// Which layers rotate queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotates {
    /// Every one.
    All,
    /// All but the last of so many (arXiv 2501.18795).
    AllButLastOf(usize),
    /// Those with a window.
    Windowed,
}

/// What becomes of the logits where a file has a factor for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitScale {
    /// They are divided by it.
    Divides,
    /// They are multiplied by it.
    Multiplies,
}

/// Layers that see the last positions only, in a pattern that repeats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Windows {
    /// Layers of a pattern; the last of each sees everything. `None` where no layer does.
    pub period: Option<usize>,
    /// Base of the rotary frequencies in layers with a window; `None` where they rotate like the others.
    pub freq_base: Option<f32>,
}

impl Arch {
    /// That of a name.
    pub fn of(name: &str) -> Option<&'static Arch> {
        ARCHITECTURES.iter().find(|arch| arch.name == name)
    }

    /// The names of all that run.
    pub fn names() -> Vec<&'static str> {
        ARCHITECTURES.iter().map(|arch| arch.name).collect()
    }

    /// The name of one that runs which is most like another name: they begin with the same three letters at least.
    pub fn nearest(name: &str) -> Option<&'static str> {
        let alike = |known: &str| known.chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
        // The last of several maxima would be taken.
        let best =
            ARCHITECTURES.iter().rev().max_by_key(|arch| (alike(arch.name), std::cmp::Reverse(arch.name.len())))?;
        (alike(best.name) >= 3).then_some(best.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_near_ones_are_found() {
        let mut names = Arch::names();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ARCHITECTURES.len());
        for (name, near) in
            [("qwen4", Some("qwen2")), ("llama4", Some("llama")), ("gemma", Some("gemma2")), ("t5", None)]
        {
            assert_eq!(Arch::nearest(name), near, "{name}");
        }
    }
}
