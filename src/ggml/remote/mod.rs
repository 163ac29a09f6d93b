//! Owns the devices of workers: other machines that run ggml's RPC server. Refuses to let one that dies take this process
//! along.
//!
//! The server is ggml's own ([`serve`]); the client is not: ggml's aborts the process as soon as an answer does not come,
//! inside a thread of its own, where no check beforehand helps. What a client must do is little, and here every failure ends
//! in an error: the connection is closed, further requests do nothing, and [`super::Device::check`] tells why. Memory on a
//! worker is named by addresses of our own, which requests translate. So a worker that comes back can be given everything
//! anew ([`super::Device::revive`]) while tensors and graphs stay what they are.

mod buffer;
mod link;
mod server;
mod wire;
mod worker;

pub use server::serve;
pub(super) use worker::Worker;
