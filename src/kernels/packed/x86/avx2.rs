//! The multiplication with AVX2, for weights of 4 bits: eight rows per register, twice.
#![allow(clippy::needless_range_loop)] // one index goes through several arrays of registers

use std::arch::x86_64::*;

use super::{BLOCK, COLUMNS, GROUP, Group, Row, Rows, Weights};
use crate::kernels::halves::eight as halves;

/// Rows per register.
const LANES: usize = 8;

/// Rows of activations multiplied at once, as far as registers reach.
const TILE: usize = 4;

/// One group of weights with minima by `products.len()` rows, each column of a block with a partial sum of its own.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; `group` and `rows` are laid out as the module says.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels::packed) unsafe fn multiply_columns(
    group: Group<'_>,
    rows: Rows<'_>,
    products: &mut [[f32; GROUP]],
) {
    let (group, row) = (Weights::new(group), rows.each());
    // SAFETY: as promised by the caller.
    unsafe {
        // Half of the group, then the other half: sixteen rows would need twice the registers for sums.
        for first in [0, LANES] {
            let mut i = 0;
            while i < products.len() {
                let rest = &mut products[i..];
                let is_first = i == 0 && first == 0;
                // Two rows: with more, the sums of a pass leave no registers to unpack in.
                if rest.len() >= 2 {
                    columns::<2>(group, [row(i), row(i + 1)], first, is_first, rest);
                    i += 2;
                } else {
                    columns::<1>(group, [row(i)], first, is_first, rest);
                    i += 1;
                }
            }
        }
    }
}

/// One group of weights without minima by `products.len()` rows, block after block.
///
/// # Safety
/// As for [`multiply_columns`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels::packed) unsafe fn multiply_blocks(
    group: Group<'_>,
    rows: Rows<'_>,
    products: &mut [[f32; GROUP]],
) {
    let (group, row) = (Weights::new(group), rows.each());
    // SAFETY: as promised by the caller.
    unsafe {
        for first in [0, LANES] {
            let mut i = 0;
            while i < products.len() {
                let rest = &mut products[i..];
                let is_first = i == 0 && first == 0;
                if rest.len() >= TILE {
                    blocks::<TILE>(group, std::array::from_fn(|k| row(i + k)), first, is_first, rest);
                    i += TILE;
                } else {
                    blocks::<1>(group, [row(i)], first, is_first, rest);
                    i += 1;
                }
            }
        }
    }
}

/// Columns `c` and `c + 4` of block `ib` of eight rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pair(group: Weights, ib: usize, c: usize, first: usize) -> (__m256i, __m256i) {
    // SAFETY: the block lies inside the group.
    unsafe {
        let at = group.quants.add(((ib * COLUMNS / 2 + c) * GROUP + first) * 4);
        let (both, low) = (_mm256_loadu_si256(at.cast()), _mm256_set1_epi8(0x0f));
        (_mm256_and_si256(both, low), _mm256_and_si256(_mm256_srli_epi16(both, 4), low))
    }
}

/// Sums of two products each of column `c`: 2 * 15 * 127 fits in 16 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn twos(weights: __m256i, row: Row, ib: usize, c: usize) -> __m256i {
    // SAFETY: the block lies inside the row.
    unsafe {
        let four = row.quants.add(ib * BLOCK + 4 * c).cast::<i32>().read_unaligned();
        _mm256_maddubs_epi16(weights, _mm256_set1_epi32(four))
    }
}

/// Rows `first..first + 8` of the group by `T` rows of activations; the first of them ask for the next group meanwhile.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn columns<const T: usize>(
    group: Weights,
    rows: [Row; T],
    first: usize,
    is_first: bool,
    products: &mut [[f32; GROUP]],
) {
    // SAFETY: every block lies inside the group and the rows.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut even = [_mm256_setzero_ps(); T];
        let mut odd = [_mm256_setzero_ps(); T];
        // A pass over the group for each pair of columns, which share their bytes: the partial sums of all eight
        // columns are more than there are registers.
        for c in 0..4 {
            let mut low_sums = [_mm256_setzero_ps(); T];
            let mut high_sums = [_mm256_setzero_ps(); T];
            for ib in 0..group.n_blocks {
                let scales = halves(group.scales.add(ib * GROUP + first));
                let (low, high) = pair(group, ib, c, first);
                for t in 0..T {
                    let scale = _mm256_mul_ps(scales, _mm256_set1_ps(rows[t].scales.add(ib).read_unaligned()));
                    let low = _mm256_cvtepi32_ps(_mm256_madd_epi16(twos(low, rows[t], ib, c), ones));
                    let high = _mm256_cvtepi32_ps(_mm256_madd_epi16(twos(high, rows[t], ib, c + 4), ones));
                    low_sums[t] = _mm256_fmadd_ps(scale, low, low_sums[t]);
                    high_sums[t] = _mm256_fmadd_ps(scale, high, high_sums[t]);
                }
            }
            // Columns c and c + 4, then those two apart, then neighbours: the order of `hsum_float_8` in ggml.
            let joined = if c % 2 == 0 { &mut even } else { &mut odd };
            for t in 0..T {
                let sum = _mm256_add_ps(high_sums[t], low_sums[t]);
                joined[t] = if c < 2 { sum } else { _mm256_add_ps(joined[t], sum) };
            }
        }
        for t in 0..T {
            let mut minima = _mm256_setzero_ps();
            for ib in 0..group.n_blocks {
                // Not above, where a branch costs prompts a fifth of their speed.
                if is_first && t == 0 {
                    group.fetch_next(ib);
                }
                let s = _mm256_set1_ps(rows[t].extra.add(ib).cast::<f32>().read_unaligned());
                minima = _mm256_fmadd_ps(halves(group.minima.add(ib * GROUP + first)), s, minima);
            }
            let total = _mm256_add_ps(_mm256_add_ps(even[t], odd[t]), minima);
            _mm256_storeu_ps(products[t][first..].as_mut_ptr(), total);
        }
    }
}

/// Rows `first..first + 8` of the group by `T` rows of activations; the first of them ask for the next group meanwhile.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn blocks<const T: usize>(
    group: Weights,
    rows: [Row; T],
    first: usize,
    is_first: bool,
    products: &mut [[f32; GROUP]],
) {
    // SAFETY: every block lies inside the group and the rows.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_ps(); T];
        for ib in 0..group.n_blocks {
            if is_first {
                group.fetch_next(ib);
            }
            let scales = halves(group.scales.add(ib * GROUP + first));
            // Unpacked once for all rows of the tile.
            let weights: [(__m256i, __m256i); 4] = std::array::from_fn(|c| pair(group, ib, c, first));
            for t in 0..T {
                let mut fours = _mm256_setzero_si256();
                for c in 0..4 {
                    // 8 * 15 * 127 fits in 16 bits as well.
                    fours = _mm256_add_epi16(fours, twos(weights[c].0, rows[t], ib, c));
                    fours = _mm256_add_epi16(fours, twos(weights[c].1, rows[t], ib, c + 4));
                }
                // What takes off the 8 that made the weights unsigned.
                let start = _mm256_set1_epi32(rows[t].extra.add(ib).read_unaligned());
                let sum = _mm256_add_epi32(start, _mm256_madd_epi16(fours, ones));
                let scale = _mm256_mul_ps(scales, _mm256_set1_ps(rows[t].scales.add(ib).read_unaligned()));
                sums[t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, sums[t]);
            }
        }
        for t in 0..T {
            _mm256_storeu_ps(products[t][first..].as_mut_ptr(), sums[t]);
        }
    }
}
