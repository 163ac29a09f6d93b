//! `q2_K`: super-blocks of 256 columns in 16 parts, quants of 2 bits, scales and minima of 4.

use super::Format;
use crate::dtype::DType;
use crate::kernels::packed::fields::Field;
use crate::kernels::packed::lanes::{Lanes, Lines};
use crate::kernels::packed::super_blocks::{SuperBlocks, Zero};

pub(super) static FORMAT: Format = Format::of_super_blocks::<Q2K>(DType::Q2_K);

struct Q2K;

impl SuperBlocks for Q2K {
    const FIELDS: &'static [Field] = &[Field::quants(16, 64), Field::bytes(0, 16), Field::half(80), Field::half(82)];
    const PARTS: usize = 16;
    const MAX: u8 = 3;
    const ZERO: Zero = Zero::Minima;

    #[inline(always)]
    fn quants<R: Lanes>(lines: Lines<R>, quants: &mut [R; 64]) {
        // A byte holds one column of each of four parts that are 32 columns apart.
        for n in 0..2 {
            for c in 0..8 {
                let w = lines.load(8 * n + c);
                quants[32 * n + c] = w.bits::<0>(3);
                quants[32 * n + 8 + c] = w.bits::<2>(3);
                quants[32 * n + 16 + c] = w.bits::<4>(3);
                quants[32 * n + 24 + c] = w.bits::<6>(3);
            }
        }
    }

    #[inline(always)]
    fn scales<R: Lanes>(lines: Lines<R>, scales: &mut [R; 16], minima: &mut [R; 16]) {
        for part in 0..16 {
            scales[part] = lines.load(part).bits::<0>(15);
            minima[part] = lines.load(part).bits::<4>(15);
        }
    }
}
