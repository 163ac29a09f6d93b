//! Kernels with AVX2 alone, whose instruction for bytes adds up two products in 16 bits: of eight rows at a time.
//!
//! Two products of a quant below 16 and an activation are at most 2 * 15 * 127, so eight of them fit before they must be widened; of
//! larger quants fewer do, of 8 bits one. [`fitting`] says how many.
#![allow(clippy::needless_range_loop)] // one index goes through several arrays of registers

use std::arch::x86_64::*;

use super::dots::{eight_exponents, eight_halves, interleaved};
use super::lanes::{Bytes, Eight};
use crate::kernels::packed::blocks::{self, Blocks, Prepared, Scale};
use crate::kernels::packed::fields::LINE;
use crate::kernels::packed::lanes::Lines;
use crate::kernels::packed::super_blocks::{self, Activations, COLUMNS, Layout, SuperBlocks, Zero};
use crate::kernels::packed::{GROUP, Group, Rows, fetch_ahead};

/// Rows per register.
const LANES: usize = 8;

/// Rows of activations at once: with the weights and the sums of a part they fill the registers.
const TILE: usize = 4;

/// How many pairs of products, one after the other, fit in 16 bits, if quants are at most `max`: a power of two.
const fn fitting(max: u8, at_most: usize) -> usize {
    let mut n = at_most;
    while n > 1 && n * 2 * 127 * max as usize > i16::MAX as usize {
        n /= 2;
    }
    n
}

/// A super-block as [`multiply_tile`] takes it.
#[repr(C, align(64))]
struct Expanded {
    /// Of eight rows.
    quants: [Eight; COLUMNS / 4],
    /// Of the first eight rows and of the last: of each two parts two i16 of each row.
    minima: [[Eight; 8]; 2],
    /// Of either: of each part an i16 of each row, twice, since there are two sums of 16 bits to each row.
    scales: [[Eight; 16]; 2],
}

/// Super-blocks by prepared rows.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; group and rows have the layouts of the format.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels::packed) unsafe fn super_blocks<F: SuperBlocks>(
    group: Group<'_>,
    rows: Rows<'_>,
    products: &mut [[f32; GROUP]],
) {
    products.fill([0.0; GROUP]);
    // One for all super-blocks: to clear it for each would take as long as to fill it.
    let mut expanded = Expanded::new();
    for ib in 0..group.n_blocks {
        // SAFETY: as promised by the caller, and every super-block lies in the group and in each row.
        unsafe {
            let block = group.bytes.as_ptr().add(ib * Layout::<F>::BYTES);
            expand_scales::<F>(block, &mut expanded);
            for half in 0..2 {
                let first = half * LANES;
                fetch_ahead(block, Layout::<F>::BYTES, half, 2);
                F::quants(Lines::new(block.add(4 * first), LINE), &mut expanded.quants);
                let mut i = 0;
                while i + TILE <= products.len() {
                    let tile = super_blocks::activations::<TILE>(rows, i, ib);
                    multiply_tile::<F, TILE>(block, &expanded, half, tile, products.as_mut_ptr().add(i));
                    i += TILE;
                }
                while i < products.len() {
                    let tile = super_blocks::activations::<1>(rows, i, ib);
                    multiply_tile::<F, 1>(block, &expanded, half, tile, products.as_mut_ptr().add(i));
                    i += 1;
                }
            }
        }
    }
}

impl Expanded {
    #[inline(always)]
    fn new() -> Expanded {
        // SAFETY: made where the processor has the instructions only.
        let zero = Eight(unsafe { _mm256_setzero_si256() });
        Expanded { quants: [zero; COLUMNS / 4], minima: [[zero; 8]; 2], scales: [[zero; 16]; 2] }
    }
}

/// The scales and minima of a super-block, of all sixteen rows at once.
///
/// # Safety
/// As for [`super_blocks`]; the super-block begins at `block`.
#[inline(always)]
unsafe fn expand_scales<F: SuperBlocks>(block: *const u8, expanded: &mut Expanded) {
    // SAFETY: as promised by the caller.
    unsafe {
        let lines = Lines::<Bytes>::new(block.add(Layout::<F>::SCALES), GROUP);
        let zero = Bytes(_mm_setzero_si128());
        let (mut scales, mut minima) = ([zero; 16], [zero; 16]);
        F::scales(lines, &mut scales, &mut minima);
        for part in 0..F::PARTS {
            let (low, high) = interleaved(scales[part].0, scales[part].0, F::BIAS);
            expanded.scales[0][part] = Eight(_mm256_cvtepi8_epi16(low));
            expanded.scales[1][part] = Eight(_mm256_cvtepi8_epi16(high));
        }
        let factor = match F::ZERO {
            Zero::Minima => 1,
            Zero::Offset(offset) => offset,
            Zero::Signed => return,
        };
        if F::ZERO != Zero::Minima {
            minima = scales;
        }
        let factor = _mm256_set1_epi16(factor);
        for pair in 0..F::PARTS / 2 {
            let (low, high) = interleaved(minima[2 * pair].0, minima[2 * pair + 1].0, F::BIAS);
            expanded.minima[0][pair] = Eight(_mm256_mullo_epi16(_mm256_cvtepi8_epi16(low), factor));
            expanded.minima[1][pair] = Eight(_mm256_mullo_epi16(_mm256_cvtepi8_epi16(high), factor));
        }
    }
}

