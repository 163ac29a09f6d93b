//! Owns how blocks lie in a group where a group keeps what the file has: each field of a block for all sixteen rows, one after the other.
//!
//! So packed weights take no more memory than the file, and a format's layout is a list of fields.

use super::GROUP;

/// Bytes of a line of quants in a group: four columns of sixteen rows.
pub(super) const LINE: usize = 4 * GROUP;

/// A field of a block: where it lies in the file, its bytes, and how many of them stay together when sixteen rows are interleaved.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) at: usize,
    pub(super) len: usize,
    pub(super) unit: usize,
    /// Whether it is the fifth bits of 32 columns, which are moved to where columns of four find them.
    is_fifth_bits: bool,
}

impl Field {
    /// Quants: columns of four bytes.
    pub(super) const fn quants(at: usize, len: usize) -> Field {
        Field { at, len, unit: 4, is_fifth_bits: false }
    }

    /// The fifth bits of 32 columns, one after the other in four bytes.
    pub(super) const fn fifth_bits(at: usize) -> Field {
        Field { at, len: 4, unit: 4, is_fifth_bits: true }
    }

    /// Scales: byte by byte.
    pub(super) const fn bytes(at: usize, len: usize) -> Field {
        Field { at, len, unit: 1, is_fifth_bits: false }
    }

    /// A number of type f16.
    pub(super) const fn half(at: usize) -> Field {
        Field { at, len: 2, unit: 2, is_fifth_bits: false }
    }
}

/// Bytes that some fields take in a group, for one block.
pub(super) const fn group_bytes(fields: &[Field]) -> usize {
    let (mut bytes, mut i) = (0, 0);
    while i < fields.len() {
        bytes += fields[i].len * GROUP;
        i += 1;
    }
    bytes
}

/// Packs a row of blocks into its place among the sixteen rows of a group, field by field.
pub(super) fn pack_row(fields: &[Field], row: &[u8], r: usize, group: &mut [u8]) {
    let block_bytes: usize = fields.iter().map(|field| field.len).sum();
    for (block, place) in row.chunks_exact(block_bytes).zip(group.chunks_exact_mut(group_bytes(fields))) {
        let mut at = 0;
        for &Field { at: from, len, unit, is_fifth_bits } in fields {
            let (field, place) = (&block[from..][..len], &mut place[at..][..GROUP * len]);
            match unit {
                _ if is_fifth_bits => interleave::<4>(&spread_fifth_bits(field), r, place),
                // Lengths that the compiler knows: a file's worth of copies of any length takes seconds.
                4 => interleave::<4>(field, r, place),
                2 => interleave::<2>(field, r, place),
                _ => interleave::<1>(field, r, place),
            }
            at += GROUP * len;
        }
    }
}

/// Puts the bytes of one row, `UNIT` by `UNIT`, beside those of fifteen other rows.
///
/// Of quants four stay together: they are what the instructions for dot products of bytes add up in one lane, and sixteen lanes are
/// sixteen rows. So a register is filled by one load, and a lane holds sums of a single row.
pub(super) fn interleave<const UNIT: usize>(field: &[u8], r: usize, place: &mut [u8]) {
    for (unit, places) in field.as_chunks::<UNIT>().0.iter().zip(place.chunks_exact_mut(GROUP * UNIT)) {
        places[r * UNIT..][..UNIT].copy_from_slice(unit);
    }
}

/// The fifth bits of 32 columns in another order: bit c of byte k is column `4c + k`'s, so that one shift serves four columns.
fn spread_fifth_bits(bytes: &[u8]) -> [u8; 4] {
    let bits = bytes.iter().rev().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
    std::array::from_fn(|k| (0..8).fold(0, |byte, c| byte | ((bits >> (4 * c + k) & 1) as u8) << c))
}
