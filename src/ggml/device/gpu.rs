//! Owns the GPUs of this machine, whichever part of ggml knows them: a registry is a line in [`REGISTRIES`]. Refuses to
//! use a GPU without the libraries that it needs.

use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use crate::ggml::{Error, sys};

/// A part of ggml that computes on GPUs.
struct Registry {
    /// In reports.
    name: &'static str,
    /// ggml's object for it, which is static.
    entry: unsafe extern "C" fn() -> sys::ggml_backend_reg_t,
    /// Why GPUs that are there cannot be used, if they cannot.
    problem: fn() -> Option<String>,
}

/// What this program was built with, the preferred first.
const REGISTRIES: &[Registry] = &[
    #[cfg(feature = "cuda")]
    Registry { name: "CUDA", entry: super::cuda::ggml_backend_cuda_reg, problem: super::cuda::cublas_problem },
];

/// A GPU with the stream that graphs run on.
pub(super) struct Gpu {
    registry: &'static Registry,
    device: sys::ggml_backend_dev_t,
    backend: Mutex<Backend>,
}

struct Backend(NonNull<sys::ggml_backend>);

// SAFETY: the backend may be used from any thread, by one at a time, which the Mutex ensures.
unsafe impl Send for Backend {}
// SAFETY: the device's object is static and never changes.
unsafe impl Send for Gpu {}
// SAFETY: see above.
unsafe impl Sync for Gpu {}

/// Every GPU; none without a driver.
pub(super) fn all() -> Result<Vec<Gpu>, Error> {
    let of_each: Vec<Vec<Gpu>> = REGISTRIES.iter().map(of).collect::<Result<_, _>>()?;
    Ok(of_each.into_iter().flatten().collect())
}

/// The GPUs of a registry.
fn of(registry: &'static Registry) -> Result<Vec<Gpu>, Error> {
    // SAFETY: the registry entry and its devices are static.
    let devices: Vec<_> = unsafe {
        let entry = (registry.entry)();
        (0..sys::ggml_backend_reg_dev_count(entry)).map(|i| sys::ggml_backend_reg_dev_get(entry, i)).collect()
    };
    // Without a GPU nothing is missing, and to look for a library of hundreds of megabytes would take time.
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(problem) = (registry.problem)() {
        return Err(Error::Device(problem));
    }
    devices.into_iter().map(|device| Gpu::new(registry, device)).collect()
}

impl Gpu {
    fn new(registry: &'static Registry, device: sys::ggml_backend_dev_t) -> Result<Gpu, Error> {
        // SAFETY: the device is static; the backend that it makes is owned, or null.
        let backend = NonNull::new(unsafe { sys::ggml_backend_dev_init(device, std::ptr::null()) });
        let backend =
            backend.ok_or_else(|| Error::Device(format!("the {} backend cannot use a GPU", registry.name)))?;
        Ok(Gpu { registry, device, backend: Mutex::new(Backend(backend)) })
    }

    /// `CUDA0`, `CUDA1` ...
    pub(super) fn name(&self) -> String {
        // SAFETY: the device is static, and so is its name.
        unsafe { CStr::from_ptr(sys::ggml_backend_dev_name(self.device)) }.to_string_lossy().into_owned()
    }

    /// The registry that knows it.
    pub(super) fn backend(&self) -> &'static str {
        self.registry.name
    }

    pub(super) fn device(&self) -> sys::ggml_backend_dev_t {
        self.device
    }

    pub(super) fn buffer_type(&self) -> sys::ggml_backend_buffer_type_t {
        // SAFETY: the device is static.
        unsafe { sys::ggml_backend_dev_buffer_type(self.device) }
    }

    /// Uses the stream, one caller at a time.
    pub(super) fn with<T>(&self, run: impl FnOnce(NonNull<sys::ggml_backend>) -> T) -> T {
        let backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
        run(backend.0)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: this is the only owner.
        unsafe { sys::ggml_backend_free(self.0.as_ptr()) }
    }
}
