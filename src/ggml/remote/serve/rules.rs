//! Owns which operations a graph may hold, with the rules of ggml's constructors for each: what its operands must be, and what
//! its result is. Refuses everything else, since kernels check little of it, and abort where they do.
//!
//! The operations are those of this program's own graphs and of llama.cpp's for the same kinds of models.

use super::memory::Place;
use super::message::{MAX_SRC, PARAMS};
use super::shape::Shape;
use crate::dtype::DType;
use crate::ggml::remote::work;
use crate::ggml::sys::{self, ggml_op};

/// A tensor of a graph that is known to be sound by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) shape: Shape,
    pub(super) place: Place,
    /// Elements past its own that can be read: bytes from its first to the end of its buffer.
    pub(super) room: usize,
}

/// An operation with its operands.
pub(super) struct Operation<'a> {
    pub(super) op: ggml_op,
    pub(super) params: &'a [i32; PARAMS],
    pub(super) src: [Option<&'a Known>; MAX_SRC],
    pub(super) result: &'a Known,
}

/// What is wrong with an operation.
pub(super) type Flaw = &'static str;

type Rule = Result<(), Flaw>;

const UNARY_TANH: i32 = 4;
const UNARY_RELU: i32 = 6;
const UNARY_SIGMOID: i32 = 7;
const UNARY_GELU: i32 = 8;
const UNARY_GELU_QUICK: i32 = 9;
const UNARY_SILU: i32 = 10;
const UNARY_GELU_ERF: i32 = 16;
const UNARY: [i32; 7] =
    [UNARY_TANH, UNARY_RELU, UNARY_SIGMOID, UNARY_GELU, UNARY_GELU_QUICK, UNARY_SILU, UNARY_GELU_ERF];

const GLU_REGLU: i32 = 0;
const GLU_GEGLU: i32 = 1;
const GLU_SWIGLU: i32 = 2;
const GLU_GEGLU_ERF: i32 = 4;
const GLU_GEGLU_QUICK: i32 = 5;
const GLU: [i32; 5] = [GLU_REGLU, GLU_GEGLU, GLU_SWIGLU, GLU_GEGLU_ERF, GLU_GEGLU_QUICK];

const ROPE_NORMAL: i32 = 0;
const ROPE_NEOX: i32 = 2;

/// Kernels count elements of anything but weights in i32.
const MOST_ELEMENTS: usize = i32::MAX as usize;

impl<'a> Operation<'a> {
    /// Whether it is only another way to look at its operand.
    pub(super) fn is_view(&self) -> bool {
        is_view(self.op)
    }

    /// Whether it may be computed.
    pub(super) fn check(&self) -> Rule {
        match self.op {
            ggml_op::GGML_OP_VIEW => self.view(),
            ggml_op::GGML_OP_RESHAPE => self.reshape(),
            ggml_op::GGML_OP_PERMUTE => self.permute(self.axes()?),
            ggml_op::GGML_OP_TRANSPOSE => self.permute([1, 0, 2, 3]),
            ggml_op::GGML_OP_ADD | ggml_op::GGML_OP_SUB | ggml_op::GGML_OP_MUL | ggml_op::GGML_OP_DIV => self.binary(),
            ggml_op::GGML_OP_SCALE => self.scale(),
            ggml_op::GGML_OP_NORM | ggml_op::GGML_OP_RMS_NORM => self.norm(),
            ggml_op::GGML_OP_MUL_MAT => self.mul_mat(),
            ggml_op::GGML_OP_CPY => self.copy(),
            ggml_op::GGML_OP_CONT => self.contiguous(),
            ggml_op::GGML_OP_CONCAT => self.concat(),
            ggml_op::GGML_OP_GET_ROWS => self.get_rows(),
            ggml_op::GGML_OP_SET_ROWS => self.set_rows(),
            ggml_op::GGML_OP_SOFT_MAX => self.soft_max(),
            ggml_op::GGML_OP_ROPE => self.rope(),
            ggml_op::GGML_OP_UNARY => self.unary(),
            ggml_op::GGML_OP_GLU => self.glu(),
            ggml_op::GGML_OP_FLASH_ATTN_EXT => self.flash_attn(),
            _ => Err("the operation is none that graphs of language models here use"),
        }
    }

