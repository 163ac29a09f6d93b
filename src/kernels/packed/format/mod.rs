//! Weight formats that have kernels of our own. A format is a value: how its blocks are packed into groups, what
//! activations are rounded to and how prepared rows look, which kernels there are, and a plain computation that says
//! what they have to give.
//!
//! Another format is another file and its line in [`FORMATS`]. Nothing else asks for the type of a weight.

mod q4_0;
mod q4_1;
mod q8_0;

use super::level::Level;
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{GROUP, Group, Rows};
use crate::dtype::DType;

/// Every format, each in its file.
pub(super) static FORMATS: [&Format; 3] = [&q4_0::FORMAT, &q4_1::FORMAT, &q8_0::FORMAT];

/// A weight format. A block, or super-block, is what [`DType::block_len`] says: columns that are packed together.
///
/// Sixteen rows make a group. Each part of a block (quants, scales, minima) lies apart from the others: first that part
/// of all blocks of the group, then the next part of all blocks. Prepared rows of activations are laid out the same
/// way.
pub(super) struct Format {
    /// The type in files.
    pub(super) dtype: DType,
    /// Bytes of each part of a block in a group, of all sixteen rows.
    pub(super) group: &'static [usize],
    /// Packs a row of blocks into its place among the sixteen rows of a group, whose bytes are zero.
    pub(super) pack_row: fn(row: &[u8], r: usize, group: &mut [u8]),
    /// What ggml rounds activations to before it multiplies them by this type.
    pub(super) activation: DType,
    /// Bytes of each part of a block in a prepared row.
    pub(super) row: &'static [usize],
    /// Lays out a rounded row of activations.
    pub(super) prepare_row: fn(blocks: &[u8], row: &mut [u8]),
    /// The fastest first. None on processors of other kinds.
    pub(super) kernels: &'static [Kernel],
    /// The product of a row of blocks with a rounded row of activations, its sum in the order that the kernels have.
    #[cfg(test)]
    pub(super) reference: fn(row: &[u8], activations: &[u8]) -> f32,
}

/// A function that multiplies, and the instructions that it needs.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no other processor has kernels
pub(super) struct Kernel {
    pub(super) level: Level,
    pub(super) multiply: Multiply,
}

/// Multiplies a group by any number of prepared rows: sixteen products for each of them. A row gets the same bits
/// whatever rows stand beside it.
///
/// # Safety
/// The processor has the kernel's instructions; group and rows are laid out as the kernel's format says, with one row
/// for each sixteen products.
pub(super) type Multiply = unsafe fn(group: Group<'_>, rows: Rows<'_>, products: &mut [[f32; GROUP]]);

impl Format {
    /// The format of a type.
    pub(super) fn of(dtype: DType) -> Option<&'static Format> {
        FORMATS.into_iter().find(|format| format.dtype == dtype)
    }

    /// The best kernel that this process may use.
    pub(super) fn kernel(&self) -> Option<&'static Kernel> {
        self.kernels.iter().find(|kernel| kernel.level.is_usable())
    }
}

/// Puts the bytes of one row's block into the columns of four that it shares with fifteen other rows.
///
/// Four bytes are what the instructions for dot products of bytes add up in one lane, and sixteen lanes are sixteen
/// rows: so a register is filled by one load, and a lane holds sums of a single row.
fn interleave(bytes: &[u8], r: usize, columns: &mut [u8]) {
    for (c, four) in bytes.chunks_exact(4).enumerate() {
        columns[(c * GROUP + r) * 4..][..4].copy_from_slice(four);
    }
}

/// Plain computations that formats have in common.
#[cfg(test)]
mod reference {
    use half::f16;

    /// A number of two bytes.
    pub(super) fn half(bytes: &[u8]) -> f32 {
        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }

    /// The sum of four products, in whole numbers.
    pub(super) fn dot(weights: &[i32], activations: &[u8]) -> i32 {
        weights.iter().zip(activations).map(|(w, &a)| w * i32::from(a as i8)).sum()
    }

    /// The quants of a block whose byte i holds column i in its low half and the column sixteen on in its high half.
    pub(super) fn nibbles(bytes: &[u8]) -> Vec<i32> {
        bytes.iter().map(|q| q & 15).chain(bytes.iter().map(|q| q >> 4)).map(i32::from).collect()
    }

    /// Adds up eight partial sums as `hsum_float_8` of ggml does: halves, then quarters, then neighbours.
    pub(super) fn hsum(x: [f32; 8]) -> f32 {
        let fours: [f32; 4] = std::array::from_fn(|i| x[i + 4] + x[i]);
        (fours[0] + fours[2]) + (fours[1] + fours[3])
    }
}
