//! `q4_0`: blocks of 32 columns, `w = d * (q - 8)` with a scale and quants of 4 bits. Added up block after block, as
//! ggml's own packed kernels for it do.

use super::{Format, interleave};
#[cfg(target_arch = "x86_64")]
use super::{Kernel, Level, x86};
use crate::dtype::DType;
use crate::kernels::packed::{GROUP, HALF, activations, parts_mut};

/// Bytes of quants in a block.
const QUANTS: usize = 16;

/// Of sixteen rows: quants, scales.
const GROUP_PARTS: [usize; 2] = [GROUP * QUANTS, GROUP * HALF];

pub(super) static FORMAT: Format = Format {
    dtype: DType::Q4_0,
    group: &GROUP_PARTS,
    pack_row,
    activation: DType::Q8_0,
    row: &activations::q8_0_parts(1),
    prepare_row: |blocks, row| activations::q8_0::<1>(8, blocks, row),
    kernels: &[
        #[cfg(target_arch = "x86_64")]
        Kernel { level: Level::Avx512Vnni, multiply: x86::avx512::multiply_blocks },
        #[cfg(target_arch = "x86_64")]
        Kernel { level: Level::Avx2, multiply: x86::avx2::multiply_blocks },
    ],
    #[cfg(test)]
    reference,
};

fn pack_row(row: &[u8], r: usize, group: &mut [u8]) {
    let n_blocks = row.len() / (HALF + QUANTS);
    let [quants, scales] = parts_mut(group, GROUP_PARTS, n_blocks);
    for (ib, block) in row.chunks_exact(HALF + QUANTS).enumerate() {
        scales[(ib * GROUP + r) * HALF..][..HALF].copy_from_slice(&block[..HALF]);
        // Bytes as they are: column c lies in a low half, column c + 16 in the high half beside it, and one mask and
        // one shift of a register give both for all rows.
        interleave::<4>(&block[HALF..], r, &mut quants[ib * GROUP * QUANTS..][..GROUP * QUANTS]);
    }
}

#[cfg(test)]
fn reference(row: &[u8], activations: &[u8]) -> f32 {
    use super::reference::{dot, half, nibbles};
    row.chunks_exact(HALF + QUANTS).zip(activations.chunks_exact(HALF + 32)).fold(0.0, |sum, (w, a)| {
        let weights: Vec<i32> = nibbles(&w[HALF..]).iter().map(|q| q - 8).collect();
        // The block's sum is a whole number; it is rounded once, when it is added.
        (dot(&weights, &a[HALF..]) as f32).mul_add(half(w) * half(a), sum)
    })
}
