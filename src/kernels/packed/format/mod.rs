//! Weight formats that have kernels of our own. A format is a value: how its blocks are packed into groups, what
//! activations are rounded to and how prepared rows look, which kernels there are, and a plain computation that says
//! what they have to give.
//!
//! Another format is another file and its line in [`FORMATS`]. Nothing else asks for the type of a weight.

mod iq4_nl;
mod iq4_xs;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod six_bits;

use super::blocks::{self, Blocks};
use super::fields::{self, interleave};
use super::level::Level;
use super::super_blocks::{self, SuperBlocks};
#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{GROUP, Group, Rows, activations};
use crate::dtype::DType;

/// Every format, each in its file.
pub(super) static FORMATS: [&Format; 13] = [
    &q4_0::FORMAT,
    &q4_1::FORMAT,
    &q5_0::FORMAT,
    &q5_1::FORMAT,
    &q8_0::FORMAT,
    &q2_k::FORMAT,
    &q3_k::FORMAT,
    &q4_k::FORMAT,
    &q5_k::FORMAT,
    &q6_k::FORMAT,
    &iq4_nl::FORMAT,
    &iq4_xs::FORMAT,
    &mxfp4::FORMAT,
];

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
    /// A format of super-blocks.
    const fn of_super_blocks<F: SuperBlocks>(dtype: DType) -> Format {
        Format {
            dtype,
            group: const { &[super_blocks::Layout::<F>::BYTES] },
            pack_row: |row, r, group| fields::pack_row(F::FIELDS, row, r, group),
            activation: DType::Q8_K,
            row: const { &[size_of::<super_blocks::Activations>()] },
            prepare_row: super_blocks::prepare_row::<F>,
            kernels: const {
                &[
                    #[cfg(target_arch = "x86_64")]
                    Kernel { level: Level::Avx512Vnni, multiply: x86::dots::super_blocks_512::<F> },
                    #[cfg(target_arch = "x86_64")]
                    Kernel { level: Level::AvxVnni, multiply: x86::dots::super_blocks_256::<F> },
                    #[cfg(target_arch = "x86_64")]
                    Kernel { level: Level::Avx2, multiply: x86::pairs::super_blocks::<F> },
                ]
            },
            #[cfg(test)]
            reference: super_blocks::reference::<F>,
        }
    }

    /// A format of blocks.
    const fn of_blocks<F: Blocks>(dtype: DType) -> Format {
        let has_minima = matches!(F::ZERO, blocks::Zero::Minimum);
        Format {
            dtype,
            group: const { &[blocks::Layout::<F>::BYTES] },
            pack_row: |row, r, group| fields::pack_row(F::FIELDS, row, r, group),
            activation: if has_minima { DType::Q8_1 } else { DType::Q8_0 },
            row: if has_minima { &activations::Q8_1_PARTS } else { const { &activations::q8_0_parts(1) } },
            prepare_row: blocks::prepare_row::<F>,
            kernels: const {
                &[
                    #[cfg(target_arch = "x86_64")]
                    Kernel { level: Level::Avx512Vnni, multiply: x86::dots::blocks_512::<F> },
                    #[cfg(target_arch = "x86_64")]
                    Kernel { level: Level::AvxVnni, multiply: x86::dots::blocks_256::<F> },
                    #[cfg(target_arch = "x86_64")]
                    Kernel { level: Level::Avx2, multiply: x86::pairs::blocks::<F> },
                ]
            },
            #[cfg(test)]
            reference: blocks::reference::<F>,
        }
    }

    /// The format of a type.
    pub(super) fn of(dtype: DType) -> Option<&'static Format> {
        FORMATS.into_iter().find(|format| format.dtype == dtype)
    }

    /// The best kernel that this process may use.
    pub(super) fn kernel(&self) -> Option<&'static Kernel> {
        self.kernels.iter().find(|kernel| kernel.level.is_usable())
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
