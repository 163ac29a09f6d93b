//! curtail runs quantized GGUF language models and stops each token at the layer where its result is decided.

pub mod dtype;
pub mod gguf;
pub mod tokenizer;
