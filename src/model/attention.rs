//! What the architectures share: attention over the cache, and multiplication by matrices that lie together.

use super::weights::{Linear, Stack};
use super::{Cache, Config, LayerStep, Rows, Visible};
use crate::ggml::{Builder, Tensor};
use crate::kernels::{Fused, Norm};

/// Queries, keys and values of some rows.
#[derive(Clone, Copy)]
pub(super) struct Qkv<'g> {
    /// \[head, n_head, t\]
    pub(super) q: Tensor<'g>,
    /// \[n_embd_k, t\]
    pub(super) k: Tensor<'g>,
    /// \[n_embd_v, t\]
    pub(super) v: Tensor<'g>,
}

/// Attention of rows over the cache, to which their keys and values are added first: what the heads found,
/// \[n_head * head_v, t\]. `sinks` \[n_head\] take a share of each head's softmax.
pub(super) fn attend<'g>(
    g: &Builder<'g>,
    config: &Config,
    step: &LayerStep,
    cache: &'g Cache,
    rows: &Rows<'g>,
    qkv: Qkv<'g>,
    sinks: Option<Tensor<'g>>,
) -> Tensor<'g> {
    let Qkv { q, k, v } = qkv;
    cache.write(g, step, rows, k, v);
    let (heads, t) = (config.heads(), v.shape()[1]);
    let Visible { sees, mask } = if config.has_window(step.il) { rows.in_window } else { rows.all };
    if let Some(sees) = sees {
        let (k, v) = cache.for_kernel(step, &heads).expect("the engine asked for a kernel");
        return g.ops.attention(&heads, q, k, v, sees, rows.reduction).named("kqv_out", step.il);
    }
    let mask = mask.expect("without a kernel there is a mask");
    let q = g.ops.swap_1_2(q); // [head, t, n_head]
    let n_kv = mask.shape()[0];
    let (k, v) = (cache.keys(g, config, step, n_kv), cache.values(g, config, step, n_kv));
    let mixed = if cache.transposes_values(step) {
        let scores = g.ops.mul_mat_f32(k, q); // [n_kv, t, n_head]
        let weights = match heads.softcap {
            Some(cap) => g.ops.soft_max(g.ops.softcap(g.ops.scale(scores, heads.scale), cap), mask, 1.0, sinks),
            None => g.ops.soft_max(scores, mask, heads.scale, sinks),
        };
        g.ops.contiguous(g.ops.swap_1_2(g.ops.mul_mat(v, weights))) // [head_v, n_head, t]
    } else {
        g.ops.flash_attn([q, k, v, mask], heads.scale, heads.softcap, sinks) // [head_v, n_head, t]
    };
    g.ops.reshape(mixed, [config.n_head * config.head_dim_v, t]).named("kqv_out", step.il)
}

/// The products of a matrix, its bias added.
pub(super) fn linear<'g>(g: &Builder<'g>, linear: &'g Linear, x: Tensor<'g>, fused: Fused<'g>) -> Tensor<'g> {
    g.ops.linear(&linear.weight, x, Fused { bias: linear.bias(), ..fused })
}

/// The products of each part of a stack.
pub(super) fn stack<'g>(
    g: &Builder<'g>,
    stack: &'g Stack,
    x: Tensor<'g>,
    norm: Option<Norm<Tensor<'g>>>,
) -> Vec<Tensor<'g>> {
    let (x, norm) = match norm {
        // One norm for all parts, unless each has it inside.
        Some(norm) if stack.parts.iter().any(|(part, _)| !part.weight.is_fused()) => (g.ops.norm(x, norm), None),
        norm => (x, norm),
    };
    stack.parts.iter().map(|(part, _)| linear(g, part, x, Fused { norm, ..Fused::default() })).collect()
}

/// `n` columns of the rows of `x` from column `first` on: \[n, t\].
pub(super) fn columns<'g>(g: &Builder<'g>, x: Tensor<'g>, first: usize, n: usize) -> Tensor<'g> {
    let row_bytes = x.strides()[1];
    let t = x.shape()[1];
    g.ops.view(x, [n, t, 1], [row_bytes, row_bytes * t], first * size_of::<f32>())
}

/// The same of parts that lie side by side; the columns belong to one of them.
pub(super) fn columns_of<'g>(g: &Builder<'g>, parts: &[Tensor<'g>], first: usize, n: usize) -> Tensor<'g> {
    let mut start = 0;
    for part in parts {
        let end = start + part.shape()[0];
        if first < end {
            return columns(g, *part, first - start, n);
        }
        start = end;
    }
    unreachable!("a stack has all its columns")
}

/// The rows of `x` from column `first` on as `n_head` heads: \[head, n_head, t\].
pub(super) fn heads<'g>(g: &Builder<'g>, x: Tensor<'g>, first: usize, n_head: usize, head: usize) -> Tensor<'g> {
    let f32s = size_of::<f32>();
    g.ops.view(x, [head, n_head, x.shape()[1]], [head * f32s, x.strides()[1]], first * f32s)
}

/// Adjacent heads \[head, n_head, t\] as rows \[head * n_head, t\].
pub(super) fn flat<'g>(g: &Builder<'g>, x: Tensor<'g>) -> Tensor<'g> {
    let [head, n_head, t, _] = x.shape();
    g.ops.view(x, [head * n_head, t, 1], [x.strides()[2], x.strides()[2] * t], 0)
}
