//! Owns the devices of workers: other machines that run an RPC server of ggml's protocol. Refuses to let the other side, gone,
//! silent or hostile, take this process along.
//!
//! Neither side is ggml's. Its client aborts the process as soon as an answer does not come, inside a thread of its own, where
//! no check beforehand helps; its server trusts what it is sent. What a client must do is little, and here every failure ends
//! in an error: the connection is closed, further requests do nothing, and [`super::Device::check`] tells why. Memory on a
//! worker is named by addresses of our own, which requests translate. So a worker that comes back can be given everything
//! anew ([`super::Device::revive`]) while tensors and graphs stay what they are.

mod buffer;
mod link;
mod serve;
mod session;
mod token;
mod wire;
mod work;
mod worker;

pub use serve::{Event, Parting, Server};
pub use token::Token;
pub(super) use worker::Worker;
