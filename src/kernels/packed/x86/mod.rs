//! Kernels for formats of blocks of 32 columns with a scale each, in one of two orders of the sum: block after block,
//! or each column of four with a partial sum of its own. A format of that shape uses them; one of another shape brings
//! its own in its file.
//!
//! The parts of a group are, in this order: quants, scales (f16), and with minima those (f16). The parts of a row are:
//! quants, scales (f32), and what [`Row::extra`] says.

pub(super) mod avx2;
pub(super) mod avx512;
pub(super) mod dots;
mod lanes;
pub(super) mod pairs;

use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::{CACHE_LINE, GROUP, Group, Rows};

/// Columns that share a scale.
const BLOCK: usize = 32;

/// Columns of four in a block.
const COLUMNS: usize = BLOCK / 4;

/// Where the parts of a group lie.
#[derive(Clone, Copy)]
struct Weights {
    bytes: usize,
    n_blocks: usize,
    quants: *const u8,
    scales: *const u16,
    /// Only read by kernels for formats with minima.
    minima: *const u16,
}

impl Weights {
    fn new(group: Group<'_>) -> Weights {
        let [quants, scales, minima] = [0, 1, 2].map(|i| group.part(i));
        let (bytes, n_blocks) = (group.bytes.len(), group.n_blocks);
        Weights { bytes, n_blocks, quants, scales: scales.cast(), minima: minima.cast() }
    }

    /// Asks for the part of the next group that lies where block `ib` lies in this one, while this one is computed
    /// with.
    #[inline]
    fn fetch_next(&self, ib: usize) {
        // The processor's own prefetching begins anew with every page and every stream. Into the second cache: two
        // groups and the rows are more than the first one holds.
        let lines = self.bytes / CACHE_LINE;
        for line in lines * ib / self.n_blocks..lines * (ib + 1) / self.n_blocks {
            let address = self.quants.wrapping_add(self.bytes + line * CACHE_LINE);
            // SAFETY: a prefetch changes no state and may miss.
            unsafe { _mm_prefetch(address.cast(), _MM_HINT_T1) };
        }
    }
}

/// Where the parts of a prepared row lie.
#[derive(Clone, Copy)]
struct Row {
    quants: *const i8,
    scales: *const f32,
    /// With minima the sum of a block's quants times its scale (f32); without, the sum of the quants times what was
    /// added to the weights, negative (i32): of a block, or with 8 bits of each column of four.
    extra: *const i32,
}

impl Rows<'_> {
    /// Finds the parts of any of the rows.
    #[inline]
    fn each(self) -> impl Fn(usize) -> Row {
        let (start, row_bytes) = (self.bytes.as_ptr(), self.row_bytes);
        let [scales, extra] = [1, 2].map(|i| self.offset(i));
        move |i| {
            // A tile asks for rows that it has only; the pointers are read under its promise.
            let row = start.wrapping_add(i * row_bytes);
            Row { quants: row.cast(), scales: row.wrapping_add(scales).cast(), extra: row.wrapping_add(extra).cast() }
        }
    }
}