    /// The operands that are numbers of places, with the count of places that there are.
    pub(super) fn indices(&self) -> Option<(&'a Known, usize)> {
        match self.op {
            ggml_op::GGML_OP_GET_ROWS => self.src[1].zip(self.src[0]).map(|(rows, table)| (rows, table.shape.ne[1])),
            ggml_op::GGML_OP_SET_ROWS => self.src[1].map(|rows| (rows, self.result.shape.ne[1])),
            _ => None,
        }
    }

    /// Multiplications, roughly.
    pub(super) fn work(&self) -> u64 {
        let ne = |known: Option<&Known>| known.map_or([0; 4], |known| known.shape.ne.map(|n| n as u64));
        work::of_operation(self.op, ne(Some(self.result)), ne(self.src[0]), ne(self.src[1]))
    }

    /// Bytes that ggml's kernel of the processor takes beside its operands, at most.
    pub(super) fn scratch(&self, n_threads: usize) -> usize {
        let row = |known: Option<&Known>| known.map_or(0, |known| known.shape.ne[0]);
        let floats = match self.op {
            ggml_op::GGML_OP_MUL_MAT => {
                const TILES: usize = 128 << 10;
                self.src[1].map_or(0, |x| x.shape.elements()) + n_threads * TILES
            }
            ggml_op::GGML_OP_FLASH_ATTN_EXT => {
                const TILE: usize = 64;
                let (k, v, heads) = (row(self.src[1]), row(self.src[2]), self.src[0].map_or(0, |q| q.shape.ne[2]));
                n_threads * (4 * TILE * (k + v + TILE) + heads * (2 + v))
            }
            _ => n_threads * row(Some(self.result)).max(row(self.src[0])),
        };
        4 * floats + 256 * n_threads
    }

    /// The operands, where there are so many and no others.
    fn sources<const N: usize>(&self) -> Result<[&'a Known; N], Flaw> {
        self.with_optional::<N, 0>().map(|(sources, _)| sources)
    }

    /// The operands, and those that may be missing.
    fn with_optional<const N: usize, const M: usize>(&self) -> Result<([&'a Known; N], [Option<&'a Known>; M]), Flaw> {
        if self.src[N + M..].iter().any(Option::is_some) {
            return Err("it has more operands than the operation takes");
        }
        let mut all = [self.result; N];
        for (place, source) in all.iter_mut().zip(&self.src) {
            *place = source.ok_or("an operand is missing")?;
        }
        let mut optional = [None; M];
        optional.copy_from_slice(&self.src[N..N + M]);
        Ok((all, optional))
    }

    fn float(&self, i: usize) -> f32 {
        f32::from_bits(self.params[i] as u32)
    }

    /// The result is new, dense, and of this shape.
    fn gives(&self, dtype: DType, ne: [usize; 4]) -> Rule {
        require(
            self.result.shape.dtype == dtype && self.result.shape.ne == ne,
            "its result has another type or shape",
        )?;
        require(self.result.shape.is_dense() && is_countable(self.result), "its result has gaps, or too many elements")
    }

    /// The result is the operand's memory, seen as this shape.
    fn is_seen_in(&self, of: &Known, at: usize, shape: Shape) -> Rule {
        let same = self.result.shape == shape && self.result.place.handle == of.place.handle;
        require(same && self.result.place.offset == at, "its result is no view of its operand")
    }

    fn view(&self) -> Rule {
        let [a] = self.sources()?;
        let (inside, of) = (self.result.place, a.place);
        require(
            self.result.shape.dtype == a.shape.dtype && self.result.shape.has_dense_rows(),
            "a view of another type",
        )?;
        // What it is a view of in the end, and that it lies in there, is checked for all tensors.
        require(inside.handle == of.handle, "a view of another buffer")
    }

    fn reshape(&self) -> Rule {
        let [a] = self.sources()?;
        require(a.shape.is_dense(), "its operand has gaps")?;
        let same = self.result.shape.elements() == a.shape.elements() && self.result.shape.is_dense();
        require(same, "another number of elements")?;
        self.is_seen_in(a, a.place.offset, Shape { dtype: a.shape.dtype, ..self.result.shape })
    }

