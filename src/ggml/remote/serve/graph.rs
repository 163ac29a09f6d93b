//! Owns a client's graph: checked node by node, rebuilt from what was checked, and run. Refuses whatever could make a kernel
//! reach outside the client's own buffers.
//!
//! Nothing of a message is handed on: tensors are made anew in contexts of our own, with addresses computed from handles.
//! Numbers that kernels take for places (of rows) are looked at before every run, and no node before their last use may write
//! where they lie.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::memory::{Budget, Buffers, Charge, PAST_THE_END, Place};
use super::message::{Described, DescribedGraph, Fields, MAX_SRC};
use super::rules::{self, Known, Operation};
use super::shape::Shape;
use super::turn::Turns;
use super::{Parting, wrong};
use crate::dtype::DType;
use crate::ggml::sys::{self, ggml_op};
use crate::ggml::{Context, Device, Tensor};

/// Flags of tensors, as ggml has them: others may not write over it; it is computed, and not only there.
const FLAG_OUTPUT: i32 = 2;
const FLAG_COMPUTE: i32 = 16;

/// Multiplications that a device does before it looks whether another client waits.
const WORK_OF_PART: u64 = 1 << 34;

/// The same for a GPU, which is quicker.
const WORK_OF_PART_OF_GPU: u64 = 1 << 42;

/// A graph that may run, again and again.
pub(super) struct Graph {
    parts: Vec<Part>,
    indices: Vec<Indices>,
    _charge: Charge,
}

/// Nodes that run without a pause.
struct Part {
    raw: NonNull<sys::ggml_cgraph>,
    id: u64,
    _ctx: Context,
}

// SAFETY: a finished graph is plain memory that only its connection's thread touches.
unsafe impl Send for Part {}

/// Numbers of places, of which there are `limit`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Indices {
    place: Place,
    dtype: DType,
    limit: usize,
}

impl Graph {
    /// Checks a message, and makes what it asks for.
    pub(super) fn new(
        message: DescribedGraph,
        device: &Device,
        buffers: &Buffers,
        budget: &Arc<Budget>,
    ) -> Result<Graph, Parting> {
        let plan = Plan::new(&message, Ground { index: message.device, device, buffers })?;
        let size = plan.tensors() * TENSOR_BYTES;
        let charge = budget.take(size).ok_or_else(|| wrong("a graph for which there is no memory"))?;
        if device.is_cpu() && plan.scratch(device.n_threads()) > budget.left() {
            return Err(wrong("a graph that takes more scratch memory than there is"));
        }
        let parts = plan.parts(if device.is_cpu() { WORK_OF_PART } else { WORK_OF_PART_OF_GPU });
        let parts = parts.into_iter().map(|nodes| plan.build(nodes, device, buffers)).collect::<Result<_, _>>()?;
        Ok(Graph { parts, indices: plan.indices, _charge: charge })
    }

    /// Runs it, part by part, in turn with other clients of the device.
    pub(super) fn run(&self, device: &Device, turns: &Turns, buffers: &Buffers) -> Result<(), Parting> {
        for indices in &self.indices {
            indices.check(buffers)?;
        }
        for part in &self.parts {
            let _turn = turns.wait();
            device.compute(part.raw, part.id).map_err(|error| wrong(error.to_string()))?;
        }
        Ok(())
    }
}

/// What a tensor takes in a context and in a graph: its description, and places in lists and tables.
const TENSOR_BYTES: usize = 1024;

impl Indices {
    fn check(&self, buffers: &Buffers) -> Result<(), Parting> {
        const PIECE: usize = 1 << 16;
        let mut piece = vec![0; PIECE.min(self.place.bytes)];
        for start in (0..self.place.bytes).step_by(PIECE) {
            let bytes = PIECE.min(self.place.bytes - start);
            let piece = &mut piece[..bytes];
            buffers.read(Place { offset: self.place.offset + start, bytes, ..self.place }, piece)?;
            if !self.are_inside(piece) {
                return Err(wrong(format!("a row that is none of the {} there are", self.limit)));
            }
        }
        Ok(())
    }

