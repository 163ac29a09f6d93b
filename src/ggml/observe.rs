//! Owns the observation of multiplications: sums over the rows that enter them, column by column. A graph that nobody
//! observes has no trace of it.

use std::cell::RefCell;
use std::ptr::NonNull;

use super::context::Tensor;
use super::linear::{Fused, Weight};
use super::node::{Node, NodeRun, row};
use super::ops::Ops;
use super::sys;
use crate::dtype::DType;

/// What entered a multiplication in one run.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'r> {
    /// The weight's name; of matrices in one tensor, their names with `+` between.
    pub weight: &'r str,
    /// Rows multiplied.
    pub n_rows: usize,
    /// Of each input column, the sum over the rows, after the norm where there is one.
    pub sums: &'r [f32],
    /// Of each input column, the sum of squares.
    pub squares: &'r [f32],
}

/// An observed multiplication of a finished graph.
pub(super) struct Seen {
    pub(super) weight: String,
    pub(super) n_rows: usize,
    /// f32 \[n_in, 2\]
    pub(super) sums: NonNull<sys::ggml_tensor>,
}

/// The multiplications observed while a graph is built.
pub(super) struct Watch {
    graph: NonNull<sys::ggml_cgraph>,
    seen: RefCell<Vec<Seen>>,
}

/// Bound on the tensors that observing a multiplication adds to a graph: norm, its weight and bias, sums.
pub(super) const TENSORS: usize = 4;

impl Watch {
    pub(super) fn new(graph: NonNull<sys::ggml_cgraph>) -> Watch {
        Watch { graph, seen: RefCell::default() }
    }

    pub(super) fn into_seen(self) -> Vec<Seen> {
        self.seen.into_inner()
    }
}

impl<'g> Ops<'g> {
    /// Where the graph is observed, sums over what `weight` is about to be multiplied by.
    #[track_caller]
    pub(super) fn observe(&self, weight: &'g Weight, x: Tensor<'g>, fused: Fused<'g>) {
        let Some(watch) = self.watch() else { return };
        let x = fused.norm.map_or(x, |norm| self.norm(x, norm));
        let [n_in, n_rows, ..] = x.shape();
        assert_eq!((x.dtype(), x.strides()[0]), (DType::F32, size_of::<f32>()), "observe: {x:?}");
        let sums = self.node(DType::F32, [n_in, 2], &[x], Sums).as_ptr();
        // SAFETY: graph and tensor are alive; the graph has as many nodes as its context has tensors. Expanded here, so
        // that what is observed need not be kept until the graph ends.
        unsafe {
            sys::ggml_set_output(sums);
            sys::ggml_build_forward_expand(watch.graph.as_ptr(), sums);
        }
        let sums = NonNull::new(sums).expect("a tensor handle is never null");
        watch.seen.borrow_mut().push(Seen { weight: weight.name(), n_rows, sums });
    }
}

/// Sums and sums of squares of each column.
struct Sums;

impl Node for Sums {
    /// Source: x.
    fn run(&self, run: &NodeRun<'_>) {
        let n_in = run.dst.ne[0] as usize;
        let columns = run.share(n_in);
        let mut sums = vec![[0.0f64; 2]; columns.len()];
        for i in 0..run.source(0).ne[1] as usize {
            // SAFETY: the graph runs this node after its source, whose shape `Ops::observe` checked.
            let x = unsafe { row(run.source(0), i) };
            for ([sum, squares], &x) in sums.iter_mut().zip(&x[columns.clone()]) {
                *sum += f64::from(x);
                *squares += f64::from(x) * f64::from(x);
            }
        }
        let place = run.dst.data.cast::<f32>();
        for (column, [sum, squares]) in columns.zip(sums) {
            // SAFETY: the node is [n_in, 2], contiguous, and this thread alone writes its columns.
            unsafe {
                place.add(column).write(sum as f32);
                place.add(n_in + column).write(squares as f32);
            }
        }
    }
}
