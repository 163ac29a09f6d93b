//! Owns the kernel for super-blocks: 256 columns that share one or two scales, and within them 8 or 16 parts with a scale of a few bits
//! each. `w = d * scale * q - dmin * minimum`.
//!
//! Of a super-block everything but the last step is whole numbers: the products of a part are added up, multiplied by its scale, and
//! added to those of the other parts. So any order gives the same bits, and only the sum over super-blocks has an order: from the
//! first to the last, as in every kernel here.
//!
//! In a group a super-block keeps the fields that it has in the file, each for all sixteen rows: quants in columns of four bytes,
//! scales byte by byte, halves. So packed weights take no more memory than the file, whatever its bits are.
#![allow(clippy::needless_range_loop)] // one index goes through several arrays of registers

use super::dots::Dots;
use super::fields::{Field, LINE, group_bytes};
use super::lanes::{Lanes, Lines};
use super::{GROUP, Group, Rows, fetch_ahead};

/// Columns of a super-block.
pub(super) const COLUMNS: usize = 256;

/// A format of super-blocks. Its fields stand in this order: quants, scales, `d`, and `dmin` where there is one.
pub(super) trait SuperBlocks {
    /// In the order in which they lie in a group.
    const FIELDS: &'static [Field];

    /// Parts of a super-block.
    const PARTS: usize;

    /// The largest quant, or the largest without its sign.
    const MAX: u8;

    /// What is taken off every scale, and off every minimum.
    const BIAS: i8 = 0;

    /// What becomes of the quants' zero.
    const ZERO: Zero;

    /// A byte of each weight: 64 columns of four, from the lines of quants.
    fn quants<R: Lanes>(lines: Lines<R>, quants: &mut [R; COLUMNS / 4]);

    /// The parts' scales, and with [`Zero::Minima`] their minima, from the lines of scales.
    fn scales<R: Lanes>(lines: Lines<R>, scales: &mut [R; 16], minima: &mut [R; 16]);
}

/// What a quant of 0 stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Zero {
    /// Minus a minimum of the part times the super-block's second scale.
    Minima,
    /// Minus this number times the part's scale: quants were made unsigned by adding it.
    Offset(i16),
    /// Zero: quants are signed.
    Signed,
}

/// Where the parts of a super-block of a group begin.
pub(super) struct Layout<F>(std::marker::PhantomData<F>);

impl<F: SuperBlocks> Layout<F> {
    /// Fields after the scales.
    const HALVES: usize = if matches!(F::ZERO, Zero::Minima) { 2 } else { 1 };

    /// Of a super-block.
    pub(super) const BYTES: usize = group_bytes(F::FIELDS);

    /// Of the first scale's line.
    pub(super) const SCALES: usize = Self::quants();

    /// Of `d`.
    pub(super) const D: usize = Self::BYTES - Self::HALVES * 2 * GROUP;

    /// Of `dmin`; with another zero it is `d`'s.
    pub(super) const DMIN: usize = Self::BYTES - 2 * GROUP;

    const fn quants() -> usize {
        let (mut bytes, mut i) = (0, 0);
        while F::FIELDS[i].unit == 4 {
            bytes += F::FIELDS[i].len * GROUP;
            i += 1;
        }
        bytes
    }
}

/// A super-block of a prepared row, as ggml rounds it to q8_K: a scale, quants, and the sums of each sixteen of them; where there are
/// eight parts only, the first eight sums are those of the parts.
#[repr(C)]
pub(super) struct Activations {
    pub(super) d: f32,
    pub(super) quants: [i8; COLUMNS],
    pub(super) sums: [i16; 16],
}

/// Lays out a row of q8_K for weights of a format.
pub(super) fn prepare_row<F: SuperBlocks>(blocks: &[u8], row: &mut [u8]) {
    row.copy_from_slice(blocks);
    if F::PARTS == 16 {
        return;
    }
    for block in row.chunks_exact_mut(size_of::<Activations>()) {
        let sums = &mut block[size_of::<f32>() + COLUMNS..];
        let sum = |sums: &[u8], i: usize| i16::from_ne_bytes([sums[2 * i], sums[2 * i + 1]]);
        for part in 0..F::PARTS {
            let of_part = sum(sums, 2 * part) + sum(sums, 2 * part + 1);
            sums[2 * part..][..2].copy_from_slice(&of_part.to_ne_bytes());
        }
    }
}