    fn are_inside(&self, bytes: &[u8]) -> bool {
        let is_inside = |i: i64| usize::try_from(i).is_ok_and(|i| i < self.limit);
        match self.dtype {
            DType::I32 => {
                bytes.chunks_exact(4).all(|b| is_inside(i32::from_le_bytes(b.try_into().expect("four")).into()))
            }
            _ => bytes.chunks_exact(8).all(|b| is_inside(i64::from_le_bytes(b.try_into().expect("eight")))),
        }
    }
}

/// Where a graph is to run.
#[derive(Clone, Copy)]
struct Ground<'a> {
    /// The device, by its number and itself.
    index: u32,
    device: &'a Device,
    buffers: &'a Buffers,
}

/// A checked graph, not made yet.
struct Plan<'m> {
    tensors: &'m [Described],
    known: Vec<Option<Known>>,
    /// By the tensors' ids.
    by_id: HashMap<u64, usize>,
    /// Those that are computed, in their order, by their places in the message.
    nodes: Vec<usize>,
    /// Whether a tensor is computed.
    is_node: Vec<bool>,
    indices: Vec<Indices>,
}

impl<'m> Plan<'m> {
    fn new(message: &'m DescribedGraph, ground: Ground<'_>) -> Result<Plan<'m>, Parting> {
        let tensors = &message.tensors;
        let mut by_id = HashMap::with_capacity(tensors.len());
        for (i, tensor) in tensors.iter().enumerate() {
            if tensor.id == 0 || by_id.insert(tensor.id, i).is_some() {
                return Err(wrong(format!("a tensor without a name of its own ({})", tensor.id)));
            }
        }
        let n = tensors.len();
        let (known, is_node) = (vec![None; n], vec![false; n]);
        let mut plan = Plan { tensors, known, by_id, nodes: Vec::new(), is_node, indices: Vec::new() };
        plan.take_nodes(&message.nodes, ground)?;
        Ok(plan)
    }

    /// Checks the nodes in their order.
    fn take_nodes(&mut self, ids: &[u64], ground: Ground<'_>) -> Result<(), Parting> {
        // Where each node stands: a source of an earlier one must not be computed later, nor by itself.
        let mut order = vec![None; self.tensors.len()];
        for (at, id) in ids.iter().enumerate() {
            let i = self.find(*id)?;
            if order[i].replace(at).is_some() {
                return Err(wrong("a node twice"));
            }
        }
        let (mut written, mut seen, tensors) = (Written::default(), HashSet::new(), self.tensors);
        for (at, id) in ids.iter().enumerate() {
            let i = self.find(*id)?;
            let said = |why: Parting| why.of(|| format!("node {at} ({})", name(tensors[i].op)));
            let runs = self.take_node(i, at, &order, ground);
            if !runs.map_err(said)? {
                continue;
            }
            let operation = self.operation(i);
            let place = operation.result.place;
            let indices =
                operation.indices().map(|(rows, limit)| Indices { place: rows.place, dtype: rows.shape.dtype, limit });
            if !operation.is_view() {
                written.add(place);
            }
            if let Some(indices) = indices {
                if written.overlaps(indices.place) {
                    return Err(said(wrong("its rows are computed, and not given")));
                }
                if seen.insert(indices) {
                    self.indices.push(indices);
                }
            }
            self.nodes.push(i);
            self.is_node[i] = true;
        }
        Ok(())
    }

    /// Checks one node: whether there is anything to compute.
    fn take_node(&mut self, i: usize, at: usize, order: &[Option<usize>], ground: Ground<'_>) -> Result<bool, Parting> {
        let tensor = &self.tensors[i];
        let mut has_empty = false;
        for (k, &id) in tensor.src.iter().enumerate().filter(|(_, id)| **id != 0) {
            let source = self.find(id)?;
            // ggml's conversions name their result as what they copy into.
            let is_own = (tensor.op, k, source) == (ggml_op::GGML_OP_CPY.0, 1, i);
            if !is_own && order[source].is_some_and(|place| place >= at) {
                return Err(wrong("it reads what is computed later"));
            }
            has_empty |= self.know(source, ground)?.shape.is_empty();
        }
        let known = self.know(i, ground)?;
        let runs = tensor.flags & FLAG_COMPUTE != 0;
        if !runs || known.shape.is_empty() || tensor.op == ggml_op::GGML_OP_NONE.0 {
            return Ok(false);
        }
        if has_empty {
            return Err(wrong("something is computed of nothing"));
        }
        self.operation(i).check().map_err(wrong)?;
        Ok(true)
    }

    fn find(&self, id: u64) -> Result<usize, Parting> {
        self.by_id.get(&id).copied().ok_or_else(|| wrong(format!("tensor {id} is not there")))
    }

    /// What is known of a tensor, once it was found sound by itself.
    fn know(&mut self, i: usize, ground: Ground<'_>) -> Result<Known, Parting> {
        if let Some(known) = self.known[i] {
            return Ok(known);
        }
        let tensor = &self.tensors[i];
        let known = sound(tensor, ground)?;
        if let Some(root) = self.root(tensor)? {
            // A root is no view, so this ends.
            let of = self.know(root, ground)?;
            let offset = usize::try_from(tensor.view_offs).ok().and_then(|offset| of.place.offset.checked_add(offset));
            let (inside, of) = (known.place, of.place);
            let fits = Some(inside.offset) == offset
                && inside.handle == of.handle
                && inside.offset + inside.bytes <= of.offset + of.bytes;
            if !fits {
                return Err(wrong("a view outside what it is a view of"));
            }
        }
        self.known[i] = Some(known);
        Ok(known)
    }

    /// What a tensor is a view of, where that is given.
    fn root(&self, tensor: &Described) -> Result<Option<usize>, Parting> {
        if tensor.view_src == 0 {
            return Ok(None);
        }
        let root = self.find(tensor.view_src)?;
        if self.tensors[root].view_src != 0 {
            return Err(wrong("a view of a view"));
        }
        // Without a place of its own it says nothing.
        Ok((self.tensors[root].buffer != 0).then_some(root))
    }

    /// An operation whose tensors are all known.
    fn operation(&self, i: usize) -> Operation<'_> {
        let tensor = &self.tensors[i];
        let source = |id: u64| self.by_id.get(&id).and_then(|&source| self.known[source].as_ref());
        Operation {
            op: ggml_op(tensor.op),
            params: &tensor.params,
            src: tensor.src.map(source),
            result: self.known[i].as_ref().expect("a node that was taken"),
        }
    }

    fn tensors(&self) -> usize {
        self.known.iter().flatten().count() + 1
    }

    fn scratch(&self, n_threads: usize) -> usize {
        self.nodes.iter().map(|&i| self.operation(i).scratch(n_threads)).max().unwrap_or(0)
    }

    /// The nodes, in runs of about so much work.
    fn parts(&self, work: u64) -> Vec<&[usize]> {
        let (mut parts, mut start, mut sum) = (Vec::new(), 0, 0u64);
        for (at, &i) in self.nodes.iter().enumerate() {
            sum = sum.saturating_add(self.operation(i).work());
            if sum >= work {
                parts.push(&self.nodes[start..=at]);
                (start, sum) = (at + 1, 0);
            }
        }
        parts.extend((start < self.nodes.len()).then(|| &self.nodes[start..]));
        parts
    }

    /// Makes the tensors and the graph of some nodes. What others compute is given for them.
    fn build(&self, nodes: &[usize], device: &Device, buffers: &Buffers) -> Result<Part, Parting> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1 << 63);
        let here: HashSet<usize> = nodes.iter().copied().collect();
        let mut all: Vec<usize> = Vec::new();
        let mut places = HashMap::new();
        for &i in nodes {
            for &id in self.tensors[i].src.iter().chain([&self.tensors[i].view_src]).filter(|&&id| id != 0) {
                let other = self.find(id)?;
                if !here.contains(&other) && self.known[other].is_some() && places.insert(other, 0).is_none() {
                    all.push(other);
                }
            }
        }
        all.extend(nodes);
        let ctx = Context::with_graph(all.len(), all.len());
        // SAFETY: the context was made with room for a graph of this size.
        let raw = unsafe { sys::ggml_new_graph_custom(ctx.as_ptr(), all.len(), false) };
        let raw = NonNull::new(raw).expect("the context has room for its graph");
        let mut made: HashMap<usize, Tensor<'_>> = HashMap::with_capacity(all.len());
        for &i in &all {
            let known = self.known[i].expect("a tensor that was found sound");
            let (buffer, address) = buffers.raw(known.place)?;
            let tensor = ctx.tensor(known.shape.dtype, &known.shape.ne);
            // SAFETY: the tensor was just made; its bytes lie inside the buffer.
            unsafe {
                let t = &mut *tensor.as_ptr();
                t.nb = known.shape.nb;
                t.buffer = buffer;
                t.data = address.cast();
            }
            if here.contains(&i) {
                self.make_node(i, tensor, &made);
                can_run(device, tensor, &known).map_err(|why| why.of(|| name(self.tensors[i].op)))?;
                // SAFETY: graph and node are alive; the node's sources are part of the graph, so this adds one node.
                unsafe { sys::ggml_build_forward_expand(raw.as_ptr(), tensor.as_ptr()) };
            }
            made.insert(i, tensor);
        }
        Ok(Part { raw, id: NEXT_ID.fetch_add(1, Ordering::Relaxed), _ctx: ctx })
    }

    /// Makes a tensor the node that it is.
    fn make_node(&self, i: usize, tensor: Tensor<'_>, made: &HashMap<usize, Tensor<'_>>) {
        let described = &self.tensors[i];
        let find = |id: u64| match self.by_id.get(&id) {
            Some(&own) if own == i => Some(&tensor),
            other => made.get(other?),
        };
        // SAFETY: the tensor was just made; sources lie in its context, and were made before.
        unsafe {
            let t = &mut *tensor.as_ptr();
            t.op = ggml_op(described.op);
            t.op_params = described.params;
            t.flags = described.flags & FLAG_OUTPUT;
            for (place, &id) in t.src.iter_mut().zip(&described.src) {
                *place = find(id).map_or(std::ptr::null_mut(), |source| source.as_ptr());
            }
            if let Some(root) = find(described.view_src) {
                t.view_src = root.as_ptr();
                t.view_offs = described.view_offs as usize;
            }
        }
    }
}

