//! Kernels with instructions that add four products of bytes to a sum (VNNI): of AVX-512, and of AVX-VNNI, which processors without
//! AVX-512 have.

use std::arch::x86_64::*;

use super::lanes::{Bytes, Eight, Sixteen};
use crate::kernels::packed::blocks::{self, Blocks};
use crate::kernels::packed::dots::Dots;
use crate::kernels::packed::super_blocks::{self, SuperBlocks};
use crate::kernels::packed::{GROUP, Group, Rows};

/// Rows of activations at once: sums of so many, with the weights, fill the registers.
const TILE_512: usize = 8;

/// The same with half as many registers.
const TILE_256: usize = 4;

/// # Safety
/// As for [`super_blocks::multiply`], with AVX-512 and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(in crate::kernels::packed) unsafe fn super_blocks_512<F: SuperBlocks>(
    group: Group<'_>,
    rows: Rows<'_>,
    products: &mut [[f32; GROUP]],
) {
    // SAFETY: as promised by the caller.
    unsafe { super_blocks::multiply::<F, Sixteen, TILE_512>(group, rows, products) }
}

/// # Safety
/// As for [`super_blocks::multiply`], with AVX-VNNI.
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
pub(in crate::kernels::packed) unsafe fn super_blocks_256<F: SuperBlocks>(
    group: Group<'_>,
    rows: Rows<'_>,
    products: &mut [[f32; GROUP]],
) {
    // SAFETY: as promised by the caller.
    unsafe { super_blocks::multiply::<F, Eight, TILE_256>(group, rows, products) }
}

/// # Safety
/// As for [`blocks::multiply`], with AVX-512 and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(in crate::kernels::packed) unsafe fn blocks_512<F: Blocks>(
    group: Group<'_>,
    rows: Rows<'_>,
    products: &mut [[f32; GROUP]],
) {
    // SAFETY: as promised by the caller.
    unsafe { blocks::multiply::<F, Sixteen>(group, rows, products) }
}

/// # Safety
/// As for [`blocks::multiply`], with AVX-VNNI.
#[target_feature(enable = "avxvnni,avx2,fma,f16c")]
pub(in crate::kernels::packed) unsafe fn blocks_256<F: Blocks>(
    group: Group<'_>,
    rows: Rows<'_>,
    products: &mut [[f32; GROUP]],
) {
    // SAFETY: as promised by the caller.
    unsafe { blocks::multiply::<F, Eight>(group, rows, products) }
}

macro_rules! dots {
    (
        $register:ident, $rows:expr, $ints:ident, $floats:ident,
        { $($widths:tt)* }
        $splat:ident, $dot:ident, $dot_pairs:ident, $add:ident, $mul:ident, $sub:ident, $xor:ident, $splat_bytes:ident,
        $half:ident, $load:ident, $store:ident, $splat_float:ident, $times:ident, $fma:ident, $fnma:ident, $convert:ident
    ) => {
        // SAFETY of all that follows: registers exist only where their instructions do, and addresses are as the caller promised.
        impl Dots for $register {
            const ROWS: usize = $rows;
            type Ints = $ints;
            type Floats = $floats;
            type Bytes = Bytes;

            #[inline(always)]
            fn ints(x: i32) -> $ints {
                // SAFETY: as said at the top of the implementation.
                unsafe { $splat(x) }
            }

            #[inline(always)]
            fn dot(sums: $ints, weights: Self, four: i32) -> $ints {
                // SAFETY: as said at the top of the implementation.
                unsafe { $dot(sums, weights.0, $splat(four)) }
            }

            #[inline(always)]
            fn dot_pairs(sums: $ints, pairs: Self, two: i32) -> $ints {
                // SAFETY: as said at the top of the implementation.
                unsafe { $dot_pairs(sums, pairs.0, $splat(two)) }
            }

            #[inline(always)]
            fn add_scaled(sums: $ints, x: $ints, scale: $ints) -> $ints {
                // SAFETY: as said at the top of the implementation.
                unsafe { $add(sums, $mul(x, scale)) }
            }

            #[inline(always)]
            fn sub(a: $ints, b: $ints) -> $ints {
                // SAFETY: as said at the top of the implementation.
                unsafe { $sub(a, b) }
            }

            #[inline(always)]
            fn raised(self) -> Self {
                // Another highest bit is 128 more, or less, of a byte.
                // SAFETY: as said at the top of the implementation.
                $register(unsafe { $xor(self.0, $splat_bytes(i8::MIN)) })
            }

            $($widths)*

            #[inline(always)]
            unsafe fn halves(at: *const u8) -> $floats {
                // SAFETY: as said at the top of the implementation.
                unsafe { $half(at) }
            }

            #[inline(always)]
            unsafe fn floats(at: *const f32) -> $floats {
                // SAFETY: as said at the top of the implementation.
                unsafe { $load(at) }
            }

            #[inline(always)]
            unsafe fn store(x: $floats, at: *mut f32) {
                // SAFETY: as said at the top of the implementation.
                unsafe { $store(at, x) }
            }

            #[inline(always)]
            fn times(a: $floats, x: f32) -> $floats {
                // SAFETY: as said at the top of the implementation.
                unsafe { $times(a, $splat_float(x)) }
            }

            #[inline(always)]
            fn splat(x: f32) -> $floats {
                // SAFETY: as said at the top of the implementation.
                unsafe { $splat_float(x) }
            }

            #[inline(always)]
            fn mul_add(a: $floats, b: $floats, c: $floats) -> $floats {
                // SAFETY: as said at the top of the implementation.
                unsafe { $fma(a, b, c) }
            }

            #[inline(always)]
            fn sub_mul(c: $floats, a: $floats, b: $floats) -> $floats {
                // SAFETY: as said at the top of the implementation.
                unsafe { $fnma(a, b, c) }
            }

            #[inline(always)]
            fn to_floats(x: $ints) -> $floats {
                // SAFETY: as said at the top of the implementation.
                unsafe { $convert(x) }
            }
        }
    };
}

