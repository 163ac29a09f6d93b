//! The multiplication with AVX2, for weights of 4 bits: eight rows per register, twice.

use std::arch::x86_64::*;

use super::{BLOCK, COLUMNS, GROUP, Group, Row};

/// Rows per register.
const LANES: usize = 8;

/// One group by `products.len()` rows.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; `group` and `rows` are laid out as the module says, with `n_blocks` blocks.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply<const MINIMA: bool>(
    group: Group,
    n_blocks: usize,
    rows: &[u8],
    row_bytes: usize,
    products: &mut [[f32; GROUP]],
) {
    // SAFETY: as promised by the caller.
    unsafe {
        let row = |i: usize| Row::new(rows.as_ptr().add(i * row_bytes), n_blocks);
        let n = products.len();
        for first in [0, LANES] {
            let mut i = 0;
            while i < n {
                let rest = &mut products[i..];
                if rest.len() >= 2 {
                    tile::<MINIMA, 2>(group, n_blocks, [row(i), row(i + 1)], first, rest);
                    i += 2;
                } else {
                    tile::<MINIMA, 1>(group, n_blocks, [row(i)], first, rest);
                    i += 1;
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn halves(at: *const u16) -> __m256 {
    // SAFETY: eight halves lie there.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
}

/// Sums of four products of column `c`, in whole numbers, made floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot<const MINIMA: bool>(weights: __m256i, row: Row, ib: usize, c: usize) -> __m256 {
    // SAFETY: the block lies inside the row.
    unsafe {
        let four = _mm256_set1_epi32(row.quants.add(ib * BLOCK + 4 * c).cast::<i32>().read_unaligned());
        // 2 * 15 * 127 fits in 16 bits.
        let sums = _mm256_madd_epi16(_mm256_maddubs_epi16(weights, four), _mm256_set1_epi16(1));
        let sums = if MINIMA {
            sums
        } else {
            _mm256_add_epi32(sums, _mm256_set1_epi32(row.extra.add(ib * COLUMNS + c).read_unaligned()))
        };
        _mm256_cvtepi32_ps(sums)
    }
}

/// Rows `first..first + 8` of the group by `T` rows of activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const MINIMA: bool, const T: usize>(
    group: Group,
    n_blocks: usize,
    rows: [Row; T],
    first: usize,
    products: &mut [[f32; GROUP]],
) {
    // SAFETY: every block lies inside the group and the rows.
    unsafe {
        let mask = _mm256_set1_epi8(0x0f);
        let mut even = [_mm256_setzero_ps(); T];
        let mut odd = [_mm256_setzero_ps(); T];
        for c in 0..4 {
            let mut low_sums = [_mm256_setzero_ps(); T];
            let mut high_sums = [_mm256_setzero_ps(); T];
            for ib in 0..n_blocks {
                let scales = halves(group.scales.add(ib * GROUP + first));
                let at = group.quants.add(((ib * COLUMNS / 2 + c) * GROUP + first) * 4);
                let both = _mm256_loadu_si256(at.cast());
                let low = _mm256_and_si256(both, mask);
                let high = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
                for t in 0..T {
                    let scale = _mm256_mul_ps(scales, _mm256_set1_ps(rows[t].scales.add(ib).read_unaligned()));
                    low_sums[t] = _mm256_fmadd_ps(scale, dot::<MINIMA>(low, rows[t], ib, c), low_sums[t]);
                    high_sums[t] = _mm256_fmadd_ps(scale, dot::<MINIMA>(high, rows[t], ib, c + 4), high_sums[t]);
                }
            }
            let joined = if c % 2 == 0 { &mut even } else { &mut odd };
            for t in 0..T {
                let sum = _mm256_add_ps(high_sums[t], low_sums[t]);
                joined[t] = if c < 2 { sum } else { _mm256_add_ps(joined[t], sum) };
            }
        }
        for t in 0..T {
            let mut total = _mm256_add_ps(even[t], odd[t]);
            if MINIMA {
                let mut minima = _mm256_setzero_ps();
                for ib in 0..n_blocks {
                    let s = _mm256_set1_ps(rows[t].extra.add(ib).cast::<f32>().read_unaligned());
                    minima = _mm256_fmadd_ps(halves(group.minima.add(ib * GROUP + first)), s, minima);
                }
                total = _mm256_add_ps(total, minima);
            }
            _mm256_storeu_ps(products[t][first..].as_mut_ptr(), total);
        }
    }
}
