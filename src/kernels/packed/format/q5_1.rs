//! `q5_1`: blocks of 32 columns, `w = d * q + m` with a scale, a minimum and quants of 5 bits.

use super::Format;
use crate::dtype::DType;
use crate::kernels::packed::blocks::{Blocks, Zero};
use crate::kernels::packed::fields::Field;
use crate::kernels::packed::lanes::{Lanes, Lines, five_bits};

pub(super) static FORMAT: Format = Format::of_blocks::<Q51>(DType::Q5_1);

struct Q51;

impl Blocks for Q51 {
    const FIELDS: &'static [Field] = &[Field::quants(8, 16), Field::fifth_bits(4), Field::half(0), Field::half(2)];
    const MAX: u8 = 31;
    const ZERO: Zero = Zero::Minimum;

    #[inline(always)]
    fn quants<R: Lanes>(lines: Lines<R>) -> [R; 8] {
        five_bits(lines)
    }
}