/// Finds a tensor sound by itself: shape, strides, and a place inside a buffer of this device.
fn sound(tensor: &Described, ground: Ground<'_>) -> Result<Known, Parting> {
    let Ground { index, device, buffers } = ground;
    let shape = Shape::of(tensor)?;
    if shape.is_empty() {
        return Ok(Known { shape, place: Place { handle: 0, device: index, offset: 0, bytes: 0 }, room: 0 });
    }
    let place = buffers.locate(tensor, &shape)?;
    if place.device != index {
        return Err(wrong("a tensor of another device"));
    }
    let room = buffers.room(place);
    let is_view = tensor.view_src != 0 || rules::is_view(ggml_op(tensor.op));
    let alignment = if is_view { shape.alignment() } else { alignment(device).max(shape.alignment()) };
    if !place.offset.is_multiple_of(alignment) {
        return Err(wrong(format!("a tensor at byte {}, which is no multiple of {alignment}", place.offset)));
    }
    Ok(Known { shape, place, room })
}

/// Whether a device has code for a node, and the node room for what the device keeps behind its result.
fn can_run(device: &Device, tensor: Tensor<'_>, known: &Known) -> Result<(), Parting> {
    let node = NonNull::new(tensor.as_ptr()).expect("a tensor handle is never null");
    if !device.supports(node) {
        return Err(wrong("the device has no code for it"));
    }
    if device.is_cpu() {
        return Ok(());
    }
    // SAFETY: the buffer type is static; node and operands are alive.
    let bytes = unsafe { sys::ggml_backend_buft_get_alloc_size(device.buffer_type(), tensor.as_ptr()) };
    if bytes > known.room + PAST_THE_END { Err(wrong("too little room for its result")) } else { Ok(()) }
}