    fn axes(&self) -> Result<[usize; 4], Flaw> {
        let mut axes = [0; 4];
        for (i, axis) in axes.iter_mut().enumerate() {
            *axis = usize::try_from(self.params[i]).ok().filter(|&axis| axis < 4).ok_or("an axis that is none")?;
        }
        require((0..4).all(|axis| axes.contains(&axis)), "an axis twice")?;
        Ok(axes)
    }

    fn permute(&self, axes: [usize; 4]) -> Rule {
        let [a] = self.sources()?;
        let (from, to) = (&a.shape, &self.result.shape);
        let moved = (0..4).all(|i| {
            let j = axes[i];
            from.ne[i] == to.ne[j] && (from.ne[i] == 1 || from.nb[i] == to.nb[j])
        });
        require(moved && from.dtype == to.dtype, "its result is no permutation of its operand")?;
        self.is_seen_in(a, a.place.offset, *to)
    }

    fn binary(&self) -> Rule {
        let [a, b] = self.sources()?;
        all_are(&[a, b], DType::F32)?;
        require(b.shape.repeats_to(&a.shape), "the second operand does not repeat to the first")?;
        self.gives(DType::F32, a.shape.ne)
    }

    fn scale(&self) -> Rule {
        let [a] = self.sources()?;
        all_are(&[a], DType::F32)?;
        require(a.shape.is_dense(), "its operand has gaps")?;
        self.gives(DType::F32, a.shape.ne)
    }

    fn norm(&self) -> Rule {
        let [a] = self.sources()?;
        all_are(&[a], DType::F32)?;
        require(self.float(0) >= 0.0 && self.float(0).is_finite(), "an epsilon that is none")?;
        self.gives(DType::F32, a.shape.ne)
    }

    fn mul_mat(&self) -> Rule {
        let [a, x] = self.sources()?;
        all_are(&[x], DType::F32)?;
        require(is_weight(a.shape.dtype) && a.shape.has_dense_rows(), "a matrix that cannot be multiplied by")?;
        let ([a0, a1, a2, a3], [x0, x1, x2, x3]) = (a.shape.ne, x.shape.ne);
        require(a0 == x0 && x2.is_multiple_of(a2) && x3.is_multiple_of(a3), "operands that do not multiply")?;
        self.has_precision(0)?;
        require(self.params[1] == 0, "a hint about its matrix")?;
        self.gives(DType::F32, [a1, x1, x2, x3])
    }

    fn has_precision(&self, at: usize) -> Rule {
        let known = [0, sys::ggml_prec::GGML_PREC_F32.0 as i32];
        require(known.contains(&self.params[at]), "a precision that is none")
    }

    fn copy(&self) -> Rule {
        let [a, b] = self.sources()?;
        self.is_seen_in(b, b.place.offset, b.shape)?;
        require(is_countable(a) && is_countable(b), "too many elements")?;
        let (from, to) = (&a.shape, &b.shape);
        require(from.elements() == to.elements(), "operands of different lengths")?;
        let floats = |dtype| matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
        let rows = from.has_dense_rows() && to.has_dense_rows();
        let can = match (from.dtype, to.dtype) {
            (a, b) if floats(a) && floats(b) => true,
            (a, b) if a == b && a.is_quantized() => from.ne == to.ne && rows,
            (DType::I32, DType::I32) => true,
            (DType::F32, b) if is_cached(b) => from.ne == to.ne && rows && to.is_dense(),
            _ => false,
        };
        require(can, "operands that are not copied")
    }

    fn contiguous(&self) -> Rule {
        let [a] = self.sources()?;
        require(matches!(a.shape.dtype, DType::F32 | DType::F16 | DType::BF16), "an operand of quantized numbers")?;
        require(is_countable(a), "too many elements")?;
        require(self.result.shape.elements() == a.shape.elements(), "its result has another length")?;
        self.gives(a.shape.dtype, self.result.shape.ne)
    }