/// Where super-block `ib` of the group begins, and of each row of a tile.
///
/// # Safety
/// The group and the rows have it.
#[inline(always)]
pub(super) unsafe fn activations<const T: usize>(rows: Rows<'_>, first: usize, ib: usize) -> [*const Activations; T] {
    // SAFETY: as promised by the caller.
    std::array::from_fn(|t| unsafe {
        rows.bytes.as_ptr().add((first + t) * rows.row_bytes).cast::<Activations>().add(ib)
    })
}

/// What rows are multiplied by: a super-block.
#[repr(C, align(64))]
struct Expanded<V: Dots> {
    /// Of as many rows as a register has.
    quants: [V; COLUMNS / 4],
    /// Of those rows, and of the others where there are some: of each two parts.
    minima: [[V; 8]; 2],
    /// Of either.
    scales: [[V::Ints; 16]; 2],
}

/// Multiplies a group by any number of prepared rows, `T` at a time, with instructions that add up four products of bytes.
///
/// A super-block is made into bytes once and multiplied by all rows, so that with many rows its bits cost next to nothing.
///
/// # Safety
/// The processor has the instructions; group and rows have the layouts of the format.
#[inline(always)]
pub(super) unsafe fn multiply<F: SuperBlocks, V: Dots, const T: usize>(
    group: Group<'_>,
    rows: Rows<'_>,
    products: &mut [[f32; GROUP]],
) {
    products.fill([0.0; GROUP]);
    // One for all super-blocks: to clear it for each would take as long as to fill it.
    // SAFETY: as promised by the caller; a group has a super-block.
    let mut expanded = unsafe { Expanded::<V>::new(group.bytes.as_ptr()) };
    for ib in 0..group.n_blocks {
        // SAFETY: as promised by the caller, and every super-block lies in the group and in each row.
        unsafe {
            let block = group.bytes.as_ptr().add(ib * Layout::<F>::BYTES);
            expand_scales::<F, V>(block, &mut expanded);
            for first in (0..GROUP).step_by(V::ROWS) {
                fetch_ahead(block, Layout::<F>::BYTES, first / V::ROWS, GROUP / V::ROWS);
                expand_quants::<F, V>(block, first, &mut expanded);
                let mut i = 0;
                while i + T <= products.len() {
                    let tile = activations::<T>(rows, i, ib);
                    multiply_tile::<F, V, T>(block, &expanded, first, tile, products.as_mut_ptr().add(i));
                    i += T;
                }
                while i < products.len() {
                    let tile = activations::<1>(rows, i, ib);
                    multiply_tile::<F, V, 1>(block, &expanded, first, tile, products.as_mut_ptr().add(i));
                    i += 1;
                }
            }
        }
    }
}

impl<V: Dots> Expanded<V> {
    /// With any bytes in it.
    ///
    /// # Safety
    /// The processor has the instructions, and a register's bytes lie at the address.
    #[inline(always)]
    unsafe fn new(at: *const u8) -> Expanded<V> {
        // SAFETY: as promised by the caller.
        let any = unsafe { V::load(at) };
        Expanded { quants: [any; COLUMNS / 4], minima: [[any; 8]; 2], scales: [[V::ints(0); 16]; 2] }
    }
}

/// # Safety
/// As for [`multiply`]; the super-block begins at `block`.
#[inline(always)]
unsafe fn expand_quants<F: SuperBlocks, V: Dots>(block: *const u8, first: usize, expanded: &mut Expanded<V>) {
    // SAFETY: as promised by the caller: the lines lie where the layout says.
    F::quants(unsafe { Lines::new(block.add(4 * first), LINE) }, &mut expanded.quants);
    if F::ZERO == Zero::Signed {
        // These instructions take weights without sign: 128 is added here and taken off with the sums, as an offset is.
        expanded.quants.iter_mut().for_each(|quants| *quants = quants.raised());
    }
}

