//! Owns what CUDA alone has: its runtime and driver, and the library that its GPUs cannot be used without.
//!
//! The runtime is linked statically and finds out by itself that there is no driver; cuBLAS is looked for when a GPU is
//! there (vendor/cublas_lazy.c). So a program built for CUDA starts on any machine.

use std::ffi::{CStr, c_char};

use crate::ggml::sys;

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

/// Why cuBLAS, without which no GPU multiplies, cannot be used.
pub(super) fn cublas_problem() -> Option<String> {
    // SAFETY: looks for a library; the name is static.
    unsafe {
        if curtail_find_cublas() != 0 {
            return None;
        }
        let name = CStr::from_ptr(curtail_cublas_name()).to_string_lossy();
        Some(format!("`{name}` is missing\nhint: install NVIDIA's cuBLAS, or point CUDA_HOME at the toolkit"))
    }
}

unsafe extern "C" {
    pub(super) fn ggml_backend_cuda_reg() -> sys::ggml_backend_reg_t;
    fn cudaRuntimeGetVersion(version: *mut i32) -> i32;
    fn cudaDriverGetVersion(version: *mut i32) -> i32;
    fn cudaGetDeviceCount(n: *mut i32) -> i32;
    fn cudaGetErrorString(status: i32) -> *const c_char;
    fn curtail_find_cublas() -> i32;
    fn curtail_cublas_name() -> *const c_char;
}
