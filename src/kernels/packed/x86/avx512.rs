//! The multiplication with AVX-512 VNNI: sixteen rows per register.
#![allow(clippy::needless_range_loop)] // one index goes through several arrays of registers

use std::arch::x86_64::*;

use super::{BLOCK, COLUMNS, GROUP, Group, Row, Rows, Weights};
use crate::kernels::halves::sixteen as halves;

/// One group by `products.len()` rows, each column of a block with a partial sum of its own.
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI; `group` and `rows` are laid out as the module says.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
pub(in crate::kernels::packed) unsafe fn multiply_columns<const BITS: usize, const MINIMA: bool>(
    group: Group<'_>,
    rows: Rows<'_>,
    products: &mut [[f32; GROUP]],
) {
    let (group, row) = (Weights::new(group), rows.each());
    // SAFETY: as promised by the caller.
    unsafe {
        let mut i = 0;
        while i < products.len() {
            let rest = &mut products[i..];
            // As many sums as there are registers for: with more rows, fewer columns at a time.
            macro_rules! tile {
                ($rows:literal, $pairs:literal) => {{
                    let rows = std::array::from_fn(|k| row(i + k));
                    tile::<BITS, MINIMA, $rows, $pairs>(group, rows, i == 0, rest);
                    i += $rows;
                }};
            }
            match rest.len() {
                8.. => tile!(8, 1),
                6.. => tile!(6, 2),
                5 => tile!(5, 2),
                4 => tile!(4, 2),
                3 => tile!(3, 4),
                2 => tile!(2, 4),
                _ => tile!(1, 4),
            }
        }
    }
}

/// Columns `c` and `c + 4` of block `ib` of the sixteen rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn columns<const BITS: usize>(group: Weights, ib: usize, c: usize) -> (__m512i, __m512i) {
    // SAFETY: the block lies inside the group.
    unsafe {
        if BITS == 4 {
            let both = _mm512_loadu_si512(group.quants.add((ib * COLUMNS / 2 + c) * 4 * GROUP).cast());
            let low = _mm512_set1_epi8(0x0f);
            (_mm512_and_si512(both, low), _mm512_and_si512(_mm512_srli_epi16(both, 4), low))
        } else {
            let at = |c: usize| group.quants.add((ib * COLUMNS + c) * 4 * GROUP).cast();
            (_mm512_loadu_si512(at(c)), _mm512_loadu_si512(at(c + 4)))
        }
    }
}

/// Sums of four products of column `c`, in whole numbers, made floats.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn dot<const MINIMA: bool>(weights: __m512i, row: Row, ib: usize, c: usize) -> __m512 {
    // SAFETY: the block lies inside the row.
    unsafe {
        let four = row.quants.add(ib * BLOCK + 4 * c).cast::<i32>().read_unaligned();
        let start = if MINIMA {
            _mm512_setzero_si512()
        } else {
            _mm512_set1_epi32(row.extra.add(ib * COLUMNS + c).read_unaligned())
        };
        _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, weights, _mm512_set1_epi32(four)))
    }
}

