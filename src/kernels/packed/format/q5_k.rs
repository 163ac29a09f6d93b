//! `q5_K`: super-blocks of 256 columns in 8 parts, quants of 5 bits, scales and minima of 6.

use super::Format;
use super::six_bits::six_bits;
use crate::dtype::DType;
use crate::kernels::packed::fields::Field;
use crate::kernels::packed::lanes::{Lanes, Lines};
use crate::kernels::packed::super_blocks::{SuperBlocks, Zero};

pub(super) static FORMAT: Format = Format::of_super_blocks::<Q5K>(DType::Q5_K);

struct Q5K;

impl SuperBlocks for Q5K {
    const FIELDS: &'static [Field] =
        &[Field::quants(48, 128), Field::quants(16, 32), Field::bytes(4, 12), Field::half(0), Field::half(2)];
    const PARTS: usize = 8;
    const MAX: u8 = 31;
    const ZERO: Zero = Zero::Minima;

    #[inline(always)]
    fn quants<R: Lanes>(lines: Lines<R>, quants: &mut [R; 64]) {
        for c in 0..8 {
            // Bit i of a byte is the fifth of part i.
            let fifth = lines.load(32 + c);
            let even = [fifth.up::<4>(16), fifth.up::<2>(16), fifth.bits::<0>(16), fifth.bits::<2>(16)];
            let odd = [fifth.up::<3>(16), fifth.up::<1>(16), fifth.bits::<1>(16), fifth.bits::<3>(16)];
            for k in 0..4 {
                let w = lines.load(8 * k + c);
                quants[16 * k + c] = w.bits::<0>(15).or(even[k]);
                quants[16 * k + 8 + c] = w.bits::<4>(15).or(odd[k]);
            }
        }
    }

    #[inline(always)]
    fn scales<R: Lanes>(lines: Lines<R>, scales: &mut [R; 16], minima: &mut [R; 16]) {
        six_bits(lines, scales, minima);
    }
}
