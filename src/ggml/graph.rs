//! Owns finished graphs, their scratch memory and their runs. Refuses to run a graph whose scratch has moved.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::hash::Hash;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::context::{Context, Tensor};
use super::node::{Node, Nodes};
use super::ops::Ops;
use super::store::Store;
use super::watch::{Recorded, Watch};
use super::{Device, Error, sys};
use crate::dtype::DType;

/// Names a tensor of a finished graph: an input to fill or an output to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(usize);

/// What a closure uses to build a graph: the operations, and which of their results matter.
#[derive(Clone, Copy)]
pub struct Builder<'g> {
    /// The operations.
    pub ops: Ops<'g>,
    ctx: &'g Context,
    raw: NonNull<sys::ggml_cgraph>,
    slots: &'g RefCell<Vec<NonNull<sys::ggml_tensor>>>,
}

impl<'g> Builder<'g> {
    /// The same, with [`Ops::row_by_row`].
    pub fn row_by_row(&self) -> Builder<'g> {
        Builder { ops: self.ops.row_by_row(), ..*self }
    }

    /// A tensor to be filled before each run.
    #[track_caller]
    pub fn input(&self, name: &str, dtype: DType, shape: &[usize]) -> (Tensor<'g>, Slot) {
        let tensor = self.ctx.tensor(dtype, shape).named(name, None);
        // SAFETY: the tensor is alive.
        unsafe { sys::ggml_set_input(tensor.as_ptr()) };
        (tensor, self.slot(tensor))
    }

    /// Computes `tensor` and keeps it readable after the run.
    #[track_caller]
    pub fn output(&self, tensor: Tensor<'g>) -> Slot {
        // SAFETY: the tensor is alive.
        unsafe { sys::ggml_set_output(tensor.as_ptr()) };
        self.effect(tensor);
        self.slot(tensor)
    }

    /// Computes `tensor` for its effect, at this place in the order.
    #[track_caller]
    pub fn effect(&self, tensor: Tensor<'g>) {
        // SAFETY: graph and tensor are alive. The graph has as many nodes as its context has tensors, so it never
        // overflows before the context's own check.
        unsafe { sys::ggml_build_forward_expand(self.raw.as_ptr(), tensor.as_ptr()) }
    }

    fn slot(&self, tensor: Tensor<'g>) -> Slot {
        let mut slots = self.slots.borrow_mut();
        slots.push(NonNull::new(tensor.as_ptr()).expect("a tensor handle is never null"));
        Slot(slots.len() - 1)
    }
}

/// A graph over tensors of its own and of the stores it keeps alive. `S` says what its slots are for.
struct Graph<S> {
    slots: S,
    tensors: Vec<NonNull<sys::ggml_tensor>>,
    recorded: Vec<Recorded>,
    raw: NonNull<sys::ggml_cgraph>,
    /// This graph's alone.
    id: u64,
    _ctx: Context,
    _nodes: Vec<Box<dyn Node>>,
    _stores: Vec<Arc<Store>>,
}

// SAFETY: a finished graph is plain memory that only its runner touches.
unsafe impl<S: Send> Send for Graph<S> {}

