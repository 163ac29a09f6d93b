//! Owns causal attention over a cache as one node, where the processor has a kernel for it: scores, softmax and the
//! mixing of values for a few rows of one head at a time, without a word to other threads.
//!
//! Every number is rounded and added as in ggml's nodes (`mul_mat` of f16, `soft_max`, `mul_mat` of f16), so the
//! results are the same to the bit. ggml adds up in one order for a single row and in another for several
//! ([`Reduction`]): on small models that alone moves the most probable token at 2 of 100 places, so the order is chosen
//! here, not by the number of rows.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::scratch::Scratch;
use crate::dtype::DType;
#[cfg(target_arch = "x86_64")]
use crate::ggml::soft_max as ggml_soft_max;
use crate::ggml::{Node, NodeRun, Ops, Tensor, was_compiled_with};

/// Rows of one head computed together.
const TILE: usize = 4;

/// Positions that one step of ggml's dot product takes; rows of weights are padded to it.
const STEP: usize = 64;

/// Sixteen scores, or sixteen mixed values, are finished together.
const LANES: usize = 16;

/// The order in which dot products are added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// As ggml does for a single row: four chains (`ggml_vec_dot_f16`).
    Decode,
    /// As ggml does for several rows: one chain (its `tinyBLAS`).
    Prefill,
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
    /// Bound on the scaled scores, which near it smoothly: `cap * tanh(score / cap)` (arXiv 2408.00118).
    pub softcap: Option<f32>,
}

impl Heads {
    /// Whether [`Ops::attention`] has a kernel for them on this processor.
    pub fn has_kernel(&self, type_k: DType, type_v: DType) -> bool {
        // Keys are taken a step at a time and values a register of columns at a time, both without a rest.
        let fits = self.head_dim_k.is_multiple_of(STEP) && self.head_dim_v.is_multiple_of(LANES);
        fits && type_k == DType::F16 && type_v == DType::F16 && Lanes::in_use().is_some()
    }
}

/// How many lanes ggml's sums have at the level of instructions in use, which ours have to have too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lanes {
    Eight,
    Sixteen,
}

impl Lanes {
    /// None where there is no kernel.
    fn in_use() -> Option<Lanes> {
        // By what ggml was compiled with, not by what the processor has: the sums of one order are not those of the
        // other.
        if was_compiled_with("avx512f") {
            return Some(Lanes::Sixteen);
        }
        ["avx2", "fma", "f16c"].into_iter().all(was_compiled_with).then_some(Lanes::Eight)
    }
}

impl<'g> Ops<'g> {
    /// Attention of the queries `q` f32 \[head_k, n_head, t\] to the cached keys `k` f16 \[head_k * n_head_kv, n\] and
    /// values `v` f16 \[n, head_v * n_head_kv\] (by column): row i sees the rows from `sees`\[0, i\] to `sees`\[3, i\],
    /// both included, except those from `sees`\[1, i\] to before `sees`\[2, i\] (i32 \[4, t\]). The result is \[head_v
    /// * n_head, t\]. For heads with a kernel only.
    #[track_caller]
    pub fn attention(
        &self,
        heads: &Heads,
        q: Tensor<'g>,
        k: Tensor<'g>,
        v: Tensor<'g>,
        sees: Tensor<'g>,
        reduction: Reduction,
    ) -> Tensor<'g> {
        let lanes = Lanes::in_use().filter(|_| heads.has_kernel(k.dtype(), v.dtype()));
        let lanes = lanes.unwrap_or_else(|| panic!("attention: no kernel for {heads:?} on {k:?} and {v:?}"));
        let t = sees.shape()[1];
        assert_eq!(q.shape(), [heads.head_dim_k, heads.n_head, t, 1], "attention: queries {q:?}");
        assert!(q.dtype() == DType::F32 && q.strides()[0] == size_of::<f32>(), "attention: queries {q:?}");
        assert_eq!((sees.dtype(), sees.shape()[0]), (DType::I32, 4), "attention: what rows see is four i32 each");
        assert_eq!(k.shape()[0], heads.head_dim_k * heads.n_head_kv, "attention: keys {k:?}");
        assert_eq!(v.shape()[..2], [k.shape()[1], heads.head_dim_v * heads.n_head_kv], "attention: values {v:?}");
        assert!(k.shape()[1].is_multiple_of(STEP) && heads.n_head.is_multiple_of(heads.n_head_kv));
        let shape = [heads.head_dim_v * heads.n_head, t];
        self.node(DType::F32, shape, &[q, k, v, sees], Attention { heads: *heads, reduction, lanes })
    }
}

