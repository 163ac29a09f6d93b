//! The one forward pass: embedding, layers, and what stands before the output head, for every architecture. What differs between
//! architectures is read from [`Config`] and from the tensors that a file has.

use std::sync::Arc;

use super::arch::{NormKind, Norms};
use super::attention::{Qkv, attend, columns_of, flat, heads, linear, stack};
use super::head::Head;
use super::weights::{Linear, Loader, Stack};
use super::{Cache, Config, Error, LayerStep, Placement, Rows};
use crate::ggml::{Builder, Rope, Store, Stored, Tensor};
use crate::gguf::File;
use crate::kernels::{Fused, Norm, Weight};
use crate::plan::{Half, Runs};

/// Bound on the tensors that one layer adds to a graph, views included.
pub(super) const TENSORS_PER_LAYER: usize = 64;

/// The weights of a model.
pub(super) struct Network {
    token_embd: Stored,
    /// Where positions are learned: \[n_embd, n_ctx_train\].
    position_embd: Option<Stored>,
    /// From the width of the embeddings to that of the layers, where they differ.
    proj_in: Option<Weight>,
    layers: Vec<Layer>,
    output_norm: Option<NormWeights>,
    /// From the width of the layers to that of the embeddings.
    proj_out: Option<Weight>,
    head: Head,
}

/// A pruned file lacks halves; its plan, and every plan made of it, leaves them out.
struct Layer {
    attention: Option<Attention>,
    feed_forward: Option<FeedForward>,
}

struct Attention {
    norm: NormWeights,
    qkv: Stack,
    /// Norms of the heads of queries and of keys: \[head_dim_k\] each.
    head_norms: Option<[Stored; 2]>,
    /// Llama 3 divides the rotary frequencies by these.
    rope_freqs: Option<Stored>,
    output: Linear,
    /// Of what attention gives, before it is added.
    post_norm: Option<NormWeights>,
}

struct FeedForward {
    norm: NormWeights,
    /// Gate and up, where there is a gate; up alone elsewhere.
    up: Stack,
    down: Linear,
    /// Of what the network gives, before it is added.
    post_norm: Option<NormWeights>,
}

struct NormWeights {
    weight: Stored,
    bias: Option<Stored>,
}

impl NormWeights {
    fn load(w: &mut Loader<'_>, name: &str, n: usize) -> Result<NormWeights, Error> {
        let weight = w.vector(&format!("{name}.weight"), n)?;
        Ok(NormWeights { weight, bias: w.optional_vector(&format!("{name}.bias"), n)? })
    }

    fn of(&self, config: &Config) -> Norm<Tensor<'_>> {
        let (weight, eps) = (self.weight.t(), config.norm_eps);
        match config.norm {
            NormKind::Rms => Norm::Rms { weight, eps },
            NormKind::Layer => Norm::Layer { weight, bias: self.bias.as_ref().map(Stored::t), eps },
        }
    }
}

impl Network {
    /// The weights, and how many bytes of them one token reads at full depth.
    pub(super) fn load(
        file: &Arc<File>,
        config: &Config,
        plan: &[LayerStep],
        placement: &Placement,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(Network, usize), Error> {
        let Config { n_embd, n_embd_word, n_vocab, n_ctx_train, .. } = *config;
        let mut w = Loader::new(file.clone(), placement, progress);
        let token_embd = w.table("token_embd.weight", [n_embd_word, n_vocab])?;
        let learns_positions = config.rope.is_none();
        let position_embd =
            learns_positions.then(|| w.table("position_embd.weight", [n_embd, n_ctx_train])).transpose()?;
        let is_projected = n_embd_word != n_embd;
        let project = |w: &mut Loader<'_>, name: &str, shape| is_projected.then(|| w.matrix(name, shape)).transpose();
        let proj_in = project(&mut w, "token_embd_proj_in.weight", [n_embd_word, n_embd])?;
        let mut layers = Vec::new();
        for step in plan {
            w.at_layer(step.il);
            layers.push(Layer {
                attention: step.has(Half::Attention).then(|| Attention::load(&mut w, config, step.il)).transpose()?,
                feed_forward: step
                    .has(Half::FeedForward)
                    .then(|| FeedForward::load(&mut w, config, step.il))
                    .transpose()?,
            });
        }
        w.at_output();
        let output_norm =
            config.has_output_norm.then(|| NormWeights::load(&mut w, "output_norm", n_embd)).transpose()?;
        let proj_out = project(&mut w, "token_embd_proj_out.weight", [n_embd, n_embd_word])?;
        let head = Head::new(w.head([n_embd_word, n_vocab], &token_embd)?);
        let network = Network { token_embd, position_embd, proj_in, layers, output_norm, proj_out, head };
        Ok((network, w.weights_bytes()))
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        self.token_embd.store()
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    pub(super) fn embed<'g>(
        &'g self,
        g: &Builder<'g>,
        config: &Config,
        tokens: Tensor<'g>,
        positions: Tensor<'g>,
    ) -> Tensor<'g> {
        let mut h = g.ops.get_rows(self.token_embd.t(), tokens); // [n_embd_word, t]
        if let Some(proj_in) = &self.proj_in {
            h = g.ops.linear(proj_in, h, Fused::default()); // [n_embd, t]
        }
        if let Some(position_embd) = &self.position_embd {
            h = g.ops.add(h, g.ops.get_rows(position_embd.t(), positions));
        }
        if let Some(scale) = config.embedding_scale {
            h = g.ops.scale(h, scale);
        }
        h.named("inp_embd", None)
    }