impl<S> Graph<S> {
    fn build(
        n_tensors: usize,
        is_observed: bool,
        stores: &[&Arc<Store>],
        build: impl for<'g> FnOnce(&Builder<'g>) -> S,
    ) -> Graph<S> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let n_tensors = if is_observed { n_tensors * (1 + Ops::TENSORS_OBSERVED) } else { n_tensors };
        let ctx = Context::with_graph(n_tensors, n_tensors);
        // SAFETY: the context is alive and was made with room for a graph of this size.
        let raw = unsafe { sys::ggml_new_graph_custom(ctx.as_ptr(), n_tensors, false) };
        let raw = NonNull::new(raw).expect("the context has room for its graph");
        let tensors = RefCell::new(Vec::new());
        let nodes = Nodes::default();
        let watch = is_observed.then(|| Watch::new(raw));
        let ops = Ops::new(&ctx, &nodes, watch.as_ref());
        let slots = build(&Builder { ops, ctx: &ctx, raw, slots: &tensors });
        let graph = Graph {
            slots,
            tensors: tensors.into_inner(),
            recorded: watch.map_or_else(Vec::new, Watch::into_recorded),
            raw,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            _nodes: nodes.into_inner(),
            _stores: stores.iter().map(|&s| s.clone()).collect(),
            _ctx: ctx,
        };
        graph.assert_owned();
        graph
    }

    /// Every source of every node lies in this graph's context or in a store that the graph keeps alive.
    fn assert_owned(&self) {
        let owned = |t: *mut sys::ggml_tensor| {
            t.is_null() || self._ctx.owns(t) || self._stores.iter().any(|s| s.context().owns(t))
        };
        // SAFETY: the graph and its nodes are alive: they were built from live handles a moment ago.
        unsafe {
            for i in 0..sys::ggml_graph_n_nodes(self.raw.as_ptr()) {
                let node = &*sys::ggml_graph_node(self.raw.as_ptr(), i);
                assert!(
                    node.src.iter().all(|&s| owned(s)) && owned(node.view_src),
                    "a graph uses a store it does not keep"
                );
            }
        }
    }
}

impl<S> Graph<S> {
    /// Every node is one that the device can compute.
    fn check_for(&self, device: &Device) -> Result<(), Error> {
        // SAFETY: the graph and its nodes are alive.
        let nodes = unsafe {
            let n = sys::ggml_graph_n_nodes(self.raw.as_ptr());
            (0..n).filter_map(|i| NonNull::new(sys::ggml_graph_node(self.raw.as_ptr(), i)))
        };
        for node in nodes {
            if !device.supports(node) {
                // SAFETY: the node lies in this graph's context.
                let node = unsafe { describe(Tensor::from_raw(node)) };
                return Err(Error::Unsupported { device: device.name().to_owned(), node });
            }
        }
        Ok(())
    }
}

/// An operation with its result and its operands.
fn describe(node: Tensor<'_>) -> String {
    let raw = node.get();
    // SAFETY: ggml gives a static text; sources are null or alive as long as the node.
    let (op, sources) = unsafe {
        let op = CStr::from_ptr(sys::ggml_op_desc(node.as_ptr())).to_string_lossy();
        let sources = raw.src.iter().filter_map(|&source| NonNull::new(source)).map(|raw| Tensor::from_raw(raw));
        (op, sources.map(|source| format!("{source:?}")).collect::<Vec<_>>())
    };
    format!("`{op}` ({node:?} of {})", sources.join(", "))
}

/// Runs graphs on one device, keeps them for reuse by key, and owns the scratch memory that they share.
pub struct Runner<K, S> {
    cached: HashMap<K, (Graph<S>, u64)>,
    scratch: Scratch,
    device: Arc<Device>,
    uses: u64,
    observes: bool,
}

/// Graphs kept for reuse. A decode step needs one per padded cache length in use; prompts of odd lengths come and go.
const MAX_CACHED: usize = 64;

impl<K: Hash + Eq + Copy, S: Copy> Runner<K, S> {
    /// A runner without graphs.
    pub fn new(device: Arc<Device>) -> Runner<K, S> {
        Runner { cached: HashMap::new(), scratch: Scratch::new(&device), device, uses: 0, observes: false }
    }

    /// The device that computes.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Observes every graph from now on: what it records of its multiplications is there after a run ([`Computed::observed`]).
    pub fn observe(&mut self) {
        self.observes = true;
        self.forget_all();
    }

    /// Drops all graphs: a store they use was replaced.
    pub fn forget_all(&mut self) {
        self.cached.clear();
    }