/// `T` rows, `PAIRS` pairs of columns at a time: the group is read and unpacked once for all rows. `is_first` says that
/// no rows were multiplied by the group before these.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn tile<const BITS: usize, const MINIMA: bool, const T: usize, const PAIRS: usize>(
    group: Weights,
    rows: [Row; T],
    is_first: bool,
    products: &mut [[f32; GROUP]],
) {
    // SAFETY: every block lies inside the group and the rows.
    unsafe {
        // Sums of each column, then of columns 0 and 4, 2 and 6, and these two, and likewise of the odd ones: the order
        // of `hsum_float_8` in ggml.
        let mut joined = [[_mm512_setzero_ps(); T]; 2];
        let mut minima = [_mm512_setzero_ps(); T];
        for pass in 0..4 / PAIRS {
            let mut low_sums = [[_mm512_setzero_ps(); T]; PAIRS];
            let mut high_sums = [[_mm512_setzero_ps(); T]; PAIRS];
            for ib in 0..group.n_blocks {
                let scales = halves(group.scales.add(ib * GROUP));
                let scales: [__m512; T] = std::array::from_fn(|t| {
                    _mm512_mul_ps(scales, _mm512_set1_ps(rows[t].scales.add(ib).read_unaligned()))
                });
                // What is to be done once goes with the first pass.
                if pass == 0 {
                    if MINIMA {
                        let m = halves(group.minima.add(ib * GROUP));
                        for t in 0..T {
                            let s = _mm512_set1_ps(rows[t].extra.add(ib).cast::<f32>().read_unaligned());
                            minima[t] = _mm512_fmadd_ps(m, s, minima[t]);
                        }
                    }
                    if is_first {
                        group.fetch_next(ib);
                    }
                }
                for p in 0..PAIRS {
                    let c = column(pass, p, PAIRS);
                    let (low, high) = columns::<BITS>(group, ib, c);
                    for t in 0..T {
                        // The scale multiplies a column's whole number, not a block's: each column's sum is rounded by
                        // itself.
                        low_sums[p][t] = _mm512_fmadd_ps(scales[t], dot::<MINIMA>(low, rows[t], ib, c), low_sums[p][t]);
                        high_sums[p][t] =
                            _mm512_fmadd_ps(scales[t], dot::<MINIMA>(high, rows[t], ib, c + 4), high_sums[p][t]);
                    }
                }
            }
            for p in 0..PAIRS {
                let c = column(pass, p, PAIRS);
                for t in 0..T {
                    let sum = _mm512_add_ps(high_sums[p][t], low_sums[p][t]);
                    joined[c % 2][t] = if c < 2 { sum } else { _mm512_add_ps(joined[c % 2][t], sum) };
                }
            }
        }
        for t in 0..T {
            let total = _mm512_add_ps(joined[0][t], joined[1][t]);
            let total = if MINIMA { _mm512_add_ps(total, minima[t]) } else { total };
            _mm512_storeu_ps(products[t].as_mut_ptr(), total);
        }
    }
}

/// The columns of a pass: all four, or 0 and 2 before 1 and 3, or one.
const fn column(pass: usize, p: usize, pairs: usize) -> usize {
    if pairs == 2 { pass + 2 * p } else { pass + p }
}

/// One group of 4-bit weights by `products.len()` rows, block after block.
///
/// # Safety
/// As for [`multiply_columns`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
pub(in crate::kernels::packed) unsafe fn multiply_blocks(
    group: Group<'_>,
    rows: Rows<'_>,
    products: &mut [[f32; GROUP]],
) {
    let (group, row) = (Weights::new(group), rows.each());
    // SAFETY: as promised by the caller.
    unsafe {
        let mut i = 0;
        while i < products.len() {
            let rest = &mut products[i..];
            macro_rules! blocks {
                ($rows:literal) => {{
                    let rows = std::array::from_fn(|k| row(i + k));
                    blocks::<$rows>(group, rows, i == 0, rest);
                    i += $rows;
                }};
            }
            match rest.len() {
                8.. => blocks!(8),
                7 => blocks!(7),
                6 => blocks!(6),
                5 => blocks!(5),
                4 => blocks!(4),
                3 => blocks!(3),
                2 => blocks!(2),
                _ => blocks!(1),
            }
        }
    }
}

/// `T` rows; `is_first` as for [`tile`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn blocks<const T: usize>(group: Weights, rows: [Row; T], is_first: bool, products: &mut [[f32; GROUP]]) {
    // SAFETY: every block lies inside the group and the rows.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); T];
        for ib in 0..group.n_blocks {
            if is_first {
                group.fetch_next(ib);
            }
            let scales = halves(group.scales.add(ib * GROUP));
            // Unpacked once for all rows of the tile.
            let weights: [(__m512i, __m512i); 4] = std::array::from_fn(|c| columns::<4>(group, ib, c));
            for t in 0..T {
                let four =
                    |c: usize| _mm512_set1_epi32(rows[t].quants.add(ib * BLOCK + 4 * c).cast::<i32>().read_unaligned());
                let mut low = _mm512_set1_epi32(rows[t].extra.add(ib).read_unaligned());
                // Apart from the low half: two chains of dependent instructions are done in half of the time of one.
                let mut high = _mm512_setzero_si512();
                for c in 0..4 {
                    low = _mm512_dpbusd_epi32(low, weights[c].0, four(c));
                    high = _mm512_dpbusd_epi32(high, weights[c].1, four(c + 4));
                }
                let scale = _mm512_mul_ps(scales, _mm512_set1_ps(rows[t].scales.add(ib).read_unaligned()));
                let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(low, high));
                sums[t] = _mm512_fmadd_ps(sum, scale, sums[t]);
            }
        }
        for t in 0..T {
            _mm512_storeu_ps(products[t].as_mut_ptr(), sums[t]);
        }
    }
}
