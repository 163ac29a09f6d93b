//! Owns what formats need of registers to make a byte of each weight, whatever the instructions: so a format is written once.

use std::marker::PhantomData;

/// A register of bytes: of each of so many output rows the weights of four columns, or one byte of each.
///
/// A value exists only where the processor has the register's instructions. [`Lanes::load`], which makes the first, is unsafe for
/// that; the rest is not.
pub(super) trait Lanes: Copy {
    /// The bytes at an address.
    ///
    /// # Safety
    /// The processor has the instructions, and as many bytes as the register holds lie there.
    unsafe fn load(at: *const u8) -> Self;

    /// Of each byte the bits from `SHIFT` on, and of those what `mask` leaves. Registers shift pairs of bytes, so the mask must clear
    /// the `SHIFT` highest bits, into which a neighbour's bits come.
    fn bits<const SHIFT: u32>(self, mask: u8) -> Self;

    /// Each byte moved up by `SHIFT` bits, and of it what `mask` leaves, which must clear the `SHIFT` lowest bits.
    fn up<const SHIFT: u32>(self, mask: u8) -> Self;

    /// The bits of both.
    fn or(self, other: Self) -> Self;

    /// What a table says of each byte; all bytes are below 16.
    fn lookup(self, table: &[u8; 16]) -> Self;
}

/// Lines of bytes one after the other, of which each fills a register from its first byte or from further on.
#[derive(Clone, Copy)]
pub(super) struct Lines<R> {
    at: *const u8,
    line: usize,
    register: PhantomData<R>,
}

impl<R: Lanes> Lines<R> {
    /// Lines of `line` bytes from an address on.
    ///
    /// # Safety
    /// The processor has the register's instructions. As many lines lie there as will be loaded, each with the bytes of a register.
    #[inline(always)]
    pub(super) unsafe fn new(at: *const u8, line: usize) -> Lines<R> {
        Lines { at, line, register: PhantomData }
    }

    /// Line `i`.
    #[inline(always)]
    pub(super) fn load(self, i: usize) -> R {
        // SAFETY: as promised by who made it.
        unsafe { R::load(self.at.add(i * self.line)) }
    }
}

/// The four-bit weights of a block of 32 columns: byte i of the file holds column i in its low half and column i + 16 in its high half.
#[inline(always)]
pub(super) fn nibbles<R: Lanes>(lines: Lines<R>) -> [R; 8] {
    let [a, b, c, d] = [lines.load(0), lines.load(1), lines.load(2), lines.load(3)];
    let low = [a.bits::<0>(15), b.bits::<0>(15), c.bits::<0>(15), d.bits::<0>(15)];
    let high = [a.bits::<4>(15), b.bits::<4>(15), c.bits::<4>(15), d.bits::<4>(15)];
    [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]
}

/// The five-bit weights of a block of 32 columns: four bits each as in [`nibbles`], and the fifth in a line of its own.
#[inline(always)]
pub(super) fn five_bits<R: Lanes>(lines: Lines<R>) -> [R; 8] {
    let ([a, b, c, d, e, f, g, h], fifth) = (nibbles(lines), lines.load(4));
    [
        a.or(fifth.up::<4>(16)),
        b.or(fifth.up::<3>(16)),
        c.or(fifth.up::<2>(16)),
        d.or(fifth.up::<1>(16)),
        e.or(fifth.bits::<0>(16)),
        f.or(fifth.bits::<1>(16)),
        g.or(fifth.bits::<2>(16)),
        h.or(fifth.bits::<3>(16)),
    ]
}