struct Attention {
    heads: Heads,
    reduction: Reduction,
    lanes: Lanes,
}

#[cfg(not(target_arch = "x86_64"))]
impl Node for Attention {
    fn run(&self, _: &NodeRun<'_>) {
        unreachable!("`Ops::attention` asks for a kernel first");
    }
}

#[cfg(target_arch = "x86_64")]
impl Node for Attention {
    /// Sources: queries, keys, values, what rows see.
    fn run(&self, run: &NodeRun<'_>) {
        let t = run.dst().shape()[1];
        let n_tiles = t.div_ceil(TILE);
        let sees = run.source(3);
        // SAFETY: the graph runs this node after its sources; `Ops::attention` checked that there are four of each row.
        let seen: &[[i32; 4]] = unsafe { std::slice::from_raw_parts(sees.data().cast(), t) };
        // One for all tiles of this thread: each writes all of it that it reads.
        let mut scratch = Scratch::take();
        // Later rows see more: tiles alternate between the threads.
        for unit in run.alternate(self.heads.n_head * n_tiles) {
            let (tile, head) = (unit / self.heads.n_head, unit % self.heads.n_head);
            let rows = tile * TILE..t.min((tile + 1) * TILE);
            // Rows of several sequences have no keys in common: together they would multiply all that lie between them.
            let together = rows.len() == TILE && sees_alike(&seen[rows.clone()]);
            match (if together { TILE } else { 1 }, self.reduction) {
                (TILE, Reduction::Decode) => self.tile::<TILE, 4>(run, seen, head, rows.start, &mut scratch),
                (TILE, Reduction::Prefill) => self.tile::<TILE, 1>(run, seen, head, rows.start, &mut scratch),
                (_, Reduction::Decode) => rows.for_each(|row| self.tile::<1, 4>(run, seen, head, row, &mut scratch)),
                (_, Reduction::Prefill) => rows.for_each(|row| self.tile::<1, 1>(run, seen, head, row, &mut scratch)),
            }
        }
    }
}

/// Whether rows see the same but for a few positions at the end, and at the start of a window.
#[cfg(target_arch = "x86_64")]
fn sees_alike(rows: &[[i32; 4]]) -> bool {
    let last = |row: &[i32; 4]| row[3] - rows[0][3];
    rows.iter().all(|row| row[1..3] == rows[0][1..3] && (0..STEP as i32).contains(&last(row)))
}

/// Which cache rows a row sees: those from `start` to before `end`, except the hole.
#[cfg(target_arch = "x86_64")]
struct Span {
    start: usize,
    end: usize,
    hole: Range<usize>,
}

#[cfg(target_arch = "x86_64")]
impl Span {
    fn of(sees: [i32; 4]) -> Span {
        // Indices are not negative: the engine makes them of places in the cache.
        let [start, hole, hole_end, last] = sees.map(|at| at as usize);
        // Where the hole reaches beyond the row, only what the row would see is missing.
        Span { start, end: last + 1, hole: hole..hole_end.min(last + 1) }
    }
}

