//! Owns the numbers that describe a model, read from GGUF metadata. Refuses what the forward pass cannot run.

mod keys;
mod read;
mod rope;

use super::Error;
use super::arch::{Arch, NormKind, Norms, Rotates, Softcaps};
use super::readout::FinalNorm;
use crate::ggml::{Activation, Rope};
use crate::gguf::File;
use crate::kernels::Heads;
use read::Keys;

/// Positions are i32 in ggml, and some are rounded up.
pub(crate) const MAX_POSITIONS: usize = (1 << 31) - (1 << 16);

/// The shape of a model, and what its layers compute: what its architecture says, with what the file says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`, or empty.
    pub name: String,
    /// Layers (blocks).
    pub n_layer: usize,
    /// Width of the hidden state.
    pub n_embd: usize,
    /// Width of the feed-forward layer: of one expert, where there are several.
    pub n_ff: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads (grouped-query attention, arXiv 2305.13245).
    pub n_head_kv: usize,
    /// Elements of a query or key head.
    pub head_dim_k: usize,
    /// Elements of a value head.
    pub head_dim_v: usize,
    /// Entries of the vocabulary.
    pub n_vocab: usize,
    /// Context the model was trained with, in tokens.
    pub n_ctx_train: usize,
    /// Which norm.
    pub norm: NormKind,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Where the norms of a layer stand.
    pub norms: Norms,
    /// Whether the feed-forward network of a layer takes what its attention took.
    pub is_parallel: bool,
    /// Whether there is a norm before the output head.
    pub has_output_norm: bool,
    /// How queries and keys are rotated; `None` where positions are learned.
    pub rope: Option<Rope>,
    /// Which layers do.
    pub rotates: Rotates,
    /// Of the feed-forward network.
    pub activation: Activation,
    /// Width of the token embeddings: narrower than the hidden state in opt-350m.
    pub n_embd_word: usize,
    /// What embeddings are multiplied by.
    pub embedding_scale: Option<f32>,
    /// What the halves of a layer are multiplied by before they are added.
    pub residual_scale: Option<f32>,
    /// What logits are multiplied by.
    pub logit_scale: Option<f32>,
    /// Layers that see the last positions only.
    pub window: Option<Window>,
    /// What attention's scores are multiplied by.
    pub attention_scale: f32,
    /// Bounds on attention's scores and on logits.
    pub softcaps: Option<Softcaps>,
    /// Feed-forward networks of which each token takes a few.
    pub experts: Option<Experts>,
}

/// Feed-forward networks of which each token takes a few (arXiv 1701.06538), weighted by a softmax over theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// Networks of a layer.
    pub n: usize,
    /// Those that a token takes.
    pub n_used: usize,
}

/// Layers that see a window only.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Positions that a row sees, its own included.
    pub size: usize,
    /// Layers of a pattern; the last of each sees everything. `None` where no layer does.
    pub period: Option<usize>,
    /// How queries and keys are rotated in a layer with a window.
    pub rope: Rope,
}

impl Config {
    /// Reads the configuration of a model file.
    pub fn from_gguf(file: &File) -> Result<Config, Error> {
        let meta = file.metadata();
        let architecture = meta.need_str("general.architecture")?;
        let Some(arch) = Arch::of(architecture) else {
            return Err(Error::unsupported(
                file,
                "general.architecture",
                format!("one of {}", Arch::names().join(", ")),
                match Arch::nearest(architecture) {
                    Some(nearest) => format!("`{architecture}` (the nearest that runs is `{nearest}`)"),
                    None => format!("`{architecture}`"),
                },
            ));
        };
        Keys { file, meta, arch }.config()
    }

    /// The shapes of attention.
    pub fn heads(&self) -> Heads {
        Heads {
            n_head: self.n_head,
            n_head_kv: self.n_head_kv,
            head_dim_k: self.head_dim_k,
            head_dim_v: self.head_dim_v,
            scale: self.attention_scale,
            softcap: self.softcaps.map(|caps| caps.attention),
        }
    }

    /// Tokens of context that the model can take at most: where it has learned each position, as many as it has learned.
    pub fn n_ctx_max(&self) -> Option<usize> {
        self.rope.is_none().then_some(self.n_ctx_train)
    }

    /// Whether a layer sees a window only.
    pub fn has_window(&self, il: usize) -> bool {
        self.window.as_ref().is_some_and(|window| window.period.is_none_or(|n| !(il + 1).is_multiple_of(n)))
    }

    /// How a layer rotates queries and keys.
    pub(super) fn rope_of(&self, il: usize) -> Option<&Rope> {
        match &self.window {
            _ if !self.rotates_in(il) => None,
            Some(window) if self.has_window(il) => Some(&window.rope),
            _ => self.rope.as_ref(),
        }
    }

    fn rotates_in(&self, il: usize) -> bool {
        match self.rotates {
            Rotates::All => true,
            Rotates::AllButLastOf(n) => !(il + 1).is_multiple_of(n),
            Rotates::Windowed => self.has_window(il),
        }
    }

    /// The norm before the output head.
    pub fn final_norm(&self) -> FinalNorm {
        match self.norm {
            _ if !self.has_output_norm => FinalNorm::None,
            NormKind::Rms => FinalNorm::Rms(self.norm_eps),
            NormKind::Layer => FinalNorm::Layer(self.norm_eps),
        }
    }

    /// Weights in the matrices of a layer that a token is multiplied by.
    pub fn layer_weights(&self) -> usize {
        let n_feed_forward = if self.activation.is_gated() { 3 } else { 2 }; // gate, up, down
        let (n_networks, n_router) = self.experts.map_or((1, 0), |experts| (experts.n_used, experts.n));
        let n_feed_forward = n_networks * n_feed_forward * self.n_ff + n_router;
        self.n_embd * (2 * self.n_embd_q() + self.n_embd_k() + self.n_embd_v() + n_feed_forward)
    }

    /// Weights in the matrices that make logits.
    pub fn head_weights(&self) -> usize {
        let n_projection = if self.n_embd_word == self.n_embd { 0 } else { self.n_embd * self.n_embd_word };
        n_projection + self.n_embd_word * self.n_vocab
    }

    /// Width of all query heads together.
    pub fn n_embd_q(&self) -> usize {
        self.n_head * self.head_dim_k
    }

    /// Width of all key heads together: a row of the key cache.
    pub fn n_embd_k(&self) -> usize {
        self.n_head_kv * self.head_dim_k
    }

    /// Width of all value heads together: a row of the value cache.
    pub fn n_embd_v(&self) -> usize {
        self.n_head_kv * self.head_dim_v
    }
}
