//! Owns the operations that build a graph. Every shape is checked here, under the caller's line: ggml would abort.

use super::context::{Context, Tensor, raw_type};
use super::node::{Node, Nodes};
use super::sys;
use super::watch::Watch;
use crate::dtype::DType;

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// Each with its neighbour, as in Llama's GGUF files.
    Adjacent,
    /// Each with that half the rotated elements on, as in GPT-NeoX.
    Halves,
}

/// Parameters of rotary position embedding, as ggml computes it (YaRN, arXiv 2309.00071, contains the plain kind).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Which elements are rotated together.
    pub pairs: Pairs,
    /// Leading elements of a head that are rotated.
    pub n_dims: usize,
    /// Base of the frequencies.
    pub freq_base: f32,
    /// Positions are multiplied by this (1 / factor of linear and YaRN scaling).
    pub freq_scale: f32,
    /// 0 without YaRN, 1 with it.
    pub ext_factor: f32,
    /// Multiplies the rotated vectors.
    pub attn_factor: f32,
    /// YaRN: rotations at which interpolation begins to fade.
    pub beta_fast: f32,
    /// YaRN: rotations below which frequencies are fully interpolated.
    pub beta_slow: f32,
    /// Context the model was trained with before scaling.
    pub n_ctx_orig: usize,
}

/// A function between two multiplications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// silu(gate) * up, of products whose first half is the gate (arXiv 2002.05202).
    Swiglu,
    /// The same with GELU, approximated by tanh, in the place of SiLU.
    Geglu,
    /// max(x, 0).
    Relu,
    /// x / 2 * (1 + erf(x / sqrt(2))) (arXiv 1606.08415).
    Gelu,
    /// The same, approximated by tanh.
    GeluTanh,
    /// gate * sigmoid(1.702 gate) * (up + 1), with the gate up to 7 and up from -7 to 7 (gpt-oss).
    ClampedSwiglu,
}

impl Activation {
    /// Whether half of what it takes multiplies the other half.
    pub fn is_gated(self) -> bool {
        matches!(self, Activation::Swiglu | Activation::Geglu | Activation::ClampedSwiglu)
    }

    pub(crate) const CLAMPED_FACTOR: f32 = 1.702;
    pub(crate) const CLAMPED_LIMIT: f32 = 7.0;
}

/// The operations, on tensors that live as long as the graph being built or longer.
///
/// Operations take and give `Copy` handles; a wrong shape panics at the caller's line.
#[derive(Clone, Copy)]
pub struct Ops<'g> {
    ctx: &'g Context,
    nodes: &'g Nodes,
    watch: Option<&'g Watch>,
    row_by_row: bool,
    sums_f32: bool,
}

impl<'g> Ops<'g> {
    pub(super) fn new(ctx: &'g Context, nodes: &'g Nodes, watch: Option<&'g Watch>) -> Ops<'g> {
        Ops { ctx, nodes, watch, row_by_row: false, sums_f32: false }
    }

    /// Operations that add up every row as if it were alone: ggml's kernels for several rows add up in other orders
    /// than those for one. Each row takes up to [`Ops::TENSORS_ROW_BY_ROW`] times the tensors of a graph.
    pub fn row_by_row(self) -> Ops<'g> {
        Ops { row_by_row: true, ..self }
    }

    /// Bound on the tensors that one row adds to a graph for each tensor that there would be otherwise: two views, the
    /// operation, and the joining of its result with the others'.
    pub const TENSORS_ROW_BY_ROW: usize = 4;

    /// Bound on the tensors that an observed graph has more for each tensor that there would be otherwise: what is
    /// recorded, and a norm with its weight and bias before it.
    pub const TENSORS_OBSERVED: usize = 4;

    /// Whether somebody observes the graph.
    pub(crate) fn is_observed(&self) -> bool {
        self.watch.is_some()
    }

    /// Computes numbers of an observed graph at this place in the order, and keeps them readable after the run under a
    /// name, with the number of rows that they are about.
    #[track_caller]
    pub(crate) fn record(&self, name: String, n_rows: usize, numbers: Tensor<'g>) {
        self.watch.expect("only an observed graph records").record(name, n_rows, numbers);
    }

