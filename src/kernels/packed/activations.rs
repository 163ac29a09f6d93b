//! Prepared rows of activations: what ggml rounds a row to, its parts laid out apart so that a kernel reads each from
//! end to end.
//!
//! ggml rounds to the same types before its own products, so that what is multiplied is the same to the bit.

use half::f16;

use super::{HALF, parts_mut};
use crate::dtype::DType;

/// Columns that share a scale in `q8_0` and `q8_1`.
const BLOCK: usize = 32;

/// Parts of a block of [`q8_0`], in bytes: quants, the scale as f32, `n` sums as i32.
pub(super) const fn q8_0_parts(n: usize) -> [usize; 3] {
    [BLOCK, size_of::<f32>(), n * size_of::<i32>()]
}

/// Parts of a block of [`q8_1`], in bytes: quants, the scale and the scaled sum as f32.
pub(super) const Q8_1_PARTS: [usize; 3] = [BLOCK, size_of::<f32>(), size_of::<f32>()];

/// Lays out blocks of `q8_0` for weights to whose quants `BIAS` was added, to make them unsigned: with the products of
/// a block go `N` sums of as many columns each, times `-BIAS`.
///
/// A kernel starts its integer sums there, so that they come out as if nothing had been added.
pub(super) fn q8_0<const N: usize, const BIAS: i32>(blocks: &[u8], row: &mut [u8]) {
    let n_blocks = blocks.len() / DType::Q8_0.block_bytes();
    let [quants, scales, sums] = parts_mut(row, q8_0_parts(N), n_blocks);
    for (ib, block) in blocks.chunks_exact(DType::Q8_0.block_bytes()).enumerate() {
        let (scale, bytes) = block.split_at(HALF);
        quants[ib * BLOCK..][..BLOCK].copy_from_slice(bytes);
        // As f32: a kernel takes one scale for all sixteen rows, and would convert it again with every group.
        scales[ib * 4..][..4].copy_from_slice(&float(scale).to_ne_bytes());
        let sums = &mut sums[4 * N * ib..][..4 * N];
        for (place, columns) in sums.chunks_exact_mut(4).zip(bytes.chunks_exact(BLOCK / N)) {
            let sum: i32 = columns.iter().map(|&q| i32::from(q as i8)).sum();
            place.copy_from_slice(&(-BIAS * sum).to_ne_bytes());
        }
    }
}

/// Lays out blocks of `q8_1`, for weights with minima: a minimum multiplies the sum of the block's columns, which ggml
/// has put into the block already, times the scale.
pub(super) fn q8_1(blocks: &[u8], row: &mut [u8]) {
    let n_blocks = blocks.len() / DType::Q8_1.block_bytes();
    let [quants, scales, sums] = parts_mut(row, Q8_1_PARTS, n_blocks);
    for (ib, block) in blocks.chunks_exact(DType::Q8_1.block_bytes()).enumerate() {
        let (halves, bytes) = block.split_at(2 * HALF);
        quants[ib * BLOCK..][..BLOCK].copy_from_slice(bytes);
        scales[ib * 4..][..4].copy_from_slice(&float(halves).to_ne_bytes());
        // ggml's own rounding of it to f16: a sum of our own would be another number.
        sums[ib * 4..][..4].copy_from_slice(&float(&halves[HALF..]).to_ne_bytes());
    }
}

fn float(half: &[u8]) -> f32 {
    f16::from_le_bytes([half[0], half[1]]).to_f32()
}
