//! Safe ggml: contexts and tensor handles, operations, stores of data, graphs, the devices that run them. Raw bindings
//! and devices' own code stay in here; what computes nodes of our own lies in `kernels`, which ggml knows nothing of.
//!
//! Objects own and drop; tensors are `Copy` handles that
//! borrow from their owner; a wrong shape panics at the caller's line before ggml could abort the process.
#![allow(unsafe_code)]

mod context;
mod device;
mod experts;
mod graph;
mod isa;
mod node;
mod ops;
mod remote;
mod rows;
mod store;
mod sys;
mod vector;
mod watch;

pub use context::{Context, Tensor};
#[cfg(feature = "cuda")]
pub use device::cuda::{CudaStatus, cuda_status};
pub use device::{Content, Device, Memory};
pub use graph::{Builder, Computed, Run, Runner, Slot};
pub use isa::{Isa, IsaError, built_isas, choose_isa, isa, processor_isa, usable_isas};
pub use ops::{Activation, Ops, Pairs, Rope};
pub use remote::{Event, Parting, Server, Token};
pub use rows::{
    RowsError, can_dequantize, can_multiply, can_quantize_to, dequantize, dequantize_into, is_valid, needs_importance,
    prepare_quantize, quantize_rows,
};
pub use store::{Store, StoreBuilder, Stored};

// What nodes of our own are made of.
pub(crate) use isa::{has_features, was_compiled_with};
pub(crate) use node::{Node, NodeRun, bytes, row};
pub(crate) use ops::adds_rows_up_together;
#[cfg(test)]
pub(crate) use rows::dot;
pub(crate) use rows::{quantize, round_row};
pub(crate) use vector::{less_mean, soft_max, swiglu};

use std::ffi::{CStr, c_char, c_void};
use std::sync::Once;

/// What can fail at run time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No memory.
    #[error(
        "{device} is out of memory for {what}{}\n\
         hint: a smaller context (-c), fewer tokens at once (-b) or a model with fewer bits takes less",
        asked(*bytes)
    )]
    OutOfMemory {
        /// Whose memory.
        device: String,
        /// What the memory was for.
        what: &'static str,
        /// How much was asked for, 0 where ggml does not say.
        bytes: usize,
    },
    /// The backend failed.
    #[error("{0}")]
    Device(String),
    /// Another machine is out of reach.
    #[error(
        "worker `{worker}` is lost: {why}\nhint: once it runs again, the conversation can go on; it is evaluated anew"
    )]
    Lost {
        /// Its address.
        worker: String,
        /// What happened.
        why: String,
    },
    /// An operation that a device has no code for.
    #[error(
        "{device} has no code for {node}\nhint: `--device none` runs everything on the CPU; with `--flash-attn off`, another \
         --cache-type-k and --cache-type-v, or weights of another type, {device} may do"
    )]
    Unsupported {
        /// The device.
        device: String,
        /// The operation with its result and its operands.
        node: String,
    },
}

fn asked(bytes: usize) -> String {
    if bytes == 0 { String::new() } else { format!(" ({bytes} bytes)") }
}

/// ggml's version.
pub fn version() -> &'static str {
    // SAFETY: ggml returns a static string.
    unsafe { CStr::from_ptr(sys::ggml_version()) }.to_str().unwrap_or("?")
}

/// Once per process: silences ggml's own log, whose errors come back as results.
fn init() {
    unsafe extern "C" fn ignore(_: sys::ggml_log_level, _: *const c_char, _: *mut c_void) {}
    static ONCE: Once = Once::new();
    // SAFETY: the callback is a static function that touches nothing.
    ONCE.call_once(|| unsafe { sys::ggml_log_set(Some(ignore), std::ptr::null_mut()) });
}
