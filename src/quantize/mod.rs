//! What a model's tensors become when it is quantized, and the bytes they become. Owns the file types with their mixes of
//! tensor types, the fall-backs for odd rows, importance matrices, and the metadata of the new file; refuses to open or
//! write files other than the importance matrix.
//!
//! For the same input a file comes out as llama.cpp's llama-quantize makes it: same order of tensors, same types, same bits,
//! same metadata. The rules are facts of llama.cpp's `src/llama-quant.cpp` (release of the pinned ggml).
//!
//! [`Plan::new`] decides, [`Plan::parts`] lays out the file or files, and [`produce`] makes the bytes.

mod file_type;
mod imatrix;
mod mix;
mod overrides;
mod plan;
mod produce;
mod split_files;
mod tensor_role;

pub use file_type::{FileType, Target};
pub use imatrix::Imatrix;
pub use overrides::{Override, TensorType, tensor_type};
pub use plan::{Options, Plan, Planned};
pub use produce::{Making, Tensors, produce};
pub use split_files::Split;

use std::path::PathBuf;

use crate::dtype::DType;
use crate::ggml::RowsError;
use crate::gguf;

/// Why a model cannot be quantized.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input, the importance matrix or the output.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// The input is quantized already.
    #[error(
        "tensor `{tensor}`: expected f32, f16 or bf16, found {from}, which is quantized already\n\
         hint: quantize the unquantized model, or lose quality twice with `--allow-requantize`"
    )]
    Requantize {
        /// The tensor.
        tensor: String,
        /// Its type.
        from: DType,
    },
    /// A tensor holds no numbers that could be rounded.
    #[error("tensor `{tensor}`: expected a type with numbers to quantize, found {from}")]
    NoNumbers {
        /// The tensor.
        tensor: String,
        /// Its type.
        from: DType,
    },
    /// A type of so few bits that it is useless without an importance matrix.
    #[error(
        "tensor `{tensor}`: {to} needs an importance matrix, found {}\nhint: make one with llama-imatrix and name it with `--imatrix`",
        if *.given { "none for this tensor in it" } else { "none" }
    )]
    NeedsImatrix {
        /// The tensor.
        tensor: String,
        /// The type it was to have.
        to: DType,
        /// Whether there is a matrix for other tensors.
        given: bool,
    },
    /// Rows that a type chosen by the user, or its fall-back, cannot hold.
    #[error("tensor `{tensor}`: expected rows of a multiple of {} elements for {to}, found {row}", to.block_len())]
    Row {
        /// The tensor.
        tensor: String,
        /// The type it was to have.
        to: DType,
        /// The length of its rows.
        row: usize,
    },
    /// The layer of a tensor of a mixture of experts decides, and its name does not tell it.
    #[error("tensor `{tensor}`: expected a name with a layer from `blk.0.` to below `blk.{n_layer}.`")]
    Layer {
        /// The tensor.
        tensor: String,
        /// How many layers the metadata names.
        n_layer: usize,
    },
    /// A layer to be left out is not there.
    #[error("layer {layer}: expected one of the {n_layer} of this model")]
    NoSuchLayer {
        /// The layer, counted from 0.
        layer: usize,
        /// How many layers there are.
        n_layer: usize,
    },
    /// The importance matrix breaks its format.
    #[error("{field}: expected {expected}, found {found} in `{}`", path.display())]
    Imatrix {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What it should have held.
        expected: String,
        /// What it held.
        found: String,
    },
    /// The importance matrix belongs to another model.
    #[error(
        "importance matrix: expected entries for tensors of this model, found none for any of the {0} to be quantized\nhint: is it another model's?"
    )]
    ForeignImatrix(usize),
    /// The importance matrix has another number of columns than the tensor.
    #[error(
        "importance of `{tensor}`: expected {expected} numbers, one per column, found {found}\nhint: is the matrix another model's?"
    )]
    ImatrixSize {
        /// The tensor.
        tensor: String,
        /// Row length times number of experts.
        expected: usize,
        /// The length of the entry.
        found: usize,
    },
    /// Numbers that cannot be quantized.
    #[error("tensor `{tensor}`, row {row}: {source}")]
    Rows {
        /// The tensor.
        tensor: String,
        /// The first row of those at fault.
        row: usize,
        /// What is wrong with them.
        source: RowsError,
    },
    /// Data of the input that is copied and broken.
    #[error("tensor `{tensor}`: expected finite numbers, found NaN or infinity")]
    BrokenData {
        /// The tensor.
        tensor: String,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}
