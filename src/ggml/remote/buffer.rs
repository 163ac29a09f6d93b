//! Owns the buffer type through which ggml allocates, fills and reads tensors on a worker.

use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;

use super::session::{Session, is_padded};
use crate::ggml::sys;

/// A buffer type of one of a worker's devices. ggml keeps its address, which stays the same as long as the type or one of its
/// buffers is there.
pub(super) struct BufferType(Arc<Type>);

/// The type as ggml sees it, by whose address ours is found.
#[repr(transparent)]
struct Type(sys::ggml_backend_buffer_type);

struct TypeContext {
    session: Arc<Session>,
    name: CString,
    device: u32,
    alignment: usize,
    most: usize,
}

// SAFETY: the type and its context are never changed.
unsafe impl Send for Type {}
// SAFETY: see above.
unsafe impl Sync for Type {}

impl BufferType {
    /// The type of a device of the worker.
    pub(super) fn new(session: Arc<Session>, device: usize) -> BufferType {
        let name = format!("RPC{device}[{}]", session.endpoint());
        let name = CString::new(name).expect("an endpoint without zero bytes");
        let (alignment, most) = session.sizes()[device];
        let context = Box::new(TypeContext { session, name, device: device as u32, alignment, most });
        let iface = sys::ggml_backend_buffer_type_i {
            get_name: Some(type_name),
            alloc_buffer: Some(alloc_buffer),
            alloc_buffer_n: None,
            get_alignment: Some(alignment_of),
            get_max_size: Some(most_of),
            get_alloc_size: Some(alloc_size),
            get_alloc_size_n: None,
            is_host: None,
        };
        let device = std::ptr::null_mut();
        BufferType(Arc::new(Type(sys::ggml_backend_buffer_type {
            iface,
            device,
            context: Box::into_raw(context).cast(),
        })))
    }

    pub(super) fn as_ptr(&self) -> sys::ggml_backend_buffer_type_t {
        Arc::as_ptr(&self.0).cast_mut().cast()
    }
}

impl Drop for Type {
    fn drop(&mut self) {
        // SAFETY: the context was made by `BufferType::new`; every buffer keeps the type alive.
        drop(unsafe { Box::from_raw(self.0.context.cast::<TypeContext>()) });
    }
}

struct BufferContext {
    session: Arc<Session>,
    start: usize,
    /// Only kept: ggml asks the type of a buffer as long as the buffer is there.
    _type: Arc<Type>,
}

const BUFFER: sys::ggml_backend_buffer_i = sys::ggml_backend_buffer_i {
    free_buffer: Some(free_buffer),
    get_base: Some(base),
    init_tensor: Some(init_tensor),
    memset_tensor: Some(memset_tensor),
    set_tensor: Some(set_tensor),
    get_tensor: Some(get_tensor),
    set_tensor_2d: None,
    get_tensor_2d: None,
    cpy_tensor: None,
    clear: Some(clear),
    reset: None,
};

/// # Safety
/// ggml calls it with a buffer type of [`BufferType::new`], which is alive.
unsafe fn type_context<'a>(buft: sys::ggml_backend_buffer_type_t) -> &'a TypeContext {
    // SAFETY: as promised by the caller.
    unsafe { &*(*buft).context.cast() }
}

/// # Safety
/// ggml calls it with a buffer of [`alloc_buffer`] that was not freed yet.
unsafe fn buffer_context<'a>(buffer: sys::ggml_backend_buffer_t) -> &'a BufferContext {
    // SAFETY: as promised by the caller.
    unsafe { &*(*buffer).context.cast() }
}

unsafe extern "C" fn type_name(buft: sys::ggml_backend_buffer_type_t) -> *const c_char {
    // SAFETY: ggml passes a type of ours.
    unsafe { type_context(buft) }.name.as_ptr()
}

unsafe extern "C" fn alignment_of(buft: sys::ggml_backend_buffer_type_t) -> usize {
    // SAFETY: ggml passes a type of ours.
    unsafe { type_context(buft) }.alignment
}

unsafe extern "C" fn most_of(buft: sys::ggml_backend_buffer_type_t) -> usize {
    // SAFETY: ggml passes a type of ours.
    unsafe { type_context(buft) }.most
}

