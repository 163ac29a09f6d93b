//! The Llama architecture: pre-norm, rotary grouped-query attention, SwiGLU.

use std::sync::{Arc, OnceLock};

use super::weights::{Linear, Loader, Stack};
use super::{Cache, Config, Error, LayerStep, Rows};
use crate::dtype::DType;
use crate::ggml::{Around, Builder, Store, Stored, Tensor, Weight};
use crate::gguf::File;

/// Bound on the tensors that one layer adds to a graph, views included.
pub(super) const TENSORS_PER_LAYER: usize = 48;

pub(super) struct Llama {
    token_embd: Stored,
    layers: Vec<Layer>,
    output_norm: Stored,
    output: Weight,
    /// A low-bit copy of the output head, made when first asked for.
    sketch: OnceLock<Option<Weight>>,
    /// Llama 3 divides the rotary frequencies by these.
    rope_freqs: Option<Stored>,
}

/// A pruned file lacks halves; its plan, and every plan made of it, leaves them out.
struct Layer {
    attention: Option<Attention>,
    feed_forward: Option<FeedForward>,
}

struct Attention {
    norm: Stored,
    qkv: Stack,
    output: Linear,
}

struct FeedForward {
    norm: Stored,
    gate_up: Stack,
    down: Linear,
}

impl Llama {
    pub(super) fn load(file: &Arc<File>, config: &Config, plan: &[LayerStep]) -> Result<(Llama, usize), Error> {
        let Config { n_embd, n_ff, n_vocab, .. } = *config;
        let (n_q, n_k, n_v) = (config.n_embd_q(), config.n_embd_k(), config.n_embd_v());
        let mut w = Loader::new(file.clone());
        let token_embd = w.table("token_embd.weight", [n_embd, n_vocab])?;
        let mut layers = Vec::new();
        for step in plan {
            let blk = format!("blk.{}", step.il);
            let attention = |w: &mut Loader| {
                let norm = w.vector(&format!("{blk}.attn_norm.weight"), n_embd)?;
                let qkv = w.stack(&blk, &[("attn_q", n_q), ("attn_k", n_k), ("attn_v", n_v)], n_embd)?;
                let output = w.linear(&blk, "attn_output", [config.n_head * config.head_dim_v, n_embd])?;
                Ok::<_, Error>((norm, qkv, output))
            };
            let feed_forward = |w: &mut Loader| {
                let norm = w.vector(&format!("{blk}.ffn_norm.weight"), n_embd)?;
                let gate_up = w.stack(&blk, &[("ffn_gate", n_ff), ("ffn_up", n_ff)], n_embd)?;
                Ok::<_, Error>((norm, gate_up, w.linear(&blk, "ffn_down", [n_ff, n_embd])?))
            };
            layers.push((
                step.attention.then(|| attention(&mut w)).transpose()?,
                step.feed_forward.then(|| feed_forward(&mut w)).transpose()?,
            ));
        }
        let output_norm = w.vector("output_norm.weight", n_embd)?;
        let output = w.head([n_embd, n_vocab], token_embd)?;
        let rope_freqs = w.optional_vector("rope_freqs.weight", config.rope.n_dims / 2)?;
        let (stored, weights_bytes) = w.finish();
        let layers = layers.into_iter().map(|(attention, feed_forward)| Layer {
            attention: attention.map(|(norm, qkv, output)| Attention {
                norm: norm.get(&stored),
                qkv: qkv.get(&stored),
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
            output: output.get(&stored),
            sketch: OnceLock::new(),
            rope_freqs: rope_freqs.map(|f| f.get(&stored)),
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
        let norm = |weight: &'g Stored| Some((weight.t(), config.norm_eps));
        let attention = || layer.attention.as_ref().expect("plans ask for halves that the file has");
        if step.is_empty() {
            let attention = attention();
            let (_, k, v) = self.rotated_qkv(g, config, attention, rows, h, norm(&attention.norm));
            cache.write(g, step, rows, flat(g, k), v);
        }
        if step.attention {
            let attention = attention();
            let mixed = self.attention(g, config, step, attention, cache, rows, h, norm(&attention.norm));
            let around = Around { residual: Some(h), ..Around::default() };
            h = linear(g, &attention.output, mixed, around).named("ffn_inp", step.il);
        }
        if step.feed_forward {
            let network = layer.feed_forward.as_ref().expect("plans ask for halves that the file has");
            let gated = gate_up(g, network, h, norm(&network.norm));
            let around = Around { residual: Some(h), ..Around::default() };
            h = linear(g, &network.down, gated, around).named("l_out", step.il);
        }
        h
    }

    pub(super) fn head<'g>(&'g self, g: &Builder<'g>, config: &Config, h: Tensor<'g>) -> Tensor<'g> {
        let around = Around { norm: Some((self.output_norm.t(), config.norm_eps)), ..Around::default() };
        g.ops.linear(&self.output, h, around).named("result_output", None) // [n_vocab, t]
    }

    /// The low-bit copy of the output head, whose rows of blocks are `data`, if it is of use.
    pub(super) fn sketch(&self, dtype: DType, data: &[u8]) -> Option<&Weight> {
        // Without memory for it the whole head serves.
        self.sketch.get_or_init(|| self.output.sketch(dtype, data).unwrap_or(None)).as_ref()
    }

    pub(super) fn best_of_head<'g>(
        &'g self,
        g: &Builder<'g>,
        config: &Config,
        sketch: &'g Weight,
        h: Tensor<'g>,
        keep: usize,
    ) -> Tensor<'g> {
        let norm = (self.output_norm.t(), config.norm_eps);
        g.ops.shortlist(&self.output, sketch, h, norm, keep).named("result_output", None) // [n_vocab, t]
    }

