//! The GGUF file format: values, reader, writer. Owns every check of a file's counts, lengths, offsets and
//! alignments; refuses to know what a model is. Pure Rust, no C.
//!
//! [`File::open`] maps a file (or all parts of a split one) and checks its metadata and tensor directory once;
//! after that [`File::data`] cannot fail. [`Header::parse`] does the same checks on a slice of bytes.
//! [`Writer`] writes a file completely or not at all.

mod cursor;
mod error;
mod header;
mod metadata;
mod reader;
mod remarks;
mod tensor;
mod value;
mod writer;

pub use error::Error;
pub(crate) use error::visible;
pub use header::Header;
pub use metadata::Metadata;
pub use reader::{File, name_cut_files, part_paths};
pub use tensor::TensorInfo;
pub use value::{Array, Value, ValueType};
pub use writer::Writer;

/// The first four bytes of a file.
const MAGIC: [u8; 4] = *b"GGUF";

/// The version that [`Writer`] writes; 2 has the same layout and is read too.
const VERSION: u32 = 3;

/// The alignment of tensor data in a file that names none.
const DEFAULT_ALIGNMENT: u32 = 32;

/// No file needs more: data is mapped by pages, and each tensor of a new file is padded by up to this.
const MAX_ALIGNMENT: u32 = 1 << 20;

/// The key that names another alignment.
const ALIGNMENT_KEY: &str = "general.alignment";
