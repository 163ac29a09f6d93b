//! The Llama architecture: pre-norm, rotary grouped-query attention, SwiGLU.

use std::sync::Arc;

use super::attention::{Before, Qkv, attend, columns, heads, linear, stack};
use super::head::Head;
use super::weights::{Linear, Loader, Stack};
use super::{Cache, Config, Error, LayerStep, Placement, Rows};
use crate::ggml::{Activation, Around, Builder, Norm, Rope, Store, Stored, Tensor};
use crate::gguf::File;

/// Bound on the tensors that one layer adds to a graph, views included.
pub(super) const TENSORS_PER_LAYER: usize = 48;

pub(super) struct Llama {
    token_embd: Stored,
    layers: Vec<Layer>,
    output_norm: Stored,
    head: Head,
    norm_eps: f32,
    rope: Rope,
}

/// A pruned file lacks halves; its plan, and every plan made of it, leaves them out.
struct Layer {
    attention: Option<Attention>,
    feed_forward: Option<FeedForward>,
}

struct Attention {
    norm: Stored,
    qkv: Stack,
    /// Llama 3 divides the rotary frequencies by these.
    rope_freqs: Option<Stored>,
    output: Linear,
}

struct FeedForward {
    norm: Stored,
    gate_up: Stack,
    down: Linear,
}

impl Llama {
    pub(super) fn load(
        file: &Arc<File>,
        config: &Config,
        rope: Rope,
        plan: &[LayerStep],
        placement: &Placement,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(Llama, usize), Error> {
        let Config { n_embd, n_ff, n_vocab, .. } = *config;
        let (n_q, n_k, n_v) = (config.n_embd_q(), config.n_embd_k(), config.n_embd_v());
        let mut w = Loader::new(file.clone(), placement, progress);
        let token_embd = w.table("token_embd.weight", [n_embd, n_vocab])?;
        let mut layers = Vec::new();
        for step in plan {
            let blk = format!("blk.{}", step.il);
            w.at_layer(step.il);
            let attention = |w: &mut Loader| {
                let norm = w.vector(&format!("{blk}.attn_norm.weight"), n_embd)?;
                let qkv = w.stack(&blk, &[("attn_q", n_q), ("attn_k", n_k), ("attn_v", n_v)], n_embd)?;
                let output = w.linear(&format!("{blk}.attn_output"), [config.n_head * config.head_dim_v, n_embd])?;
                let freqs = w.shared_divisors("rope_freqs.weight", rope.n_dims / 2)?;
                Ok::<_, Error>((norm, qkv, output, freqs))
            };
            let feed_forward = |w: &mut Loader| {
                let norm = w.vector(&format!("{blk}.ffn_norm.weight"), n_embd)?;
                let gate_up = w.stack(&blk, &[("ffn_gate", n_ff), ("ffn_up", n_ff)], n_embd)?;
                Ok::<_, Error>((norm, gate_up, w.linear(&format!("{blk}.ffn_down"), [n_ff, n_embd])?))
            };
            layers.push((
                step.attention.then(|| attention(&mut w)).transpose()?,
                step.feed_forward.then(|| feed_forward(&mut w)).transpose()?,
            ));
        }
        w.at_output();
        let output_norm = w.vector("output_norm.weight", n_embd)?;
        let output = w.head([n_embd, n_vocab], token_embd)?;
        let (stored, weights_bytes) = w.finish();
        let layers = layers.into_iter().map(|(attention, feed_forward)| Layer {
            attention: attention.map(|(norm, qkv, output, freqs)| Attention {
                norm: norm.get(&stored),
                qkv: qkv.get(&stored),
                rope_freqs: freqs.map(|f| f.get(&stored)),
                output: output.get(&stored),
            }),
            feed_forward: feed_forward.map(|(norm, gate_up, down)| FeedForward {
                norm: norm.get(&stored),
                gate_up: gate_up.get(&stored),
                down: down.get(&stored),
            }),
        });
        let network = Llama {
            token_embd: token_embd.get(&stored),
            layers: layers.collect(),
            output_norm: output_norm.get(&stored),
            head: Head::new(output.get(&stored)),
            norm_eps: config.norm_eps,
            rope,
        };
        Ok((network, weights_bytes))
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        self.token_embd.store()
    }

    pub(super) fn embed<'g>(&'g self, g: &Builder<'g>, tokens: Tensor<'g>) -> Tensor<'g> {
        g.ops.get_rows(self.token_embd.t(), tokens).named("inp_embd", None) // [n_embd, t]
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
        let attention = || layer.attention.as_ref().expect("plans ask for halves that the file has");
        if step.is_empty() {
            let Qkv { k, v, .. } = self.rotated_qkv(g, config, attention(), rows, h);
            cache.write(g, step, rows, k, v);
        }
        if step.attention {
            let attention = attention();
            let qkv = self.rotated_qkv(g, config, attention, rows, h);
            let mixed = attend(g, config, step, cache, rows, qkv);
            let around = Around { residual: Some(h), ..Around::default() };
            h = linear(g, &attention.output, mixed, around).named("ffn_inp", step.il);
        }
        if step.feed_forward {
            let network = layer.feed_forward.as_ref().expect("plans ask for halves that the file has");
            let gated = gate_up(g, network, h, self.norm(&network.norm));
            let around = Around { residual: Some(h), ..Around::default() };
            h = linear(g, &network.down, gated, around).named("l_out", step.il);
        }
        h
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    /// What the output head takes, and the norm that is still to come before it.
    pub(super) fn before_head<'g>(&'g self, h: Tensor<'g>) -> (Tensor<'g>, Before<'g>) {
        (h, self.norm(&self.output_norm))
    }

    fn norm<'g>(&self, weight: &'g Stored) -> Before<'g> {
        Some(Norm::Rms { weight: weight.t(), eps: self.norm_eps })
    }

    /// Queries and keys, rotated, and values of the normed rows `x` \[n_embd, t\].
    fn rotated_qkv<'g>(
        &'g self,
        g: &Builder<'g>,
        config: &Config,
        attention: &'g Attention,
        rows: &Rows<'g>,
        x: Tensor<'g>,
    ) -> Qkv<'g> {
        let (n_head, n_head_kv, head) = (config.n_head, config.n_head_kv, config.head_dim_k);
        let parts = stack(g, &attention.qkv, x, self.norm(&attention.norm));
        let rope = |x| g.ops.rope(x, rows.positions, attention.rope_freqs.as_ref().map(Stored::t), &self.rope);
        let [q_part, .., v_part] = &parts[..] else {
            let qkv = parts[0];
            let v = columns(g, qkv, config.n_embd_q() + config.n_embd_k(), config.n_embd_v());
            let (q, k) = split_heads(g, rope(heads(g, qkv, 0, n_head + n_head_kv, head)), n_head);
            return Qkv { q, k: flat(g, k), v };
        };
        let v_offset = v_part.shape()[0] - config.n_embd_v();
        let v = columns(g, *v_part, v_offset, config.n_embd_v());
        if q_part.shape()[0] > config.n_embd_q() {
            let (q, k) = split_heads(g, rope(heads(g, *q_part, 0, n_head + n_head_kv, head)), n_head);
            return Qkv { q, k: flat(g, k), v };
        }
        let k_part = parts[1];
        let (q, k) = (rope(heads(g, *q_part, 0, n_head, head)), rope(heads(g, k_part, 0, n_head_kv, head)));
        Qkv { q, k: flat(g, k), v }
    }
}

