//! The demo model: a real one, large enough that depths, drafts, file types and workers differ from each other.

#[path = "../common/mod.rs"]
mod common;

mod drafts;
mod exit;
mod file_types;
mod greedy;
mod imatrix;
mod layers;
mod perplexity;
mod rpc;
mod sequences;
