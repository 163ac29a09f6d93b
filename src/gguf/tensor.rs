//! Owns what a tensor directory says of one tensor: name, shape, type, place. Refuses sizes that do not fit.

use std::path::Path;

use super::Error;
use crate::dtype::DType;

/// ggml keeps 64 bytes for a name, one of them the terminating zero.
pub(super) const MAX_NAME_BYTES: usize = 63;

/// ggml knows no more dimensions.
pub(super) const MAX_DIMS: usize = 4;

/// One entry of the tensor directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Elements per dimension in ggml's order (the first is contiguous), padded with 1.
    pub shape: [usize; 4],
    /// How many dimensions the file names.
    pub n_dims: usize,
    /// The element type.
    pub dtype: DType,
    /// Bytes of data.
    pub bytes: usize,
    /// Which part of a split file holds the data.
    pub(super) part: usize,
    /// Where the data starts in that part, counted from the part's first byte.
    pub(super) start: usize,
}

impl TensorInfo {
    /// A tensor of this shape, its data not yet placed. `path` is for the message.
    pub(super) fn new(path: &Path, name: String, dims: &[usize], dtype: DType) -> Result<TensorInfo, Error> {
        let invalid = |what: &str, expected: String, found: String| {
            Error::invalid(path, format_args!("{what} of tensor `{name}`"), expected, found)
        };
        if dims.len() > MAX_DIMS {
            return Err(invalid("dimensions", format!("at most {MAX_DIMS}"), dims.len().to_string()));
        }
        let mut shape = [1; MAX_DIMS];
        shape[..dims.len()].copy_from_slice(dims);
        if !shape[0].is_multiple_of(dtype.block_len()) {
            let expected = format!("rows of a multiple of {} elements for {dtype}", dtype.block_len());
            return Err(invalid("shape", expected, shape[0].to_string()));
        }
        // The element count must fit as well: without it a shape such as [0, huge, huge] would.
        let elements = dims.iter().try_fold(1isize, |n, &d| n.checked_mul(d.max(1).try_into().ok()?));
        let row = dtype.row_bytes(shape[0]);
        let bytes = row.and_then(|row| shape[1..].iter().try_fold(row, |n, &d| n.checked_mul(d)));
        let (Some(_), Some(bytes)) = (elements, bytes) else {
            return Err(invalid("shape", "a size that fits in memory".into(), format!("{dims:?} of {dtype}")));
        };
        Ok(TensorInfo { name, shape, n_dims: dims.len(), dtype, bytes, part: 0, start: 0 })
    }

    /// The dimensions that the file names.
    pub fn dims(&self) -> &[usize] {
        &self.shape[..self.n_dims]
    }

    /// The dimensions without trailing ones, as ggml counts them; at least one.
    pub fn ggml_dims(&self) -> &[usize] {
        let n = self.shape.iter().rposition(|&d| d != 1).map_or(1, |i| i + 1);
        &self.shape[..n]
    }

    /// Which part of a split file holds the data (0 for the first), and at which byte of that part it starts.
    pub fn place(&self) -> (usize, usize) {
        (self.part, self.start)
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}
