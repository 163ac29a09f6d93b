//! `iq4_xs`: super-blocks of 256 columns in 8 parts, quants of 4 bits that name values of a table, scales of 6.

use super::Format;
use super::iq4_nl::VALUES;
use crate::dtype::DType;
use crate::kernels::packed::fields::Field;
use crate::kernels::packed::lanes::{Lanes, Lines};
use crate::kernels::packed::super_blocks::{SuperBlocks, Zero};

pub(super) static FORMAT: Format = Format::of_super_blocks::<Iq4Xs>(DType::IQ4_XS);

struct Iq4Xs;

impl SuperBlocks for Iq4Xs {
    const FIELDS: &'static [Field] = &[Field::quants(8, 128), Field::bytes(4, 4), Field::bytes(2, 2), Field::half(0)];
    const PARTS: usize = 8;
    const MAX: u8 = 127;
    const BIAS: i8 = 32;
    const ZERO: Zero = Zero::Signed;

    #[inline(always)]
    fn quants<R: Lanes>(lines: Lines<R>, quants: &mut [R; 64]) {
        for part in 0..8 {
            for c in 0..4 {
                let w = lines.load(4 * part + c);
                quants[8 * part + c] = w.bits::<0>(15).lookup(&VALUES);
                quants[8 * part + 4 + c] = w.bits::<4>(15).lookup(&VALUES);
            }
        }
    }

    #[inline(always)]
    fn scales<R: Lanes>(lines: Lines<R>, scales: &mut [R; 16], _minima: &mut [R; 16]) {
        for n in 0..2 {
            let (a, b, high) = (lines.load(2 * n), lines.load(2 * n + 1), lines.load(4 + n));
            scales[4 * n] = a.bits::<0>(15).or(high.up::<4>(48));
            scales[4 * n + 1] = a.bits::<4>(15).or(high.up::<2>(48));
            scales[4 * n + 2] = b.bits::<0>(15).or(high.bits::<0>(48));
            scales[4 * n + 3] = b.bits::<4>(15).or(high.bits::<2>(48));
        }
    }
}
