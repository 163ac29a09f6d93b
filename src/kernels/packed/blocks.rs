//! Owns the kernel for blocks of 32 columns with a scale each: `w = d * (q - zero)` or `w = d * q + m`.
//!
//! The products of a block are added up in whole numbers, those of the blocks from the first to the last, in every kernel here.
//!
//! In a group a block keeps the fields that it has in the file, each for all sixteen rows, as in [`super::fields`].

use super::dots::Dots;
#[cfg(test)]
use super::fields::pack_row;
use super::fields::{Field, LINE, group_bytes};
use super::lanes::{Lanes, Lines};
use super::{GROUP, Group, Rows, activations, fetch_ahead};

/// Columns of a block.
pub(super) const COLUMNS: usize = 32;

/// A format of blocks. Its fields stand in this order: quants, then the scale, then the minimum where there is one.
pub(super) trait Blocks {
    /// In the order in which they lie in a group.
    const FIELDS: &'static [Field];

    /// The largest quant, or the largest without its sign.
    const MAX: u8;

    /// What becomes of the quants' zero.
    const ZERO: Zero;

    /// How the scale is stored.
    const SCALE: Scale = Scale::Half;

    /// A byte of each weight: eight columns of four, from the lines of quants.
    fn quants<R: Lanes>(lines: Lines<R>) -> [R; COLUMNS / 4];
}

/// What a quant of 0 stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    /// The block's minimum.
    Minimum,
    /// Minus this number times the scale: quants were made unsigned by adding it.
    Offset(i32),
    /// Zero: quants are signed.
    Signed,
}

/// How a scale is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// As f16.
    Half,
    /// As a power of two: its exponent, a byte (e8m0).
    Exponent,
}

/// Where the parts of a block of a group begin.
pub(super) struct Layout<F>(std::marker::PhantomData<F>);

impl<F: Blocks> Layout<F> {
    /// Of a block.
    pub(super) const BYTES: usize = group_bytes(F::FIELDS);

    /// Of the scale.
    pub(super) const D: usize = Self::BYTES - Self::last(if matches!(F::ZERO, Zero::Minimum) { 2 } else { 1 });

    /// Of the minimum; without one it is the scale's.
    pub(super) const M: usize = Self::BYTES - Self::last(1);

    /// Bytes of the last fields.
    const fn last(n: usize) -> usize {
        let (mut bytes, mut i) = (0, F::FIELDS.len() - n);
        while i < F::FIELDS.len() {
            bytes += F::FIELDS[i].len * GROUP;
            i += 1;
        }
        bytes
    }
}

/// What is added to quants to make them unsigned, by the file or, for instructions that need it, by us.
pub(super) const fn offset(zero: Zero) -> i32 {
    match zero {
        Zero::Minimum => 0,
        Zero::Offset(offset) => offset,
        Zero::Signed => 128,
    }
}

/// The parts of prepared rows: of each block quants, scale, and what a sum starts with (i32, minus the offset times the sum of the
/// quants) or what a minimum is multiplied by (f32).
#[derive(Clone, Copy)]
pub(super) struct Prepared {
    first: *const u8,
    row_bytes: usize,
    scales: usize,
    extra: usize,
}

impl Prepared {
    pub(super) fn new(rows: Rows<'_>) -> Prepared {
        let first = rows.bytes.as_ptr();
        Prepared { first, row_bytes: rows.row_bytes, scales: rows.offset(1), extra: rows.offset(2) }
    }

    /// Block `ib` of row `t`: where its quants begin, its scale, its third part.
    ///
    /// # Safety
    /// There are such a row and such a block.
    #[inline(always)]
    pub(super) unsafe fn block(self, t: usize, ib: usize) -> (*const i32, f32, [u8; 4]) {
        // SAFETY: as promised by the caller; the parts lie in the row one after the other.
        unsafe {
            let row = self.first.add(t * self.row_bytes);
            let scale = row.add(self.scales).cast::<f32>().add(ib).read_unaligned();
            let extra = row.add(self.extra).cast::<[u8; 4]>().add(ib).read();
            (row.add(ib * COLUMNS).cast(), scale, extra)
        }
    }
}

