//! `q8_0`: blocks of 32 columns, `w = d * q` with a scale and quants of 8 bits. Added up as `ggml_vec_dot_q8_0_q8_0`
//! does from AVX2 on: eight partial sums per row, joined at the end.

use super::{Format, interleave};
#[cfg(target_arch = "x86_64")]
use super::{Kernel, Level, x86};
use crate::dtype::DType;
use crate::kernels::packed::{GROUP, HALF, activations, parts_mut};

/// Bytes of quants in a block.
const QUANTS: usize = 32;

/// Of sixteen rows: quants, scales.
const GROUP_PARTS: [usize; 2] = [GROUP * QUANTS, GROUP * HALF];

/// Without a kernel for AVX2: its products of bytes take a signed and an unsigned one and add two of them up in 16
/// bits, which 255 * 127 twice does not fit in.
pub(super) static FORMAT: Format = Format {
    dtype: DType::Q8_0,
    group: &GROUP_PARTS,
    pack_row,
    activation: DType::Q8_0,
    row: &activations::q8_0_parts(8),
    prepare_row: |blocks, row| activations::q8_0::<8>(128, blocks, row),
    kernels: &[
        #[cfg(target_arch = "x86_64")]
        Kernel { level: Level::Avx512Vnni, multiply: x86::avx512::multiply_columns::<8, false> },
    ],
    #[cfg(test)]
    reference,
};

fn pack_row(row: &[u8], r: usize, group: &mut [u8]) {
    let n_blocks = row.len() / (HALF + QUANTS);
    let [quants, scales] = parts_mut(group, GROUP_PARTS, n_blocks);
    for (ib, block) in row.chunks_exact(HALF + QUANTS).enumerate() {
        scales[(ib * GROUP + r) * HALF..][..HALF].copy_from_slice(&block[..HALF]);
        // 128 added: one side of a dot product of bytes is unsigned. The prepared rows take it off again.
        let unsigned: [u8; QUANTS] = std::array::from_fn(|i| block[HALF + i] ^ 0x80);
        interleave::<4>(&unsigned, r, &mut quants[ib * GROUP * QUANTS..][..GROUP * QUANTS]);
    }
}

#[cfg(test)]
fn reference(row: &[u8], activations: &[u8]) -> f32 {
    use super::reference::{dot, half, hsum};
    let mut sums = [0.0f32; 8];
    for (w, a) in row.chunks_exact(HALF + QUANTS).zip(activations.chunks_exact(HALF + 32)) {
        let (scale, quants) = (half(w) * half(a), w[HALF..].iter().map(|&q| i32::from(q as i8)).collect::<Vec<_>>());
        for (c, sum) in sums.iter_mut().enumerate() {
            *sum = scale.mul_add(dot(&quants[4 * c..][..4], &a[HALF + 4 * c..]) as f32, *sum);
        }
    }
    hsum(sums)
}