/// Whole steps that none of the rows sees: before their windows, and in their holes.
#[cfg(target_arch = "x86_64")]
fn unseen(spans: &[Span]) -> [Range<usize>; 2] {
    let before = spans.iter().map(|span| span.start).min().unwrap_or(0) / STEP * STEP;
    let hole = spans.iter().map(|span| span.hole.start).max().unwrap_or(0).next_multiple_of(STEP);
    let hole_end = spans.iter().map(|span| span.hole.end).min().unwrap_or(0) / STEP * STEP;
    [0..before, hole..hole_end.max(hole)]
}

#[cfg(target_arch = "x86_64")]
impl Attention {
    /// Rows `first..first + R` of one head.
    fn tile<const R: usize, const CHAINS: usize>(
        &self,
        run: &NodeRun<'_>,
        sees: &[[i32; 4]],
        head: usize,
        first: usize,
        scratch: &mut Scratch,
    ) {
        let Heads { n_head, n_head_kv, head_dim_k, head_dim_v, .. } = self.heads;
        let lanes = self.lanes;
        let kv_head = head / (n_head / n_head_kv);
        let ([q, k, v], dst) = ([0, 1, 2].map(|i| run.source(i)), run.dst());
        // SAFETY: the graph runs this node after its sources, whose shapes `Ops::attention` checked; the rows seen are
        // rows of the cache; this thread alone writes these rows of this head.
        unsafe {
            let spans: [Span; R] = std::array::from_fn(|r| Span::of(sees[first + r]));
            let (skip, n_seen) = (unseen(&spans), spans.iter().map(|span| span.end).max().unwrap_or(0));
            // The one promise that no shape holds: a row beyond the cache would be read as a key.
            assert!(n_seen <= k.shape()[1], "attention: row {} of {}", n_seen - 1, k.shape()[1]);
            let n_weights = n_seen.next_multiple_of(STEP);
            let (queries, weights) = scratch.floats(R * (head_dim_k + n_weights)).split_at_mut(R * head_dim_k);
            for (r, query) in queries.chunks_exact_mut(head_dim_k).enumerate() {
                let at = q.data().add(head * q.strides()[1] + (first + r) * q.strides()[2]).cast();
                query.copy_from_slice(std::slice::from_raw_parts(at, head_dim_k));
                // As ggml rounds them before it multiplies by keys of f16.
                round_to_f16(lanes, query);
            }
            let keys = k.data().add(kv_head * head_dim_k * 2);
            let scores = match lanes {
                Lanes::Eight => avx2::scores::<R, CHAINS>,
                Lanes::Sixteen => avx512::scores::<R, CHAINS>,
            };
            scores(queries, keys.cast(), k.strides()[1] / 2, n_seen, &skip, weights, n_weights);
            for (weights, span) in weights.chunks_exact_mut(n_weights).zip(&spans) {
                self.weigh(weights, span);
            }
            let values = v.data().add(kv_head * head_dim_v * v.strides()[1]);
            let mut mixed = |r: usize, d: usize, sixteen: &[f32; LANES]| {
                let at = dst.data().add((first + r) * dst.strides()[1]).cast::<f32>();
                at.add(head * head_dim_v + d).copy_from_nonoverlapping(sixteen.as_ptr(), LANES);
            };
            let mix = match lanes {
                Lanes::Eight => avx2::mix::<R, CHAINS>,
                Lanes::Sixteen => avx512::mix::<R, CHAINS>,
            };
            mix(weights, n_weights, &skip, values.cast(), v.strides()[1] / 2, head_dim_v, &mut mixed);
        }
    }

    /// Makes the scores of one row the weights of its values; what the row does not see gets none.
    fn weigh(&self, scores: &mut [f32], span: &Span) {
        let Span { start, end, ref hole } = *span;
        // As if there were no hole: so the scores add up as they do alone.
        scores.copy_within(hole.end..end, hole.start);
        // Where a window starts behind the hole, it starts so much earlier without one.
        let start = if start >= hole.end { start - hole.len() } else { start };
        // Whole steps before it are left out: nothing is added for them in any lane.
        let (from, end) = (start / STEP * STEP, end - hole.len());
        self.scale(&mut scores[start..end]);
        scores[..from].fill(0.0);
        scores[from..start].fill(f32::NEG_INFINITY);
        soft_max(self.lanes, &mut scores[from..], end - from);
        // Back to where the values lie; those in the hole count for nothing.
        scores.copy_within(hole.start..end, hole.end);
        scores[hole.clone()].fill(0.0);
    }