    /// One step: attention and feed-forward network of a layer, or one of them, or keys and values alone.
    pub(super) fn layer<'g>(
        &'g self,
        g: &Builder<'g>,
        config: &Config,
        step: &LayerStep,
        cache: &'g Cache,
        rows: &Rows<'g>,
        mut h: Tensor<'g>,
    ) -> Tensor<'g> {
        let layer = &self.layers[step.il];
        let attention = || layer.attention.as_ref().expect("plans ask for halves that the file has");
        if step.runs == Runs::KvOnly {
            let Qkv { k, v, .. } = attention().qkv(g, config, step.il, rows, h);
            cache.write(g, step, rows, k, v);
        }
        if step.has(Half::Attention) {
            let attention = attention();
            let mixed = attend(g, config, step, cache, rows, attention.qkv(g, config, step.il, rows, h));
            let ends = Ends { last: &attention.output, norm: &attention.norm, post_norm: &attention.post_norm };
            h = ends.added(g, config, h, mixed).named("ffn_inp", step.il);
        }
        if step.has(Half::FeedForward) {
            let network = layer.feed_forward.as_ref().expect("plans ask for halves that the file has");
            let inner = network.inner(g, config, h); // [n_ff, t]
            let ends = Ends { last: &network.down, norm: &network.norm, post_norm: &network.post_norm };
            h = ends.added(g, config, h, inner).named("l_out", step.il);
        }
        h
    }

    /// What the output head takes, and the norm that is still to come before it.
    pub(super) fn before_head<'g>(
        &'g self,
        g: &Builder<'g>,
        config: &Config,
        h: Tensor<'g>,
    ) -> (Tensor<'g>, Option<Norm<Tensor<'g>>>) {
        let norm = self.output_norm.as_ref().map(|norm| norm.of(config));
        match &self.proj_out {
            Some(proj_out) => (g.ops.linear(proj_out, h, Fused { norm, ..Fused::default() }), None),
            None => (h, norm),
        }
    }
}

/// How half a layer ends: its last matrix, its norms, the addition.
struct Ends<'l> {
    last: &'l Linear,
    norm: &'l NormWeights,
    post_norm: &'l Option<NormWeights>,
}

impl<'g> Ends<'g> {
    /// `h` with what the last matrix makes of `x`.
    fn added(self, g: &Builder<'g>, config: &Config, h: Tensor<'g>, x: Tensor<'g>) -> Tensor<'g> {
        // With the addition in the matrix's node a layer is fewer nodes; a norm between them keeps it out.
        let fused = Fused { residual: Some(h), ..Fused::default() };
        match (config.norms, self.post_norm) {
            (Norms::Sandwich, Some(norm)) => {
                let found = linear(g, self.last, x, Fused::default());
                g.ops.add(g.ops.norm(found, norm.of(config)), h)
            }
            (Norms::Post, _) => g.ops.norm(linear(g, self.last, x, fused), self.norm.of(config)),
            (Norms::Pre | Norms::Sandwich, _) => linear(g, self.last, x, fused),
        }
    }
}

/// The norm before half a layer, where there is one.
fn pre_norm<'g>(config: &Config, norm: &'g NormWeights) -> Option<Norm<Tensor<'g>>> {
    (config.norms != Norms::Post).then(|| norm.of(config))
}

/// The norm behind half a layer, before it is added, where there is one.
fn load_post_norm(w: &mut Loader<'_>, config: &Config, name: &str) -> Result<Option<NormWeights>, Error> {
    (config.norms == Norms::Sandwich).then(|| NormWeights::load(w, name, config.n_embd)).transpose()
}

