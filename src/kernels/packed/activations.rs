//! Prepared rows of activations: what ggml rounds a row to, its parts laid out apart so that a kernel reads each from
//! end to end.
//!
//! ggml rounds to the same types before its own products, so that what is multiplied is the same to the bit.

use half::f16;

use super::{HALF, parts_mut};
use crate::dtype::DType;
use crate::ggml::round_row;

/// Columns that share a scale in `q8_0` and `q8_1`.
const BLOCK: usize = 32;

/// Parts of a block of [`q8_0`], in bytes: quants, the scale as f32, `n` sums as i32.
pub(super) const fn q8_0_parts(n: usize) -> [usize; 3] {
    [BLOCK, size_of::<f32>(), n * size_of::<i32>()]
}

/// Parts of a block of [`q8_1`], in bytes: quants, the scale and the scaled sum as f32.
pub(super) const Q8_1_PARTS: [usize; 3] = [BLOCK, size_of::<f32>(), size_of::<f32>()];

/// Lays out blocks of `q8_0` for weights to whose quants `bias` was added, to make them unsigned: with the products of
/// a block go `N` sums of as many columns each, times `-bias`.
///
/// A kernel starts its integer sums there, so that they come out as if nothing had been added.
pub(super) fn q8_0<const N: usize>(bias: i32, blocks: &[u8], row: &mut [u8]) {
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
            place.copy_from_slice(&(-bias * sum).to_ne_bytes());
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

/// Columns of a block of `q8_K`.
const SUPER_BLOCK: usize = 256;

/// Rounds a row of activations to the numbers that ggml's own function gives.
pub(super) fn round(to: DType, x: &[f32], blocks: &mut [u8]) {
    if to != DType::Q8_K {
        return round_row(to, x, blocks);
    }
    // ggml's goes number by number and takes a twentieth of a prompt's time; this one is what compilers make vectors of.
    for (x, block) in x.chunks_exact(SUPER_BLOCK).zip(blocks.chunks_exact_mut(DType::Q8_K.block_bytes())) {
        round_super_block(x.try_into().expect("whole blocks"), block);
    }
}

/// A block of `q8_K`: a scale (f32), quants, and the sums of each sixteen of them (i16). The number of the largest size becomes -127,
/// whatever its sign is.
fn round_super_block(x: &[f32; SUPER_BLOCK], block: &mut [u8]) {
    /// Added to a number of at most 2^22 in size it leaves the nearest whole number, to even in the middle, in the lowest bits.
    const MAGIC: f32 = 12_582_912.0;
    let size = x.iter().fold(0.0f32, |most, x| if x.abs() > most { x.abs() } else { most });
    if size == 0.0 {
        return block.fill(0);
    }
    let largest = x.iter().copied().find(|x| x.abs() == size).unwrap_or(size);
    let scale = -127.0 / largest;
    let (head, rest) = block.split_at_mut(size_of::<f32>());
    head.copy_from_slice(&(1.0 / scale).to_ne_bytes());
    let (quants, sums) = rest.split_at_mut(SUPER_BLOCK);
    for (x, quant) in x.iter().zip(quants.iter_mut()) {
        let whole = ((scale * x + MAGIC).to_bits() & 0x007f_ffff).cast_signed() - 0x0040_0000;
        *quant = whole.min(127) as u8;
    }
    for (quants, place) in quants.chunks_exact(16).zip(sums.chunks_exact_mut(2)) {
        let sum: i16 = quants.iter().map(|&quant| i16::from(quant.cast_signed())).sum();
        place.copy_from_slice(&sum.to_ne_bytes());
    }
}

fn float(half: &[u8]) -> f32 {
    f16::from_le_bytes([half[0], half[1]]).to_f32()
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn numbers_are_rounded_as_ggml_rounds_them() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for size in [0.0, 1e-30, 0.1, 3.0, 1e30] {
            let mut x: Vec<f32> = (0..64 * SUPER_BLOCK).map(|_| size * rng.random_range(-1.0f32..1.0)).collect();
            // Halves of a step are rounded to even; of equal sizes the first counts.
            x[..4].copy_from_slice(&[size * 127.0, size * 0.5, size * 1.5, size * -127.0]);
            let n = DType::Q8_K.row_bytes(x.len()).unwrap();
            let (mut expected, mut found) = (vec![0; n], vec![1; n]);
            round_row(DType::Q8_K, &x, &mut expected);
            round(DType::Q8_K, &x, &mut found);
            assert!(expected == found, "numbers up to {size}");
        }
    }
}