/// silu(gate) * up of the normed rows: \[n_ff, t\].
fn gate_up<'g>(g: &Builder<'g>, network: &'g FeedForward, x: Tensor<'g>, norm: Before<'g>) -> Tensor<'g> {
    if let [(gate_up, _)] = &network.gate_up.parts[..] {
        return linear(g, gate_up, x, Around { norm, activation: Some(Activation::Swiglu), ..Around::default() });
    }
    match stack(g, &network.gate_up, x, norm)[..] {
        [gate, up] => g.ops.swiglu_split(gate, up),
        _ => unreachable!("gate and up are one or two parts"),
    }
}

/// Adjacent heads \[head, n_head, t\] as rows \[head * n_head, t\].
fn flat<'g>(g: &Builder<'g>, x: Tensor<'g>) -> Tensor<'g> {
    let [head, n_head, t, _] = x.shape();
    g.ops.view(x, [head * n_head, t, 1], [x.strides()[2], x.strides()[2] * t], 0)
}

/// Query heads and key heads of `x` [head, n_head + n_head_kv, t].
fn split_heads<'g>(g: &Builder<'g>, x: Tensor<'g>, n_head: usize) -> (Tensor<'g>, Tensor<'g>) {
    let [head, n, t, _] = x.shape();
    let [_, head_bytes, row_bytes, _] = x.strides();
    let part = |first: usize, n| g.ops.view(x, [head, n, t], [head_bytes, row_bytes], first * head_bytes);
    (part(0, n_head), part(n_head, n - n_head))
}
