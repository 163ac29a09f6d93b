//! The OPT architecture (arXiv 2205.01068), Galactica's included: learned positions, LayerNorm before each half of a layer or
//! behind it, plain feed-forward networks.

use std::sync::Arc;

use super::attention::{Before, Qkv, attend, columns_of, heads, linear, stack};
use super::config::OptConfig;
use super::head::Head;
use super::weights::{Linear, Loader, Pending, Stack};
use super::{Cache, Config, Error, LayerStep, Placement, Rows};
use crate::ggml::{Around, Builder, Norm, Store, Stored, Tensor, Weight};
use crate::gguf::File;

/// Bound on the tensors that one layer adds to a graph, views included.
pub(super) const TENSORS_PER_LAYER: usize = 56;

pub(super) struct Opt {
    config: OptConfig,
    norm_eps: f32,
    token_embd: Stored,
    position_embd: Stored,
    /// From the width of the embeddings to that of the layers, where they differ.
    proj_in: Option<Weight>,
    layers: Vec<Layer>,
    output_norm: Option<LayerNorm>,
    /// From the width of the layers to that of the embeddings.
    proj_out: Option<Weight>,
    head: Head,
}

struct Layer {
    attn_norm: LayerNorm,
    attn_qkv: Stack,
    attn_output: Linear,
    ffn_norm: LayerNorm,
    ffn_up: Linear,
    ffn_down: Linear,
}

struct LayerNorm {
    weight: Stored,
    bias: Option<Stored>,
}

impl LayerNorm {
    fn with_eps(&self, eps: f32) -> Norm<Tensor<'_>> {
        Norm::Layer { weight: self.weight.t(), bias: self.bias.as_ref().map(Stored::t), eps }
    }
}

struct PendingNorm(Pending, Option<Pending>);

impl PendingNorm {
    fn load(w: &mut Loader<'_>, name: &str, n: usize) -> Result<PendingNorm, Error> {
        Ok(PendingNorm(w.vector(&format!("{name}.weight"), n)?, w.optional_vector(&format!("{name}.bias"), n)?))
    }

    fn get(&self, stored: &[Stored]) -> LayerNorm {
        LayerNorm { weight: self.0.get(stored), bias: self.1.map(|bias| bias.get(stored)) }
    }
}