/// What starts of tensors are multiples of.
pub(super) fn alignment(device: &Device) -> usize {
    // SAFETY: asks a static object.
    unsafe { sys::ggml_backend_buft_get_alignment(device.buffer_type()) }
}

/// Bytes that a device wants for a tensor with these operands.
pub(super) fn alloc_size(device: &Device, tensor: &Described, sources: &[Described]) -> Result<u64, Parting> {
    let shape = Shape::of(tensor)?;
    if device.is_cpu() || shape.is_empty() {
        return Ok(shape.bytes as u64);
    }
    let zero = Place { handle: 0, device: 0, offset: 0, bytes: 0 };
    let known = |shape: Shape| Known { shape, place: Place { bytes: shape.bytes, ..zero }, room: shape.bytes };
    let mut operands = [None; MAX_SRC];
    for (place, source) in operands.iter_mut().zip(sources).filter(|(_, source)| source.id != 0) {
        *place = Some(known(Shape::of(source)?));
    }
    let result = known(shape);
    let src = operands.each_ref().map(Option::as_ref);
    let operation = Operation { op: ggml_op(tensor.op), params: &tensor.params, src, result: &result };
    let ctx = Context::new(1 + MAX_SRC);
    let make = |known: &Known| {
        let made = ctx.tensor(known.shape.dtype, &known.shape.ne);
        // SAFETY: the tensor was just made.
        unsafe { (*made.as_ptr()).nb = known.shape.nb };
        made
    };
    let made = make(&result);
    // Only the operation that takes more than its result is asked about with its operands.
    if operation.op == ggml_op::GGML_OP_FLASH_ATTN_EXT && operation.check().is_ok() {
        // SAFETY: the tensors lie in one context, and the operation was checked.
        unsafe {
            (*made.as_ptr()).op = operation.op;
            (*made.as_ptr()).op_params = tensor.params;
            for (place, known) in (*made.as_ptr()).src.iter_mut().zip(&operands) {
                *place = known.as_ref().map_or(std::ptr::null_mut(), |known| make(known).as_ptr());
            }
        }
    }
    // SAFETY: the buffer type is static, the tensor alive.
    Ok(unsafe { sys::ggml_backend_buft_get_alloc_size(device.buffer_type(), made.as_ptr()) } as u64)
}

