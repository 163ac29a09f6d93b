//! `q4_K`: super-blocks of 256 columns in 8 parts, quants of 4 bits, scales and minima of 6.

use super::Format;
use super::six_bits::six_bits;
use crate::dtype::DType;
use crate::kernels::packed::fields::Field;
use crate::kernels::packed::lanes::{Lanes, Lines};
use crate::kernels::packed::super_blocks::{SuperBlocks, Zero};

pub(super) static FORMAT: Format = Format::of_super_blocks::<Q4K>(DType::Q4_K);

struct Q4K;

impl SuperBlocks for Q4K {
    const FIELDS: &'static [Field] = &[Field::quants(16, 128), Field::bytes(4, 12), Field::half(0), Field::half(2)];
    const PARTS: usize = 8;
    const MAX: u8 = 15;
    const ZERO: Zero = Zero::Minima;

    #[inline(always)]
    fn quants<R: Lanes>(lines: Lines<R>, quants: &mut [R; 64]) {
        // Two parts share bytes: one has the low halves, the next the high halves.
        for k in 0..4 {
            for c in 0..8 {
                let w = lines.load(8 * k + c);
                quants[16 * k + c] = w.bits::<0>(15);
                quants[16 * k + 8 + c] = w.bits::<4>(15);
            }
        }
    }

    #[inline(always)]
    fn scales<R: Lanes>(lines: Lines<R>, scales: &mut [R; 16], minima: &mut [R; 16]) {
        six_bits(lines, scales, minima);
    }
}
