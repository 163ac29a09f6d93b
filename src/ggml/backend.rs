//! Owns the device that computes: the CPU backend with its one thread pool. Refuses to run two graphs at once.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use super::context::Context;
use super::{Error, sys};
use crate::dtype::DType;

/// The CPU with a pool of threads that lives as long as the device: without an attached pool, ggml starts threads
/// anew for every graph.
pub struct Device {
    n_threads: usize,
    backend: Mutex<CpuBackend>,
}

struct CpuBackend {
    raw: NonNull<sys::ggml_backend>,
    pool: NonNull<sys::ggml_threadpool>,
}

// SAFETY: the backend and its pool may be used from any thread, by one at a time, which the Mutex ensures.
unsafe impl Send for CpuBackend {}

impl Device {
    /// The CPU with `n_threads` threads, the calling one included.
    pub fn cpu(n_threads: usize) -> Result<Arc<Device>, Error> {
        super::init();
        let n_threads = n_threads.clamp(1, 512);
        // SAFETY: the parameters are complete; both constructors return an owned object or null.
        let (raw, pool) = unsafe {
            let mut params = sys::ggml_threadpool_params_default(n_threads as i32);
            (sys::ggml_backend_cpu_init(), sys::ggml_threadpool_new(&mut params))
        };
        let (Some(raw), Some(pool)) = (NonNull::new(raw), NonNull::new(pool)) else {
            return Err(Error::Device("ggml could not start the CPU backend".to_owned()));
        };
        // SAFETY: both objects are alive, and CpuBackend frees the backend before its pool.
        unsafe {
            sys::ggml_backend_cpu_set_n_threads(raw.as_ptr(), n_threads as i32);
            sys::ggml_backend_cpu_set_threadpool(raw.as_ptr(), pool.as_ptr());
        }
        Ok(Arc::new(Device { n_threads, backend: Mutex::new(CpuBackend { raw, pool }) }))
    }

    /// Threads that compute, the calling one included.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Runs a graph whose tensors all have data.
    pub(super) fn compute(&self, graph: NonNull<sys::ggml_cgraph>) -> Result<(), Error> {
        let backend = self.backend.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: backend and graph are alive, and the lock makes this the only computation.
        let status = unsafe { sys::ggml_backend_graph_compute(backend.raw.as_ptr(), graph.as_ptr()) };
        match status {
            sys::ggml_status::GGML_STATUS_SUCCESS => Ok(()),
            sys::ggml_status::GGML_STATUS_ALLOC_FAILED => {
                Err(Error::OutOfMemory { what: "scratch of the CPU backend", bytes: 0 })
            }
            other => Err(Error::Device(format!("ggml stopped a graph with status {}", other.0))),
        }
    }
}

impl Drop for CpuBackend {
    fn drop(&mut self) {
        // SAFETY: this is the only owner of both; the backend, which uses the pool, goes first.
        unsafe {
            sys::ggml_backend_free(self.raw.as_ptr());
            sys::ggml_threadpool_free(self.pool.as_ptr());
        }
    }
}

pub(super) fn default_buffer_type() -> sys::ggml_backend_buffer_type_t {
    // SAFETY: returns a static object.
    unsafe { sys::ggml_backend_cpu_buffer_type() }
}

/// The CPU buffer type that stores such a weight in a layout made for this processor's matrix kernels, if there is one.
pub(super) fn repack_buffer_type(dtype: DType, shape: [usize; 2]) -> Option<sys::ggml_backend_buffer_type_t> {
    extra_buffer_types().into_iter().find(|&buft| multiplies_from(buft, dtype, shape))
}

fn extra_buffer_types() -> Vec<sys::ggml_backend_buffer_type_t> {
    let mut types = Vec::new();
    // SAFETY: the registry entry of the CPU is static; the named function has the type the header gives, and the list
    // that it returns is static and ends in null.
    unsafe {
        let name = c"ggml_backend_dev_get_extra_bufts";
        let address = sys::ggml_backend_reg_get_proc_address(sys::ggml_backend_cpu_reg(), name.as_ptr());
        if address.is_null() {
            return types;
        }
        let get: sys::ggml_backend_dev_get_extra_bufts_t = std::mem::transmute(address);
        let Some(get) = get else { return types };
        let mut next = get(cpu_device());
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
        let supported = sys::ggml_backend_dev_supports_op(cpu_device(), product);
        sys::ggml_backend_buffer_free(buffer);
        supported
    }
}

fn cpu_device() -> sys::ggml_backend_dev_t {
    // SAFETY: the CPU's registry entry is static and always has its one device.
    unsafe { sys::ggml_backend_reg_dev_get(sys::ggml_backend_cpu_reg(), 0) }
}
