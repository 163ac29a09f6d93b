//! What another program made of small inputs: logits, ids, files and errors, compared to the last digit.

#[path = "../common/mod.rs"]
mod common;

mod arch;
mod checkpoints;
mod convert;
mod convert_llama2c;
mod gguf;
mod gguf_roundtrip;
mod llama;
mod opt;
mod opt_stops;
mod quantize;
mod tokenizer;