impl Opt {
    pub(super) fn load(
        file: &Arc<File>,
        config: &Config,
        opt: &OptConfig,
        placement: &Placement,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(Opt, usize), Error> {
        let Config { n_embd, n_ff, n_vocab, n_ctx_train, .. } = *config;
        let (n_q, n_k, n_v) = (config.n_embd_q(), config.n_embd_k(), config.n_embd_v());
        let n_word = opt.n_embd_word;
        let mut w = Loader::new(file.clone(), placement, progress);
        let token_embd = w.table("token_embd.weight", [n_word, n_vocab])?;
        let position_embd = w.table("position_embd.weight", [n_embd, n_ctx_train])?;
        let is_projected = n_word != n_embd;
        let project = |w: &mut Loader<'_>, name: &str, shape| is_projected.then(|| w.matrix(name, shape)).transpose();
        let proj_in = project(&mut w, "token_embd_proj_in.weight", [n_word, n_embd])?;
        let mut layers = Vec::new();
        for il in 0..config.n_layer {
            let blk = format!("blk.{il}");
            w.at_layer(il);
            layers.push((
                PendingNorm::load(&mut w, &format!("{blk}.attn_norm"), n_embd)?,
                w.stack(&blk, &[("attn_q", n_q), ("attn_k", n_k), ("attn_v", n_v)], n_embd)?,
                w.linear(&format!("{blk}.attn_output"), [config.n_head * config.head_dim_v, n_embd])?,
                PendingNorm::load(&mut w, &format!("{blk}.ffn_norm"), n_embd)?,
                w.linear(&format!("{blk}.ffn_up"), [n_embd, n_ff])?,
                w.linear(&format!("{blk}.ffn_down"), [n_ff, n_embd])?,
            ));
        }
        w.at_output();
        let output_norm = opt.has_output_norm.then(|| PendingNorm::load(&mut w, "output_norm", n_embd)).transpose()?;
        let proj_out = project(&mut w, "token_embd_proj_out.weight", [n_embd, n_word])?;
        let head = w.head([n_word, n_vocab], token_embd)?;
        let (stored, weights_bytes) = w.finish();
        let layers = layers.into_iter().map(|(attn_norm, attn_qkv, attn_output, ffn_norm, ffn_up, ffn_down)| Layer {
            attn_norm: attn_norm.get(&stored),
            attn_qkv: attn_qkv.get(&stored),
            attn_output: attn_output.get(&stored),
            ffn_norm: ffn_norm.get(&stored),
            ffn_up: ffn_up.get(&stored),
            ffn_down: ffn_down.get(&stored),
        });
        let network = Opt {
            config: opt.clone(),
            norm_eps: config.norm_eps,
            token_embd: token_embd.get(&stored),
            position_embd: position_embd.get(&stored),
            proj_in: proj_in.map(|p| p.get(&stored)),
            layers: layers.collect(),
            output_norm: output_norm.map(|n| n.get(&stored)),
            proj_out: proj_out.map(|p| p.get(&stored)),
            head: Head::new(head.get(&stored)),
        };
        Ok((network, weights_bytes))
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        self.token_embd.store()
    }

    pub(super) fn embed<'g>(&'g self, g: &Builder<'g>, tokens: Tensor<'g>, positions: Tensor<'g>) -> Tensor<'g> {
        let words = g.ops.get_rows(self.token_embd.t(), tokens); // [n_embd_word, t]
        let words = match &self.proj_in {
            Some(proj_in) => g.ops.linear(proj_in, words, Around::default()), // [n_embd, t]
            None => words,
        };
        g.ops.add(words, g.ops.get_rows(self.position_embd.t(), positions)).named("inp_embd", None)
    }

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
        if step.is_empty() {
            let Qkv { k, v, .. } = self.qkv(g, config, layer, h);
            cache.write(g, step, rows, k, v);
        }
        if step.attention {
            let mixed = attend(g, config, step, cache, rows, self.qkv(g, config, layer, h));
            let around = Around { residual: Some(h), ..Around::default() };
            let sum = linear(g, &layer.attn_output, mixed, around);
            h = self.after(g, sum, &layer.attn_norm).named("ffn_inp", step.il);
        }
        if step.feed_forward {
            let (norm, activation) = (self.before(&layer.ffn_norm), Some(self.config.activation));
            let inner = linear(g, &layer.ffn_up, h, Around { norm, activation, ..Around::default() }); // [n_ff, t]
            let around = Around { residual: Some(h), ..Around::default() };
            let sum = linear(g, &layer.ffn_down, inner, around);
            h = self.after(g, sum, &layer.ffn_norm).named("l_out", step.il);
        }
        h
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// What the output head takes, and the norm that is still to come before it.
    pub(super) fn before_head<'g>(&'g self, g: &Builder<'g>, h: Tensor<'g>) -> (Tensor<'g>, Before<'g>) {
        let norm = self.output_norm.as_ref().map(|norm| norm.with_eps(self.norm_eps));
        match &self.proj_out {
            Some(proj_out) => (g.ops.linear(proj_out, h, Around { norm, ..Around::default() }), None),
            None => (h, norm),
        }
    }

    /// The norm of half a layer, where it comes first.
    fn before<'g>(&self, norm: &'g LayerNorm) -> Before<'g> {
        self.config.norm_first.then(|| norm.with_eps(self.norm_eps))
    }

    /// The sum at the end of half a layer, normed where that comes last.
    fn after<'g>(&self, g: &Builder<'g>, sum: Tensor<'g>, norm: &'g LayerNorm) -> Tensor<'g> {
        if self.config.norm_first { sum } else { g.ops.norm(sum, norm.with_eps(self.norm_eps)) }
    }

    fn qkv<'g>(&'g self, g: &Builder<'g>, config: &Config, layer: &'g Layer, x: Tensor<'g>) -> Qkv<'g> {
        let parts = stack(g, &layer.attn_qkv, x, self.before(&layer.attn_norm));
        let (n_q, n_k) = (config.n_embd_q(), config.n_embd_k());
        let q = columns_of(g, &parts, 0, n_q);
        Qkv {
            q: heads(g, q, 0, config.n_head, config.head_dim_k),
            k: columns_of(g, &parts, n_q, n_k),
            v: columns_of(g, &parts, n_q + n_k, config.n_embd_v()),
        }
    }
}
