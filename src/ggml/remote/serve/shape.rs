//! Owns what shapes and strides a tensor may have, and where it may lie. Refuses numbers that do not describe elements apart
//! from each other inside one buffer.

use super::message::Described;
use super::{Parting, wrong};
use crate::dtype::DType;

/// A type with sizes and strides that describe elements apart from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) dtype: DType,
    /// Elements per dimension.
    pub(super) ne: [usize; 4],
    /// Bytes from one element, or block, to the next, per dimension; those of a dimension of one are as if it were dense.
    pub(super) nb: [usize; 4],
    /// From the first to past the last element.
    pub(super) bytes: usize,
}

/// More than any memory, and little enough to add up.
const MOST_BYTES: usize = 1 << 47;

impl Shape {
    pub(super) fn of(tensor: &Described) -> Result<Shape, Parting> {
        let dtype = DType::from_id(tensor.dtype).ok_or_else(|| wrong(format!("type {} of a tensor", tensor.dtype)))?;
        // Kernels count rows in i32.
        if tensor.ne.iter().any(|&n| i32::try_from(n).is_err()) {
            return Err(wrong(format!("a tensor of {:?} elements", tensor.ne)));
        }
        let ne = tensor.ne.map(|n| n as usize);
        let mut shape = Shape::dense(dtype, ne)?;
        if !shape.is_empty() {
            shape.stretch(tensor.nb.map(|n| n as usize)).ok_or_else(|| {
                wrong(format!("strides {:?} of a tensor of {:?} elements of {dtype}", tensor.nb, tensor.ne))
            })?;
        }
        Ok(shape)
    }

    /// Without gaps, as ggml makes new tensors.
    pub(super) fn dense(dtype: DType, ne: [usize; 4]) -> Result<Shape, Parting> {
        let dense = || {
            let row = dtype.row_bytes(ne[0])?;
            let mut nb = [dtype.block_bytes(), row, 0, 0];
            nb[2] = row.checked_mul(ne[1])?;
            nb[3] = nb[2].checked_mul(ne[2])?;
            let bytes = nb[3].checked_mul(ne[3]).filter(|&bytes| bytes <= MOST_BYTES)?;
            Some(Shape { dtype, ne, nb, bytes })
        };
        dense().ok_or_else(|| wrong(format!("a tensor of {ne:?} elements of {dtype}")))
    }

    /// Takes strides, unless elements would lie in each other or at odd places.
    fn stretch(&mut self, nb: [usize; 4]) -> Option<()> {
        let unit = self.dtype.block_bytes();
        let counts = [self.ne[0] / self.dtype.block_len(), self.ne[1], self.ne[2], self.ne[3]];
        let mut order: Vec<usize> = (0..4).filter(|&i| counts[i] > 1).collect();
        order.sort_by_key(|&i| nb[i]);
        let mut end = unit;
        for &i in &order {
            // Blocks of a quantized row are never apart.
            let is_apart =
                nb[i] >= end && nb[i].is_multiple_of(unit) && (i > 0 || !self.dtype.is_quantized() || nb[0] == unit);
            let reach = nb[i].checked_mul(counts[i] - 1)?.checked_add(end)?;
            end = Some(reach).filter(|&end| is_apart && end <= MOST_BYTES)?;
        }
        self.bytes = end;
        for (i, &stride) in nb.iter().enumerate() {
            let dense = match i {
                0 => unit,
                1 => self.nb[0].checked_mul(counts[0])?,
                _ => self.nb[i - 1].checked_mul(self.ne[i - 1])?,
            };
            self.nb[i] = if counts[i] > 1 { stride } else { dense };
        }
        Some(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ne.contains(&0)
    }

    pub(super) fn elements(&self) -> usize {
        self.ne.iter().product()
    }

    /// A row has no gaps.
    pub(super) fn has_dense_rows(&self) -> bool {
        self.nb[0] == self.dtype.block_bytes()
    }

    /// No gaps at all.
    pub(super) fn is_dense(&self) -> bool {
        Shape::dense(self.dtype, self.ne).is_ok_and(|dense| dense.nb == self.nb)
    }

    /// No gaps but between rows.
    pub(super) fn is_dense_but_for_rows(&self) -> bool {
        self.has_dense_rows() && self.nb[2] == self.nb[1] * self.ne[1] && self.nb[3] == self.nb[2] * self.ne[2]
    }

    /// Whether it repeats to the other.
    pub(super) fn repeats_to(&self, other: &Shape) -> bool {
        self.ne.iter().zip(other.ne).all(|(&n, other)| n > 0 && other.is_multiple_of(n))
    }

    /// Where its first byte must lie for the processor: at a multiple of this.
    pub(super) fn alignment(&self) -> usize {
        1 << self.dtype.block_bytes().trailing_zeros().min(3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dtype: u32, ne: [u32; 4], nb: [u32; 4]) -> Result<Shape, Parting> {
        let rest = (0, 0, [0; 16], 0, [0; 10]);
        let (id, op, params, flags, src) = rest;
        Shape::of(&Described {
            id,
            dtype,
            buffer: 0,
            ne,
            nb,
            op,
            params,
            flags,
            src,
            view_src: 0,
            view_offs: 0,
            data: 0,
        })
    }

    #[test]
    fn elements_lie_apart_in_any_order() {
        let dense = shape(0, [4, 3, 2, 1], [4, 16, 48, 96]).unwrap();
        assert!(dense.is_dense() && dense.bytes == 96);
        let swapped = shape(0, [4, 2, 3, 1], [4, 48, 16, 96]).unwrap();
        assert!(!swapped.is_dense() && swapped.has_dense_rows() && swapped.bytes == 96);
        let transposed = shape(1, [8, 4, 1, 1], [64, 2, 0, 0]).unwrap();
        assert!(!transposed.has_dense_rows() && transposed.bytes == 7 * 64 + 3 * 2 + 2);
        assert_eq!(
            shape(8, [64, 2, 1, 1], [34, 100, 0, 0]).map(|s| s.bytes).ok(),
            None,
            "no whole blocks between rows"
        );
        assert_eq!(shape(8, [64, 2, 1, 1], [34, 102, 7, 7]).unwrap().nb, [34, 102, 204, 204], "of one, as if dense");
        assert!(shape(0, [0, 5, 1, 1], [9, 9, 9, 9]).unwrap().is_empty());
    }

    #[test]
    fn elements_in_each_other_are_refused() {
        for (dtype, ne, nb) in [
            (0, [4, 3, 1, 1], [4, 0, 0, 0]),
            (0, [4, 3, 1, 1], [4, 12, 0, 0]),
            (0, [4, 3, 1, 1], [6, 24, 0, 0]),
            (0, [4, 3, 2, 1], [4, 16, 16, 0]),
            (8, [48, 1, 1, 1], [34, 51, 51, 51]),
            (8, [64, 2, 1, 1], [68, 136, 0, 0]),
            (43, [4, 1, 1, 1], [4, 16, 16, 16]),
            (4, [32, 1, 1, 1], [20, 20, 20, 20]),
            (0, [1 << 31, 1, 1, 1], [4, 0, 0, 0]),
            (0, [1 << 30, 1 << 30, 1 << 30, 1], [4, 1 << 31, 1 << 31, 0]),
        ] {
            assert!(shape(dtype, ne, nb).is_err(), "{dtype} {ne:?} {nb:?}");
        }
    }
}
