//! `mxfp4`: blocks of 32 columns, `w = 2^e * v` with quants of 4 bits that are small floats, of two exponent bits and one of mantissa.

use super::Format;
use crate::dtype::DType;
use crate::kernels::packed::blocks::{Blocks, Scale, Zero};
use crate::kernels::packed::fields::Field;
use crate::kernels::packed::lanes::{Lanes, Lines, nibbles};

pub(super) static FORMAT: Format = Format::of_blocks::<Mxfp4>(DType::MXFP4);

struct Mxfp4;

/// What is added to the values, to make them unsigned.
const ZERO: u8 = 12;

/// Twice the floats 0, 0.5, 1, 1.5, 2, 3, 4, 6 and, from the ninth on, their negatives, with [`ZERO`] added; the scale is half as large
/// therefore (OCP Microscaling Formats, MXFP4).
static VALUES: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

impl Blocks for Mxfp4 {
    const FIELDS: &'static [Field] = &[Field::quants(1, 16), Field::bytes(0, 1)];
    const MAX: u8 = 24;
    const ZERO: Zero = Zero::Offset(ZERO as i32);
    const SCALE: Scale = Scale::Exponent;

    #[inline(always)]
    fn quants<R: Lanes>(lines: Lines<R>) -> [R; 8] {
        nibbles(lines).map(|quants| quants.lookup(&VALUES))
    }
}
