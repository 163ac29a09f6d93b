//! Checkpoints and what `convert` and `quantize` make of them.
