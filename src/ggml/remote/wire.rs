//! Owns how tensors and graphs look on the wire, as ggml's RPC protocol lays them out.

use std::collections::{HashMap, HashSet};
use std::ptr::NonNull;

use crate::ggml::sys;

/// Bytes of a tensor's description.
pub(super) const TENSOR_BYTES: usize = DATA_AT + 8 + sys::GGML_MAX_NAME as usize + 4;

/// Where the buffer's name stands in a description: behind the id (u64) and the type (u32).
const BUFFER_AT: usize = 12;

/// Where the address of the data stands: behind the sizes, the strides, the operation, its parameters, the flags, the
/// sources, and what it is a view of.
const DATA_AT: usize = BUFFER_AT
    + 8
    + 2 * 4 * sys::GGML_MAX_DIMS as usize
    + 4
    + sys::GGML_MAX_OP_PARAMS as usize
    + 4
    + 8 * sys::GGML_MAX_SRC as usize
    + 16;

/// A tensor's description.
pub(super) type Description = [u8; TENSOR_BYTES];

/// What the worker calls a place: its buffer, and an address.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    pub(super) buffer: u64,
    pub(super) data: u64,
}

/// Describes a tensor that lies at `place`; `uses` counts the nodes that read it.
pub(super) fn describe(tensor: &sys::ggml_tensor, place: Place, uses: u32) -> Description {
    let mut bytes = Vec::with_capacity(TENSOR_BYTES);
    let id = |tensor: *const sys::ggml_tensor| (tensor as u64).to_le_bytes();
    bytes.extend_from_slice(&id(tensor));
    bytes.extend_from_slice(&tensor.type_.0.to_le_bytes());
    bytes.extend_from_slice(&place.buffer.to_le_bytes());
    tensor.ne.iter().for_each(|&n| bytes.extend_from_slice(&(n as u32).to_le_bytes()));
    tensor.nb.iter().for_each(|&n| bytes.extend_from_slice(&(n as u32).to_le_bytes()));
    bytes.extend_from_slice(&tensor.op.0.to_le_bytes());
    tensor.op_params.iter().for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
    bytes.extend_from_slice(&tensor.flags.to_le_bytes());
    tensor.src.iter().for_each(|&source| bytes.extend_from_slice(&id(source)));
    bytes.extend_from_slice(&id(tensor.view_src));
    bytes.extend_from_slice(&(tensor.view_offs as u64).to_le_bytes());
    bytes.extend_from_slice(&place.data.to_le_bytes());
    tensor.name.iter().for_each(|&c| bytes.push(c as u8));
    bytes.extend_from_slice(&uses.to_le_bytes());
    bytes.try_into().expect("the fields add up")
}

/// Adds what decides on the memory that a tensor needs: its type, sizes, strides and operation.
pub(super) fn describe_kind(tensor: &sys::ggml_tensor, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&tensor.type_.0.to_le_bytes());
    tensor.ne.iter().for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
    tensor.nb.iter().for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
    bytes.extend_from_slice(&tensor.op.0.to_le_bytes());
    tensor.op_params.iter().for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
}

/// Says that a described tensor lies somewhere else.
pub(super) fn put_at(description: &mut Description, place: Place) {
    description[BUFFER_AT..BUFFER_AT + 8].copy_from_slice(&place.buffer.to_le_bytes());
    description[DATA_AT..DATA_AT + 8].copy_from_slice(&place.data.to_le_bytes());
}

/// A graph for one of the worker's devices: device, nodes in their order, and descriptions of every tensor, sources
/// first. `place` says where a tensor lies.
///
/// # Safety
/// The graph and all that it reads are alive.
pub(super) unsafe fn describe_graph(
    device: u32,
    graph: NonNull<sys::ggml_cgraph>,
    place: impl Fn(&sys::ggml_tensor) -> Place,
) -> Vec<u8> {
    // SAFETY: as promised by the caller.
    let nodes: Vec<*mut sys::ggml_tensor> = unsafe {
        let n = sys::ggml_graph_n_nodes(graph.as_ptr());
        (0..n).map(|i| sys::ggml_graph_node(graph.as_ptr(), i)).collect()
    };
    let (mut order, mut seen) = (Vec::new(), HashSet::new());
    let mut uses: HashMap<*mut sys::ggml_tensor, u32> = HashMap::new();
    for &node in &nodes {
        // SAFETY: as promised by the caller.
        unsafe { visit(node, &mut seen, &mut order) };
        // SAFETY: as promised by the caller.
        for &source in unsafe { &(*node).src } {
            *uses.entry(source).or_default() += 1;
        }
    }
    let mut bytes = Vec::with_capacity(12 + 8 * nodes.len() + order.len() * TENSOR_BYTES);
    bytes.extend_from_slice(&device.to_le_bytes());
    bytes.extend_from_slice(&(nodes.len() as u32).to_le_bytes());
    nodes.iter().for_each(|&node| bytes.extend_from_slice(&(node as u64).to_le_bytes()));
    bytes.extend_from_slice(&(order.len() as u32).to_le_bytes());
    for &tensor in &order {
        // SAFETY: as promised by the caller.
        let described = unsafe { &*tensor };
        let uses = uses.get(&tensor).copied().unwrap_or(0);
        bytes.extend_from_slice(&describe(described, place(described), uses));
    }
    bytes
}

/// # Safety
/// The tensor is null or alive, with all that it reads.
unsafe fn visit(
    tensor: *mut sys::ggml_tensor,
    seen: &mut HashSet<*mut sys::ggml_tensor>,
    order: &mut Vec<*mut sys::ggml_tensor>,
) {
    if tensor.is_null() || !seen.insert(tensor) {
        return;
    }
    // SAFETY: as promised by the caller.
    unsafe {
        (*tensor).src.iter().for_each(|&source| visit(source, seen, order));
        visit((*tensor).view_src, seen, order);
    }
    order.push(tensor);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::ggml::Context;

    #[test]
    fn a_description_has_its_fields_where_the_protocol_wants_them() {
        assert_eq!((TENSOR_BYTES, DATA_AT), (296, 220));
        let ctx = Context::new(1);
        let tensor = ctx.tensor(DType::F16, &[6, 5]).named("abc", None);
        let mut bytes = describe(tensor.get(), Place { buffer: 7, data: 9 }, 3);
        let u32_at = |bytes: &Description, at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(u32_at(&bytes, 8), DType::F16.id());
        assert_eq!([12, 20, 24, 28, 36, 40].map(|at| u32_at(&bytes, at)), [7, 6, 5, 1, 2, 12]);
        assert_eq!((u32_at(&bytes, DATA_AT), &bytes[228..232], u32_at(&bytes, 292)), (9, &b"abc\0"[..], 3));
        put_at(&mut bytes, Place { buffer: 1, data: 2 });
        assert_eq!((u32_at(&bytes, 12), u32_at(&bytes, DATA_AT)), (1, 2));
    }
}
