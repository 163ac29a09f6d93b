//! The scales and minima of 6 bits that `q4_K` and `q5_K` have: eight of each in twelve bytes.

use crate::kernels::packed::lanes::{Lanes, Lines};

/// The first four of both lie in the low bits of eight bytes; the others have four bits each in four more bytes, and their two high bits
/// where the first eight bytes have room.
#[inline(always)]
pub(super) fn six_bits<R: Lanes>(lines: Lines<R>, scales: &mut [R; 16], minima: &mut [R; 16]) {
    for i in 0..4 {
        let (a, b, c) = (lines.load(i), lines.load(4 + i), lines.load(8 + i));
        scales[i] = a.bits::<0>(63);
        minima[i] = b.bits::<0>(63);
        scales[4 + i] = c.bits::<0>(15).or(a.bits::<2>(48));
        minima[4 + i] = c.bits::<4>(15).or(b.bits::<2>(48));
    }
}
