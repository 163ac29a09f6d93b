//! Owns the worker's side: ggml's RPC server. Refuses nothing that a client asks for: who listens beyond this machine must
//! know its neighbours.

use std::ffi::CString;
use std::net::SocketAddrV4;

use crate::ggml::{Device, Error, sys};

/// Serves devices to one client after the other; comes back only where the address cannot be used. ggml writes to stdout when
/// somebody comes and goes; that goes to stderr here.
pub fn serve(address: SocketAddrV4, n_threads: usize, devices: &[&Device]) -> Error {
    let endpoint = CString::new(address.to_string()).expect("an address without zero bytes");
    let mut raw: Vec<sys::ggml_backend_dev_t> = devices.iter().filter_map(|device| device.as_local()).collect();
    // SAFETY: the endpoint ends in zero and the devices are static; descriptors 1 and 2 are the process's own.
    unsafe {
        dup2(2, 1);
        sys::ggml_backend_rpc_start_server(endpoint.as_ptr(), std::ptr::null(), n_threads, raw.len(), raw.as_mut_ptr());
    }
    Error::Device(format!("cannot serve at {address}"))
}

unsafe extern "C" {
    /// Lets descriptor `to` be what `from` is.
    fn dup2(from: i32, to: i32) -> i32;
}
