//! Owns weights packed for this processor's integer dot products, and the multiplication by them: sixteen output rows
//! side by side, so that one instruction serves sixteen of them and no sum crosses a register.
//!
//! What differs between the types of weights is a [`format`]; what differs between processors is a [`level`]. A kernel is written for
//! one of each, and gives a row alone the bits that it gives it in a batch. Activations are rounded as ggml rounds them; products are
//! added up in ggml's order by q4_0, q4_1 and q8_0, and in an order of our own, the same at every level, by the others.

mod activations;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no other processor has kernels
mod blocks;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no other processor has kernels
mod dots;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no other processor has kernels
mod fields;
mod format;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no other processor has kernels
mod lanes;
mod level;
#[cfg(test)]
mod plain;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no other processor has kernels
mod super_blocks;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;

use half::f16;
use rayon::prelude::*;

use super::scratch::Scratch;
use crate::dtype::DType;
use format::{Format, Multiply};

/// Output rows side by side.
pub(super) const GROUP: usize = 16;

/// Bytes of an f16.
const HALF: usize = size_of::<f16>();

const CACHE_LINE: usize = 64;

/// How a weight matrix is packed, and what multiplies by it.
#[derive(Clone, Copy)]
pub(super) struct Packing {
    format: &'static Format,
    multiply: Multiply,
    n_in: usize,
    n_out: usize,
    n_blocks: usize,
    group_bytes: usize,
    activation_bytes: usize,
}

impl fmt::Debug for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "packed {} [{}, {}]", self.format.dtype, self.n_in, self.n_out)
    }
}

impl Packing {
    /// How a matrix \[n_in, n_out\] of this type is packed, if this processor has a kernel for it.
    pub(super) fn of(dtype: DType, shape: [usize; 2]) -> Option<Packing> {
        let format = Format::of(dtype)?;
        Packing::with(format, format.kernel()?.multiply, shape)
    }

    /// None where rows are no whole blocks.
    fn with(format: &'static Format, multiply: Multiply, [n_in, n_out]: [usize; 2]) -> Option<Packing> {
        if n_in == 0 || !n_in.is_multiple_of(format.dtype.block_len()) {
            return None;
        }
        // Kept, since multiplications ask for them with every group.
        let n_blocks = n_in / format.dtype.block_len();
        let activation_bytes = n_blocks * format.row.iter().sum::<usize>();
        // Whole cache lines: no load of a register's width crosses one, and the next group begins on one, as those
        // count on that fetch it ahead.
        let group_bytes = (n_blocks * format.group.iter().sum::<usize>()).next_multiple_of(CACHE_LINE);
        Some(Packing { format, multiply, n_in, n_out, n_blocks, group_bytes, activation_bytes })
    }

    pub(super) fn n_in(&self) -> usize {
        self.n_in
    }

    pub(super) fn n_out(&self) -> usize {
        self.n_out
    }

    pub(super) fn n_groups(&self) -> usize {
        self.n_out.div_ceil(GROUP)
    }

    pub(super) fn group_bytes(&self) -> usize {
        self.group_bytes
    }

    /// Bytes of one prepared row of activations.
    pub(super) fn activation_bytes(&self) -> usize {
        self.activation_bytes
    }

    /// Packs rows of blocks, which lie one after the other in `parts`, into `n_groups * group_bytes` bytes of `packed`.
    pub(super) fn pack(&self, parts: &[&[u8]], packed: &mut [u8]) {
        let row_bytes = self.format.dtype.row_bytes(self.n_in).expect("whole blocks");
        let rows: Vec<&[u8]> = parts.iter().flat_map(|part| part.chunks_exact(row_bytes)).collect();
        assert_eq!(rows.len(), self.n_out, "data and shape differ");
        assert_eq!(packed.len(), self.n_groups() * self.group_bytes);
        let groups = packed.par_chunks_exact_mut(self.group_bytes).zip(rows.par_chunks(GROUP));
        groups.for_each(|(group, rows)| {
            // The last group may lack rows: with scales of zero their products are zero, not numbers of what lay here
            // before.
            group.fill(0);
            rows.iter().enumerate().for_each(|(r, row)| (self.format.pack_row)(row, r, group));
        });
    }

    /// Rounds a row of activations as ggml does and lays it out for [`Packing::multiply`].
    pub(super) fn prepare(&self, x: &[f32], prepared: &mut [u8]) {
        assert_eq!((x.len(), prepared.len()), (self.n_in, self.activation_bytes));
        let dtype = self.format.activation;
        let mut blocks = Scratch::take();
        let blocks = blocks.bytes(dtype.row_bytes(self.n_in).expect("whole blocks"));
        activations::round(dtype, x, blocks);
        (self.format.prepare_row)(blocks, prepared);
    }