    /// Scores as they enter the softmax.
    fn scale(&self, scores: &mut [f32]) {
        let Heads { scale, softcap, .. } = self.heads;
        scores.iter_mut().for_each(|score| *score *= scale);
        if let Some(cap) = softcap {
            // A product, as ggml's scale is: a quotient would round otherwise.
            scores.iter_mut().for_each(|score| *score = (*score * (1.0 / cap)).tanh() * cap);
        }
    }
}

/// softmax of the first `seen` scores, rounded to f16; the rest becomes zero.
#[cfg(target_arch = "x86_64")]
fn soft_max(lanes: Lanes, scores: &mut [f32], seen: usize) {
    // Taken off before the exponential, as ggml does: no sum of weights overflows then.
    let max = scores[..seen].iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // ggml takes eight or sixteen at a time, and what it takes one by one it adds up elsewhere.
    let n = seen.next_multiple_of(LANES);
    scores[seen..n].fill(f32::NEG_INFINITY);
    scores[n..].fill(0.0);
    let scores = &mut scores[..n];
    let sum = ggml_soft_max(scores, max);
    // The quotient in f64, the products in f32, as in ggml's node.
    let factor = (1.0 / sum) as f32;
    scores.iter_mut().for_each(|weight| *weight *= factor);
    round_to_f16(lanes, scores);
}