/// Adds the products of half the rows of a super-block with `T` rows to those of the super-blocks before it.
///
/// # Safety
/// As for [`expand_scales`]; there are `T` products.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_tile<F: SuperBlocks, const T: usize>(
    block: *const u8,
    expanded: &Expanded,
    half: usize,
    tile: [*const Activations; T],
    products: *mut [f32; GROUP],
) {
    // SAFETY: as promised by the caller.
    unsafe {
        let (columns, first) = (COLUMNS / 4 / F::PARTS, half * LANES);
        let (scales, minima_of) = (&expanded.scales[half], &expanded.minima[half]);
        let together = const { fitting(F::MAX, COLUMNS / 4 / F::PARTS) };
        let mut sums = [_mm256_setzero_si256(); T];
        for part in 0..F::PARTS {
            let scale = scales[part].0;
            for from in (part * columns..(part + 1) * columns).step_by(together) {
                let mut narrow = [_mm256_setzero_si256(); T];
                for c in from..from + together {
                    let weights = expanded.quants[c].0;
                    for t in 0..T {
                        let four = (&raw const (*tile[t]).quants).cast::<i32>().add(c).read_unaligned();
                        let two = twos(weights, _mm256_set1_epi32(four), F::ZERO == Zero::Signed);
                        narrow[t] = _mm256_add_epi16(narrow[t], two);
                    }
                }
                // The scale is multiplied in where sums must be widened anyway.
                for t in 0..T {
                    sums[t] = _mm256_add_epi32(sums[t], _mm256_madd_epi16(narrow[t], scale));
                }
            }
        }
        let d = eight_halves(block.add(Layout::<F>::D + 2 * first));
        let dmin = eight_halves(block.add(Layout::<F>::DMIN + 2 * first));
        for t in 0..T {
            let mut minima = _mm256_setzero_si256();
            if F::ZERO != Zero::Signed {
                for pair in 0..F::PARTS / 2 {
                    let two = (&raw const (*tile[t]).sums).cast::<i32>().add(pair).read_unaligned();
                    let product = _mm256_madd_epi16(minima_of[pair].0, _mm256_set1_epi32(two));
                    minima = _mm256_add_epi32(minima, product);
                }
            }
            let (place, x) = ((*products.add(t)).as_mut_ptr().add(first), _mm256_set1_ps((*tile[t]).d));
            let (d, before) = (_mm256_mul_ps(d, x), _mm256_loadu_ps(place));
            let after = if F::ZERO == Zero::Minima {
                let sum = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(sums[t]), before);
                _mm256_fnmadd_ps(_mm256_mul_ps(dmin, x), _mm256_cvtepi32_ps(minima), sum)
            } else {
                // In whole numbers, before anything is rounded.
                _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(_mm256_sub_epi32(sums[t], minima)), before)
            };
            _mm256_storeu_ps(place, after);
        }
    }
}

/// Sums of two products each. The instruction wants one side without sign: of signed weights it gets the size, and the activations
/// take the sign over.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn twos(weights: __m256i, activations: __m256i, is_signed: bool) -> __m256i {
    // SAFETY: as promised by the caller.
    unsafe {
        match is_signed {
            true => _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(activations, weights)),
            false => _mm256_maddubs_epi16(weights, activations),
        }
    }
}

/// Blocks by prepared rows.
///
/// # Safety
/// As for [`super_blocks`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::kernels::packed) unsafe fn blocks<F: Blocks>(
    group: Group<'_>,
    rows: Rows<'_>,
    products: &mut [[f32; GROUP]],
) {
    let (rows, ones) = (Prepared::new(rows), _mm256_set1_epi16(1));
    products.fill([0.0; GROUP]);
    for ib in 0..group.n_blocks {
        // SAFETY: as promised by the caller, and every block lies in the group and in each row.
        unsafe {
            let block = group.bytes.as_ptr().add(ib * blocks::Layout::<F>::BYTES);
            for (half, first) in [0, LANES].into_iter().enumerate() {
                fetch_ahead(block, blocks::Layout::<F>::BYTES, half, 2);
                let weights = F::quants(Lines::<Eight>::new(block.add(4 * first), LINE));
                let d = match F::SCALE {
                    Scale::Half => eight_halves(block.add(blocks::Layout::<F>::D + 2 * first)),
                    Scale::Exponent => eight_exponents(block.add(blocks::Layout::<F>::D + first)),
                };
                for (t, products) in products.iter_mut().enumerate() {
                    let (quants, scale, extra) = rows.block(t, ib);
                    let start = match F::ZERO {
                        blocks::Zero::Offset(_) => i32::from_ne_bytes(extra),
                        _ => 0,
                    };
                    let together = const { fitting(F::MAX, 8) };
                    let mut sum = _mm256_set1_epi32(start);
                    for from in (0..8).step_by(together) {
                        let mut narrow = _mm256_setzero_si256();
                        for c in from..from + together {
                            let four = _mm256_set1_epi32(quants.add(c).read_unaligned());
                            let two = twos(weights[c].0, four, F::ZERO == blocks::Zero::Signed);
                            narrow = _mm256_add_epi16(narrow, two);
                        }
                        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(narrow, ones));
                    }
                    let place = products.as_mut_ptr().add(first);
                    let d = _mm256_mul_ps(d, _mm256_set1_ps(scale));
                    let mut total = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(sum), _mm256_loadu_ps(place));
                    if F::ZERO == blocks::Zero::Minimum {
                        let m = eight_halves(block.add(blocks::Layout::<F>::M + 2 * first));
                        total = _mm256_fmadd_ps(m, _mm256_set1_ps(f32::from_ne_bytes(extra)), total);
                    }
                    _mm256_storeu_ps(place, total);
                }
            }
        }
    }
}