    /// Multiplies one group by prepared rows of activations: sixteen products for each of them.
    pub(super) fn multiply(&self, group: &[u8], rows: &[u8], products: &mut [[f32; GROUP]]) {
        assert!(group.len() == self.group_bytes && rows.len() == products.len() * self.activation_bytes);
        let group = Group { bytes: group, n_blocks: self.n_blocks, parts: self.format.group };
        let rows =
            Rows { bytes: rows, row_bytes: self.activation_bytes, n_blocks: self.n_blocks, parts: self.format.row };
        // SAFETY: `Packing::of` found the kernel among those that this processor has, in the format whose layout the
        // bytes have; their lengths were just compared with what it needs.
        unsafe { (self.multiply)(group, rows, products) }
    }
}

/// A packed group: what kernels read of the weights.
#[derive(Clone, Copy)]
struct Group<'w> {
    bytes: &'w [u8],
    n_blocks: usize,
    /// Bytes of each part of a block.
    parts: &'static [usize],
}

/// Asks for part of a block that a kernel comes to soon: `part` of `parts` of what lies some kilobytes behind the block at an address. Groups
/// follow each other, so what lies behind one is the next, of the same thread.
#[inline(always)]
fn fetch_ahead(block: *const u8, block_bytes: usize, part: usize, parts: usize) {
    /// Far enough for memory to answer in time, near enough for the first cache to keep it.
    const AHEAD: usize = 9 << 10;
    // The processor's own prefetching begins anew with every page. A few lines at a time: all at once they would wait for each other,
    // and what is computed with now behind them. Measured from memory: 1.45 times as fast as a block's lines at once.
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let lines = block_bytes.div_ceil(CACHE_LINE);
        for line in lines * part / parts..lines * (part + 1) / parts {
            // SAFETY: a prefetch changes no state and may miss.
            unsafe { _mm_prefetch(block.wrapping_add(AHEAD + line * CACHE_LINE).cast(), _MM_HINT_T0) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (block, block_bytes, part, parts);
}

/// Prepared rows of activations, one after the other.
#[derive(Clone, Copy)]
struct Rows<'x> {
    bytes: &'x [u8],
    row_bytes: usize,
    n_blocks: usize,
    /// Bytes of each part of a block.
    parts: &'static [usize],
}

#[cfg(target_arch = "x86_64")]
impl Group<'_> {
    /// Where part `i` of the blocks begins; one past the last part, where the group's parts end.
    fn part(&self, i: usize) -> *const u8 {
        self.bytes[self.n_blocks * self.parts[..i].iter().sum::<usize>()..].as_ptr()
    }
}

impl Rows<'_> {
    /// How far into a row part `i` of the blocks begins.
    fn offset(&self, i: usize) -> usize {
        self.n_blocks * self.parts[..i].iter().sum::<usize>()
    }
}

