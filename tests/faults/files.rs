//! GGUF files: metadata, tensors and vocabularies.