/// Bytes that nodes so far write, as ranges apart from each other, by buffer and first byte.
#[derive(Default)]
struct Written(BTreeMap<(u64, usize), usize>);

impl Written {
    fn add(&mut self, place: Place) {
        let (mut start, mut end) = (place.offset, place.offset + place.bytes);
        while let Some((&key, &last)) = self.0.range(..=(place.handle, end)).next_back() {
            if key.0 != place.handle || last < start {
                break;
            }
            self.0.remove(&key);
            (start, end) = (start.min(key.1), end.max(last));
        }
        self.0.insert((place.handle, start), end);
    }

    fn overlaps(&self, place: Place) -> bool {
        let before = self.0.range(..(place.handle, place.offset + place.bytes)).next_back();
        before.is_some_and(|(key, &end)| key.0 == place.handle && end > place.offset)
    }
}

/// ggml's name of an operation.
fn name(op: u32) -> String {
    if op >= ggml_op::GGML_OP_COUNT.0 {
        return format!("operation {op}");
    }
    // SAFETY: the number is one of an operation, whose name is static.
    unsafe { CStr::from_ptr(ggml_op_name(ggml_op(op))) }.to_string_lossy().into_owned()
}

unsafe extern "C" {
    fn ggml_op_name(op: ggml_op) -> *const std::ffi::c_char;
}

/// Takes a graph from a message's body.
pub(super) fn parse(body: &[u8]) -> Result<DescribedGraph, Parting> {
    Fields::new(body).graph()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_ranges_grow_together_and_are_found() {
        let at = |offset, bytes| Place { handle: 1, device: 0, offset, bytes };
        let mut written = Written::default();
        written.add(at(100, 50));
        written.add(at(10, 10));
        assert!(written.overlaps(at(0, 11)) && written.overlaps(at(149, 9)) && written.overlaps(at(19, 100)));
        assert!(!written.overlaps(at(0, 10)) && !written.overlaps(at(20, 80)) && !written.overlaps(at(150, 9)));
        assert!(!written.overlaps(Place { handle: 2, ..at(100, 50) }));
        written.add(at(15, 90));
        assert_eq!(written.0.len(), 1);
        assert!(written.overlaps(at(60, 1)));
    }
}
