//! `iq4_nl`: blocks of 32 columns, `w = d * v` with quants of 4 bits that name values of a table.

use super::Format;
use crate::dtype::DType;
use crate::kernels::packed::blocks::{Blocks, Zero};
use crate::kernels::packed::fields::Field;
use crate::kernels::packed::lanes::{Lanes, Lines, nibbles};

pub(super) static FORMAT: Format = Format::of_blocks::<Iq4Nl>(DType::IQ4_NL);

struct Iq4Nl;

/// The values, signed: closer together around zero, where weights are (llama.cpp's `kvalues_iq4nl`).
pub(super) static VALUES: [u8; 16] = {
    let values: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    // Bytes of registers have no sign.
    let (mut bytes, mut i) = ([0; 16], 0);
    while i < 16 {
        bytes[i] = values[i].cast_unsigned();
        i += 1;
    }
    bytes
};

impl Blocks for Iq4Nl {
    const FIELDS: &'static [Field] = &[Field::quants(2, 16), Field::half(0)];
    const MAX: u8 = 127;
    const ZERO: Zero = Zero::Signed;

    #[inline(always)]
    fn quants<R: Lanes>(lines: Lines<R>) -> [R; 8] {
        nibbles(lines).map(|quants| quants.lookup(&VALUES))
    }
}
