//! Owns how much a graph computes, roughly: by it the client knows how long an answer may take, and the worker where a graph
//! can be interrupted.

use std::ptr::NonNull;

use crate::ggml::sys::{self, ggml_op};

/// Multiplications of a graph, roughly.
///
/// # Safety
/// The graph and all that it reads are alive.
pub(super) unsafe fn of_graph(graph: NonNull<sys::ggml_cgraph>) -> u64 {
    // SAFETY: as promised by the caller; sources are null or alive.
    unsafe {
        let ne = |tensor: *mut sys::ggml_tensor| tensor.as_ref().map_or([0; 4], |tensor| tensor.ne.map(|n| n as u64));
        let node = |i| {
            let node = sys::ggml_graph_node(graph.as_ptr(), i);
            of_operation((*node).op, ne(node), ne((*node).src[0]), ne((*node).src[1]))
        };
        (0..sys::ggml_graph_n_nodes(graph.as_ptr())).map(node).fold(0, u64::saturating_add)
    }
}

/// Multiplications of an operation, roughly, by the shapes of its result and its first two operands.
pub(super) fn of_operation(op: ggml_op, result: [u64; 4], a: [u64; 4], b: [u64; 4]) -> u64 {
    let product = |ne: [u64; 4]| ne.iter().fold(1u64, |product, &n| product.saturating_mul(n));
    let each = match op {
        ggml_op::GGML_OP_MUL_MAT => a[0],
        // Scores and sums: result [head, n_head, t], keys [head, n_kv].
        ggml_op::GGML_OP_FLASH_ATTN_EXT => b[1].saturating_mul(2),
        _ => 1,
    };
    product(result).saturating_mul(each)
}
