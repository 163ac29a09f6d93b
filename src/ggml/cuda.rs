//! Owns the GPUs that ggml's CUDA backend computes on. Refuses to use any without the libraries that it needs.
//!
//! The runtime is linked statically and finds out by itself that there is no driver; cuBLAS is looked for when a GPU is there
//! (vendor/cublas_lazy.c). So a program built for CUDA starts on any machine.

use std::ffi::{CStr, c_char};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use super::{Error, sys};

/// A GPU with the stream that graphs run on.
pub(super) struct Cuda {
    device: sys::ggml_backend_dev_t,
    backend: Mutex<Backend>,
}

struct Backend(NonNull<sys::ggml_backend>);

// SAFETY: the backend may be used from any thread, by one at a time, which the Mutex ensures.
unsafe impl Send for Backend {}
// SAFETY: the device's object is static and never changes.
unsafe impl Send for Cuda {}
// SAFETY: see above.
unsafe impl Sync for Cuda {}

/// What a program built for CUDA finds on a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaStatus {
    /// Version of the runtime that is part of the program.
    pub runtime: String,
    /// Newest version that the driver knows; `None` without a driver.
    pub driver: Option<String>,
    /// Why no GPU can be used, if none can.
    pub problem: Option<String>,
}

/// Driver, runtime, and what is missing.
pub fn cuda_status() -> CudaStatus {
    let (mut runtime, mut driver, mut n) = (0, 0, 0);
    // SAFETY: each call writes one number; the text is static.
    unsafe {
        cudaRuntimeGetVersion(&mut runtime);
        cudaDriverGetVersion(&mut driver);
        let status = cudaGetDeviceCount(&mut n);
        let problem = match (status, n) {
            (0, 1..) => cublas_problem(),
            _ if driver == 0 => Some("no driver".to_owned()),
            (0, _) => Some("the driver knows of none".to_owned()),
            (status, _) => Some(CStr::from_ptr(cudaGetErrorString(status)).to_string_lossy().into_owned()),
        };
        CudaStatus { runtime: version(runtime), driver: (driver > 0).then(|| version(driver)), problem }
    }
}

/// 13020 is 13.2.
fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

fn cublas_problem() -> Option<String> {
    // SAFETY: looks for a library; the name is static.
    unsafe {
        if curtail_find_cublas() != 0 {
            return None;
        }
        let name = CStr::from_ptr(curtail_cublas_name()).to_string_lossy();
        Some(format!("`{name}` is missing\nhint: install NVIDIA's cuBLAS, or point CUDA_HOME at the toolkit"))
    }
}

/// Every GPU; none without a driver.
pub(super) fn devices() -> Result<Vec<Cuda>, Error> {
    // SAFETY: the registry entry and its devices are static.
    let devices: Vec<_> = unsafe {
        let registry = ggml_backend_cuda_reg();
        (0..sys::ggml_backend_reg_dev_count(registry)).map(|i| sys::ggml_backend_reg_dev_get(registry, i)).collect()
    };
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(problem) = cublas_problem() {
        return Err(Error::Device(problem));
    }
    devices.into_iter().map(Cuda::new).collect()
}

impl Cuda {
    fn new(device: sys::ggml_backend_dev_t) -> Result<Cuda, Error> {
        // SAFETY: the device is static; the backend that it makes is owned, or null.
        let backend = NonNull::new(unsafe { sys::ggml_backend_dev_init(device, std::ptr::null()) });
        let backend = backend.ok_or_else(|| Error::Device("the CUDA backend cannot use a GPU".to_owned()))?;
        Ok(Cuda { device, backend: Mutex::new(Backend(backend)) })
    }

    /// `CUDA0`, `CUDA1` ...
    pub(super) fn name(&self) -> String {
        // SAFETY: the device is static, and so is its name.
        unsafe { CStr::from_ptr(sys::ggml_backend_dev_name(self.device)) }.to_string_lossy().into_owned()
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

unsafe extern "C" {
    fn ggml_backend_cuda_reg() -> sys::ggml_backend_reg_t;
    fn cudaRuntimeGetVersion(version: *mut i32) -> i32;
    fn cudaDriverGetVersion(version: *mut i32) -> i32;
    fn cudaGetDeviceCount(n: *mut i32) -> i32;
    fn cudaGetErrorString(status: i32) -> *const c_char;
    fn curtail_find_cublas() -> i32;
    fn curtail_cublas_name() -> *const c_char;
}
