//! The parts of attention with AVX2: sums run in lanes of eight.
#![allow(clippy::needless_range_loop)] // one index goes through several arrays of registers

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::{LANES, STEP};
use crate::kernels::halves::eight as halves;

/// Floats per register.
const WIDTH: usize = 8;

/// Rounds to f16 and back.
///
/// # Safety
/// The processor has AVX2, FMA and F16C. The length is a multiple of sixteen.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn round_to_f16(values: &mut [f32]) {
    for eight in values.chunks_exact_mut(WIDTH) {
        // SAFETY: the chunk holds eight floats.
        unsafe {
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(eight.as_ptr()));
            _mm256_storeu_ps(eight.as_mut_ptr(), _mm256_cvtph_ps(half));
        }
    }
}

/// Joins the partial sums of a dot product: four as `GGML_F32x8_REDUCE` does.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn join<const CHAINS: usize>(parts: &[__m256; CHAINS]) -> __m256 {
    // Second half onto first, then neighbours of what is left: pairs in any other order round otherwise.
    match parts[..] {
        [a, b, c, d] => _mm256_add_ps(_mm256_add_ps(a, c), _mm256_add_ps(b, d)),
        _ => parts[0],
    }
}

/// The sums of the lanes of eight registers: halves first; then, of the four that are left, neighbours as
/// `GGML_F32x8_REDUCE` adds them, or those two apart as `hsum` of ggml's `tinyBLAS` does where there is a single chain.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sums<const CHAINS: usize>(x: &[__m256; WIDTH]) -> __m256 {
    // Registers i and i + 4 share one of these, so that the totals come out in order.
    let fours: [__m256; 4] = std::array::from_fn(|i| {
        let (a, b) = (x[i], x[i + 4]);
        let halves = _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(a, b), _mm256_permute2f128_ps::<0x31>(a, b));
        if CHAINS == 1 { _mm256_permute_ps::<0b11_01_10_00>(halves) } else { halves }
    });
    _mm256_hadd_ps(_mm256_hadd_ps(fours[0], fours[1]), _mm256_hadd_ps(fours[2], fours[3]))
}

/// Adds the products of `STEP` halves from `at` on with those floats of `R` rows, `stride` apart, to the parts of each
/// row.
///
/// # Safety
/// The processor has AVX2, FMA and F16C; everything lies inside.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_step<const R: usize, const CHAINS: usize>(
    parts: &mut [[__m256; CHAINS]; R],
    at: *const u16,
    rows: *const f32,
    stride: usize,
) {
    for j in 0..STEP / WIDTH {
        // SAFETY: the caller promises `STEP` halves and as many floats of each row.
        unsafe {
            // Made floats once for all rows.
            let x = halves(at.add(j * WIDTH));
            for r in 0..R {
                // Register j goes to chain j of its step, as ggml's does.
                let row = _mm256_loadu_ps(rows.add(r * stride + j * WIDTH));
                let part = &mut parts[r][j % CHAINS];
                *part = _mm256_fmadd_ps(row, x, *part);
            }
        }
    }
}

/// In both products below, a sum runs in `CHAINS` chains of eight lanes each.
///
/// Scores of `R` queries with the first `n_seen` keys: `scores` holds a row of `n_scores` per query. Scores up to the
/// next multiple of eight are written too; those of `skip` (whole steps) are not.
///
/// # Safety
/// The processor has AVX2, FMA and F16C. `keys` has `n_seen` rows, `stride` halves apart; the queries have a multiple
/// of 64 elements.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn scores<const R: usize, const CHAINS: usize>(
    queries: &[f32],
    keys: *const u16,
    stride: usize,
    n_seen: usize,
    skip: &[Range<usize>],
    scores: &mut [f32],
    n_scores: usize,
) {
    let head = queries.len() / R;
    debug_assert!(scores.len() == R * n_scores && n_seen.next_multiple_of(WIDTH) <= n_scores);
    for first in (0..n_seen).step_by(WIDTH).filter(|first| !skip.iter().any(|skip| skip.contains(first))) {
        // Eight keys, each summed up in a register of its own; their lanes are joined for all eight in one go. Not
        // filled with zeros first: every lane is written below.
        let mut totals: [[MaybeUninit<__m256>; WIDTH]; R] = [[const { MaybeUninit::uninit() }; WIDTH]; R];
        for lane in 0..WIDTH {
            let mut parts = [[_mm256_setzero_ps(); CHAINS]; R];
            for step in (0..head).step_by(STEP) {
                // SAFETY: rows beyond the last key read the last key again; all else lies inside as the caller
                // promised.
                unsafe {
                    let key = keys.add((first + lane).min(n_seen - 1) * stride);
                    add_step(&mut parts, key.add(step), queries.as_ptr().add(step), head);
                }
            }
            for r in 0..R {
                totals[r][lane].write(join(&parts[r]));
            }
        }
        for r in 0..R {
            // SAFETY: every lane was written; the row has room for eight scores.
            unsafe {
                let eight = sums::<CHAINS>(&*totals[r].as_ptr().cast());
                _mm256_storeu_ps(scores.as_mut_ptr().add(r * n_scores + first), eight);
            }
        }
    }
}

/// Sums of the first `n_weights` (a multiple of 64) values of every column, weighted; `mixed(r, d, sums)` gets those of
/// sixteen columns from `d` on. Weights of `skip` (whole steps) are zero and not looked at.
///
/// # Safety
/// The processor has AVX2, FMA and F16C. `values` has `n_columns` columns (a multiple of sixteen) of at least
/// `n_weights` halves, `stride` halves apart.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn mix<const R: usize, const CHAINS: usize>(
    weights: &[f32],
    n_weights: usize,
    skip: &[Range<usize>],
    values: *const u16,
    stride: usize,
    n_columns: usize,
    mixed: &mut dyn FnMut(usize, usize, &[f32; LANES]),
) {
    debug_assert!(weights.len() == R * n_weights);
    for d in (0..n_columns).step_by(LANES) {
        let mut out = [[0.0; LANES]; R];
        // Sixteen columns, as with AVX-512, so that who takes them needs not know how wide registers are.
        for half in [0, WIDTH] {
            let mut totals: [[MaybeUninit<__m256>; WIDTH]; R] = [[const { MaybeUninit::uninit() }; WIDTH]; R];
            for lane in 0..WIDTH {
                let mut parts = [[_mm256_setzero_ps(); CHAINS]; R];
                for step in (0..n_weights).step_by(STEP).filter(|step| !skip.iter().any(|skip| skip.contains(step))) {
                    // SAFETY: everything lies inside as the caller promised.
                    unsafe {
                        let column = values.add((d + half + lane) * stride);
                        add_step(&mut parts, column.add(step), weights.as_ptr().add(step), n_weights);
                    }
                }
                for r in 0..R {
                    totals[r][lane].write(join(&parts[r]));
                }
            }
            for r in 0..R {
                // SAFETY: every lane was written; `out` has eight floats from `half` on.
                unsafe {
                    let eight = sums::<CHAINS>(&*totals[r].as_ptr().cast());
                    _mm256_storeu_ps(out[r].as_mut_ptr().add(half), eight);
                }
            }
        }
        (0..R).for_each(|r| mixed(r, d, &out[r]));
    }
}