/// The scales and minima, of all sixteen rows at once.
///
/// # Safety
/// As for [`multiply`]; the super-block begins at `block`.
#[inline(always)]
unsafe fn expand_scales<F: SuperBlocks, V: Dots>(block: *const u8, expanded: &mut Expanded<V>) {
    // SAFETY: as promised by the caller: the lines lie where the layout says.
    let lines = unsafe { Lines::<V::Bytes>::new(block.add(Layout::<F>::SCALES), GROUP) };
    let (mut scales, mut minima) = ([lines.load(0); 16], [lines.load(0); 16]);
    F::scales(lines, &mut scales, &mut minima);
    let factor = match F::ZERO {
        Zero::Minima => 1,
        Zero::Offset(offset) => offset,
        Zero::Signed => 128,
    };
    if F::ZERO != Zero::Minima {
        minima = scales;
    }
    for (half, first) in (0..GROUP).step_by(V::ROWS).enumerate() {
        for part in 0..F::PARTS {
            expanded.scales[half][part] = V::widen(scales[part], F::BIAS, first);
        }
        for pair in 0..F::PARTS / 2 {
            let (a, b) = (minima[2 * pair], minima[2 * pair + 1]);
            expanded.minima[half][pair] = V::pairs(a, b, F::BIAS, factor, first);
        }
    }
}

/// Adds the products of a super-block with `T` rows to those of the super-blocks before it.
///
/// # Safety
/// As for [`expand_scales`]; there are `T` products.
#[inline(always)]
unsafe fn multiply_tile<F: SuperBlocks, V: Dots, const T: usize>(
    block: *const u8,
    expanded: &Expanded<V>,
    first: usize,
    tile: [*const Activations; T],
    products: *mut [f32; GROUP],
) {
    // SAFETY: as promised by the caller.
    unsafe {
        let (columns, half) = (COLUMNS / 4 / F::PARTS, first / V::ROWS);
        let (scales, minima_of) = (&expanded.scales[half], &expanded.minima[half]);
        let mut sums = [V::ints(0); T];
        for part in 0..F::PARTS {
            let mut of_part = [V::ints(0); T];
            for c in part * columns..(part + 1) * columns {
                // One load of weights for all rows; as many sums as rows, so that no instruction waits for the one before it.
                let weights = expanded.quants[c];
                for t in 0..T {
                    let four = (&raw const (*tile[t]).quants).cast::<i32>().add(c).read_unaligned();
                    of_part[t] = V::dot(of_part[t], weights, four);
                }
            }
            for t in 0..T {
                sums[t] = V::add_scaled(sums[t], of_part[t], scales[part]);
            }
        }
        let d = V::halves(block.add(Layout::<F>::D + 2 * first));
        let dmin = V::halves(block.add(Layout::<F>::DMIN + 2 * first));
        for t in 0..T {
            let mut minima = V::ints(0);
            for pair in 0..F::PARTS / 2 {
                let two = (&raw const (*tile[t]).sums).cast::<i32>().add(pair).read_unaligned();
                minima = V::dot_pairs(minima, minima_of[pair], two);
            }
            let (place, x) = ((*products.add(t)).as_mut_ptr().add(first), (*tile[t]).d);
            let before = V::floats(place);
            let after = match F::ZERO {
                Zero::Minima => {
                    let sum = V::mul_add(V::times(d, x), V::to_floats(sums[t]), before);
                    V::sub_mul(sum, V::times(dmin, x), V::to_floats(minima))
                }
                // In whole numbers, before anything is rounded.
                _ => V::mul_add(V::times(d, x), V::to_floats(V::sub(sums[t], minima)), before),
            };
            V::store(after, place);
        }
    }
}

/// The product of one row, computed by [`multiply`] with registers that are arrays.
#[cfg(test)]
pub(super) fn reference<F: SuperBlocks>(row: &[u8], activations: &[u8]) -> f32 {
    let n_blocks = activations.len() / size_of::<Activations>();
    let mut group = vec![0; n_blocks * Layout::<F>::BYTES];
    super::fields::pack_row(F::FIELDS, row, 0, &mut group);
    let mut prepared = vec![0; activations.len()];
    prepare_row::<F>(activations, &mut prepared);
    let mut products = [[0.0; GROUP]];
    let group = Group { bytes: &group, n_blocks, parts: &[Layout::<F>::BYTES] };
    let rows = Rows { bytes: &prepared, row_bytes: prepared.len(), n_blocks, parts: &[size_of::<Activations>()] };
    // SAFETY: arrays need no instructions; the layouts are the format's.
    unsafe { multiply::<F, super::plain::Plain, 1>(group, rows, &mut products) };
    products[0][0]
}
