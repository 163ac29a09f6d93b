//! `q4_1`: blocks of 32 columns, `w = d * q + m` with a scale, a minimum and quants of 4 bits. Added up as
//! `ggml_vec_dot_q4_1_q8_1` does from AVX2 on: eight partial sums per row, joined at the end, and the minima apart.

use super::{Format, interleave};
#[cfg(target_arch = "x86_64")]
use super::{Kernel, Level, x86};
use crate::dtype::DType;
use crate::kernels::packed::{GROUP, HALF, activations, parts_mut};

/// Bytes of quants in a block.
const QUANTS: usize = 16;

/// Bytes of a block: scale, minimum, quants.
const BLOCK: usize = 2 * HALF + QUANTS;

/// Of sixteen rows: quants, scales, minima.
const GROUP_PARTS: [usize; 3] = [GROUP * QUANTS, GROUP * HALF, GROUP * HALF];

pub(super) static FORMAT: Format = Format {
    dtype: DType::Q4_1,
    group: &GROUP_PARTS,
    pack_row,
    activation: DType::Q8_1,
    row: &activations::Q8_1_PARTS,
    prepare_row: activations::q8_1,
    kernels: &[
        #[cfg(target_arch = "x86_64")]
        Kernel { level: Level::Avx512Vnni, multiply: x86::avx512::multiply_columns::<4, true> },
        #[cfg(target_arch = "x86_64")]
        Kernel { level: Level::Avx2, multiply: x86::avx2::multiply_columns },
    ],
    #[cfg(test)]
    reference,
};

fn pack_row(row: &[u8], r: usize, group: &mut [u8]) {
    let n_blocks = row.len() / BLOCK;
    let [quants, scales, minima] = parts_mut(group, GROUP_PARTS, n_blocks);
    for (ib, block) in row.chunks_exact(BLOCK).enumerate() {
        // Scales apart from minima: a kernel that takes a block's columns in several passes reads scales in each,
        // minima in one.
        let at = (ib * GROUP + r) * HALF;
        scales[at..][..HALF].copy_from_slice(&block[..HALF]);
        minima[at..][..HALF].copy_from_slice(&block[HALF..2 * HALF]);
        interleave::<4>(&block[2 * HALF..], r, &mut quants[ib * GROUP * QUANTS..][..GROUP * QUANTS]);
    }
}

#[cfg(test)]
fn reference(row: &[u8], activations: &[u8]) -> f32 {
    use super::reference::{dot, half, hsum, nibbles};
    let (mut sums, mut minima) = ([0.0f32; 8], 0.0f32);
    for (w, a) in row.chunks_exact(BLOCK).zip(activations.chunks_exact(2 * HALF + 32)) {
        let (scale, quants) = (half(w) * half(a), nibbles(&w[2 * HALF..]));
        minima = half(&w[HALF..]).mul_add(half(&a[HALF..]), minima);
        for (c, sum) in sums.iter_mut().enumerate() {
            *sum = scale.mul_add(dot(&quants[4 * c..][..4], &a[2 * HALF + 4 * c..]) as f32, *sum);
        }
    }
    hsum(sums) + minima
}
