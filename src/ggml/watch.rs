//! Owns what is recorded of an observed graph beside its outputs. A graph that nobody observes has no trace of it.

use std::cell::RefCell;
use std::ptr::NonNull;

use super::context::Tensor;
use super::sys;

/// Numbers of a finished graph that somebody observes.
pub(super) struct Recorded {
    pub(super) name: String,
    pub(super) n_rows: usize,
    /// In the graph's own context.
    pub(super) numbers: NonNull<sys::ggml_tensor>,
}

/// What is recorded while a graph is built.
pub(super) struct Watch {
    graph: NonNull<sys::ggml_cgraph>,
    recorded: RefCell<Vec<Recorded>>,
}

impl Watch {
    pub(super) fn new(graph: NonNull<sys::ggml_cgraph>) -> Watch {
        Watch { graph, recorded: RefCell::default() }
    }

    pub(super) fn into_recorded(self) -> Vec<Recorded> {
        self.recorded.into_inner()
    }

    pub(super) fn record(&self, name: String, n_rows: usize, numbers: Tensor<'_>) {
        let raw = numbers.as_ptr();
        // SAFETY: graph and tensor are alive; the graph has as many nodes as its context has tensors. Expanded here, so
        // that what is observed need not be kept until the graph ends.
        unsafe {
            sys::ggml_set_output(raw);
            sys::ggml_build_forward_expand(self.graph.as_ptr(), raw);
        }
        let numbers = NonNull::new(raw).expect("a tensor handle is never null");
        self.recorded.borrow_mut().push(Recorded { name, n_rows, numbers });
    }
}
