//! Safe ggml: contexts and tensor handles, operations, stores of data, graphs, the device that runs them.
//!
//! All unsafe code of the program except one mmap lives here. Objects own and drop; tensors are `Copy` handles that
//! borrow from their owner; a wrong shape panics at the caller's line before ggml could abort the process.
#![allow(unsafe_code)]

mod attention;
mod backend;
mod context;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod experts;
mod graph;
mod linear;
mod node;
mod norm;
mod observe;
mod ops;
mod packed;
mod remote;
mod rows;
mod shortlist;
mod store;
mod sys;

pub use attention::{Heads, Reduction};
pub use backend::{Device, Memory};
pub use context::{Context, Tensor};
pub use cpu::{Isa, IsaError, built_isas, choose_isa, isa, processor_isa, usable_isas};
#[cfg(feature = "cuda")]
pub use cuda::{CudaStatus, cuda_status};
pub use graph::{Builder, Computed, Run, Runner, Slot};
pub use linear::{Activation, Fused, Weight};
pub use norm::Norm;
pub use observe::Observed;
pub use ops::{Ops, Pairs, Rope};
pub use remote::{Event, Parting, Server, Token};
pub use rows::{
    RowsError, can_dequantize, can_multiply, can_quantize_to, dequantize_into, is_valid, needs_importance,
    prepare_quantize, quantize_rows,
};
pub use store::{Content, Store, StoreBuilder, Stored};

use std::ffi::{CStr, c_char, c_void};
use std::sync::Once;

use rayon::prelude::*;

use crate::dtype::DType;

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

/// The numbers in a row of blocks, as f32.
pub fn dequantize(dtype: DType, row: &[u8]) -> Vec<f32> {
    init();
    let n = row.len() / dtype.block_bytes() * dtype.block_len();
    let mut values = vec![0.0; n];
    // SAFETY: the table of types is static; the row holds n elements, and there is room for as many numbers.
    unsafe {
        let traits = &*sys::ggml_get_type_traits(context::raw_type(dtype));
        match traits.to_float {
            Some(to_float) => to_float(row.as_ptr().cast(), values.as_mut_ptr(), n as i64),
            None => {
                assert_eq!(dtype, DType::F32, "dequantize: {dtype} has no numbers");
                std::ptr::copy_nonoverlapping(row.as_ptr(), values.as_mut_ptr().cast(), row.len());
            }
        }
    }
    values
}

/// Rows of `n` numbers as blocks of another type, all processor cores at work.
pub(crate) fn quantize(to: DType, from: DType, rows: &[u8], n: usize) -> Vec<u8> {
    let (row_bytes, to_bytes) = (from.row_bytes(n).expect("whole blocks"), to.row_bytes(n).expect("whole blocks"));
    let mut blocks = vec![0; rows.len() / row_bytes * to_bytes];
    rows.par_chunks_exact(row_bytes).zip(blocks.par_chunks_exact_mut(to_bytes)).for_each(|(row, place)| {
        let values = dequantize(from, row);
        // SAFETY: the table of types is static; `from_float` reads n floats and writes one row of blocks.
        unsafe {
            let traits = &*(cpu::functions().ggml_get_type_traits_cpu)(context::raw_type(to));
            let from_float = traits.from_float.expect("a type that numbers can be rounded to");
            from_float(values.as_ptr(), place.as_mut_ptr().cast(), n as i64);
        }
    });
    blocks
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
