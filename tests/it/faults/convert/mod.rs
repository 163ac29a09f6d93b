//! Checkpoints and what `convert` and `quantize` make of them.

mod files;
mod made;
mod numbers;
mod rules;
mod settings;
mod vocabulary;
