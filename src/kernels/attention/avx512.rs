//! The parts of attention with AVX-512.
#![allow(clippy::needless_range_loop)] // one index goes through several arrays of registers

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::{LANES, STEP};
use crate::kernels::halves::sixteen as halves;

/// Rounds to f16 and back.
///
/// # Safety
/// The processor has AVX-512 F. The length is a multiple of sixteen.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn round_to_f16(values: &mut [f32]) {
    for sixteen in values.chunks_exact_mut(LANES) {
        // SAFETY: the chunk holds sixteen floats.
        unsafe {
            let half = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_loadu_ps(sixteen.as_ptr()));
            _mm512_storeu_ps(sixteen.as_mut_ptr(), _mm512_cvtph_ps(half));
        }
    }
}

/// Joins the partial sums of a dot product: four as `GGML_F32x16_REDUCE` does.
#[inline]
#[target_feature(enable = "avx512f")]
fn join<const CHAINS: usize>(parts: &[__m512; CHAINS]) -> __m512 {
    // Second half onto first, then neighbours of what is left: pairs in any other order round otherwise.
    match parts[..] {
        [a, b, c, d] => _mm512_add_ps(_mm512_add_ps(a, c), _mm512_add_ps(b, d)),
        _ => parts[0],
    }
}

/// The sums of the lanes of sixteen registers, each added as `_mm512_reduce_add_ps` does: halves, quarters, and so on.
#[inline]
#[target_feature(enable = "avx512f")]
fn sums(x: &[__m512; LANES]) -> __m512 {
    let eights: [__m512; 8] = std::array::from_fn(|i| {
        let (a, b) = (x[2 * i], x[2 * i + 1]);
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0xee>(a, b))
    });
    let fours: [__m512; 4] = std::array::from_fn(|i| {
        let (a, b) = (eights[2 * i], eights[2 * i + 1]);
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b))
    });
    let twos: [__m512; 2] = std::array::from_fn(|i| {
        let (a, b) = (fours[2 * i], fours[2 * i + 1]);
        _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b))
    });
    // The same pairs as in sixteen reductions one by one, with half of their shuffles and a quarter of their additions.
    let [a, b] = twos;
    let ones = _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b));
    // The sums of registers 4a + b now lie in lane 4b + a.
    let reduction = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_permutexvar_ps(reduction, ones)
}

/// In both products below, a sum runs in `CHAINS` chains of sixteen lanes each.
///
/// Scores of `R` queries with the first `n_seen` keys: `scores` holds a row of `n_scores` per query. Scores up to the
/// next multiple of sixteen are written too; those of `skip` (whole steps) are not.
///
/// # Safety
/// The processor has AVX-512 F. `keys` has `n_seen` rows, `stride` halves apart; the queries have a multiple of 64
/// elements.
#[target_feature(enable = "avx512f")]
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
    debug_assert!(scores.len() == R * n_scores && n_seen.next_multiple_of(LANES) <= n_scores);
    // SAFETY: rows beyond the last key read the last key again; all else lies inside as the caller promised.
    unsafe {
        for first in (0..n_seen).step_by(LANES).filter(|first| !skip.iter().any(|skip| skip.contains(first))) {
            // Sixteen keys, each summed up in a register of its own; their lanes are joined for all sixteen in one go.
            // Not filled with zeros first: every lane is written below.
            let mut totals: [[MaybeUninit<__m512>; LANES]; R] = [[const { MaybeUninit::uninit() }; LANES]; R];
            for lane in 0..LANES {
                let key = keys.add((first + lane).min(n_seen - 1) * stride);
                let mut parts = [[_mm512_setzero_ps(); CHAINS]; R];
                for step in (0..head).step_by(STEP) {
                    for j in 0..4 {
                        let at = step + j * LANES;
                        // Made floats once for all rows.
                        let k = halves(key.add(at));
                        for r in 0..R {
                            let q = _mm512_loadu_ps(queries.as_ptr().add(r * head + at));
                            let part = &mut parts[r][j % CHAINS];
                            *part = _mm512_fmadd_ps(q, k, *part);
                        }
                    }
                }
                for r in 0..R {
                    totals[r][lane].write(join(&parts[r]));
                }
            }
            for r in 0..R {
                _mm512_storeu_ps(scores.as_mut_ptr().add(r * n_scores + first), sums(&*totals[r].as_ptr().cast()));
            }
        }
    }
}

/// Sums of the first `n_weights` (a multiple of 64) values of every column, weighted; `mixed(r, d, sums)` gets those of
/// sixteen columns from `d` on. Weights of `skip` (whole steps) are zero and not looked at.
///
/// # Safety
/// The processor has AVX-512 F. `values` has `n_columns` columns (a multiple of sixteen) of at least `n_weights`
/// halves, `stride` halves apart.
#[target_feature(enable = "avx512f")]
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
    // SAFETY: everything lies inside as the caller promised.
    unsafe {
        for d in (0..n_columns).step_by(LANES) {
            let mut totals: [[MaybeUninit<__m512>; LANES]; R] = [[const { MaybeUninit::uninit() }; LANES]; R];
            for lane in 0..LANES {
                let column = values.add((d + lane) * stride);
                let mut parts = [[_mm512_setzero_ps(); CHAINS]; R];
                for step in (0..n_weights).step_by(STEP).filter(|step| !skip.iter().any(|skip| skip.contains(step))) {
                    for j in 0..4 {
                        let at = step + j * LANES;
                        let v = halves(column.add(at));
                        for r in 0..R {
                            let w = _mm512_loadu_ps(weights.as_ptr().add(r * n_weights + at));
                            let part = &mut parts[r][j % CHAINS];
                            *part = _mm512_fmadd_ps(w, v, *part);
                        }
                    }
                }
                for r in 0..R {
                    totals[r][lane].write(join(&parts[r]));
                }
            }
            for r in 0..R {
                let mut out = [0.0; LANES];
                _mm512_storeu_ps(out.as_mut_ptr(), sums(&*totals[r].as_ptr().cast()));
                mixed(r, d, &out);
            }
        }
    }
}