    /// Readies the graph of this key for its inputs, building it unless it is at hand. `stores` hold every tensor that
    /// the graph uses beside its own; `n_tensors` bounds the tensors it makes.
    pub fn prepare(
        &mut self,
        key: K,
        n_tensors: usize,
        stores: &[&Arc<Store>],
        build: impl for<'g> FnOnce(&Builder<'g>) -> S,
    ) -> Result<Run<'_, S>, Error> {
        self.uses += 1;
        if !self.cached.contains_key(&key) {
            let graph = Graph::build(n_tensors, self.observes, stores, build);
            if !self.device.is_cpu() {
                graph.check_for(&self.device)?;
            }
            match self.scratch.place(&graph, &self.device) {
                Ok(false) => {}
                Ok(true) => self.cached.clear(), // they point into the scratch that was replaced
                Err(error) => {
                    // What it had is freed already.
                    self.cached.clear();
                    self.scratch = Scratch::new(&self.device);
                    self.device.check()?;
                    return Err(error);
                }
            }
            self.evict_oldest();
            self.cached.insert(key, (graph, 0));
        }
        let (graph, last_use) = self.cached.get_mut(&key).expect("present or just inserted");
        *last_use = self.uses;
        Ok(Run { graph, device: &self.device })
    }

    fn evict_oldest(&mut self) {
        if self.cached.len() < MAX_CACHED {
            return;
        }
        let oldest = self.cached.iter().min_by_key(|(_, (_, last_use))| *last_use).map(|(key, _)| *key);
        self.cached.retain(|key, _| Some(*key) != oldest);
    }
}

/// A graph about to run. It borrows the runner, so its scratch cannot be reused meanwhile.
pub struct Run<'r, S> {
    graph: &'r mut Graph<S>,
    device: &'r Device,
}

impl<'r, S: Copy> Run<'r, S> {
    /// What the graph's slots are for.
    pub fn slots(&self) -> S {
        self.graph.slots
    }

    /// Fills an i32 input.
    #[track_caller]
    pub fn set_i32(&mut self, slot: Slot, values: &[i32]) {
        self.set(slot, DType::I32, values);
    }

    /// Fills an i64 input.
    #[track_caller]
    pub fn set_i64(&mut self, slot: Slot, values: &[i64]) {
        self.set(slot, DType::I64, values);
    }

    /// Fills an f32 input.
    #[track_caller]
    pub fn set_f32(&mut self, slot: Slot, values: &[f32]) {
        self.set(slot, DType::F32, values);
    }

    /// Fills an f16 input.
    #[track_caller]
    pub fn set_f16(&mut self, slot: Slot, values: &[half::f16]) {
        self.set(slot, DType::F16, values);
    }

    #[track_caller]
    fn set<T: Copy>(&mut self, slot: Slot, dtype: DType, values: &[T]) {
        let tensor = tensor(self.graph, slot);
        assert_eq!((tensor.dtype(), tensor.nbytes()), (dtype, size_of_val(values)), "input {tensor:?}");
        // SAFETY: the tensor is alive.
        if unsafe { (*tensor.as_ptr()).data.is_null() } {
            return; // no node reads it, so it has no place
        }
        // SAFETY: plain numbers are valid bytes.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
        self.device.set_input(tensor, bytes);
    }

    /// Runs the graph. The results borrow the runner:
    /// ```compile_fail
    /// use curtail::ggml::{Run, Runner, Slot};
    /// fn both(runner: &mut Runner<u8, Slot>) {
    ///     let first = runner.prepare(0, 1, &[], |_| todo!()).unwrap();
    ///     let second = runner.prepare(1, 1, &[], |_| todo!()).unwrap();
    ///     first.compute().unwrap();
    /// }
    /// ```
    pub fn compute(self) -> Result<Computed<'r, S>, Error> {
        self.device.compute(self.graph.raw, self.graph.id)?;
        Ok(Computed { graph: self.graph, device: self.device })
    }
}

/// The results of a run, readable until the runner is used again.
pub struct Computed<'r, S> {
    graph: &'r Graph<S>,
    device: &'r Device,
}

impl<'r, S: Copy> Computed<'r, S> {
    /// What the graph's slots are for.
    pub fn slots(&self) -> S {
        self.graph.slots
    }

