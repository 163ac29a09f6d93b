//! Owns nodes that our own code computes. Refuses to let a node outlive its state.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;

use super::context::Tensor;
use super::sys;
use crate::dtype::DType;

/// What computes a node: called once by each thread.
pub(crate) trait Node: Send + Sync + 'static {
    fn run(&self, run: &NodeRun<'_>);
}

/// States of the nodes of a graph, kept as long as the graph.
#[derive(Default)]
pub(super) struct Nodes(RefCell<Vec<Box<dyn Node>>>);

impl Nodes {
    /// Keeps a state; what ggml calls with it, and its address, which does not change any more.
    pub(super) fn keep<N: Node>(&self, state: N) -> (sys::ggml_custom_op_t, *mut c_void) {
        let state = Box::new(state);
        let address = std::ptr::from_ref(&*state).cast_mut().cast();
        self.0.borrow_mut().push(state);
        (Some(call::<N>), address)
    }

    pub(super) fn into_inner(self) -> Vec<Box<dyn Node>> {
        self.0.into_inner()
    }
}

/// A node's tensors, and which share of the work is asked for.
pub(crate) struct NodeRun<'a> {
    dst: Tensor<'a>,
    part: usize,
    parts: usize,
}

impl<'a> NodeRun<'a> {
    /// The node's own tensor.
    pub(crate) fn dst(&self) -> Tensor<'a> {
        self.dst
    }

    /// A tensor that the node reads, by its place among the sources.
    pub(crate) fn source(&self, i: usize) -> Tensor<'a> {
        let source = NonNull::new(self.dst.get().src[i]).expect("a node asks for sources that it was given");
        // SAFETY: a node's sources live as long as the node.
        unsafe { Tensor::from_raw(source) }
    }

    /// This thread's share of `n` units.
    pub(crate) fn share(&self, n: usize) -> Range<usize> {
        n * self.part / self.parts..n * (self.part + 1) / self.parts
    }

    /// Every so many-th of `n` units, for units of unequal work.
    pub(crate) fn alternate(&self, n: usize) -> impl Iterator<Item = usize> + use<> {
        (self.part..n).step_by(self.parts)
    }
}

/// Row `i` of a tensor of f32.
///
/// # Safety
/// The tensor has data and such a row, and nothing writes to it.
pub(crate) unsafe fn row(t: Tensor<'_>, i: usize) -> &[f32] {
    debug_assert_eq!(t.dtype(), DType::F32);
    // SAFETY: as promised by the caller.
    unsafe { std::slice::from_raw_parts(t.data().add(i * t.strides()[1]).cast(), t.shape()[0]) }
}

/// All bytes of a contiguous tensor.
///
/// # Safety
/// The tensor has data, and nothing writes to it.
pub(crate) unsafe fn bytes(t: Tensor<'_>) -> &[u8] {
    // SAFETY: as promised by the caller.
    unsafe { std::slice::from_raw_parts(t.data(), t.nbytes()) }
}

/// # Safety
/// ggml calls it with the node and the state that [`Nodes::keep`] gave it.
unsafe extern "C" fn call<N: Node>(dst: *mut sys::ggml_tensor, part: i32, parts: i32, state: *mut c_void) {
    // SAFETY: as promised by the caller; the state is shared by all threads and never changed.
    unsafe {
        let dst = Tensor::from_raw(NonNull::new_unchecked(dst));
        (*state.cast::<N>()).run(&NodeRun { dst, part: part as usize, parts: parts as usize });
    }
}