    fn concat(&self) -> Rule {
        let [a, b] = self.sources()?;
        let dim = usize::try_from(self.params[0]).ok().filter(|&dim| dim < 4).ok_or("a dimension that is none")?;
        require(matches!(a.shape.dtype, DType::F32 | DType::F16 | DType::BF16), "operands that are not joined")?;
        let same = (0..4).all(|i| i == dim || a.shape.ne[i] == b.shape.ne[i]) && a.shape.dtype == b.shape.dtype;
        require(same, "operands that do not fit")?;
        let mut ne = a.shape.ne;
        ne[dim] += b.shape.ne[dim];
        self.gives(a.shape.dtype, ne)
    }

    fn get_rows(&self) -> Rule {
        let [table, rows] = self.sources()?;
        require(is_weight(table.shape.dtype) && table.shape.has_dense_rows(), "a table without rows")?;
        let ([t0, _, t2, t3], [r0, r1, r2, r3]) = (table.shape.ne, rows.shape.ne);
        require(t2 == r1 && t3 == r2 && r3 == 1, "a table and a list that do not fit")?;
        require(rows.shape.dtype == DType::I32 && rows.shape.is_dense(), "a list of no numbers")?;
        self.gives(DType::F32, [t0, r0, r1, r2])
    }

    fn set_rows(&self) -> Rule {
        let [b, rows, a] = self.sources()?;
        self.is_seen_in(a, a.place.offset, a.shape)?;
        all_are(&[b], DType::F32)?;
        let ([a0, _, a2, a3], [b0, b1, b2, b3], [r0, r1, r2, r3]) = (a.shape.ne, b.shape.ne, rows.shape.ne);
        require((a0, a2, a3) == (b0, b2, b3) && b1 == r0 && r3 == 1, "rows that do not fit")?;
        require(b2.is_multiple_of(r1) && b3.is_multiple_of(r2), "a list that does not repeat")?;
        let numbers = matches!(rows.shape.dtype, DType::I32 | DType::I64) && rows.shape.is_dense();
        require(numbers, "a list of no numbers")?;
        require(is_cached(a.shape.dtype) && a.shape.has_dense_rows(), "a table that cannot be written")
    }

    fn soft_max(&self) -> Rule {
        let ([x], [mask]) = self.with_optional::<1, 1>()?;
        all_are(&[x], DType::F32)?;
        require(x.shape.is_dense(), "its operand has gaps")?;
        require(mask.is_some() || self.float(1) <= 0.0, "a slope without a mask")?;
        if let Some(mask) = mask {
            let (m, x) = (mask.shape.ne, x.shape.ne);
            let fits = m[0] == x[0] && m[1] >= x[1] && x[2].is_multiple_of(m[2]) && x[3].is_multiple_of(m[3]);
            let numbers = matches!(mask.shape.dtype, DType::F16 | DType::F32) && mask.shape.is_dense();
            require(fits && numbers, "a mask that does not fit")?;
        }
        self.gives(DType::F32, x.shape.ne)
    }

    fn rope(&self) -> Rule {
        let ([x, positions], [factors]) = self.with_optional::<2, 1>()?;
        all_are(&[x], DType::F32)?;
        let is_list = positions.shape.dtype == DType::I32 && positions.shape.is_dense();
        require(is_list && positions.shape.ne == [x.shape.ne[2], 1, 1, 1], "positions that do not fit")?;
        require([ROPE_NORMAL, ROPE_NEOX].contains(&self.params[2]), "a kind of rotation that is none here")?;
        let head = x.shape.ne[0];
        let n_dims = usize::try_from(self.params[1]).map_err(|_| "a rotation of less than nothing")?;
        // With 0 the kernel never ends; an odd head it writes past the end.
        let fits = n_dims >= 2 && n_dims.is_multiple_of(2) && n_dims <= head && head.is_multiple_of(2);
        require(fits && self.params[15] == 0, "a rotation that does not fit its operand")?;
        if let Some(factors) = factors {
            let has_enough = factors.shape.dtype == DType::F32 && factors.shape.ne[0] >= n_dims / 2;
            // The kernel reads a factor for each pair of the head, rotated or not.
            let is_readable = factors.shape.has_dense_rows() && factors.room >= head / 2 * size_of::<f32>();
            require(has_enough && is_readable, "too few factors")?;
        }
        self.gives(DType::F32, x.shape.ne)
    }

