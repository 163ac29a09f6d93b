//! Owns the operations of experts: which rows take which matrices, and the products with those.

use super::context::Tensor;
use super::node::{Node, NodeRun, row};
use super::ops::{Ops, is_contiguous};
use super::store::Stored;
use super::sys;
use crate::dtype::DType;

impl<'g> Ops<'g> {
    /// The places of the `n` largest numbers of each row of `x` f32 \[k, t\], the largest first: i32 \[n, t\]. `beside` lies on
    /// the device that computes.
    #[track_caller]
    pub fn largest(&self, x: Tensor<'g>, n: usize, beside: &Stored) -> Tensor<'g> {
        let [k, t, ..] = x.shape();
        assert!(x.dtype() == DType::F32 && (1..=k).contains(&n), "largest: {n} of {x:?}");
        if beside.is_host() {
            return self.node(DType::I32, [n, t], &[x], Largest);
        }
        // SAFETY: the tensor is alive.
        let sorted = self
            .adopt(unsafe { sys::ggml_argsort(self.room(), x.as_ptr(), sys::ggml_sort_order::GGML_SORT_ORDER_DESC) });
        let row = sorted.strides()[1];
        self.view(sorted, [n, t, 1], [row, row * t], 0)
    }

    /// The numbers of the rows of `x` f32 \[k, t\] at `places` i32 \[n, t\]: \[n, t\].
    #[track_caller]
    pub fn entries(&self, x: Tensor<'g>, places: Tensor<'g>) -> Tensor<'g> {
        let ([k, t, ..], [n, same, ..]) = (x.shape(), places.shape());
        assert!(t == same && places.dtype() == DType::I32, "entries: {x:?} at {places:?}");
        let single = self.reshape_3d(x, [1, k, t]);
        // SAFETY: the tensors are alive; each place counts within its row.
        let found = self.adopt(unsafe { sys::ggml_get_rows(self.room(), single.as_ptr(), places.as_ptr()) });
        self.reshape(found, [n, t])
    }

    /// The products of rows with some of many matrices: `a` is \[k, m, n_matrices\], `x` f32 \[k, 1 or n, t\], `which` i32
    /// \[n, t\]; the result is \[m, n, t\].
    #[track_caller]
    pub fn mul_mat_of(&self, a: Tensor<'g>, x: Tensor<'g>, which: Tensor<'g>) -> Tensor<'g> {
        let ([a0, _, _, a3], [x0, x1, x2, x3]) = (a.shape(), x.shape());
        let [n, t, ..] = which.shape();
        let fits = a0 == x0 && (x1 == 1 || x1 == n) && x2 == t && (a3, x3) == (1, 1);
        assert!(
            fits && which.dtype() == DType::I32 && x.dtype() == DType::F32,
            "mul_mat_of: {a:?} by {x:?}, {which:?}"
        );
        // SAFETY: the tensors are alive and their shapes were just checked.
        self.adopt(unsafe { sys::ggml_mul_mat_id(self.room(), a.as_ptr(), x.as_ptr(), which.as_ptr()) })
    }

    /// Rows \[m, n, t\] with some of many vectors added: `b` is f32 \[m, n_vectors\], `which` i32 \[n, t\].
    #[track_caller]
    pub fn add_of(&self, x: Tensor<'g>, b: Tensor<'g>, which: Tensor<'g>) -> Tensor<'g> {
        let ([m, n, t, _], [b0, _, b2, b3]) = (x.shape(), b.shape());
        let fits = (m, 1, 1) == (b0, b2, b3) && which.shape()[..2] == [n, t];
        assert!(fits && which.dtype() == DType::I32 && b.dtype() == DType::F32, "add_of: {x:?} and {b:?}, {which:?}");
        // SAFETY: the tensors are alive and their shapes were just checked.
        self.adopt(unsafe { sys::ggml_add_id(self.room(), x.as_ptr(), b.as_ptr(), which.as_ptr()) })
    }

    /// The same elements in another shape; `a` is contiguous.
    #[track_caller]
    pub fn reshape_3d(&self, a: Tensor<'g>, shape: [usize; 3]) -> Tensor<'g> {
        let n: usize = shape.iter().product();
        assert!(n == a.shape().iter().product::<usize>() && is_contiguous(a), "reshape: {a:?} to {shape:?}");
        let [ne0, ne1, ne2] = shape.map(|n| n as i64);
        // SAFETY: the tensor is alive, contiguous, and keeps its number of elements.
        self.adopt(unsafe { sys::ggml_reshape_3d(self.room(), a.as_ptr(), ne0, ne1, ne2) })
    }
}

/// Places of the largest numbers. ggml sorts rows whole, and past their end where numbers are NaN.
struct Largest;

impl Node for Largest {
    /// Source: the numbers.
    fn run(&self, run: &NodeRun<'_>) {
        let dst = run.dst();
        for i in run.share(dst.shape()[1]) {
            // SAFETY: the graph runs this node after its source; this thread alone writes row i.
            let (numbers, places) = unsafe {
                let start = dst.data().add(i * dst.strides()[1]).cast::<i32>();
                (row(run.source(0), i), std::slice::from_raw_parts_mut(start, dst.shape()[0]))
            };
            let mut order: Vec<usize> = (0..numbers.len()).collect();
            order.sort_by(|&a, &b| numbers[b].total_cmp(&numbers[a]));
            places.iter_mut().zip(order).for_each(|(place, found)| *place = found as i32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ggml::{Device, Runner, Slot, StoreBuilder};

    #[test]
    fn the_largest_come_first_and_nan_has_a_place() {
        let rows = [1.0, 5.0, -2.0, 5.0, f32::NAN, 0.5, 7.0, f32::NEG_INFINITY];
        let mut builder = StoreBuilder::new(1);
        let bytes: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
        let x = builder.add_plain("x", DType::F32, &[4, 2], &bytes).unwrap();
        let mut runner: Runner<(), Slot> = Runner::new(Device::cpu(2).unwrap());
        let run = runner.prepare((), 8, &[x.store()], |b| {
            let chosen = b.ops.largest(x.t(), 3, &x);
            b.output(b.ops.entries(x.t(), chosen))
        });
        let computed = run.unwrap().compute().unwrap();
        let found = computed.f32(computed.slots());
        assert_eq!(found[..3], [5.0, 5.0, 1.0]);
        assert!(found[3].is_nan() && found[4..] == [7.0, 0.5], "{found:?}");
    }
}
