//! Owns ggml contexts and the tensor handles that borrow from them. Refuses to hand out a tensor without its context.

use std::ffi::{CStr, CString};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use super::sys;
use crate::dtype::DType;

/// The memory of tensor descriptions (never of tensor data): what every [`Tensor`] borrows from.
pub struct Context {
    raw: NonNull<sys::ggml_context>,
    mem_bytes: usize,
}

// SAFETY: a ggml context is plain memory; the methods that change it are called while it is built, by one thread.
unsafe impl Send for Context {}
// SAFETY: a finished context is only read; building happens through handles that do not leave their thread.
unsafe impl Sync for Context {}

impl Context {
    /// A context with room for `n_tensors` tensors.
    pub fn new(n_tensors: usize) -> Context {
        Context::with_graph(n_tensors, 0)
    }

    /// A context with room for `n_tensors` tensors and a graph of `n_nodes` nodes.
    pub(super) fn with_graph(n_tensors: usize, n_nodes: usize) -> Context {
        // SAFETY: both functions only compute sizes.
        let mem_bytes = unsafe {
            let graph = if n_nodes > 0 { sys::ggml_graph_overhead_custom(n_nodes, false) } else { 0 };
            n_tensors * sys::ggml_tensor_overhead() + graph
        };
        let params = sys::ggml_init_params { mem_size: mem_bytes, mem_buffer: std::ptr::null_mut(), no_alloc: true };
        // SAFETY: the parameters ask ggml to allocate; it returns an owned context or null.
        let raw = unsafe { sys::ggml_init(params) };
        Context { raw: NonNull::new(raw).expect("ggml_init finds memory for a context"), mem_bytes }
    }

    /// A new tensor without data, its dimensions in ggml's order.
    #[track_caller]
    pub fn tensor(&self, dtype: DType, shape: &[usize]) -> Tensor<'_> {
        assert!((1..=4).contains(&shape.len()), "a tensor has 1 to 4 dimensions, not {}", shape.len());
        assert!(
            dtype.row_bytes(shape[0]).is_some(),
            "a row of {} elements is no whole number of {dtype:?} blocks",
            shape[0]
        );
        let ne: Vec<i64> = shape.iter().map(|&n| i64::try_from(n).expect("a dimension fits in i64")).collect();
        let ctx = self.room();
        // SAFETY: the context is alive and has room; `ne` holds as many dimensions as stated.
        self.adopt(unsafe { sys::ggml_new_tensor(ctx, raw_type(dtype), ne.len() as i32, ne.as_ptr()) })
    }

    /// The raw context, once it is certain that one more tensor fits: ggml would abort.
    #[track_caller]
    pub(super) fn room(&self) -> *mut sys::ggml_context {
        // SAFETY: the context is alive.
        let (used, one) = unsafe { (sys::ggml_used_mem(self.raw.as_ptr()), sys::ggml_tensor_overhead()) };
        assert!(used + one <= self.mem_bytes, "the context was made for fewer tensors");
        self.raw.as_ptr()
    }

    pub(super) fn as_ptr(&self) -> *mut sys::ggml_context {
        self.raw.as_ptr()
    }

    /// Whether a tensor description lies in this context's memory.
    pub(super) fn owns(&self, tensor: *const sys::ggml_tensor) -> bool {
        // SAFETY: the context is alive.
        let start = unsafe { sys::ggml_get_mem_buffer(self.raw.as_ptr()) } as usize;
        (start..start + self.mem_bytes).contains(&(tensor as usize))
    }

    #[track_caller]
    pub(super) fn adopt(&self, raw: *mut sys::ggml_tensor) -> Tensor<'_> {
        Tensor { raw: NonNull::new(raw).expect("ggml returns a tensor"), context: PhantomData }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: this is the only owner, and no handle outlives the borrow.
        unsafe { sys::ggml_free(self.raw.as_ptr()) }
    }
}

/// A handle to one tensor of a [`Context`].
///
/// The handle cannot outlive the context:
/// ```compile_fail
/// use curtail::{dtype::DType, ggml::Context};
/// let t = { let ctx = Context::new(1); ctx.tensor(DType::F32, &[4]) };
/// println!("{t:?}");
/// ```
#[derive(Clone, Copy)]
pub struct Tensor<'c> {
    raw: NonNull<sys::ggml_tensor>,
    context: PhantomData<&'c Context>,
}

impl<'c> Tensor<'c> {
    pub(super) fn as_ptr(self) -> *mut sys::ggml_tensor {
        self.raw.as_ptr()
    }

    /// # Safety
    /// `raw` lies in a context that lives for `'c`.
    pub(super) unsafe fn from_raw(raw: NonNull<sys::ggml_tensor>) -> Tensor<'c> {
        Tensor { raw, context: PhantomData }
    }

    pub(super) fn get(self) -> &'c sys::ggml_tensor {
        // SAFETY: the context lives for 'c, and Rust never holds a mutable reference to a tensor description.
        unsafe { self.raw.as_ref() }
    }

    /// Elements per dimension, in ggml's order (the first is contiguous).
    pub fn shape(self) -> [usize; 4] {
        self.get().ne.map(|n| n as usize)
    }

    /// Bytes from one element (or block, row, matrix) to the next, per dimension.
    pub fn strides(self) -> [usize; 4] {
        self.get().nb
    }

    /// The element type.
    pub fn dtype(self) -> DType {
        DType::from_id(self.get().type_.0).expect("ggml's types are all known")
    }

    /// Where the data lies; null before it has any.
    pub(crate) fn data(self) -> *mut u8 {
        self.get().data.cast()
    }

    /// Bytes from the first to past the last element.
    pub fn nbytes(self) -> usize {
        // SAFETY: the tensor is alive.
        unsafe { sys::ggml_nbytes(self.as_ptr()) }
    }

    /// Names the tensor, for dumps and errors; `il` is the layer. Longer names are cut by ggml.
    pub fn named(self, name: &str, il: impl Into<Option<usize>>) -> Tensor<'c> {
        let name = il.into().map_or_else(|| name.to_owned(), |il| format!("{name}-{il}"));
        let name = CString::new(name).expect("a name without zero bytes");
        // SAFETY: the tensor is alive and the string ends in zero.
        unsafe { sys::ggml_set_name(self.as_ptr(), name.as_ptr()) };
        self
    }

    /// The name given by [`Tensor::named`].
    pub fn name(self) -> String {
        // SAFETY: ggml keeps names zero-terminated inside the tensor.
        unsafe { CStr::from_ptr(sys::ggml_get_name(self.as_ptr())) }.to_string_lossy().into_owned()
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.name(), self.dtype(), self.shape())
    }
}

pub(super) fn raw_type(dtype: DType) -> sys::ggml_type {
    sys::ggml_type(dtype.id())
}