dots! {
    Sixteen, 16, __m512i, __m512,
    {
        #[inline(always)]
        fn widen(Bytes(bytes): Bytes, bias: i8, _: usize) -> __m512i {
            // SAFETY: as said at the top of the implementation.
            unsafe { _mm512_cvtepi8_epi32(_mm_sub_epi8(bytes, _mm_set1_epi8(bias))) }
        }

        #[inline(always)]
        fn pairs(Bytes(a): Bytes, Bytes(b): Bytes, bias: i8, factor: i16, _: usize) -> Sixteen {
            // SAFETY: as said at the top of the implementation.
            unsafe {
                let (low, high) = interleaved(a, b, bias);
                let both = _mm512_cvtepi8_epi16(_mm256_set_m128i(high, low));
                Sixteen(_mm512_mullo_epi16(both, _mm512_set1_epi16(factor)))
            }
        }

        #[inline(always)]
        unsafe fn exponents(at: *const u8) -> __m512 {
            // SAFETY: as said at the top of the implementation.
            unsafe {
                let e = _mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast()));
                let one = _mm512_set1_epi32(1);
                let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, one));
                // Halved, the two smallest powers have no exponent left: they are bits of the mantissa.
                let small = _mm512_sllv_epi32(_mm512_set1_epi32(1 << 21), e);
                _mm512_castsi512_ps(_mm512_mask_blend_epi32(_mm512_cmpgt_epi32_mask(e, one), small, normal))
            }
        }
    }
    _mm512_set1_epi32, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32, _mm512_add_epi32, _mm512_mullo_epi32, _mm512_sub_epi32, _mm512_xor_si512,
    _mm512_set1_epi8, sixteen_halves, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_mul_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps,
    _mm512_cvtepi32_ps
}

dots! {
    Eight, 8, __m256i, __m256,
    {
        #[inline(always)]
        fn widen(Bytes(bytes): Bytes, bias: i8, first: usize) -> __m256i {
            // SAFETY: as said at the top of the implementation.
            unsafe { _mm256_cvtepi8_epi32(_mm_sub_epi8(half_of(bytes, first), _mm_set1_epi8(bias))) }
        }

        #[inline(always)]
        fn pairs(Bytes(a): Bytes, Bytes(b): Bytes, bias: i8, factor: i16, first: usize) -> Eight {
            // SAFETY: as said at the top of the implementation.
            unsafe {
                let (low, high) = interleaved(a, b, bias);
                let both = _mm256_cvtepi8_epi16(if first == 0 { low } else { high });
                Eight(_mm256_mullo_epi16(both, _mm256_set1_epi16(factor)))
            }
        }

        #[inline(always)]
        unsafe fn exponents(at: *const u8) -> __m256 {
            // SAFETY: as said at the top of the implementation.
            unsafe { eight_exponents(at) }
        }
    }
    _mm256_set1_epi32, _mm256_dpbusd_avx_epi32, _mm256_dpwssd_avx_epi32, _mm256_add_epi32, _mm256_mullo_epi32, _mm256_sub_epi32,
    _mm256_xor_si256, _mm256_set1_epi8, eight_halves, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_mul_ps, _mm256_fmadd_ps,
    _mm256_fnmadd_ps, _mm256_cvtepi32_ps
}

/// # Safety
/// The processor has AVX-512, and sixteen halves lie at the address.
#[inline(always)]
unsafe fn sixteen_halves(at: *const u8) -> __m512 {
    // SAFETY: as promised by the caller.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

/// # Safety
/// The processor has F16C, and eight halves lie at the address.
#[inline(always)]
pub(super) unsafe fn eight_halves(at: *const u8) -> __m256 {
    // SAFETY: as promised by the caller.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
}

/// Halved powers of two by their exponents, as [`Dots::exponents`] says.
///
/// # Safety
/// The processor has AVX2, and eight bytes lie at the address.
#[inline(always)]
pub(super) unsafe fn eight_exponents(at: *const u8) -> __m256 {
    // SAFETY: as promised by the caller.
    unsafe {
        let e = _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast()));
        let one = _mm256_set1_epi32(1);
        let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, one));
        // Halved, the two smallest powers have no exponent left: they are bits of the mantissa.
        let small = _mm256_sllv_epi32(_mm256_set1_epi32(1 << 21), e);
        _mm256_castsi256_ps(_mm256_blendv_epi8(small, normal, _mm256_cmpgt_epi32(e, one)))
    }
}

/// Eight of sixteen bytes, from `first` (0 or 8) on.
///
/// # Safety
/// The processor has SSE2, as all of this kind do.
#[inline(always)]
pub(super) unsafe fn half_of(bytes: __m128i, first: usize) -> __m128i {
    // SAFETY: as promised by the caller.
    unsafe { if first == 0 { bytes } else { _mm_srli_si128::<8>(bytes) } }
}

/// A byte of `a` and one of `b` by turns, less `bias`: of the first eight rows, and of the last.
///
/// # Safety
/// As for [`half_of`].
#[inline(always)]
pub(super) unsafe fn interleaved(a: __m128i, b: __m128i, bias: i8) -> (__m128i, __m128i) {
    // SAFETY: as promised by the caller.
    unsafe {
        let bias = _mm_set1_epi8(bias);
        let (a, b) = (_mm_sub_epi8(a, bias), _mm_sub_epi8(b, bias));
        (_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b))
    }
}
