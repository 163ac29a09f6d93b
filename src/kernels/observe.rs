//! Owns the observation of multiplications: sums over the rows that enter them, column by column. A graph that nobody
//! observes has no trace of it.

use super::norm::Norm;
use crate::dtype::DType;
use crate::ggml::{Computed, Node, NodeRun, Ops, Tensor, row};

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

impl<'r, S: Copy> Computed<'r, S> {
    /// What entered the multiplications, where the runner observes them.
    pub fn observed(&self) -> impl Iterator<Item = Observed<'r>> {
        self.recorded().map(|(weight, n_rows, numbers)| {
            let (sums, squares) = numbers.split_at(numbers.len() / 2);
            Observed { weight, n_rows, sums, squares }
        })
    }
}

impl<'g> Ops<'g> {
    /// Where the graph is observed, sums over what `weight` is about to be multiplied by: `x`, normed first where there
    /// is a norm.
    #[track_caller]
    pub(super) fn observe(&self, weight: Tensor<'g>, x: Tensor<'g>, norm: Option<Norm<Tensor<'g>>>) {
        if !self.is_observed() {
            return;
        }
        // The norm is computed twice then, here and in the multiplication's node: what is measured is what runs
        // unobserved.
        let x = norm.map_or(x, |norm| self.norm(x, norm));
        let [n_in, n_rows, ..] = x.shape();
        assert_eq!((x.dtype(), x.strides()[0]), (DType::F32, size_of::<f32>()), "observe: {x:?}");
        self.record(weight.name(), n_rows, self.node(DType::F32, [n_in, 2], &[x], Sums));
    }
}

/// Sums and sums of squares of each column.
struct Sums;

impl Node for Sums {
    /// Source: x.
    fn run(&self, run: &NodeRun<'_>) {
        let (dst, x) = (run.dst(), run.source(0));
        let n_in = dst.shape()[0];
        // Threads share the columns, not the rows: so no sum depends on how many threads there are.
        let columns = run.share(n_in);
        let mut sums = vec![[0.0f64; 2]; columns.len()];
        for i in 0..x.shape()[1] {
            // SAFETY: the graph runs this node after its source, whose shape `Ops::observe` checked.
            let x = unsafe { row(x, i) };
            // Row by row, as memory lies; a column at a time would load a cache line for each number.
            for ([sum, squares], &x) in sums.iter_mut().zip(&x[columns.clone()]) {
                *sum += f64::from(x);
                *squares += f64::from(x) * f64::from(x);
            }
        }
        let place = dst.data().cast::<f32>();
        for (column, [sum, squares]) in columns.zip(sums) {
            // SAFETY: the node is [n_in, 2], contiguous, and this thread alone writes its columns.
            unsafe {
                place.add(column).write(sum as f32);
                place.add(n_in + column).write(squares as f32);
            }
        }
    }
}