/// The parts of `n_blocks` blocks, which lie apart from each other, of so many bytes in each block.
fn parts_mut<const N: usize>(mut bytes: &mut [u8], parts: [usize; N], n_blocks: usize) -> [&mut [u8]; N] {
    parts.map(|part| bytes.split_off_mut(..n_blocks * part).expect("as long as its parts"))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::ggml::{Device, dequantize, dot, processor_isa, round_row};
    use format::FORMATS;

    /// Types whose sum has the order of ggml's own dot product at the level in use; of `q4_0` that is another.
    const AS_GGML: [DType; 2] = [DType::Q4_1, DType::Q8_0];

    /// Rows of any bytes, in blocks whose numbers are of ordinary size: so every value of a quant occurs, of every
    /// format.
    fn weights(packing: &Packing, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let dtype = packing.format.dtype;
        let mut block = |_| loop {
            let bytes: Vec<u8> = (0..dtype.block_bytes()).map(|_| rng.random()).collect();
            let largest = dequantize(dtype, &bytes).iter().fold(0.0, |most: f32, x| most.max(x.abs()));
            let is_finite = dequantize(dtype, &bytes).iter().all(|x| x.is_finite());
            if is_finite && (0.01..10.0).contains(&largest) {
                return bytes;
            }
        };
        (0..packing.n_out * packing.n_blocks).flat_map(&mut block).collect()
    }

    /// The numbers that rounded activations stand for: a scale in front, of f32 or f16, and quants at the end of every block.
    fn rounded(activation: DType, blocks: &[u8]) -> Vec<f32> {
        let block = |block: &[u8]| {
            let (scale, quants) = match activation {
                DType::Q8_K => (f32::from_le_bytes(block[..4].try_into().unwrap()), &block[4..260]),
                _ => (f16::from_le_bytes([block[0], block[1]]).to_f32(), &block[activation.block_bytes() - 32..]),
            };
            quants.iter().map(|&q| scale * f32::from(q.cast_signed())).collect::<Vec<f32>>()
        };
        blocks.chunks_exact(activation.block_bytes()).flat_map(block).collect()
    }

    /// What the format's own computation gives of a row of activations, for each row of weights.
    fn reference(packing: &Packing, weights: &[u8], x: &[f32]) -> Vec<f32> {
        let Format { dtype, activation, reference, .. } = *packing.format;
        let mut blocks = vec![0; activation.row_bytes(x.len()).unwrap()];
        round_row(activation, x, &mut blocks);
        let rounded = rounded(activation, &blocks);
        let row = |row: &[u8]| {
            let product = reference(row, &blocks);
            assert!(!AS_GGML.contains(&dtype) || product.to_bits() == dot(dtype, row, &blocks).to_bits(), "{dtype}");
            // Something that shares no line with the kernels: ggml's own way from bits to numbers, and products in f64.
            let terms = dequantize(dtype, row).into_iter().zip(&rounded).map(|(w, a)| f64::from(w) * f64::from(*a));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            // ggml keeps the sum of a block of q8_1 as f16, which has eleven bits.
            let tolerance = if activation == DType::Q8_1 { size / 2048.0 } else { 1e-6 * size };
            assert!((sum - f64::from(product)).abs() <= tolerance, "{dtype}: {product}, expected {sum}");
            product
        };
        weights.chunks_exact(dtype.row_bytes(x.len()).unwrap()).map(row).collect()
    }

    /// Compares a kernel with the reference, for as many rows as its tiles take at once and more.
    fn check(packing: &Packing, name: &str, rng: &mut ChaCha8Rng) {
        let n_in = packing.n_in;
        let bytes = weights(packing, rng);
        let mut packed = vec![0; packing.n_groups() * packing.group_bytes];
        let (head, tail) = bytes.split_at(packing.format.dtype.row_bytes(n_in).unwrap() * 17);
        packing.pack(&[head, tail], &mut packed);
        for n_rows in 1..=19 {
            let x: Vec<f32> = (0..n_rows * n_in).map(|_| rng.random_range(-2.0..2.0)).collect();
            let mut rows = vec![0; n_rows * packing.activation_bytes];
            for (row, x) in rows.chunks_exact_mut(packing.activation_bytes).zip(x.chunks_exact(n_in)) {
                packing.prepare(x, row);
            }
            let expected: Vec<Vec<f32>> = x.chunks_exact(n_in).map(|x| reference(packing, &bytes, x)).collect();
            let mut products = vec![[0.0; GROUP]; n_rows];
            for (g, group) in packed.chunks_exact(packing.group_bytes).enumerate() {
                packing.multiply(group, &rows, &mut products);
                for (products, expected) in products.iter().zip(&expected) {
                    for (product, (i, expected)) in products.iter().zip(expected.iter().enumerate().skip(g * GROUP)) {
                        assert_eq!(product.to_bits(), expected.to_bits(), "{name}, {n_rows} rows, row {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_kernel_gives_its_formats_reference_to_the_bit() {
        let _tables = Device::cpu(1).expect("ggml fills its tables");
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for format in FORMATS {
            let usable = format.kernels.iter().filter(|kernel| kernel.level.is_usable_at(processor_isa()));
            for kernel in usable {
                let shape = [3 * format.dtype.block_len(), 40];
                let packing = Packing::with(format, kernel.multiply, shape).expect("whole blocks");
                check(&packing, &format!("{} {:?}", format.dtype, kernel.level), &mut rng);
            }
        }
    }

    #[test]
    fn a_type_has_one_format_and_a_level_one_kernel_of_it() {
        for format in FORMATS {
            assert_eq!(FORMATS.iter().filter(|other| other.dtype == format.dtype).count(), 1, "{}", format.dtype);
            assert_eq!(format.activation.row_bytes(format.dtype.block_len()).map(|_| ()), Some(()), "{}", format.dtype);
            for kernel in format.kernels {
                assert_eq!(format.kernels.iter().filter(|other| other.level == kernel.level).count(), 1);
            }
        }
    }
}
