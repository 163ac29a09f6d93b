//! The one forward pass: embedding, layers, and what stands before the output head, for every architecture. What differs between
//! architectures is read from [`Config`] and from the tensors that a file has.

use std::sync::Arc;

use super::attention::{Qkv, attend};
use super::feed_forward::FeedForward;
use super::head::Head;
use super::norms::NormWeights;
use super::qkv::Attention;
use super::weights::Loader;
use super::{Cache, Config, Error, LayerStep, Placement, Rows};
use crate::ggml::{Builder, Store, Stored, Tensor};
use crate::gguf::File;
use crate::kernels::{Fused, Norm, Weight};
use crate::plan::{Half, Runs};

/// Bound on the tensors that one layer adds to a graph, views included.
pub(super) fn tensors_per_layer(config: &Config) -> usize {
    // Each expert's output is a view and a sum.
    64 + config.experts.map_or(0, |experts| 32 + 2 * experts.n_used)
}

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
        let bias = w.optional_vector("output.bias", n_vocab)?;
        let head = Head::new(w.head([n_embd_word, n_vocab], &token_embd)?, bias);
        let network = Network { token_embd, position_embd, proj_in, layers, output_norm, proj_out, head };
        Ok((network, w.weights_bytes()))
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        self.token_embd.store()
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// Whether something takes a share of the softmax of a layer's heads.
    pub(super) fn has_sinks(&self) -> bool {
        self.layers.iter().filter_map(|layer| layer.attention.as_ref()).any(|attention| attention.sinks.is_some())
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
            let Qkv { k, v, .. } = attention().qkv(g, config, step.il, cache, rows, h);
            cache.write(g, step, rows, k, v);
        }
        let taken = h;
        if step.has(Half::Attention) {
            let attention = attention();
            let qkv = attention.qkv(g, config, step.il, cache, rows, h);
            let mixed = attend(g, config, step, cache, rows, qkv, attention.sinks.as_ref().map(Stored::t));
            h = attention.norms.added(g, config, h, &attention.output, mixed).named("ffn_inp", step.il);
        }
        if step.has(Half::FeedForward) {
            let network = layer.feed_forward.as_ref().expect("plans ask for halves that the file has");
            let x = if config.is_parallel { taken } else { h };
            h = network.added(g, config, h, x).named("l_out", step.il);
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
