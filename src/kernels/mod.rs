//! Nodes of our own for the processor, which ggml's threads call: multiplication by packed weights with what stands
//! around it, attention, norms, the best rows of an output head, and sums of what enters a multiplication.
//!
//! Each node gives what ggml's nodes for the same give, to the bit, and says in its file in which order ggml adds up. A
//! kernel is chosen once, by the level of instructions in use ([`crate::ggml::isa()`]). ggml knows nothing of this
//! module: it calls what was put into a graph, and keeps bytes that were packed here as bytes.
#![allow(unsafe_code)]

mod attention;
#[cfg(target_arch = "x86_64")]
mod halves;
mod linear;
mod norm;
mod observe;
mod packed;
mod scratch;
mod shortlist;
mod weight;

pub use attention::{Heads, Reduction};
pub use linear::Fused;
pub use norm::Norm;
pub use observe::Observed;
pub use weight::Weight;