    /// Attention of the rows `x` \[n_embd, t\], normed first, over the cache, to which they are added: what the heads found,
    /// \[n_head * head_v, t\].
    #[allow(clippy::too_many_arguments)] // a layer's whole surroundings
    fn attention<'g>(
        &'g self,
        g: &Builder<'g>,
        config: &Config,
        step: &LayerStep,
        attention: &'g Attention,
        cache: &'g Cache,
        rows: &Rows<'g>,
        x: Tensor<'g>,
        norm: Norm<'g>,
    ) -> Tensor<'g> {
        let (il, t) = (step.il, x.shape()[1]);
        let (q, k, v) = self.rotated_qkv(g, config, attention, rows, x, norm);
        cache.write(g, step, rows, flat(g, k), v);

        let heads = config.heads();
        if let Some(sees) = rows.sees {
            let (k, v) = cache.for_kernel(step, &heads).expect("the session asked for a kernel");
            return g.ops.attention(&heads, q, k, v, sees, rows.order).named("kqv_out", il);
        }
        let (mask, scale) = (rows.mask.expect("without a kernel there is a mask"), heads.scale);
        let q = g.ops.swap_1_2(q); // [head, t, n_head]
        let n_kv = mask.shape()[0];
        let (k, v) = (cache.keys(g, config, step, n_kv), cache.values(g, config, step, n_kv));
        let mixed = if cache.transposes_values() {
            let weights = g.ops.soft_max(g.ops.mul_mat(k, q), mask, scale); // [n_kv, t, n_head]
            g.ops.contiguous(g.ops.swap_1_2(g.ops.mul_mat(v, weights))) // [head_v, n_head, t]
        } else {
            g.ops.flash_attn(q, k, v, mask, scale) // [head_v, n_head, t]
        };
        g.ops.reshape(mixed, [config.n_head * config.head_dim_v, t]).named("kqv_out", il)
    }

    /// Queries \[head, n_head, t\] and keys \[head, n_head_kv, t\], rotated, and values \[n_embd_v, t\].
    fn rotated_qkv<'g>(
        &'g self,
        g: &Builder<'g>,
        config: &Config,
        attention: &'g Attention,
        rows: &Rows<'g>,
        x: Tensor<'g>,
        norm: Norm<'g>,
    ) -> (Tensor<'g>, Tensor<'g>, Tensor<'g>) {
        let (n_head, n_head_kv, head) = (config.n_head, config.n_head_kv, config.head_dim_k);
        let parts = stack(g, &attention.qkv, x, norm);
        let rope = |x| g.ops.rope(x, rows.positions, self.rope_freqs.as_ref().map(Stored::t), &config.rope);
        let [q_part, .., v_part] = &parts[..] else {
            let qkv = parts[0];
            let v = columns(g, qkv, config.n_embd_q() + config.n_embd_k(), config.n_embd_v());
            let (q, k) = split_heads(g, rope(heads(g, qkv, 0, n_head + n_head_kv, head)), n_head);
            return (q, k, v);
        };
        let v_offset = v_part.shape()[0] - config.n_embd_v();
        let v = columns(g, *v_part, v_offset, config.n_embd_v());
        if q_part.shape()[0] > config.n_embd_q() {
            let (q, k) = split_heads(g, rope(heads(g, *q_part, 0, n_head + n_head_kv, head)), n_head);
            return (q, k, v);
        }
        let k_part = parts[1];
        (rope(heads(g, *q_part, 0, n_head, head)), rope(heads(g, k_part, 0, n_head_kv, head)), v)
    }
}

