//! The feed-forward network of a layer: one for all tokens, or experts.

use super::arch::Norms;
use super::attention::{linear, stack};
use super::experts::ExpertNetworks;
use super::norms::HalfNorms;
use super::weights::{Linear, Loader, Stack};
use super::{Config, Error};
use crate::ggml::{Builder, Tensor};
use crate::kernels::Fused;

pub(super) struct FeedForward {
    norms: HalfNorms,
    network: Network,
}

enum Network {
    One(Dense),
    Experts(ExpertNetworks),
}

struct Dense {
    /// Gate and up, where there is a gate; up alone elsewhere.
    up: Stack,
    down: Linear,
}

impl FeedForward {
    pub(super) fn load(w: &mut Loader<'_>, config: &Config, il: usize) -> Result<FeedForward, Error> {
        let blk = format!("blk.{il}");
        let names: &[&str] = match config.norms {
            // Where both halves take one hidden state they may share its norm.
            _ if config.is_parallel => &["ffn_norm", "attn_norm"],
            // As the checkpoint of gpt-oss calls it.
            Norms::Pre => &["ffn_norm", "post_attention_norm"],
            _ => &["ffn_norm"],
        };
        Ok(FeedForward {
            norms: HalfNorms::load(w, config, &blk, names, "post_ffw_norm")?,
            network: match config.experts {
                Some(experts) => Network::Experts(ExpertNetworks::load(w, config, experts, &blk)?),
                None => Network::One(Dense::load(w, config, &blk)?),
            },
        })
    }

    /// `h` with what the network makes of `x`, both \[n_embd, t\].
    pub(super) fn added<'g>(&'g self, g: &Builder<'g>, config: &Config, h: Tensor<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let norm = self.norms.first(config);
        match &self.network {
            Network::One(dense) => {
                let inner = dense.inner(g, config, x, Fused { norm, ..Fused::default() }); // [n_ff, t]
                self.norms.added(g, config, h, &dense.down, inner)
            }
            Network::Experts(experts) => {
                let x = norm.map_or(x, |norm| g.ops.norm(x, norm));
                self.norms.sum(g, config, h, experts.output(g, config, x))
            }
        }
    }
}

impl Dense {
    fn load(w: &mut Loader<'_>, config: &Config, blk: &str) -> Result<Dense, Error> {
        let (n_embd, n_ff) = (config.n_embd, config.n_ff);
        let is_gated = config.activation.is_gated();
        let widths: &[_] = match is_gated {
            // The first half of the rows is the gate.
            true if !w.has(&format!("{blk}.ffn_gate.weight")) => &[("ffn_up", 2 * n_ff)],
            true => &[("ffn_gate", n_ff), ("ffn_up", n_ff)],
            false => &[("ffn_up", n_ff)],
        };
        Ok(Dense { up: w.stack(blk, widths, n_embd)?, down: w.linear(&format!("{blk}.ffn_down"), [n_ff, n_embd])? })
    }

    /// What the last matrix takes: \[n_ff, t\].
    fn inner<'g>(&'g self, g: &Builder<'g>, config: &Config, x: Tensor<'g>, fused: Fused<'g>) -> Tensor<'g> {
        if let [(up, _)] = &self.up.parts[..] {
            return linear(g, up, x, Fused { activation: Some(config.activation), ..fused });
        }
        match stack(g, &self.up, x, fused.norm)[..] {
            [gate, up] => g.ops.gated(config.activation, gate, up),
            _ => unreachable!("gate and up are one or two parts"),
        }
    }
}
