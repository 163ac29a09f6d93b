//! Owns nodes that our own code computes. Refuses to let a node outlive its state.

use std::ffi::c_void;
use std::ops::Range;

use super::context::{Tensor, raw_type};
use super::ops::Ops;
use super::sys;
use crate::dtype::DType;

/// What computes a node: called once by each thread.
pub(super) trait Node: Send + Sync + 'static {
    fn run(&self, run: &NodeRun<'_>);
}

/// States of the nodes of a graph, kept as long as the graph.
pub(super) type Nodes = std::cell::RefCell<Vec<Box<dyn Node>>>;

/// A node's tensors, and which share of the work is asked for.
pub(super) struct NodeRun<'a> {
    pub(super) dst: &'a sys::ggml_tensor,
    part: usize,
    parts: usize,
}

impl NodeRun<'_> {
    pub(super) fn source(&self, i: usize) -> &sys::ggml_tensor {
        // SAFETY: a node's sources live as long as the node; `Ops::node` set as many as its function asks for.
        unsafe { &*self.dst.src[i] }
    }

    /// This thread's share of `n` units.
    pub(super) fn share(&self, n: usize) -> Range<usize> {
        n * self.part / self.parts..n * (self.part + 1) / self.parts
    }

    /// Every so many-th of `n` units, for units of unequal work.
    pub(super) fn alternate(&self, n: usize) -> impl Iterator<Item = usize> + use<> {
        (self.part..n).step_by(self.parts)
    }
}

/// Row `i` of a tensor of f32.
///
/// # Safety
/// The tensor has data and such a row, and nothing writes to it.
pub(super) unsafe fn row(t: &sys::ggml_tensor, i: usize) -> &[f32] {
    // SAFETY: as promised by the caller.
    unsafe { std::slice::from_raw_parts(t.data.cast::<u8>().add(i * t.nb[1]).cast(), t.ne[0] as usize) }
}

/// All bytes of a contiguous tensor.
///
/// # Safety
/// The tensor has data, and nothing writes to it.
pub(super) unsafe fn bytes(t: &sys::ggml_tensor) -> &[u8] {
    // SAFETY: as promised by the caller.
    unsafe { std::slice::from_raw_parts(t.data.cast(), sys::ggml_nbytes(t)) }
}

impl<'g> Ops<'g> {
    /// A node \[shape\] that `state` computes from `sources`.
    #[track_caller]
    pub(super) fn node<N: Node>(
        &self,
        dtype: DType,
        shape: [usize; 2],
        sources: &[Tensor<'g>],
        state: N,
    ) -> Tensor<'g> {
        /// GGML_N_TASKS_MAX: as many threads as there are.
        const ALL_THREADS: i32 = -1;
        let state = Box::new(state);
        let address = std::ptr::from_ref(&*state).cast_mut().cast();
        self.nodes().borrow_mut().push(state);
        let mut sources: Vec<_> = sources.iter().map(|s| s.as_ptr()).collect();
        let [ne0, ne1] = shape.map(|n| n as i64);
        // SAFETY: the sources are alive; the state stays at its address as long as the graph; ggml copies the list.
        self.adopt(unsafe {
            let (list, n) = (sources.as_mut_ptr(), sources.len() as i32);
            sys::ggml_custom_4d(
                self.room(),
                raw_type(dtype),
                ne0,
                ne1,
                1,
                1,
                list,
                n,
                Some(call::<N>),
                ALL_THREADS,
                address,
            )
        })
    }
}

/// # Safety
/// ggml calls it with the node and the state that [`Ops::node`] gave it.
unsafe extern "C" fn call<N: Node>(dst: *mut sys::ggml_tensor, part: i32, parts: i32, state: *mut c_void) {
    // SAFETY: as promised by the caller; the state is shared by all threads and never changed.
    unsafe { (*state.cast::<N>()).run(&NodeRun { dst: &*dst, part: part as usize, parts: parts as usize }) }
}
