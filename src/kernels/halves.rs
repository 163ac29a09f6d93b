//! Numbers of f16 as floats, a register at a time.

use std::arch::x86_64::*;

/// Eight numbers.
///
/// # Safety
/// The processor has AVX2, FMA and F16C, and eight numbers lie at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn eight(at: *const u16) -> __m256 {
    // SAFETY: eight halves lie there.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
}

/// Sixteen numbers.
///
/// # Safety
/// The processor has AVX-512 F, and sixteen numbers lie at `at`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn sixteen(at: *const u16) -> __m512 {
    // SAFETY: sixteen halves lie there.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}
