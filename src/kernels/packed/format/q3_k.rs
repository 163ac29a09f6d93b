//! `q3_K`: super-blocks of 256 columns in 16 parts, quants of 3 bits, scales of 6.

use super::Format;
use crate::dtype::DType;
use crate::kernels::packed::fields::Field;
use crate::kernels::packed::lanes::{Lanes, Lines};
use crate::kernels::packed::super_blocks::{SuperBlocks, Zero};

pub(super) static FORMAT: Format = Format::of_super_blocks::<Q3K>(DType::Q3_K);

struct Q3K;

impl SuperBlocks for Q3K {
    const FIELDS: &'static [Field] =
        &[Field::quants(32, 64), Field::quants(0, 32), Field::bytes(96, 12), Field::half(108)];
    const PARTS: usize = 16;
    const MAX: u8 = 7;
    const BIAS: i8 = 32;
    const ZERO: Zero = Zero::Offset(4);

    #[inline(always)]
    fn quants<R: Lanes>(lines: Lines<R>, quants: &mut [R; 64]) {
        for c in 0..8 {
            // The third bits of eight parts, of which four lie in the first half of the columns.
            let third = lines.load(16 + c);
            let first = [third.up::<2>(4), third.up::<1>(4), third.bits::<0>(4), third.bits::<1>(4)];
            let second = [third.bits::<2>(4), third.bits::<3>(4), third.bits::<4>(4), third.bits::<5>(4)];
            for (n, third) in [(0, first), (1, second)] {
                let w = lines.load(8 * n + c);
                quants[32 * n + c] = w.bits::<0>(3).or(third[0]);
                quants[32 * n + 8 + c] = w.bits::<2>(3).or(third[1]);
                quants[32 * n + 16 + c] = w.bits::<4>(3).or(third[2]);
                quants[32 * n + 24 + c] = w.bits::<6>(3).or(third[3]);
            }
        }
    }

    #[inline(always)]
    fn scales<R: Lanes>(lines: Lines<R>, scales: &mut [R; 16], _minima: &mut [R; 16]) {
        for i in 0..4 {
            let (a, b, high) = (lines.load(i), lines.load(4 + i), lines.load(8 + i));
            // Four low bits from eight bytes, two high bits from four: parts i, i + 4, i + 8, i + 12.
            scales[i] = a.bits::<0>(15).or(high.up::<4>(48));
            scales[4 + i] = b.bits::<0>(15).or(high.up::<2>(48));
            scales[8 + i] = a.bits::<4>(15).or(high.bits::<0>(48));
            scales[12 + i] = b.bits::<4>(15).or(high.bits::<2>(48));
        }
    }
}
