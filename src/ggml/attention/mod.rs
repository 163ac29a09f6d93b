//! Owns causal attention over a cache as one node, where the processor has a kernel for it: scores, softmax and the
//! mixing of values for a few rows of one head at a time, without a word to other threads.
//!
//! Every number is rounded and added as in ggml's nodes (`mul_mat` of f16, `soft_max`, `mul_mat` of f16), so the results
//! are the same to the bit. ggml adds up in one order for a single row and in another for several ([`Order`]): on small
//! models that alone moves the most probable token at 2 of 100 places, so the order is chosen here, not by the number of
//! rows.

#[cfg(target_arch = "x86_64")]
mod avx512;

use super::context::Tensor;
use super::node::{Node, NodeRun};
use super::ops::Ops;
use super::packed::Scratch;
use crate::dtype::DType;

/// Rows of one head computed together.
const TILE: usize = 4;

/// Positions that one step of ggml's dot product takes; rows of weights are padded to it.
const STEP: usize = 64;

/// Sixteen scores, or sixteen mixed values, are finished together.
const LANES: usize = 16;

/// The order in which dot products are added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// As ggml does for a single row: four chains (`ggml_vec_dot_f16`).
    Token,
    /// As ggml does for several rows: one chain (its `tinyBLAS`).
    Prompt,
}

/// Shapes of the attention of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads, each shared by as many query heads as go into it.
    pub n_head_kv: usize,
    /// Elements of a query or key head.
    pub head_dim_k: usize,
    /// Elements of a value head.
    pub head_dim_v: usize,
    /// Multiplies the scores before the softmax.
    pub scale: f32,
}

impl Heads {
    /// Whether [`Ops::attention`] has a kernel for them on this processor.
    pub fn has_kernel(&self, type_k: DType, type_v: DType) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let fits = self.head_dim_k.is_multiple_of(STEP) && self.head_dim_v.is_multiple_of(LANES);
            fits && type_k == DType::F16 && type_v == DType::F16 && std::arch::is_x86_feature_detected!("avx512f")
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (type_k, type_v, STEP, LANES);
            false
        }
    }
}

impl<'g> Ops<'g> {
    /// Attention of the queries `q` f32 \[head_k, n_head, t\] to the cached keys `k` f16 \[head_k * n_head_kv, n\] and values
    /// `v` f16 \[n, head_v * n_head_kv\] (by column): row i sees the rows 0..=positions\[i\]. The result is
    /// \[head_v * n_head, t\]. For heads with a kernel only.
    #[track_caller]
    pub fn attention(
        &self,
        heads: &Heads,
        q: Tensor<'g>,
        k: Tensor<'g>,
        v: Tensor<'g>,
        positions: Tensor<'g>,
        order: Order,
    ) -> Tensor<'g> {
        assert!(heads.has_kernel(k.dtype(), v.dtype()), "attention: no kernel for {heads:?} on {k:?} and {v:?}");
        let t = positions.shape()[0];
        assert_eq!(q.shape(), [heads.head_dim_k, heads.n_head, t, 1], "attention: queries {q:?}");
        assert!(q.dtype() == DType::F32 && q.strides()[0] == size_of::<f32>(), "attention: queries {q:?}");
        assert_eq!(positions.dtype(), DType::I32, "attention: positions are i32");
        assert_eq!(k.shape()[0], heads.head_dim_k * heads.n_head_kv, "attention: keys {k:?}");
        assert_eq!(v.shape()[..2], [k.shape()[1], heads.head_dim_v * heads.n_head_kv], "attention: values {v:?}");
        assert!(k.shape()[1].is_multiple_of(STEP) && heads.n_head.is_multiple_of(heads.n_head_kv));
        let shape = [heads.head_dim_v * heads.n_head, t];
        self.node(DType::F32, shape, &[q, k, v, positions], Attention { heads: *heads, order })
    }
}

struct Attention {
    heads: Heads,
    order: Order,
}