/// Multiplies a group by any number of prepared rows with instructions that add up four products of bytes.
///
/// # Safety
/// The processor has the instructions; group and rows have the layouts of the format.
#[inline(always)]
pub(super) unsafe fn multiply<F: Blocks, V: Dots>(group: Group<'_>, rows: Rows<'_>, products: &mut [[f32; GROUP]]) {
    let rows = Prepared::new(rows);
    products.fill([0.0; GROUP]);
    for ib in 0..group.n_blocks {
        // SAFETY: as promised by the caller, and every block lies in the group and in each row.
        unsafe {
            let block = group.bytes.as_ptr().add(ib * Layout::<F>::BYTES);
            for first in (0..GROUP).step_by(V::ROWS) {
                fetch_ahead(block, Layout::<F>::BYTES, first / V::ROWS, GROUP / V::ROWS);
                // A block of some rows fills eight registers, which stay where they are while the rows pass by.
                let mut weights = F::quants(Lines::<V>::new(block.add(4 * first), LINE));
                if F::ZERO == Zero::Signed {
                    weights = weights.map(V::raised);
                }
                let d = match F::SCALE {
                    Scale::Half => V::halves(block.add(Layout::<F>::D + 2 * first)),
                    Scale::Exponent => V::exponents(block.add(Layout::<F>::D + first)),
                };
                for (t, products) in products.iter_mut().enumerate() {
                    let (quants, scale, extra) = rows.block(t, ib);
                    let mut sum = V::ints(if F::ZERO == Zero::Minimum { 0 } else { i32::from_ne_bytes(extra) });
                    for (c, &weights) in weights.iter().enumerate() {
                        sum = V::dot(sum, weights, quants.add(c).read_unaligned());
                    }
                    let place = products.as_mut_ptr().add(first);
                    let mut total = V::mul_add(V::times(d, scale), V::to_floats(sum), V::floats(place));
                    if F::ZERO == Zero::Minimum {
                        let m = V::halves(block.add(Layout::<F>::M + 2 * first));
                        total = V::mul_add(m, V::splat(f32::from_ne_bytes(extra)), total);
                    }
                    V::store(total, place);
                }
            }
        }
    }
}

/// Lays out a rounded row of activations for a format.
pub(super) fn prepare_row<F: Blocks>(blocks: &[u8], row: &mut [u8]) {
    match F::ZERO {
        Zero::Minimum => activations::q8_1(blocks, row),
        _ => activations::q8_0::<1>(offset(F::ZERO), blocks, row),
    }
}

/// The product of one row, computed by [`multiply`] with registers that are arrays.
#[cfg(test)]
pub(super) fn reference<F: Blocks>(row: &[u8], rounded: &[u8]) -> f32 {
    let is_q8_1 = F::ZERO == Zero::Minimum;
    let (block_bytes, parts) =
        if is_q8_1 { (36, &activations::Q8_1_PARTS) } else { (34, const { &activations::q8_0_parts(1) }) };
    let n_blocks = rounded.len() / block_bytes;
    let (mut group, mut prepared) =
        (vec![0; n_blocks * Layout::<F>::BYTES], vec![0; n_blocks * parts.iter().sum::<usize>()]);
    pack_row(F::FIELDS, row, 0, &mut group);
    prepare_row::<F>(rounded, &mut prepared);
    let mut products = [[0.0; GROUP]];
    let group = Group { bytes: &group, n_blocks, parts: &[] };
    let rows = Rows { bytes: &prepared, row_bytes: prepared.len(), n_blocks, parts };
    // SAFETY: arrays need no instructions; the layouts are the format's.
    unsafe { multiply::<F, super::plain::Plain>(group, rows, &mut products) };
    products[0][0]
}
