//! curtail runs quantized GGUF language models and stops each token at the layer where its result is decided.
//!
//! From prompt to token: [`gguf`] maps the file and checks it once; [`tokenizer`] turns text into ids and back;
//! [`model`] holds the weights, immutable, and builds graphs for the steps of a [`plan`] with [`ggml`]
//! and the processor's [`kernels`]; [`engine`] runs many
//! texts on it, each a sequence of tokens; [`sample`] chooses the next token; [`commands`] owns text, terminals and files.
//! Layers may lie on other devices and other machines: [`ggml`] reaches them, [`model`] knows which layer is where, and
//! [`engine`] takes rows from one to the next. A model that lies on a hub, [`hub`] brings into a cache on this machine.
//! Between two ranges of layers [`engine`] shows a checkpoint what it has, and [`exit`] decides whether it is enough. The tokens
//! of a text may be found so, or drafted and verified: [`generate`] decides how, and measures what pays. Where a single answer
//! is wanted, [`classify`] asks for it, and [`eval`] measures what stopping early saves. Files come from Hugging Face checkpoints through [`convert`].
//!
//! Modules in reading order, each using only those the design lets it use:
//! [`text`], [`files`], [`dtype`], [`gguf`], [`hub`], [`tokenizer`], [`ggml`], [`kernels`], [`plan`], [`model`], [`exit`],
//! [`sample`], [`engine`], [`generate`], [`classify`], [`eval`], [`convert`], [`quantize`], [`cli`], [`commands`].
//!
//! What holds everywhere: unsafe code lives in [`ggml`], [`kernels`] and around the one mmap of [`gguf`]; a loaded model serves any
//! number of engines; after loading, shapes are facts; only commands print, data to stdout and the rest to stderr.

pub mod classify;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod commands;
pub mod convert;
pub mod dtype;
pub mod engine;
pub mod eval;
pub mod exit;
pub mod files;
pub mod generate;
pub mod ggml;
pub mod gguf;
pub mod hub;
pub mod kernels;
pub mod model;
pub mod plan;
pub mod quantize;
pub mod sample;
pub mod text;
pub mod tokenizer;