    /// An f32 output: where it lies on the CPU, a copy from elsewhere.
    #[track_caller]
    pub fn read(&self, slot: Slot) -> Result<Cow<'r, [f32]>, Error> {
        if self.device.is_cpu() {
            return Ok(Cow::Borrowed(self.f32(slot)));
        }
        let tensor = tensor(self.graph, slot);
        assert_eq!(tensor.dtype(), DType::F32, "output {tensor:?}");
        let mut values = vec![0f32; tensor.nbytes() / size_of::<f32>()];
        // SAFETY: the tensor has data of exactly this size, and any bytes are numbers.
        unsafe { sys::ggml_backend_tensor_get(tensor.as_ptr(), values.as_mut_ptr().cast(), 0, tensor.nbytes()) };
        self.device.check()?;
        Ok(Cow::Owned(values))
    }

    /// An f32 output of a graph that ran on the CPU.
    #[track_caller]
    pub fn f32(&self, slot: Slot) -> &'r [f32] {
        assert!(self.device.is_cpu(), "an output elsewhere is read");
        floats(tensor(self.graph, slot))
    }

    /// What an observed graph recorded on the CPU: each with its name, its number of rows, and the numbers.
    pub(crate) fn recorded(&self) -> impl Iterator<Item = (&'r str, usize, &'r [f32])> {
        assert!(self.device.is_cpu() || self.graph.recorded.is_empty(), "an observation elsewhere is read");
        self.graph.recorded.iter().map(|recorded| {
            // SAFETY: what is recorded lies in the graph's own context.
            let numbers = floats(unsafe { Tensor::from_raw(recorded.numbers) });
            (recorded.name.as_str(), recorded.n_rows, numbers)
        })
    }
}

/// The numbers of an output, whose runner is borrowed for `'r`.
#[track_caller]
fn floats(tensor: Tensor<'_>) -> &[f32] {
    assert_eq!(tensor.dtype(), DType::F32, "output {tensor:?}");
    // SAFETY: on the CPU the data is memory of this process, f32 and contiguous, and stays while the runner is borrowed,
    // as `Computed` borrows it.
    unsafe { std::slice::from_raw_parts((*tensor.as_ptr()).data.cast(), tensor.nbytes() / size_of::<f32>()) }
}

fn tensor<S>(graph: &Graph<S>, slot: Slot) -> Tensor<'_> {
    // SAFETY: slots are tensors of the graph's own context.
    unsafe { Tensor::from_raw(graph.tensors[slot.0]) }
}

/// Memory for intermediate results, shared by all graphs of a runner since they run one at a time.
struct Scratch {
    raw: NonNull<sys::ggml_gallocr>,
}

// SAFETY: the allocator is plain memory with one owner.
unsafe impl Send for Scratch {}

impl Scratch {
    fn new(device: &Device) -> Scratch {
        // SAFETY: the buffer type lives as long as the device, which the runner keeps longer than its scratch.
        let raw = unsafe { sys::ggml_gallocr_new(device.buffer_type()) };
        Scratch { raw: NonNull::new(raw).expect("ggml_gallocr_new finds memory") }
    }

    fn bytes(&self) -> usize {
        // SAFETY: the allocator is alive and has one buffer.
        unsafe { sys::ggml_gallocr_get_buffer_size(self.raw.as_ptr(), 0) }
    }

    /// Gives every tensor of the graph its place. True if that took a new, larger buffer: graphs placed before are
    /// then invalid.
    fn place<S>(&mut self, graph: &Graph<S>, device: &Device) -> Result<bool, Error> {
        let before = self.bytes();
        // SAFETY: allocator and graph are alive.
        let placed = unsafe { sys::ggml_gallocr_alloc_graph(self.raw.as_ptr(), graph.raw.as_ptr()) };
        if !placed {
            let device = device.label();
            return Err(Error::OutOfMemory { device, what: "results in between", bytes: 0 });
        }
        Ok(self.bytes() != before)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: this is the only owner, and the graphs placed in it are never run again.
        unsafe { sys::ggml_gallocr_free(self.raw.as_ptr()) }
    }
}
