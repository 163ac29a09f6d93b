//! `q5_0`: blocks of 32 columns, `w = d * (q - 16)` with quants of 5 bits.

use super::Format;
use crate::dtype::DType;
use crate::kernels::packed::blocks::{Blocks, Zero};
use crate::kernels::packed::fields::Field;
use crate::kernels::packed::lanes::{Lanes, Lines, five_bits};

pub(super) static FORMAT: Format = Format::of_blocks::<Q50>(DType::Q5_0);

struct Q50;

impl Blocks for Q50 {
    const FIELDS: &'static [Field] = &[Field::quants(6, 16), Field::fifth_bits(2), Field::half(0)];
    const MAX: u8 = 31;
    const ZERO: Zero = Zero::Offset(16);

    #[inline(always)]
    fn quants<R: Lanes>(lines: Lines<R>) -> [R; 8] {
        five_bits(lines)
    }
}