unsafe extern "C" fn alloc_size(buft: sys::ggml_backend_buffer_type_t, tensor: *const sys::ggml_tensor) -> usize {
    // SAFETY: ggml passes a type of ours and a tensor that is alive.
    unsafe {
        let own = sys::ggml_nbytes(tensor);
        if !is_padded(&*tensor) && !sys::ggml_op_alloc_size_may_expand((*tensor).op) {
            return own;
        }
        let context = type_context(buft);
        context.session.alloc_size(context.device, &*tensor).map_or(own, |bytes| own.max(bytes as usize))
    }
}

/// A new buffer, null without memory.
unsafe extern "C" fn alloc_buffer(buft: sys::ggml_backend_buffer_type_t, bytes: usize) -> sys::ggml_backend_buffer_t {
    // SAFETY: ggml passes a type of ours, which lies in an `Arc`; the buffer keeps its context until it is freed.
    unsafe {
        let TypeContext { session, device, .. } = type_context(buft);
        let Some(start) = session.allocate(*device, bytes) else { return std::ptr::null_mut() };
        let kept: *const Type = buft.cast();
        Arc::increment_strong_count(kept);
        let context = BufferContext { session: session.clone(), start, _type: Arc::from_raw(kept) };
        sys::ggml_backend_buffer_init(buft, BUFFER, Box::into_raw(Box::new(context)).cast(), bytes)
    }
}

unsafe extern "C" fn free_buffer(buffer: sys::ggml_backend_buffer_t) {
    // SAFETY: ggml frees a buffer once, and `alloc_buffer` made its context.
    let context = unsafe { Box::from_raw((*buffer).context.cast::<BufferContext>()) };
    context.session.free(context.start);
}

unsafe extern "C" fn base(buffer: sys::ggml_backend_buffer_t) -> *mut c_void {
    // SAFETY: ggml passes a buffer of ours.
    std::ptr::without_provenance_mut(unsafe { buffer_context(buffer) }.start)
}

unsafe extern "C" fn init_tensor(
    buffer: sys::ggml_backend_buffer_t,
    tensor: *mut sys::ggml_tensor,
) -> sys::ggml_status {
    // SAFETY: ggml passes a buffer of ours and a tensor inside it.
    unsafe {
        if is_padded(&*tensor) {
            buffer_context(buffer).session.init(&*tensor);
        }
    }
    sys::ggml_status::GGML_STATUS_SUCCESS
}

unsafe extern "C" fn memset_tensor(
    buffer: sys::ggml_backend_buffer_t,
    tensor: *mut sys::ggml_tensor,
    value: u8,
    offset: usize,
    len: usize,
) {
    // SAFETY: ggml passes a buffer of ours and a tensor inside it.
    unsafe { buffer_context(buffer).session.memset(&*tensor, value, offset, len) }
}

unsafe extern "C" fn set_tensor(
    buffer: sys::ggml_backend_buffer_t,
    tensor: *mut sys::ggml_tensor,
    data: *const c_void,
    offset: usize,
    len: usize,
) {
    // SAFETY: ggml passes a buffer of ours, a tensor inside it, and so many bytes.
    unsafe {
        let data = std::slice::from_raw_parts(data.cast(), len);
        buffer_context(buffer).session.set(&*tensor, data, offset);
    }
}

unsafe extern "C" fn get_tensor(
    buffer: sys::ggml_backend_buffer_t,
    tensor: *const sys::ggml_tensor,
    data: *mut c_void,
    offset: usize,
    len: usize,
) {
    // SAFETY: ggml passes a buffer of ours, a tensor inside it, and room for so many bytes.
    unsafe {
        let data = std::slice::from_raw_parts_mut(data.cast(), len);
        buffer_context(buffer).session.get(&*tensor, data, offset);
    }
}

unsafe extern "C" fn clear(buffer: sys::ggml_backend_buffer_t, value: u8) {
    // SAFETY: ggml passes a buffer of ours.
    let context = unsafe { buffer_context(buffer) };
    context.session.clear(context.start, value);
}