/// A norm to come before a multiplication: its weight and epsilon.
type Norm<'g> = Option<(Tensor<'g>, f32)>;

/// silu(gate) * up of the normed rows: \[n_ff, t\].
fn gate_up<'g>(g: &Builder<'g>, network: &'g FeedForward, x: Tensor<'g>, norm: Norm<'g>) -> Tensor<'g> {
    if let [(gate_up, _)] = &network.gate_up.parts[..] {
        return linear(g, gate_up, x, Around { norm, swiglu: true, ..Around::default() });
    }
    match stack(g, &network.gate_up, x, norm)[..] {
        [gate, up] => g.ops.swiglu_split(gate, up),
        _ => unreachable!("gate and up are one or two parts"),
    }
}

fn linear<'g>(g: &Builder<'g>, linear: &'g Linear, x: Tensor<'g>, around: Around<'g>) -> Tensor<'g> {
    g.ops.linear(&linear.weight, x, Around { bias: linear.bias(), ..around })
}

fn stack<'g>(g: &Builder<'g>, stack: &'g Stack, x: Tensor<'g>, norm: Norm<'g>) -> Vec<Tensor<'g>> {
    let (x, norm) = match norm {
        // One norm for all parts, unless each has it inside.
        Some((weight, eps)) if stack.parts.iter().any(|(part, _)| !part.weight.is_fused()) => {
            (g.ops.rms_norm(x, weight, eps), None)
        }
        norm => (x, norm),
    };
    stack.parts.iter().map(|(part, _)| linear(g, part, x, Around { norm, ..Around::default() })).collect()
}

/// `n` columns of the rows of `x` from column `first` on: \[n, t\].
fn columns<'g>(g: &Builder<'g>, x: Tensor<'g>, first: usize, n: usize) -> Tensor<'g> {
    let row_bytes = x.strides()[1];
    let t = x.shape()[1];
    g.ops.view(x, [n, t, 1], [row_bytes, row_bytes * t], first * size_of::<f32>())
}

/// The rows of `x` from column `first` on as `n_head` heads: \[head, n_head, t\].
fn heads<'g>(g: &Builder<'g>, x: Tensor<'g>, first: usize, n_head: usize, head: usize) -> Tensor<'g> {
    let f32s = size_of::<f32>();
    g.ops.view(x, [head, n_head, x.shape()[1]], [head * f32s, x.strides()[1]], first * f32s)
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
