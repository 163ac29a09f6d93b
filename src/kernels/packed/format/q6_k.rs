//! `q6_K`: super-blocks of 256 columns in 16 parts, quants of 6 bits, scales of 8.

use super::Format;
use crate::dtype::DType;
use crate::kernels::packed::fields::Field;
use crate::kernels::packed::lanes::{Lanes, Lines};
use crate::kernels::packed::super_blocks::{SuperBlocks, Zero};

pub(super) static FORMAT: Format = Format::of_super_blocks::<Q6K>(DType::Q6_K);

struct Q6K;

impl SuperBlocks for Q6K {
    const FIELDS: &'static [Field] =
        &[Field::quants(0, 128), Field::quants(128, 64), Field::bytes(192, 16), Field::half(208)];
    const PARTS: usize = 16;
    const MAX: u8 = 63;
    const ZERO: Zero = Zero::Offset(32);

    #[inline(always)]
    fn quants<R: Lanes>(lines: Lines<R>, quants: &mut [R; 64]) {
        for n in 0..2 {
            for c in 0..8 {
                // Two bytes hold the low halves of four columns that are 32 apart, a third their high bits.
                let (a, b, high) = (lines.load(16 * n + c), lines.load(16 * n + 8 + c), lines.load(32 + 8 * n + c));
                quants[32 * n + c] = a.bits::<0>(15).or(high.up::<4>(48));
                quants[32 * n + 8 + c] = b.bits::<0>(15).or(high.up::<2>(48));
                quants[32 * n + 16 + c] = a.bits::<4>(15).or(high.bits::<0>(48));
                quants[32 * n + 24 + c] = b.bits::<4>(15).or(high.bits::<2>(48));
            }
        }
    }

    #[inline(always)]
    fn scales<R: Lanes>(lines: Lines<R>, scales: &mut [R; 16], _minima: &mut [R; 16]) {
        for (part, scale) in scales.iter_mut().enumerate() {
            *scale = lines.load(part);
        }
    }
}
