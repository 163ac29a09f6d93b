//! Owns what kernels need of instructions that add the products of four bytes to a sum of 32 bits (VNNI), whatever the width of their
//! registers: so the kernels are written once, and run in tests on any processor.

use super::lanes::Lanes;

/// Registers with such sums, one of each of [`Dots::ROWS`] output rows.
///
/// Values exist only where the processor has the instructions, as [`Lanes`] has it; so its methods are called by kernels alone.
pub(super) trait Dots: Lanes {
    /// Output rows side by side.
    const ROWS: usize;

    /// An i32 of each row.
    type Ints: Copy;

    /// An f32 of each row.
    type Floats: Copy;

    /// A byte of each of sixteen rows.
    type Bytes: Lanes;

    /// The same number for every row.
    fn ints(x: i32) -> Self::Ints;

    /// `sums` and the products of four weights without sign with four signed activations, which lie in an i32.
    fn dot(sums: Self::Ints, weights: Self, four: i32) -> Self::Ints;

    /// `sums` and the products of two i16 of each row with two i16, which lie in an i32.
    fn dot_pairs(sums: Self::Ints, pairs: Self, two: i32) -> Self::Ints;

    /// `sums + x * scale`
    fn add_scaled(sums: Self::Ints, x: Self::Ints, scale: Self::Ints) -> Self::Ints;

    /// `a - b`
    fn sub(a: Self::Ints, b: Self::Ints) -> Self::Ints;

    /// Signed bytes, 128 added to each to make it unsigned.
    fn raised(self) -> Self;

    /// Signed bytes of the rows from `first` on, less `bias`, as i32.
    fn widen(bytes: Self::Bytes, bias: i8, first: usize) -> Self::Ints;

    /// Of each row from `first` on two i16: `(a - bias) * factor` and `(b - bias) * factor`.
    fn pairs(a: Self::Bytes, b: Self::Bytes, bias: i8, factor: i16, first: usize) -> Self;

    /// An f16 of each row.
    ///
    /// # Safety
    /// They lie at the address.
    unsafe fn halves(at: *const u8) -> Self::Floats;

    /// A power of two of each row, by its exponent as the type e8m0 stores it, halved.
    ///
    /// # Safety
    /// A byte of each row lies at the address.
    unsafe fn exponents(at: *const u8) -> Self::Floats;

    /// An f32 of each row.
    ///
    /// # Safety
    /// They lie at the address.
    unsafe fn floats(at: *const f32) -> Self::Floats;

    /// Writes an f32 of each row.
    ///
    /// # Safety
    /// There is room for them at the address.
    unsafe fn store(x: Self::Floats, at: *mut f32);

    /// `a * x`
    fn times(a: Self::Floats, x: f32) -> Self::Floats;

    /// The same number for every row.
    fn splat(x: f32) -> Self::Floats;

    /// `a * b + c`, rounded once
    fn mul_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// `c - a * b`, rounded once
    fn sub_mul(c: Self::Floats, a: Self::Floats, b: Self::Floats) -> Self::Floats;

    /// Whole numbers as f32.
    fn to_floats(x: Self::Ints) -> Self::Floats;
}