impl Attention {
    fn load(w: &mut Loader<'_>, config: &Config, il: usize) -> Result<Attention, Error> {
        let (blk, n_embd) = (format!("blk.{il}"), config.n_embd);
        let widths = [("attn_q", config.n_embd_q()), ("attn_k", config.n_embd_k()), ("attn_v", config.n_embd_v())];
        Ok(Attention {
            norm: NormWeights::load(w, &format!("{blk}.attn_norm"), n_embd)?,
            qkv: w.stack(&blk, &widths, n_embd)?,
            head_norms: match w.optional_vector(&format!("{blk}.attn_q_norm.weight"), config.head_dim_k)? {
                Some(q) => Some([q, w.vector(&format!("{blk}.attn_k_norm.weight"), config.head_dim_k)?]),
                None => None,
            },
            output: w.linear(&format!("{blk}.attn_output"), [config.n_head * config.head_dim_v, n_embd])?,
            rope_freqs: match &config.rope {
                Some(rope) => w.shared_divisors("rope_freqs.weight", rope.n_dims / 2)?,
                None => None,
            },
            post_norm: load_post_norm(w, config, &format!("{blk}.post_attention_norm"))?,
        })
    }

    /// Queries and keys, rotated where they are, and values of the rows `x` \[n_embd, t\].
    fn qkv<'g>(&'g self, g: &Builder<'g>, config: &Config, il: usize, rows: &Rows<'g>, x: Tensor<'g>) -> Qkv<'g> {
        let (n_head, n_head_kv, head) = (config.n_head, config.n_head_kv, config.head_dim_k);
        let (n_q, n_k, n_v) = (config.n_embd_q(), config.n_embd_k(), config.n_embd_v());
        let parts = stack(g, &self.qkv, x, pre_norm(config, &self.norm));
        let v = columns_of(g, &parts, n_q + n_k, n_v);
        let Some(rope) = config.rope_of(il) else {
            let q = heads(g, columns_of(g, &parts, 0, n_q), 0, n_head, head);
            return Qkv { q, k: columns_of(g, &parts, n_q, n_k), v };
        };
        // Queries and keys side by side are rotated in one node.
        if self.head_norms.is_none() && parts[0].shape()[0] > n_q {
            let both = self.rotated(g, rope, rows, heads(g, parts[0], 0, n_head + n_head_kv, head));
            let (q, k) = split_heads(g, both, n_head);
            return Qkv { q, k: flat(g, k), v };
        }
        let normed = |x: Tensor<'g>, i: usize| match &self.head_norms {
            Some(norms) => g.ops.norm(x, Norm::Rms { weight: norms[i].t(), eps: config.norm_eps }),
            None => x,
        };
        let q = normed(heads(g, columns_of(g, &parts, 0, n_q), 0, n_head, head), 0);
        let k = normed(heads(g, columns_of(g, &parts, n_q, n_k), 0, n_head_kv, head), 1);
        let [q, k] = [q, k].map(|x| self.rotated(g, rope, rows, x));
        Qkv { q, k: flat(g, k), v }
    }

    fn rotated<'g>(&'g self, g: &Builder<'g>, rope: &Rope, rows: &Rows<'g>, x: Tensor<'g>) -> Tensor<'g> {
        g.ops.rope(x, rows.positions, self.rope_freqs.as_ref().map(Stored::t), rope)
    }
}

impl FeedForward {
    fn load(w: &mut Loader<'_>, config: &Config, il: usize) -> Result<FeedForward, Error> {
        let (blk, n_embd, n_ff) = (format!("blk.{il}"), config.n_embd, config.n_ff);
        let widths: &[_] =
            if config.activation.is_gated() { &[("ffn_gate", n_ff), ("ffn_up", n_ff)] } else { &[("ffn_up", n_ff)] };
        Ok(FeedForward {
            norm: NormWeights::load(w, &format!("{blk}.ffn_norm"), n_embd)?,
            up: w.stack(&blk, widths, n_embd)?,
            down: w.linear(&format!("{blk}.ffn_down"), [n_ff, n_embd])?,
            post_norm: load_post_norm(w, config, &format!("{blk}.post_ffw_norm"))?,
        })
    }

    /// What the last matrix takes: \[n_ff, t\].
    fn inner<'g>(&'g self, g: &Builder<'g>, config: &Config, x: Tensor<'g>) -> Tensor<'g> {
        let (norm, activation) = (pre_norm(config, &self.norm), Some(config.activation));
        if let [(up, _)] = &self.up.parts[..] {
            return linear(g, up, x, Fused { norm, activation, ..Fused::default() });
        }
        match stack(g, &self.up, x, norm)[..] {
            [gate, up] => g.ops.gated(config.activation, gate, up),
            _ => unreachable!("gate and up are one or two parts"),
        }
    }
}

/// Query heads and key heads of `x` [head, n_head + n_head_kv, t].
fn split_heads<'g>(g: &Builder<'g>, x: Tensor<'g>, n_head: usize) -> (Tensor<'g>, Tensor<'g>) {
    let [head, n, t, _] = x.shape();
    let [_, head_bytes, row_bytes, _] = x.strides();
    let part = |first: usize, n| g.ops.view(x, [head, n, t], [head_bytes, row_bytes], first * head_bytes);
    (part(0, n_head), part(n_head, n - n_head))
}
