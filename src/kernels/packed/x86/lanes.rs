//! Registers of x86-64.

use std::arch::x86_64::*;

use crate::kernels::packed::lanes::Lanes;

/// Four bytes of each of eight rows; AVX2.
#[derive(Clone, Copy)]
pub(super) struct Eight(pub(super) __m256i);

/// Four bytes of each of sixteen rows; AVX-512 with BW.
#[derive(Clone, Copy)]
pub(super) struct Sixteen(pub(super) __m512i);

/// A byte of each of sixteen rows; SSSE3.
#[derive(Clone, Copy)]
pub(super) struct Bytes(pub(super) __m128i);

/// Shifts take the distance in a register: the compiler makes it part of the instruction, since it is known.
macro_rules! lanes {
    ($register:ident: $load:ident, $and:ident, $or:ident, $right:ident, $left:ident, $splat:ident, $shuffle:ident, $table:expr) => {
        impl Lanes for $register {
            #[inline(always)]
            unsafe fn load(at: *const u8) -> Self {
                // SAFETY: as promised by the caller.
                $register(unsafe { $load(at.cast()) })
            }

            #[inline(always)]
            fn bits<const SHIFT: u32>(self, mask: u8) -> Self {
                const { assert!(SHIFT < 8) };
                // SAFETY: a register exists only where its instructions do.
                unsafe {
                    let shifted = if SHIFT == 0 { self.0 } else { $right(self.0, _mm_cvtsi32_si128(SHIFT as i32)) };
                    $register($and(shifted, $splat(mask.cast_signed())))
                }
            }

            #[inline(always)]
            fn up<const SHIFT: u32>(self, mask: u8) -> Self {
                const { assert!(SHIFT < 8) };
                // SAFETY: as above.
                unsafe {
                    let shifted = $left(self.0, _mm_cvtsi32_si128(SHIFT as i32));
                    $register($and(shifted, $splat(mask.cast_signed())))
                }
            }

            #[inline(always)]
            fn or(self, other: Self) -> Self {
                // SAFETY: as above.
                $register(unsafe { $or(self.0, other.0) })
            }

            #[inline(always)]
            fn lookup(self, table: &[u8; 16]) -> Self {
                // SAFETY: as above; the table has sixteen bytes. Registers look up within each sixteen bytes, so each gets the table.
                $register(unsafe { $shuffle($table(_mm_loadu_si128(table.as_ptr().cast())), self.0) })
            }
        }
    };
}

lanes!(Eight: _mm256_loadu_si256, _mm256_and_si256, _mm256_or_si256, _mm256_srl_epi16, _mm256_sll_epi16, _mm256_set1_epi8, _mm256_shuffle_epi8, _mm256_broadcastsi128_si256);
lanes!(Sixteen: _mm512_loadu_si512, _mm512_and_si512, _mm512_or_si512, _mm512_srl_epi16, _mm512_sll_epi16, _mm512_set1_epi8, _mm512_shuffle_epi8, _mm512_broadcast_i32x4);
lanes!(Bytes: _mm_loadu_si128, _mm_and_si128, _mm_or_si128, _mm_srl_epi16, _mm_sll_epi16, _mm_set1_epi8, _mm_shuffle_epi8, std::convert::identity);
