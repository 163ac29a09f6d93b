//! The multiplication with AVX-512 VNNI: sixteen rows per register.
#![allow(clippy::needless_range_loop)] // one index goes through several arrays of registers

use std::arch::x86_64::*;

use super::{BLOCK, COLUMNS, GROUP, Group, Row, TILE};

/// One group by `products.len()` rows, each column of a block with a partial sum of its own.
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI; `group` and `rows` are laid out as the module says, with `n_blocks` blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
pub(super) unsafe fn multiply_columns<const BITS: usize, const MINIMA: bool>(
    group: Group,
    n_blocks: usize,
    rows: &[u8],
    row_bytes: usize,
    products: &mut [[f32; GROUP]],
) {
    // SAFETY: as promised by the caller.
    unsafe {
        let row = |i: usize| Row::new(rows.as_ptr().add(i * row_bytes), n_blocks);
        let mut i = 0;
        while i < products.len() {
            let rest = &mut products[i..];
            i += match rest.len() {
                TILE.. => {
                    tile::<BITS, MINIMA, TILE>(group, n_blocks, std::array::from_fn(|k| row(i + k)), rest);
                    TILE
                }
                4.. => {
                    tile::<BITS, MINIMA, 4>(group, n_blocks, std::array::from_fn(|k| row(i + k)), rest);
                    4
                }
                2.. => {
                    tile::<BITS, MINIMA, 2>(group, n_blocks, std::array::from_fn(|k| row(i + k)), rest);
                    2
                }
                _ => {
                    single::<BITS, MINIMA>(group, n_blocks, row(i), &mut rest[0]);
                    1
                }
            };
        }
    }
}

/// Columns `c` and `c + 4` of block `ib` of the sixteen rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn columns<const BITS: usize>(group: Group, ib: usize, c: usize) -> (__m512i, __m512i) {
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

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn halves(at: *const u16) -> __m512 {
    // SAFETY: sixteen halves lie there.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
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

/// Joins the eight partial sums of each row as `hsum_float_8` in ggml does.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
fn join(s: [__m512; 4]) -> __m512 {
    _mm512_add_ps(_mm512_add_ps(s[0], s[2]), _mm512_add_ps(s[1], s[3]))
}

/// A single row: the group is read once, front to back.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn single<const BITS: usize, const MINIMA: bool>(
    group: Group,
    n_blocks: usize,
    row: Row,
    products: &mut [f32; GROUP],
) {
    // SAFETY: every block lies inside the group and the row.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); COLUMNS];
        let mut minima = _mm512_setzero_ps();
        for ib in 0..n_blocks {
            let d = _mm512_set1_ps(row.scales.add(ib).read_unaligned());
            let scale = _mm512_mul_ps(halves(group.scales.add(ib * GROUP)), d);
            if MINIMA {
                let s = _mm512_set1_ps(row.extra.add(ib).cast::<f32>().read_unaligned());
                minima = _mm512_fmadd_ps(halves(group.minima.add(ib * GROUP)), s, minima);
            }
            group.fetch_next(ib);
            for c in 0..4 {
                let (low, high) = columns::<BITS>(group, ib, c);
                sums[c] = _mm512_fmadd_ps(scale, dot::<MINIMA>(low, row, ib, c), sums[c]);
                sums[c + 4] = _mm512_fmadd_ps(scale, dot::<MINIMA>(high, row, ib, c + 4), sums[c + 4]);
            }
        }
        let total = join(std::array::from_fn(|c| _mm512_add_ps(sums[c + 4], sums[c])));
        let total = if MINIMA { _mm512_add_ps(total, minima) } else { total };
        _mm512_storeu_ps(products.as_mut_ptr(), total);
    }
}

