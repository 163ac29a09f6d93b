//! Owns the processor as a device: ggml's backend for it with a pool of threads, and the buffer types that weights for
//! it may lie in.

use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use crate::dtype::DType;
use crate::ggml::context::Context;
use crate::ggml::isa::functions;
use crate::ggml::{Error, sys};

/// The processor, used by one caller at a time.
pub(super) struct Cpu(Mutex<Backend>);

/// ggml's backend with a pool of threads that lives as long: without an attached pool, ggml starts threads anew for
/// every graph.
struct Backend {
    raw: NonNull<sys::ggml_backend>,
    pool: NonNull<sys::ggml_threadpool>,
}

// SAFETY: the backend and its pool may be used from any thread, by one at a time, which the Mutex ensures.
unsafe impl Send for Backend {}

impl Cpu {
    pub(super) fn new(n_threads: usize) -> Result<Cpu, Error> {
        let cpu = functions();
        // SAFETY: the parameters are complete; both constructors return an owned object or null.
        let (raw, pool) = unsafe {
            let mut params = sys::ggml_threadpool_params_default(n_threads as i32);
            ((cpu.ggml_backend_cpu_init)(), (cpu.ggml_threadpool_new)(&mut params))
        };
        let (Some(raw), Some(pool)) = (NonNull::new(raw), NonNull::new(pool)) else {
            return Err(Error::Device("ggml could not start the CPU backend".to_owned()));
        };
        // SAFETY: both objects are alive, and the backend is freed before its pool.
        unsafe {
            (cpu.ggml_backend_cpu_set_n_threads)(raw.as_ptr(), n_threads as i32);
            (cpu.ggml_backend_cpu_set_threadpool)(raw.as_ptr(), pool.as_ptr());
        }
        Ok(Cpu(Mutex::new(Backend { raw, pool })))
    }

    /// Uses the backend, one caller at a time.
    pub(super) fn with<T>(&self, run: impl FnOnce(NonNull<sys::ggml_backend>) -> T) -> T {
        let backend = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        run(backend.raw)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: this is the only owner of both; the backend, which uses the pool, goes first.
        unsafe {
            sys::ggml_backend_free(self.raw.as_ptr());
            (functions().ggml_threadpool_free)(self.pool.as_ptr());
        }
    }
}

/// What the CPU's memory is allocated as.
pub(in crate::ggml) fn buffer_type() -> sys::ggml_backend_buffer_type_t {
    // SAFETY: returns a static object.
    unsafe { sys::ggml_backend_cpu_buffer_type() }
}

/// The CPU buffer type that stores such a weight in a layout made for this processor's matrix kernels, if there is one.
pub(in crate::ggml) fn repack_buffer_type(dtype: DType, shape: [usize; 2]) -> Option<sys::ggml_backend_buffer_type_t> {
    extra_buffer_types().into_iter().find(|&buft| multiplies_from(buft, dtype, shape))
}

fn extra_buffer_types() -> Vec<sys::ggml_backend_buffer_type_t> {
    let mut types = Vec::new();
    // SAFETY: the registry entry of the CPU is static; the named function has the type the header gives, and the list
    // that it returns is static and ends in null.
    unsafe {
        let name = c"ggml_backend_dev_get_extra_bufts";
        let address = sys::ggml_backend_reg_get_proc_address((functions().ggml_backend_cpu_reg)(), name.as_ptr());
        if address.is_null() {
            return types;
        }
        let get: sys::ggml_backend_dev_get_extra_bufts_t = std::mem::transmute(address);
        let Some(get) = get else { return types };
        let mut next = get(device());
        while !next.is_null() && !(*next).is_null() {
            types.push(*next);
            next = next.add(1);
        }
    }
    types
}

/// Whether the CPU multiplies by a weight that lies in a buffer of this type.
fn multiplies_from(buft: sys::ggml_backend_buffer_type_t, dtype: DType, shape: [usize; 2]) -> bool {
    let ctx = Context::new(3);
    let weight = ctx.tensor(dtype, &shape);
    let x = ctx.tensor(DType::F32, &[shape[0], 512]);
    // SAFETY: the tensors live in `ctx`; the empty buffer only tells the backend where the weight would lie, and is
    // freed after the question.
    unsafe {
        let buffer = sys::ggml_backend_buft_alloc_buffer(buft, 0);
        if buffer.is_null() {
            return false;
        }
        (*weight.as_ptr()).buffer = buffer;
        let product = sys::ggml_mul_mat(ctx.room(), weight.as_ptr(), x.as_ptr());
        let supported = sys::ggml_backend_dev_supports_op(device(), product);
        sys::ggml_backend_buffer_free(buffer);
        supported
    }
}

/// ggml's object for the CPU.
pub(super) fn device() -> sys::ggml_backend_dev_t {
    // SAFETY: the CPU's registry entry is static and always has its one device.
    unsafe { sys::ggml_backend_reg_dev_get((functions().ggml_backend_cpu_reg)(), 0) }
}
