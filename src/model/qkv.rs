//! The attention of a layer up to queries, keys and values: its weights, the norms of heads, rotation.

use super::attention::{Qkv, columns_of, flat, heads, stack};
use super::norms::{HalfNorms, HeadNorm};
use super::weights::{Linear, Loader, Stack};
use super::{Cache, Config, Error, Rows};
use crate::ggml::{Builder, Rope, Stored, Tensor};

pub(super) struct Attention {
    pub(super) norms: HalfNorms,
    qkv: Stack,
    q_norm: Option<HeadNorm>,
    k_norm: Option<HeadNorm>,
    divisors: Divisors,
    /// What takes a share of each head's softmax and gives nothing: \[n_head\].
    pub(super) sinks: Option<Stored>,
    pub(super) output: Linear,
}

/// What divides the rotary frequencies, where anything does.
struct Divisors {
    /// Llama 3's, and those of contexts up to the original one (arXiv 2402.13753).
    usual: Option<Stored>,
    /// Of longer contexts.
    long: Option<Stored>,
}

impl Attention {
    pub(super) fn load(w: &mut Loader<'_>, config: &Config, il: usize) -> Result<Attention, Error> {
        let (blk, n_embd) = (format!("blk.{il}"), config.n_embd);
        let (n_q, n_k, n_v) = (config.n_embd_q(), config.n_embd_k(), config.n_embd_v());
        let apart = [("attn_q", n_q), ("attn_k", n_k), ("attn_v", n_v)];
        let together = [("attn_qkv", n_q + n_k + n_v)];
        let widths: &[_] = if w.has(&format!("{blk}.attn_qkv.weight")) { &together } else { &apart };
        // Where the halves of a layer have norms of their own from one hidden state, Falcon's has this name.
        let norms = ["attn_norm", "attn_norm_2"];
        let has_two = w.has(&format!("{blk}.attn_norm_2.weight"));
        let norms = if has_two { &norms[1..] } else { &norms[..1] };
        Ok(Attention {
            norms: HalfNorms::load(w, config, &blk, norms, "post_attention_norm")?,
            qkv: w.stack(&blk, widths, n_embd)?,
            q_norm: HeadNorm::load(w, config, &format!("{blk}.attn_q_norm.weight"), config.n_head)?,
            k_norm: HeadNorm::load(w, config, &format!("{blk}.attn_k_norm.weight"), config.n_head_kv)?,
            divisors: Divisors::load(w, config)?,
            sinks: w.optional_vector(&format!("{blk}.attn_sinks.weight"), config.n_head)?,
            output: w.linear(&format!("{blk}.attn_output"), [config.n_head * config.head_dim_v, n_embd])?,
        })
    }

    /// Queries and keys, rotated where they are, and values of the rows `x` \[n_embd, t\].
    pub(super) fn qkv<'g>(
        &'g self,
        g: &Builder<'g>,
        config: &Config,
        il: usize,
        cache: &Cache,
        rows: &Rows<'g>,
        x: Tensor<'g>,
    ) -> Qkv<'g> {
        let (n_head, n_head_kv, head) = (config.n_head, config.n_head_kv, config.head_dim_k);
        let (n_q, n_k, n_v) = (config.n_embd_q(), config.n_embd_k(), config.n_embd_v());
        let parts = stack(g, &self.qkv, x, self.norms.first(config));
        let v = columns_of(g, &parts, n_q + n_k, n_v);
        let rope = config.rope_of(il);
        let has_norms = self.q_norm.is_some() || self.k_norm.is_some();
        // Queries and keys side by side are rotated in one node.
        if let Some(rope) = rope.filter(|_| !has_norms && parts[0].shape()[0] > n_q) {
            let both = self.rotated(g, rope, cache, rows, heads(g, parts[0], 0, n_head + n_head_kv, head));
            let (q, k) = split_heads(g, both, n_head);
            return Qkv { q, k: flat(g, k), v };
        }
        let (q, k) = (columns_of(g, &parts, 0, n_q), columns_of(g, &parts, n_q, n_k));
        let normed = |norm: &'g Option<HeadNorm>, x, n| match norm {
            Some(norm) => norm.heads(g, config, x, n),
            None => heads(g, x, 0, n, head),
        };
        let both = [normed(&self.q_norm, q, n_head), normed(&self.k_norm, k, n_head_kv)];
        let [q, k] = both.map(|x| rope.map_or(x, |rope| self.rotated(g, rope, cache, rows, x)));
        Qkv { q, k: flat(g, k), v }
    }

    fn rotated<'g>(
        &'g self,
        g: &Builder<'g>,
        rope: &Rope,
        cache: &Cache,
        rows: &Rows<'g>,
        x: Tensor<'g>,
    ) -> Tensor<'g> {
        g.ops.rope(x, rows.positions, self.divisors.of(rope, cache), rope)
    }
}

impl Divisors {
    fn load(w: &mut Loader<'_>, config: &Config) -> Result<Divisors, Error> {
        let Some(rope) = &config.rope else { return Ok(Divisors { usual: None, long: None }) };
        let n = rope.n_dims / 2;
        let long = w.shared_divisors("rope_factors_long.weight", n)?;
        let usual = if long.is_some() { "rope_factors_short.weight" } else { "rope_freqs.weight" };
        let usual = w.shared_divisors(usual, n)?;
        Ok(Divisors { usual, long })
    }

    /// One choice for all positions of a context: keys that were rotated stay as they are.
    fn of(&self, rope: &Rope, cache: &Cache) -> Option<Tensor<'_>> {
        let long = self.long.as_ref().filter(|_| cache.n_ctx() > rope.n_ctx_orig);
        long.or(self.usual.as_ref()).map(Stored::t)
    }
}

/// Query heads and key heads of `x` [head, n_head + n_head_kv, t].
fn split_heads<'g>(g: &Builder<'g>, x: Tensor<'g>, n_head: usize) -> (Tensor<'g>, Tensor<'g>) {
    let [head, n, t, _] = x.shape();
    let [_, head_bytes, row_bytes, _] = x.strides();
    let part = |first: usize, n| g.ops.view(x, [head, n, t], [head_bytes, row_bytes], first * head_bytes);
    (part(0, n_head), part(n_head, n - n_head))
}