    /// A node \[shape\] that `state` computes from `sources`.
    #[track_caller]
    pub(crate) fn node<N: Node>(
        &self,
        dtype: DType,
        shape: [usize; 2],
        sources: &[Tensor<'g>],
        state: N,
    ) -> Tensor<'g> {
        /// GGML_N_TASKS_MAX: as many threads as there are.
        const ALL_THREADS: i32 = -1;
        let (call, state) = self.nodes.keep(state);
        let mut sources: Vec<_> = sources.iter().map(|s| s.as_ptr()).collect();
        let ([ne0, ne1], dtype) = (shape.map(|n| n as i64), raw_type(dtype));
        // SAFETY: the sources are alive; the state stays at its address as long as the graph; ggml copies the list.
        self.adopt(unsafe {
            let (list, n) = (sources.as_mut_ptr(), sources.len() as i32);
            sys::ggml_custom_4d(self.room(), dtype, ne0, ne1, 1, 1, list, n, call, ALL_THREADS, state)
        })
    }

    /// A new tensor of the graph, without a source: an input.
    #[track_caller]
    pub fn tensor(&self, dtype: DType, shape: &[usize]) -> Tensor<'g> {
        self.ctx.tensor(dtype, shape)
    }

    /// Matrix product: `a` is \[k, m\], `x` is \[k, n\]; the result is \[m, n\]. Heads in dimension 2 of `a` are shared
    /// by equal groups of heads of `x`.
    #[track_caller]
    pub fn mul_mat(&self, a: Tensor<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let ([a0, _, a2, a3], [x0, _, x2, x3]) = (a.shape(), x.shape());
        assert!(a0 == x0 && x2.is_multiple_of(a2) && x3.is_multiple_of(a3), "mul_mat: {a:?} by {x:?}");
        assert!(a.strides()[0] <= a.strides()[1], "mul_mat: {a:?} is transposed");
        if self.row_by_row && x.shape()[1] > 1 && adds_rows_up_together(a.dtype()) {
            let alone = Ops { row_by_row: false, ..*self };
            return self.join(1, (0..x.shape()[1]).map(|i| alone.mul_mat(a, self.row_of(x, i))));
        }
        // SAFETY: both tensors are alive and multiply.
        let product = self.adopt(unsafe { sys::ggml_mul_mat(self.room(), a.as_ptr(), x.as_ptr()) });
        if self.sums_f32 { add_up_in_f32(product) } else { product }
    }

    /// [`Ops::mul_mat`], added up in f32 where a device would take less for matrices of f16: scores of attention may be
    /// large.
    #[track_caller]
    pub fn mul_mat_f32(&self, a: Tensor<'g>, x: Tensor<'g>) -> Tensor<'g> {
        Ops { sums_f32: true, ..*self }.mul_mat(a, x)
    }

    /// The rows of `x`, each divided by its root mean square.
    #[track_caller]
    pub fn rms_norm(&self, x: Tensor<'g>, eps: f32) -> Tensor<'g> {
        // SAFETY: the tensor is alive.
        self.adopt(unsafe { sys::ggml_rms_norm(self.room(), x.as_ptr(), eps) })
    }

    /// The rows of `x`, each less its mean and divided by its standard deviation.
    #[track_caller]
    pub fn layer_norm(&self, x: Tensor<'g>, eps: f32) -> Tensor<'g> {
        // SAFETY: the tensor is alive.
        self.adopt(unsafe { sys::ggml_norm(self.room(), x.as_ptr(), eps) })
    }

    /// Element-wise sum; `b` is repeated to the shape of `a`.
    #[track_caller]
    pub fn add(&self, a: Tensor<'g>, b: Tensor<'g>) -> Tensor<'g> {
        assert_repeats("add", a, b);
        // SAFETY: both tensors are alive and `b` repeats to `a`.
        self.adopt(unsafe { sys::ggml_add(self.room(), a.as_ptr(), b.as_ptr()) })
    }

    /// Element-wise product; `b` is repeated to the shape of `a`.
    #[track_caller]
    pub fn mul(&self, a: Tensor<'g>, b: Tensor<'g>) -> Tensor<'g> {
        assert_repeats("mul", a, b);
        // SAFETY: both tensors are alive and `b` repeats to `a`.
        self.adopt(unsafe { sys::ggml_mul(self.room(), a.as_ptr(), b.as_ptr()) })
    }

    /// `x` times a number.
    #[track_caller]
    pub fn scale(&self, x: Tensor<'g>, factor: f32) -> Tensor<'g> {
        // SAFETY: the tensor is alive.
        self.adopt(unsafe { sys::ggml_scale(self.room(), x.as_ptr(), factor) })
    }

    /// `cap * tanh(x / cap)`: values near `cap` at most (arXiv 2408.00118).
    pub fn softcap(&self, x: Tensor<'g>, cap: f32) -> Tensor<'g> {
        // SAFETY: the tensor is alive.
        let bent = self.adopt(unsafe { sys::ggml_tanh(self.room(), self.scale(x, 1.0 / cap).as_ptr()) });
        self.scale(bent, cap)
    }

    /// An activation. Rows of `x` hold gate, then up, where it is a gated one.
    #[track_caller]
    pub fn activation(&self, activation: Activation, x: Tensor<'g>) -> Tensor<'g> {
        assert!(!activation.is_gated() || x.shape()[0].is_multiple_of(2), "{activation:?}: {x:?} has no two halves");
        let (room, x) = (self.room(), x.as_ptr());
        // SAFETY: the tensor is alive, and its rows split evenly where they have to. `ggml_gelu` is the approximation by tanh,
        // from a table in f16.
        self.adopt(unsafe {
            match activation {
                Activation::Swiglu => sys::ggml_swiglu(room, x),
                Activation::Geglu => sys::ggml_geglu(room, x),
                Activation::Relu => sys::ggml_relu(room, x),
                Activation::Gelu => sys::ggml_gelu_erf(room, x),
                Activation::GeluTanh => sys::ggml_gelu(room, x),
                Activation::ClampedSwiglu => {
                    let (alpha, limit) = (Activation::CLAMPED_FACTOR, Activation::CLAMPED_LIMIT);
                    sys::ggml_swiglu_oai(room, x, std::ptr::null_mut(), alpha, limit)
                }
            }
        })
    }

    /// A gated activation with gate and up apart.
    #[track_caller]
    pub fn gated(&self, activation: Activation, gate: Tensor<'g>, up: Tensor<'g>) -> Tensor<'g> {
        assert_eq!(gate.shape(), up.shape(), "{activation:?}: gate and up differ");
        let (room, gate, up) = (self.room(), gate.as_ptr(), up.as_ptr());
        // SAFETY: both tensors are alive and of one shape.
        self.adopt(unsafe {
            match activation {
                Activation::Swiglu => sys::ggml_swiglu_split(room, gate, up),
                Activation::Geglu => sys::ggml_geglu_split(room, gate, up),
                Activation::ClampedSwiglu => {
                    sys::ggml_swiglu_oai(room, gate, up, Activation::CLAMPED_FACTOR, Activation::CLAMPED_LIMIT)
                }
                Activation::Relu | Activation::Gelu | Activation::GeluTanh => panic!("{activation:?} has no gate"),
            }
        })
    }

    /// Rotary embedding of `x` \[head, n_head, t\] at `positions` i32 \[t\]; `factors` f32 \[n_dims / 2\] divide the
    /// frequencies (Llama 3).
    #[track_caller]
    pub fn rope(&self, x: Tensor<'g>, positions: Tensor<'g>, factors: Option<Tensor<'g>>, rope: &Rope) -> Tensor<'g> {
        assert_eq!(positions.dtype(), DType::I32, "rope: positions are i32");
        assert_eq!(x.shape()[2], positions.shape()[0], "rope: {x:?} at {positions:?}");
        assert!(rope.n_dims.is_multiple_of(2) && rope.n_dims <= x.shape()[0], "rope: {} of {x:?}", rope.n_dims);
        assert!(
            factors.is_none_or(|f| f.dtype() == DType::F32 && f.shape()[0] >= rope.n_dims / 2),
            "rope: {factors:?}"
        );
        let factors = factors.map_or(std::ptr::null_mut(), Tensor::as_ptr);
        let pairs = match rope.pairs {
            Pairs::Adjacent => sys::GGML_ROPE_TYPE_NORMAL,
            Pairs::Halves => sys::GGML_ROPE_TYPE_NEOX,
        } as i32;
        // SAFETY: the tensors are alive and their shapes were just checked.
        self.adopt(unsafe {
            sys::ggml_rope_ext(
                self.room(),
                x.as_ptr(),
                positions.as_ptr(),
                factors,
                rope.n_dims as i32,
                pairs,
                rope.n_ctx_orig as i32,
                rope.freq_base,
                rope.freq_scale,
                rope.ext_factor,
                rope.attn_factor,
                rope.beta_fast,
                rope.beta_slow,
            )
        })
    }

    /// Rows of `a` \[k, m\] picked by `rows` i32 \[n\]: f32 \[k, n\].
    #[track_caller]
    pub fn get_rows(&self, a: Tensor<'g>, rows: Tensor<'g>) -> Tensor<'g> {
        assert_eq!(rows.dtype(), DType::I32, "get_rows: rows are i32");
        assert!(a.shape()[2..] == [1, 1] && rows.shape()[1..] == [1, 1, 1], "get_rows: {a:?} by {rows:?}");
        // SAFETY: both tensors are alive, one matrix and one list of rows.
        self.adopt(unsafe { sys::ggml_get_rows(self.room(), a.as_ptr(), rows.as_ptr()) })
    }

    /// Writes `b` f32 \[k, n\] into the rows `rows` i64 \[n\] of `a` \[k, m\], converting to the type of `a`. The
    /// result is a view of `a`; it takes effect only once it is part of the graph.
    #[track_caller]
    pub fn set_rows(&self, a: Tensor<'g>, b: Tensor<'g>, rows: Tensor<'g>) -> Tensor<'g> {
        assert_eq!((b.dtype(), rows.dtype()), (DType::F32, DType::I64), "set_rows: f32 rows at i64 places");
        let ([a0, _, a2, a3], [b0, b1, b2, b3]) = (a.shape(), b.shape());
        let fits = (a0, a2, a3) == (b0, b2, b3) && rows.shape() == [b1, b2, b3, 1];
        assert!(fits, "set_rows: {b:?} into {a:?} at {rows:?}");
        // SAFETY: the tensors are alive and their shapes were just checked.
        self.adopt(unsafe { sys::ggml_set_rows(self.room(), a.as_ptr(), b.as_ptr(), rows.as_ptr()) })
    }

    /// Copies `a` into `b`, converting its type. It takes effect only once it is part of the graph.
    #[track_caller]
    pub fn copy(&self, a: Tensor<'g>, b: Tensor<'g>) -> Tensor<'g> {
        assert_eq!(a.shape(), b.shape(), "copy: shapes differ");
        // SAFETY: both tensors are alive and hold the same number of elements.
        self.adopt(unsafe { sys::ggml_cpy(self.room(), a.as_ptr(), b.as_ptr()) })
    }

    /// softmax(`x` * scale + mask) over rows; `mask` f16 or f32 \[n_kv, t\]. `sinks` f32 \[n_head\] take a share of it.
    #[track_caller]
    pub fn soft_max(&self, x: Tensor<'g>, mask: Tensor<'g>, scale: f32, sinks: Option<Tensor<'g>>) -> Tensor<'g> {
        assert!(
            sinks.is_none_or(|s| s.dtype() == DType::F32 && s.shape() == [x.shape()[2], 1, 1, 1]),
            "soft_max: {sinks:?}"
        );
        assert!(mask.shape()[0] == x.shape()[0] && mask.shape()[1] >= x.shape()[1], "soft_max: {x:?} under {mask:?}");
        // SAFETY: both tensors are alive and the mask covers the rows.
        let node = self.adopt(unsafe { sys::ggml_soft_max_ext(self.room(), x.as_ptr(), mask.as_ptr(), scale, 0.0) });
        if let Some(sinks) = sinks {
            // SAFETY: both tensors are alive; there is a sink for each head.
            unsafe { sys::ggml_soft_max_add_sinks(node.as_ptr(), sinks.as_ptr()) };
        }
        node
    }

    /// softmax(`x`) over rows.
    #[track_caller]
    pub fn probabilities(&self, x: Tensor<'g>) -> Tensor<'g> {
        // SAFETY: the tensor is alive; there may be no mask.
        self.adopt(unsafe { sys::ggml_soft_max_ext(self.room(), x.as_ptr(), std::ptr::null_mut(), 1.0, 0.0) })
    }

    /// softmax(q k^T * scale + mask) v in one operation. `q` \[head, t, n_head\], `k` and `v` \[head, n_kv, n_head_kv\],
    /// `mask` f16 \[n_kv, t\]; the result is \[head_v, n_head, t\]. `sinks` f32 \[n_head\] take a share of the softmax.
    #[track_caller]
    pub fn flash_attn(
        &self,
        [q, k, v, mask]: [Tensor<'g>; 4],
        scale: f32,
        softcap: Option<f32>,
        sinks: Option<Tensor<'g>>,
    ) -> Tensor<'g> {
        let (qs, ks, vs, ms) = (q.shape(), k.shape(), v.shape(), mask.shape());
        assert!(qs[0] == ks[0] && qs[2].is_multiple_of(ks[2]) && vs[1..] == ks[1..], "flash_attn: {q:?} {k:?} {v:?}");
        assert!(mask.dtype() == DType::F16 && ms[0] == ks[1] && ms[1] >= qs[1], "flash_attn: mask {mask:?}");
        assert!(
            sinks.is_none_or(|s| s.dtype() == DType::F32 && s.shape() == [qs[2], 1, 1, 1]),
            "flash_attn: {sinks:?}"
        );
        if self.row_by_row && qs[1] > 1 {
            let alone = Ops { row_by_row: false, ..*self };
            let row = |i| alone.flash_attn([self.row_of(q, i), k, v, self.row_of(mask, i)], scale, softcap, sinks);
            return self.join(2, (0..qs[1]).map(row));
        }
        let softcap = softcap.unwrap_or(0.0); // none
        let [q, k, v, mask] = [q, k, v, mask].map(Tensor::as_ptr);
        // SAFETY: the tensors are alive and their shapes were just checked.
        let node = self.adopt(unsafe { sys::ggml_flash_attn_ext(self.room(), q, k, v, mask, scale, 0.0, softcap) });
        if let Some(sinks) = sinks {
            // SAFETY: both tensors are alive; there is a sink for each head.
            unsafe { sys::ggml_flash_attn_ext_add_sinks(node.as_ptr(), sinks.as_ptr()) };
        }
        add_up_in_f32(node)
    }

    /// The same elements in another shape; `a` is contiguous.
    #[track_caller]
    pub fn reshape(&self, a: Tensor<'g>, shape: [usize; 2]) -> Tensor<'g> {
        assert_eq!(shape[0] * shape[1], a.shape().iter().product::<usize>(), "reshape: {a:?} to {shape:?}");
        assert!(is_contiguous(a), "reshape: {a:?} is not contiguous");
        // SAFETY: the tensor is alive, contiguous, and keeps its number of elements.
        self.adopt(unsafe { sys::ggml_reshape_2d(self.room(), a.as_ptr(), shape[0] as i64, shape[1] as i64) })
    }

    /// A window of `a`: `shape` with the given strides in bytes for dimensions 1 and 2, from byte `offset` on.
    #[track_caller]
    pub fn view(&self, a: Tensor<'g>, shape: [usize; 3], strides: [usize; 2], offset: usize) -> Tensor<'g> {
        let row = a.dtype().row_bytes(shape[0]).expect("view: a row is whole blocks");
        let end = offset + row + (shape[1] - 1) * strides[0] + (shape[2] - 1) * strides[1];
        assert!(end <= a.nbytes(), "view: {shape:?} at {offset} reaches byte {end} of {} in {a:?}", a.nbytes());
        let [ne0, ne1, ne2] = shape.map(|n| n as i64);
        // SAFETY: the tensor is alive and the window lies inside it.
        self.adopt(unsafe { sys::ggml_view_3d(self.room(), a.as_ptr(), ne0, ne1, ne2, strides[0], strides[1], offset) })
    }

    /// Dimensions 1 and 2 exchanged, without a copy.
    #[track_caller]
    pub fn swap_1_2(&self, a: Tensor<'g>) -> Tensor<'g> {
        // SAFETY: the tensor is alive; the axes are a permutation.
        self.adopt(unsafe { sys::ggml_permute(self.room(), a.as_ptr(), 0, 2, 1, 3) })
    }

    /// A contiguous copy.
    #[track_caller]
    pub fn contiguous(&self, a: Tensor<'g>) -> Tensor<'g> {
        // SAFETY: the tensor is alive.
        self.adopt(unsafe { sys::ggml_cont(self.room(), a.as_ptr()) })
    }

    /// `x` \[k, n, m\] as \[k, 1, m\], of one of the n.
    #[track_caller]
    fn row_of(&self, x: Tensor<'g>, i: usize) -> Tensor<'g> {
        let ([k, _, m, _], [_, row, matrix, _]) = (x.shape(), x.strides());
        self.view(x, [k, 1, m], [row, matrix], i * row)
    }

    /// Tensors one after the other in a dimension, in which they may differ.
    #[track_caller]
    fn join(&self, dim: usize, parts: impl Iterator<Item = Tensor<'g>>) -> Tensor<'g> {
        let join = |a: Tensor<'g>, b: Tensor<'g>| {
            let same = |i: usize| i == dim || a.shape()[i] == b.shape()[i];
            assert!(a.dtype() == b.dtype() && (0..4).all(same), "join: {a:?} and {b:?}");
            // SAFETY: both tensors are alive, and their shapes were just checked.
            self.adopt(unsafe { sys::ggml_concat(self.room(), a.as_ptr(), b.as_ptr(), dim as i32) })
        };
        parts.reduce(join).expect("join: there is a part")
    }

    #[track_caller]
    pub(super) fn room(&self) -> *mut sys::ggml_context {
        self.ctx.room()
    }

    #[track_caller]
    pub(super) fn adopt(&self, raw: *mut sys::ggml_tensor) -> Tensor<'g> {
        self.ctx.adopt(raw)
    }
}

/// Has a product or attention added up in f32, on devices that would take less.
fn add_up_in_f32(node: Tensor<'_>) -> Tensor<'_> {
    // SAFETY: the node is alive, and of an operation that takes it.
    assert!(unsafe { sys::ggml_prec_set_acc(node.as_ptr(), sys::ggml_prec::GGML_PREC_F32) });
    node
}

/// Whether ggml's kernel of a processor multiplies such a matrix by several rows in another order than by one (its
/// tinyBLAS does).
pub(crate) fn adds_rows_up_together(dtype: DType) -> bool {
    use DType::{BF16, F16, F32, IQ4_NL, Q4_0, Q5_0, Q8_0};
    matches!(dtype, F32 | F16 | BF16 | Q8_0 | Q4_0 | Q5_0 | IQ4_NL)
}

#[track_caller]
fn assert_repeats(op: &str, a: Tensor<'_>, b: Tensor<'_>) {
    let repeats = a.shape().iter().zip(b.shape()).all(|(a, b)| a.is_multiple_of(b));
    assert!(repeats, "{op}: {b:?} does not repeat to {a:?}");
}

pub(super) fn is_contiguous(a: Tensor<'_>) -> bool {
    let (shape, strides) = (a.shape(), a.strides());
    a.dtype().row_bytes(shape[0]) == Some(strides[1])
        && strides[2] == strides[1] * shape[1]
        && strides[3] == strides[2] * shape[2]
}
