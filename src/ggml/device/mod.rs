//! Owns what a device is: something that computes graphs, with the memory that they read. The CPU, the GPUs that some
//! registry of ggml's knows, and devices of other machines. Refuses to run two graphs of one device at once.

pub(super) mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
mod gpu;

use std::ffi::CStr;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use super::context::Tensor;
use super::remote::{Token, Worker};
use super::{Error, sys};
use cpu::Cpu;
use gpu::Gpu;

/// Something that runs graphs, with the memory that they read.
pub struct Device {
    name: String,
    n_threads: usize,
    kind: Kind,
}

enum Kind {
    Cpu(Cpu),
    Gpu(Gpu),
    Remote(Arc<Worker>, u32),
}

/// Hands out bytes piece by piece, as often as they are asked for.
pub type Content = Arc<dyn Fn(&mut dyn FnMut(&[u8])) + Send + Sync>;

/// Free and total memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What is left.
    pub free: u64,
    /// All there is.
    pub total: u64,
}

impl Device {
    /// The CPU with `n_threads` threads, the calling one included.
    pub fn cpu(n_threads: usize) -> Result<Arc<Device>, Error> {
        super::init();
        let n_threads = n_threads.clamp(1, 512);
        let kind = Kind::Cpu(Cpu::new(n_threads)?);
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

    /// The GPUs of this machine that the program has code for; none where it has no such code, or without a driver.
    pub fn gpus() -> Result<Vec<Arc<Device>>, Error> {
        super::init();
        let device = |gpu: Gpu| Arc::new(Device { name: gpu.name(), n_threads: 1, kind: Kind::Gpu(gpu) });
        Ok(gpu::all()?.into_iter().map(device).collect())
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

    /// Whether it is this machine's processor: the one that runs nodes of our own, and reads and writes this process's
    /// memory.
    pub fn is_cpu(&self) -> bool {
        matches!(self.kind, Kind::Cpu(_))
    }

    /// Whether it is a GPU of this machine.
    pub fn is_gpu(&self) -> bool {
        matches!(self.kind, Kind::Gpu(_))
    }

    /// The program part that computes: `CPU`, `RPC`, or a registry of GPUs such as `CUDA`.
    pub fn backend(&self) -> &'static str {
        match &self.kind {
            Kind::Cpu(_) => "CPU",
            Kind::Gpu(gpu) => gpu.backend(),
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
            // In the stream that the graph runs in, so that nobody waits for the copy. CUDA has taken the bytes when
            // the call returns: they lie in pageable memory. A registry that reads them later would have to wait here.
            Kind::Gpu(gpu) => gpu.with(|backend| {
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
            Kind::Cpu(cpu) => cpu.with(|backend| self.compute_on(backend, graph)),
            Kind::Gpu(gpu) => gpu.with(|backend| self.compute_on(backend, graph)),
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
            Kind::Cpu(_) => cpu::buffer_type(),
            Kind::Gpu(gpu) => gpu.buffer_type(),
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
            Kind::Cpu(_) => Some(cpu::device()),
            Kind::Gpu(gpu) => Some(gpu.device()),
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
