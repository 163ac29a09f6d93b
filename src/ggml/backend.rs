//! Owns the devices that compute: the CPU with its one thread pool, accelerators, devices of other machines. Refuses to run
//! two graphs of one device at once.

use std::ffi::CStr;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use super::context::{Context, Tensor};
use super::cpu::functions;
use super::remote::{Token, Worker};
use super::{Content, Error, sys};
use crate::dtype::DType;

/// Something that runs graphs, with the memory that they read.
pub struct Device {
    name: String,
    n_threads: usize,
    kind: Kind,
}

enum Kind {
    Cpu(Mutex<CpuBackend>),
    #[cfg(feature = "cuda")]
    Cuda(super::cuda::Cuda),
    Remote(Arc<Worker>, u32),
}

/// Free and total memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What is left.
    pub free: u64,
    /// All there is.
    pub total: u64,
}

/// The CPU with a pool of threads that lives as long as the device: without an attached pool, ggml starts threads
/// anew for every graph.
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
        let cpu = functions();
        // SAFETY: the parameters are complete; both constructors return an owned object or null.
        let (raw, pool) = unsafe {
            let mut params = sys::ggml_threadpool_params_default(n_threads as i32);
            ((cpu.ggml_backend_cpu_init)(), (cpu.ggml_threadpool_new)(&mut params))
        };
        let (Some(raw), Some(pool)) = (NonNull::new(raw), NonNull::new(pool)) else {
            return Err(Error::Device("ggml could not start the CPU backend".to_owned()));
        };
        // SAFETY: both objects are alive, and CpuBackend frees the backend before its pool.
        unsafe {
            (cpu.ggml_backend_cpu_set_n_threads)(raw.as_ptr(), n_threads as i32);
            (cpu.ggml_backend_cpu_set_threadpool)(raw.as_ptr(), pool.as_ptr());
        }
        let kind = Kind::Cpu(Mutex::new(CpuBackend { raw, pool }));
        Ok(Arc::new(Device { name: "CPU".to_owned(), n_threads, kind }))
    }

    /// The devices that the worker at `host:port` offers; their names are numbered from `first` on.
    pub fn remote(endpoint: &str, first: usize) -> Result<Vec<Arc<Device>>, Error> {
        Device::remote_with(endpoint, first, None)
    }

    /// The same of a worker that shares a token with this program.
    pub fn remote_with(endpoint: &str, first: usize, token: Option<Token>) -> Result<Vec<Arc<Device>>, Error> {
        super::init();
        let worker = Worker::connect(endpoint, token)?;
        let device = |i: usize| {
            let name = format!("RPC{}", first + i);
            Arc::new(Device { name, n_threads: 1, kind: Kind::Remote(worker.clone(), i as u32) })
        };
        Ok((0..worker.n_devices()).map(device).collect())
    }

    /// The CUDA devices of this machine; none without a driver or without a GPU.
    #[cfg(feature = "cuda")]
    pub fn cuda() -> Result<Vec<Arc<Device>>, Error> {
        super::init();
        let device =
            |cuda: super::cuda::Cuda| Arc::new(Device { name: cuda.name(), n_threads: 1, kind: Kind::Cuda(cuda) });
        Ok(super::cuda::devices()?.into_iter().map(device).collect())
    }

    /// Its name in flags and messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name, with the address of a worker.
    pub fn label(&self) -> String {
        if self.is_remote() { format!("{} ({})", self.name, self.description()) } else { self.name.clone() }
    }

    /// What it is.
    pub fn description(&self) -> String {
        match &self.kind {
            Kind::Remote(worker, _) => format!("worker at {}", worker.endpoint()),
            _ => self.as_local().map_or_else(String::new, description_of),
        }
    }

    /// Its memory; `None` where it does not say.
    pub fn memory(&self) -> Option<Memory> {
        let [free, total] = match &self.kind {
            Kind::Remote(worker, device) => worker.memory(*device)?,
            _ => memory_of(self.as_local()?),
        };
        (total > 0).then_some(Memory { free, total })
    }

    /// Whether it is this machine's processor: the one that runs nodes of our own, and reads and writes this process's memory.
    pub fn is_cpu(&self) -> bool {
        matches!(self.kind, Kind::Cpu(_))
    }

    /// Whether it is a GPU of this machine.
    pub fn is_gpu(&self) -> bool {
        !self.is_cpu() && !self.is_remote()
    }

    /// The program part that computes: `CPU`, `CUDA` or `RPC`.
    pub fn backend(&self) -> &'static str {
        match &self.kind {
            Kind::Cpu(_) => "CPU",
            #[cfg(feature = "cuda")]
            Kind::Cuda(_) => "CUDA",
            Kind::Remote(..) => "RPC",
        }
    }

    /// Whether it belongs to another machine.
    pub fn is_remote(&self) -> bool {
        matches!(self.kind, Kind::Remote(..))
    }

    /// Threads that compute, the calling one included.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// Why what was done with the device since the last check is worth nothing, if it is: reads, writes and graphs of a
    /// worker that is lost do nothing.
    pub fn check(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::Remote(worker, _) => worker.check(),
            _ => Ok(()),
        }
    }

    /// Makes a lost device usable again: weights are back afterwards, everything else in its memory is zero.
    pub fn revive(&self) -> Result<(), Error> {
        match &self.kind {
            Kind::Remote(worker, _) => worker.revive(),
            _ => Ok(()),
        }
    }

    /// How often the device was revived: whoever remembers another number has lost what was in its memory.
    pub fn generation(&self) -> u64 {
        match &self.kind {
            Kind::Remote(worker, _) => worker.generation(),
            _ => 0,
        }
    }

    /// Whether the device can compute a node; a worker is not asked.
    pub(super) fn supports(&self, node: NonNull<sys::ggml_tensor>) -> bool {
        match self.as_local() {
            // SAFETY: the device is static, the node alive.
            Some(device) => unsafe { sys::ggml_backend_dev_supports_op(device, node.as_ptr()) },
            // SAFETY: the node is alive. One of ours calls code of this process.
            None => unsafe { (*node.as_ptr()).op != sys::ggml_op::GGML_OP_CUSTOM },
        }
    }

    /// Fills an input of a graph that runs next.
    pub(super) fn set_input(&self, tensor: Tensor<'_>, bytes: &[u8]) {
        assert_eq!(bytes.len(), tensor.nbytes(), "input {tensor:?}");
        let (raw, data) = (tensor.as_ptr(), bytes.as_ptr().cast());
        match &self.kind {
            // In the stream that the graph runs in, so that nobody waits for the copy. CUDA has taken the bytes when the call
            // returns: they lie in pageable memory.
            #[cfg(feature = "cuda")]
            Kind::Cuda(cuda) => cuda.with(|backend| {
                // SAFETY: backend and tensor are alive, and the tensor has data of exactly this size on this device.
                unsafe { sys::ggml_backend_tensor_set_async(backend.as_ptr(), raw, data, 0, bytes.len()) }
            }),
            // SAFETY: the tensor has data of exactly this size.
            _ => unsafe { sys::ggml_backend_tensor_set(raw, data, 0, bytes.len()) },
        }
    }

    /// Runs a graph whose tensors all have data. `id` is the graph's alone.
    pub(super) fn compute(&self, graph: NonNull<sys::ggml_cgraph>, id: u64) -> Result<(), Error> {
        match &self.kind {
            Kind::Cpu(backend) => {
                let backend = backend.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                self.compute_on(backend.raw, graph)
            }
            #[cfg(feature = "cuda")]
            Kind::Cuda(cuda) => cuda.with(|backend| self.compute_on(backend, graph)),
            Kind::Remote(worker, device) => {
                // SAFETY: the graph is alive, and keeps its stores.
                unsafe { worker.compute(*device, graph, id) };
                worker.check()
            }
        }
    }

    /// Runs a graph, by one caller at a time.
    fn compute_on(&self, backend: NonNull<sys::ggml_backend>, graph: NonNull<sys::ggml_cgraph>) -> Result<(), Error> {
        // SAFETY: backend and graph are alive, and the caller's lock makes this the only computation.
        let status = unsafe { sys::ggml_backend_graph_compute(backend.as_ptr(), graph.as_ptr()) };
        match status {
            sys::ggml_status::GGML_STATUS_SUCCESS => Ok(()),
            sys::ggml_status::GGML_STATUS_ALLOC_FAILED => {
                Err(Error::OutOfMemory { what: "scratch of a device", bytes: 0, device: self.name.clone() })
            }
            other => Err(Error::Device(format!("{}: ggml stopped a graph with status {}", self.name, other.0))),
        }
    }

    /// What the device's memory is allocated as.
    pub(super) fn buffer_type(&self) -> sys::ggml_backend_buffer_type_t {
        match &self.kind {
            Kind::Cpu(_) => default_buffer_type(),
            #[cfg(feature = "cuda")]
            Kind::Cuda(cuda) => cuda.buffer_type(),
            Kind::Remote(worker, device) => worker.buffer_type(*device),
        }
    }

    /// Fills a tensor in the device's memory. A worker is given it again when it is revived.
    pub(super) fn fill(&self, tensor: NonNull<sys::ggml_tensor>, content: Content) {
        if let Kind::Remote(worker, _) = &self.kind {
            // SAFETY: the tensor is alive, and was allocated on this device.
            return worker.fill(unsafe { tensor.as_ref() }, content);
        }
        let mut offset = 0;
        content(&mut |piece| {
            // SAFETY: the tensor is allocated; its content is no longer than it is.
            unsafe {
                assert!(offset + piece.len() <= sys::ggml_nbytes(tensor.as_ptr()), "content and shape differ");
                sys::ggml_backend_tensor_set(tensor.as_ptr(), piece.as_ptr().cast(), offset, piece.len());
            }
            offset += piece.len();
        });
    }

    /// ggml's object for a device of this machine.
    pub(super) fn as_local(&self) -> Option<sys::ggml_backend_dev_t> {
        match &self.kind {
            Kind::Cpu(_) => Some(cpu_device()),
            #[cfg(feature = "cuda")]
            Kind::Cuda(cuda) => Some(cuda.device()),
            Kind::Remote(..) => None,
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn description_of(device: sys::ggml_backend_dev_t) -> String {
    // SAFETY: the device is static, and so is its text.
    unsafe { CStr::from_ptr(sys::ggml_backend_dev_description(device)) }.to_string_lossy().trim().to_owned()
}

/// Free and total bytes.
fn memory_of(device: sys::ggml_backend_dev_t) -> [u64; 2] {
    let (mut free, mut total) = (0, 0);
    // SAFETY: the device is static, and there is room for both numbers.
    unsafe { sys::ggml_backend_dev_memory(device, &mut free, &mut total) };
    [free as u64, total as u64]
}

impl Drop for CpuBackend {
    fn drop(&mut self) {
        // SAFETY: this is the only owner of both; the backend, which uses the pool, goes first.
        unsafe {
            sys::ggml_backend_free(self.raw.as_ptr());
            (functions().ggml_threadpool_free)(self.pool.as_ptr());
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
        let address = sys::ggml_backend_reg_get_proc_address((functions().ggml_backend_cpu_reg)(), name.as_ptr());
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
    unsafe { sys::ggml_backend_reg_dev_get((functions().ggml_backend_cpu_reg)(), 0) }
}