/// Rounds to f16 and back; the length is a multiple of sixteen.
#[cfg(target_arch = "x86_64")]
fn round_to_f16(lanes: Lanes, values: &mut [f32]) {
    // The kernels have no code for a rest.
    assert!(values.len().is_multiple_of(LANES));
    // SAFETY: the level in use has as many lanes, so the processor has the instructions; the length was checked.
    unsafe {
        match lanes {
            Lanes::Eight => avx2::round_to_f16(values),
            Lanes::Sixteen => avx512::round_to_f16(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::ggml::{Builder, Device, Runner, Slot, StoreBuilder, Stored};

    const HEADS: Heads = Heads { n_head: 6, n_head_kv: 2, head_dim_k: 64, head_dim_v: 32, scale: 0.125, softcap: None };
    const N_CACHE: usize = 192;

    fn halves(n: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
        (0..n).flat_map(|_| f16::from_f32(rng.random_range(-2.0..2.0)).to_le_bytes()).collect()
    }

    /// Queries of `n_rows` rows, keys, values.
    fn tensors(n_rows: usize, rng: &mut ChaCha8Rng) -> [Stored; 3] {
        let Heads { n_head, n_head_kv, head_dim_k, head_dim_v, .. } = HEADS;
        let mut builder = StoreBuilder::new(3);
        let n = head_dim_k * n_head * n_rows;
        let q: Vec<u8> = (0..n).flat_map(|_| rng.random_range(-2.0f32..2.0).to_le_bytes()).collect();
        let (k, v) = (head_dim_k * n_head_kv, head_dim_v * n_head_kv);
        [
            builder.add_plain("q", DType::F32, &[head_dim_k, n_head, n_rows], &q).unwrap(),
            builder.add_plain("k", DType::F16, &[k, N_CACHE], &halves(k * N_CACHE, rng)).unwrap(),
            builder.add_plain("v", DType::F16, &[N_CACHE, v], &halves(v * N_CACHE, rng)).unwrap(),
        ]
    }

    /// The same with ggml's own nodes.
    fn reference<'g>(b: &Builder<'g>, heads: &Heads, [q, k, v]: [Tensor<'g>; 3], mask: Tensor<'g>) -> Tensor<'g> {
        let Heads { n_head, n_head_kv, head_dim_k, head_dim_v, scale, softcap } = *heads;
        let (key, column) = (k.strides()[1], v.strides()[1]);
        let keys = b.ops.view(k, [head_dim_k, N_CACHE, n_head_kv], [key, head_dim_k * 2], 0);
        let values = b.ops.view(v, [N_CACHE, head_dim_v, n_head_kv], [column, column * head_dim_v], 0);
        let scores = b.ops.mul_mat(keys, b.ops.swap_1_2(q));
        let weights = match softcap {
            Some(cap) => b.ops.soft_max(b.ops.softcap(b.ops.scale(scores, scale), cap), mask, 1.0, None),
            None => b.ops.soft_max(scores, mask, scale, None),
        };
        let mixed = b.ops.contiguous(b.ops.swap_1_2(b.ops.mul_mat(values, weights)));
        b.ops.reshape(mixed, [head_dim_v * n_head, q.shape()[2]])
    }

    #[test]
    fn one_node_gives_what_the_nodes_of_ggml_give() {
        if !HEADS.has_kernel(DType::F16, DType::F16) {
            return; // then nothing uses the node
        }
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        const ALL: usize = N_CACHE;
        let capped = Heads { softcap: Some(1.5), ..HEADS };
        for (heads, first, n_rows, hole, window) in [
            (HEADS, 0, 1, 0..0, ALL),
            (HEADS, 70, 1, 0..0, ALL),
            (HEADS, 191, 1, 0..64, ALL),
            (HEADS, 0, 2, 0..0, ALL),
            (HEADS, 3, 4, 0..0, ALL),
            (HEADS, 60, 9, 3..40, ALL),
            (HEADS, 100, 92, 10..90, ALL),
            (HEADS, 191, 1, 0..0, 70),
            (HEADS, 60, 9, 0..0, 20),
            (HEADS, 100, 92, 0..0, 64),
            (capped, 191, 1, 0..0, ALL),
            (capped, 60, 9, 0..0, 20),
        ] {
            let stored = tensors(n_rows, &mut rng);
            let [q, k, v] = [0, 1, 2].map(|i| stored[i].t());
            let reduction = if n_rows == 1 { Reduction::Decode } else { Reduction::Prefill };
            let mut runner: Runner<(), [Slot; 4]> = Runner::new(Device::cpu(2).unwrap());
            let mut run = runner
                .prepare((), 64, &[stored[0].store()], |b| {
                    let (sees, p) = b.input("sees", DType::I32, &[4, n_rows]);
                    let (mask, m) = b.input("mask", DType::F16, &[N_CACHE, n_rows]);
                    let found = b.output(b.ops.attention(&heads, q, k, v, sees, reduction));
                    [p, m, found, b.output(reference(b, &heads, [q, k, v], mask))]
                })
                .unwrap();
            let [seen, mask, found, expected] = run.slots();
            let last = first as i32..(first + n_rows) as i32;
            let start = |row: usize| (row + 1).saturating_sub(window);
            let ranges = |i: i32| [start(i as usize) as i32, hole.start as i32, hole.end as i32, i];
            run.set_i32(seen, &last.flat_map(ranges).collect::<Vec<_>>());
            let sees = |row: usize, i: usize| {
                let is_seen = (start(first + row)..=first + row).contains(&i) && !hole.contains(&i);
                if is_seen { f16::ZERO } else { f16::NEG_INFINITY }
            };
            run.set_f16(mask, &(0..n_rows * N_CACHE).map(|i| sees(i / N_CACHE, i % N_CACHE)).collect::<Vec<_>>());
            let computed = run.compute().unwrap();
            let (found, expected) = (computed.f32(found), computed.f32(expected));
            // With a hole the scores add up as if it were not there; a weight, which has eleven bits, may round
            // otherwise.
            let tolerance = if hole.is_empty() { 0.0 } else { 2e-3 };
            let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(largest <= tolerance, "{n_rows} rows from {first}: {largest}");
        }
    }
}