    fn unary(&self) -> Rule {
        let [x] = self.sources()?;
        all_are(&[x], DType::F32)?;
        require(UNARY.contains(&self.params[0]), "a function that is none here")?;
        require(x.shape.is_dense_but_for_rows(), "its operand has gaps")?;
        self.gives(DType::F32, x.shape.ne)
    }

    fn glu(&self) -> Rule {
        let ([a], [b]) = self.with_optional::<1, 1>()?;
        all_are(&[a], DType::F32)?;
        require(GLU.contains(&self.params[0]) && [0, 1].contains(&self.params[1]), "a gate that is none here")?;
        require(a.shape.is_dense_but_for_rows(), "its operand has gaps")?;
        let mut ne = a.shape.ne;
        match b {
            Some(b) => {
                all_are(&[b], DType::F32)?;
                require(b.shape.is_dense_but_for_rows() && b.shape.ne == ne, "gates that do not fit")?;
            }
            None => {
                require(ne[0].is_multiple_of(2), "rows without two halves")?;
                ne[0] /= 2;
            }
        }
        self.gives(DType::F32, ne)
    }

    fn flash_attn(&self) -> Rule {
        let ([q, k, v], [mask]) = self.with_optional::<3, 1>()?;
        all_are(&[q], DType::F32)?;
        let kv = |t: &Known| is_cached(t.shape.dtype) && t.shape.has_dense_rows();
        require(kv(k) && kv(v), "keys or values that cannot be read")?;
        let (qs, ks, vs) = (q.shape.ne, k.shape.ne, v.shape.ne);
        let heads = qs[2].is_multiple_of(ks[2]) && ks[2] == vs[2];
        require(qs[0] == ks[0] && ks[1] == vs[1] && heads, "queries, keys and values that do not fit")?;
        require(qs[3] == ks[3] && qs[3] == vs[3], "queries, keys and values of other sequences")?;
        require(mask.is_some() || self.float(1) <= 0.0, "a slope without a mask")?;
        self.has_precision(3)?;
        if let Some(mask) = mask {
            let m = mask.shape.ne;
            let covers = m[0] >= ks[1] && m[1] >= qs[1] && qs[2].is_multiple_of(m[2]) && qs[3].is_multiple_of(m[3]);
            require(covers && mask.shape.dtype == DType::F16 && mask.shape.is_dense(), "a mask that does not fit")?;
        }
        self.gives(DType::F32, [vs[0], qs[2], qs[1], qs[3]])
    }
}

/// Whether an operation computes nothing, but is another way to look at its operand.
pub(super) fn is_view(op: ggml_op) -> bool {
    matches!(
        op,
        ggml_op::GGML_OP_VIEW | ggml_op::GGML_OP_RESHAPE | ggml_op::GGML_OP_PERMUTE | ggml_op::GGML_OP_TRANSPOSE
    )
}

fn require(holds: bool, flaw: Flaw) -> Rule {
    if holds { Ok(()) } else { Err(flaw) }
}

/// Operands with rows of this type.
fn all_are(operands: &[&Known], dtype: DType) -> Rule {
    let fits = |t: &&Known| t.shape.dtype == dtype && t.shape.has_dense_rows() && is_countable(t);
    require(operands.iter().all(fits), "an operand of another type, with gaps in its rows, or with too many elements")
}

fn is_countable(known: &Known) -> bool {
    known.shape.elements() <= MOST_ELEMENTS
}

/// Types that matrices and tables may have: kernels for products and single rows.
fn is_weight(dtype: DType) -> bool {
    use DType::{F64, I8, I16, I32, I64, Q8_1, Q8_K};
    !matches!(dtype, F64 | I8 | I16 | I32 | I64 | Q8_1 | Q8_K)
}

/// Types that caches may have: rows that kernels can round to.
fn is_cached(dtype: DType) -> bool {
    use DType::{BF16, F16, F32, IQ4_NL, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
    matches!(dtype, F32 | F16 | BF16 | Q8_0 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | IQ4_NL)
}