impl Node for Attention {
    /// Sources: queries, keys, values, positions.
    fn run(&self, run: &NodeRun<'_>) {
        let t = run.dst.ne[1] as usize;
        let n_tiles = t.div_ceil(TILE);
        let mut scratch = Scratch::take();
        // Later rows see more: tiles alternate between the threads.
        for unit in run.alternate(self.heads.n_head * n_tiles) {
            let (tile, head) = (unit / self.heads.n_head, unit % self.heads.n_head);
            let rows = tile * TILE..t.min((tile + 1) * TILE);
            match (rows.len(), self.order) {
                (TILE, Order::Token) => self.tile::<TILE, 4>(run, head, rows.start, &mut scratch),
                (TILE, Order::Prompt) => self.tile::<TILE, 1>(run, head, rows.start, &mut scratch),
                (_, Order::Token) => rows.for_each(|row| self.tile::<1, 4>(run, head, row, &mut scratch)),
                (_, Order::Prompt) => rows.for_each(|row| self.tile::<1, 1>(run, head, row, &mut scratch)),
            }
        }
    }
}

impl Attention {
    /// Rows `first..first + R` of one head.
    fn tile<const R: usize, const CHAINS: usize>(
        &self,
        run: &NodeRun<'_>,
        head: usize,
        first: usize,
        scratch: &mut Scratch,
    ) {
        let Heads { n_head, n_head_kv, head_dim_k, head_dim_v, scale } = self.heads;
        let kv_head = head / (n_head / n_head_kv);
        let [q, k, v, positions] = [0, 1, 2, 3].map(|i| run.source(i));
        // SAFETY: the graph runs this node after its sources, whose shapes `Ops::attention` checked; a position is a row of
        // the cache; this thread alone writes these rows of this head.
        unsafe {
            let positions: &[i32] = std::slice::from_raw_parts(positions.data.cast(), positions.ne[0] as usize);
            let seen: [usize; R] = std::array::from_fn(|r| positions[first + r] as usize + 1);
            let n_seen = seen.iter().copied().max().unwrap_or(0);
            assert!(n_seen <= k.ne[1] as usize, "attention: position {} of {}", n_seen - 1, k.ne[1]);
            let n_weights = n_seen.next_multiple_of(STEP);
            let (queries, weights) = scratch.floats(R * (head_dim_k + n_weights)).split_at_mut(R * head_dim_k);
            for (r, query) in queries.chunks_exact_mut(head_dim_k).enumerate() {
                let at = q.data.cast::<u8>().add(head * q.nb[1] + (first + r) * q.nb[2]).cast();
                query.copy_from_slice(std::slice::from_raw_parts(at, head_dim_k));
                avx512::round_to_f16(query);
            }
            let keys = k.data.cast::<u8>().add(kv_head * head_dim_k * 2);
            avx512::scores::<R, CHAINS>(queries, keys.cast(), k.nb[1] / 2, n_seen, weights, n_weights);
            for (weights, &seen) in weights.chunks_exact_mut(n_weights).zip(&seen) {
                soft_max(weights, seen, scale);
            }
            let values = v.data.cast::<u8>().add(kv_head * head_dim_v * v.nb[1]);
            let mut mixed = |r: usize, d: usize, sixteen: &[f32; LANES]| {
                let at = run.dst.data.cast::<u8>().add((first + r) * run.dst.nb[1]).cast::<f32>();
                at.add(head * head_dim_v + d).copy_from_nonoverlapping(sixteen.as_ptr(), LANES);
            };
            avx512::mix::<R, CHAINS>(weights, n_weights, values.cast(), v.nb[1] / 2, head_dim_v, &mut mixed);
        }
    }
}

/// softmax of the first `seen` scores times `scale`, rounded to f16; the rest becomes zero.
fn soft_max(scores: &mut [f32], seen: usize, scale: f32) {
    let mut max = f32::NEG_INFINITY;
    for score in &mut scores[..seen] {
        *score *= scale;
        max = max.max(*score);
    }
    // ggml takes sixteen at a time.
    let n = seen.next_multiple_of(LANES);
    scores[seen..n].fill(f32::NEG_INFINITY);
    scores[n..].fill(0.0);
    let scores = &mut scores[..n];
    let at = scores.as_mut_ptr();
    // SAFETY: source and destination may be the same: each element is read before it is written.
    let sum = unsafe { ggml_vec_soft_max_f32(n as i32, at, at, max) };
    let factor = (1.0 / sum) as f32;
    scores.iter_mut().for_each(|weight| *weight *= factor);
    // SAFETY: a kernel was chosen, so the processor has its instructions.
    unsafe { avx512::round_to_f16(scores) };
}

unsafe extern "C" {
    /// y = exp(x - max), n times; gives the sum. ggml's own, so that the weights come out the same to the bit.
    fn ggml_vec_soft_max_f32(n: i32, y: *mut f32, x: *const f32, max: f32) -> f64;
}