/// `T` rows: the group is read once per pair of columns, from the nearest cache, and unpacked for all rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn tile<const BITS: usize, const MINIMA: bool, const T: usize>(
    group: Group,
    n_blocks: usize,
    rows: [Row; T],
    products: &mut [[f32; GROUP]],
) {
    // SAFETY: every block lies inside the group and the rows.
    unsafe {
        // Joined as `join` does: columns 0 and 2, 1 and 3, then both.
        let mut even = [_mm512_setzero_ps(); T];
        let mut odd = [_mm512_setzero_ps(); T];
        for c in 0..4 {
            let mut low_sums = [_mm512_setzero_ps(); T];
            let mut high_sums = [_mm512_setzero_ps(); T];
            for ib in 0..n_blocks {
                let scales = halves(group.scales.add(ib * GROUP));
                let (low, high) = columns::<BITS>(group, ib, c);
                for t in 0..T {
                    let scale = _mm512_mul_ps(scales, _mm512_set1_ps(rows[t].scales.add(ib).read_unaligned()));
                    low_sums[t] = _mm512_fmadd_ps(scale, dot::<MINIMA>(low, rows[t], ib, c), low_sums[t]);
                    high_sums[t] = _mm512_fmadd_ps(scale, dot::<MINIMA>(high, rows[t], ib, c + 4), high_sums[t]);
                }
            }
            let joined = if c % 2 == 0 { &mut even } else { &mut odd };
            for t in 0..T {
                let sum = _mm512_add_ps(high_sums[t], low_sums[t]);
                joined[t] = if c < 2 { sum } else { _mm512_add_ps(joined[t], sum) };
            }
        }
        let mut minima = [_mm512_setzero_ps(); T];
        if MINIMA {
            for ib in 0..n_blocks {
                let m = halves(group.minima.add(ib * GROUP));
                for t in 0..T {
                    let s = _mm512_set1_ps(rows[t].extra.add(ib).cast::<f32>().read_unaligned());
                    minima[t] = _mm512_fmadd_ps(m, s, minima[t]);
                }
            }
        }
        for t in 0..T {
            let total = _mm512_add_ps(even[t], odd[t]);
            let total = if MINIMA { _mm512_add_ps(total, minima[t]) } else { total };
            _mm512_storeu_ps(products[t].as_mut_ptr(), total);
        }
    }
}

/// One group of 4-bit weights by `products.len()` rows, block after block.
///
/// # Safety
/// As for [`multiply_columns`].
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
pub(super) unsafe fn multiply_blocks(
    group: Group,
    n_blocks: usize,
    rows: &[u8],
    row_bytes: usize,
    products: &mut [[f32; GROUP]],
) {
    // SAFETY: as promised by the caller.
    unsafe {
        let row = |i: usize| Row::new(rows.as_ptr().add(i * row_bytes), n_blocks);
        let mut i = 0;
        while i < products.len() {
            let rest = &mut products[i..];
            if rest.len() >= TILE {
                blocks::<TILE>(group, n_blocks, std::array::from_fn(|k| row(i + k)), rest);
                i += TILE;
            } else {
                blocks::<1>(group, n_blocks, [row(i)], rest);
                i += 1;
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,f16c")]
unsafe fn blocks<const T: usize>(group: Group, n_blocks: usize, rows: [Row; T], products: &mut [[f32; GROUP]]) {
    // SAFETY: every block lies inside the group and the rows.
    unsafe {
        let mut sums = [_mm512_setzero_ps(); T];
        for ib in 0..n_blocks {
            if T == 1 {
                group.fetch_next(ib);
            }
            let scales = halves(group.scales.add(ib * GROUP));
            let weights: [(__m512i, __m512i); 4] = std::array::from_fn(|c| columns::<4>(group, ib, c));
            for t in 0..T {
                let four =
                    |c: usize| _mm512_set1_epi32(rows[t].quants.add(ib * BLOCK + 4 * c).cast::<i32>().read_unaligned());
                let mut low = _mm512_set1_epi32(rows[t].extra.add(ib).read_unaligned());
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
