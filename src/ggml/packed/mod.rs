//! Owns weights packed for this processor's integer dot products, and the multiplication by them: sixteen output rows
//! side by side, so that one instruction serves sixteen of them and no sum crosses a register.
//!
//! Products are added up in ggml's order, so the results are the same to the bit, and the same for a row alone as for a
//! row of a batch: q4_1 and q8_0 as `ggml_vec_dot_q4_1_q8_1` and `ggml_vec_dot_q8_0_q8_0` do on AVX2 and later (eight
//! partial sums per row, joined at the end), q4_0 as ggml's own packed kernels do (block after block).
//!
//! A group of sixteen rows holds, one after the other: the quants of all blocks, the scales of all blocks (f16 \[16\]
//! each), and for types with minima those (f16 \[16\] each), padded to whole cache lines. Of a block of 32 columns, the
//! quants come in columns of four: bytes 4c..4c+4 of each of the sixteen rows. With 4 bits per weight a byte holds
//! column c in its low half and column c + 4 in its high half; with 8 bits columns follow each other, 128 added.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::sync::OnceLock;

use half::f16;
use rayon::prelude::*;

use super::cpu::{self, functions};
use crate::dtype::DType;

/// Output rows side by side.
pub(super) const GROUP: usize = 16;

/// Columns that share a scale.
const BLOCK: usize = 32;

/// Columns of four in a block.
const COLUMNS: usize = BLOCK / 4;

const CACHE_LINE: usize = 64;

/// How a weight matrix is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packing {
    dtype: DType,
    n_in: usize,
    n_out: usize,
}

/// The instructions that multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernels {
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

/// The best of the level in use.
fn kernels() -> Option<Kernels> {
    static KERNELS: OnceLock<Option<Kernels>> = OnceLock::new();
    *KERNELS.get_or_init(|| kernels_up_to(cpu::isa()).first().copied())
}

/// All of a level that this processor has, the best first. AVX-512 without VNNI multiplies as AVX2 does.
fn kernels_up_to(isa: cpu::Isa) -> Vec<Kernels> {
    let mut kernels = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if isa >= cpu::Isa::Avx512 && has!("avx512f") && has!("avx512bw") && has!("avx512vnni") && has!("f16c") {
            kernels.push(Kernels::Avx512Vnni);
        }
        if isa >= cpu::Isa::Avx2 && has!("avx2") && has!("fma") && has!("f16c") {
            kernels.push(Kernels::Avx2);
        }
    }
    kernels
}

impl Kernels {
    fn multiplies(self, dtype: DType) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx512Vnni => matches!(dtype, DType::Q4_0 | DType::Q4_1 | DType::Q8_0),
            #[cfg(target_arch = "x86_64")]
            Kernels::Avx2 => matches!(dtype, DType::Q4_0 | DType::Q4_1),
        }
    }
}

impl Packing {
    /// How a matrix \[n_in, n_out\] of this type is packed, if this processor has the instructions for it.
    pub(super) fn of(dtype: DType, [n_in, n_out]: [usize; 2]) -> Option<Packing> {
        let packing = Packing { dtype, n_in, n_out };
        let has_kernel = kernels().is_some_and(|kernels| kernels.multiplies(dtype));
        (has_kernel && n_in.is_multiple_of(BLOCK) && n_in > 0).then_some(packing)
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
        (self.n_blocks() * (self.quants_bytes() + self.scales_bytes())).next_multiple_of(CACHE_LINE)
    }

    fn n_blocks(&self) -> usize {
        self.n_in / BLOCK
    }

    /// Of one block in one group.
    fn quants_bytes(&self) -> usize {
        if self.dtype == DType::Q8_0 { GROUP * BLOCK } else { GROUP * BLOCK / 2 }
    }

    /// Of one block in one group, minima included.
    fn scales_bytes(&self) -> usize {
        if self.has_minima() { 2 * GROUP * size_of::<f16>() } else { GROUP * size_of::<f16>() }
    }

    fn has_minima(&self) -> bool {
        self.dtype == DType::Q4_1
    }

    /// What was added to every quant to make it unsigned.
    fn bias(&self) -> i32 {
        match self.dtype {
            DType::Q4_0 => 8,
            DType::Q8_0 => 128,
            _ => 0,
        }
    }

    /// Packs rows of blocks, which lie one after the other in `parts`, into `n_groups * group_bytes` bytes of `packed`.
    pub(super) fn pack(&self, parts: &[&[u8]], packed: &mut [u8]) {
        let row_bytes = self.dtype.row_bytes(self.n_in).expect("whole blocks");
        let rows: Vec<&[u8]> = parts.iter().flat_map(|part| part.chunks_exact(row_bytes)).collect();
        assert_eq!(rows.len(), self.n_out, "data and shape differ");
        assert_eq!(packed.len(), self.n_groups() * self.group_bytes());
        packed
            .par_chunks_exact_mut(self.group_bytes())
            .zip(rows.par_chunks(GROUP))
            .for_each(|(group, rows)| self.pack_group(rows, group));
    }

    fn pack_group(&self, rows: &[&[u8]], group: &mut [u8]) {
        group.fill(0);
        let half = size_of::<f16>();
        let header = if self.has_minima() { 2 * half } else { half };
        let (quants, scales) = group.split_at_mut(self.n_blocks() * self.quants_bytes());
        let (scales, minima) = scales.split_at_mut(self.n_blocks() * GROUP * half);
        for (r, row) in rows.iter().enumerate() {
            for (ib, block) in row.chunks_exact(self.dtype.block_bytes()).enumerate() {
                let at = (ib * GROUP + r) * half;
                scales[at..at + half].copy_from_slice(&block[..half]);
                if self.has_minima() {
                    minima[at..at + half].copy_from_slice(&block[half..header]);
                }
                let quants = &mut quants[ib * self.quants_bytes()..][..self.quants_bytes()];
                for (c, four) in block[header..].chunks_exact(4).enumerate() {
                    let place = &mut quants[(c * GROUP + r) * 4..][..4];
                    place.copy_from_slice(four);
                    if self.dtype == DType::Q8_0 {
                        place.iter_mut().for_each(|q| *q ^= 0x80);
                    }
                }
            }
        }
    }

    /// The type that activations are rounded to.
    fn activation_dtype(&self) -> DType {
        if self.has_minima() { DType::Q8_1 } else { DType::Q8_0 }
    }

    /// Bytes of one prepared row of activations: quants, scales, and what [`Row::extra`] says, for each block.
    pub(super) fn activation_bytes(&self) -> usize {
        self.n_blocks() * (BLOCK + size_of::<f32>() + self.extra_len() * size_of::<i32>())
    }

    fn extra_len(&self) -> usize {
        if self.dtype == DType::Q8_0 { COLUMNS } else { 1 }
    }

    /// Rounds a row of activations to 8 bits as ggml does and lays it out for [`Packing::multiply`].
    pub(super) fn prepare(&self, x: &[f32], prepared: &mut [u8]) {
        assert_eq!((x.len(), prepared.len()), (self.n_in, self.activation_bytes()));
        let dtype = self.activation_dtype();
        let mut blocks = Scratch::take();
        let blocks = blocks.bytes(dtype.row_bytes(self.n_in).expect("whole blocks"));
        // SAFETY: the table of types is static; `from_float` reads n_in floats and writes one row of blocks.
        unsafe {
            let traits = &*(functions().ggml_get_type_traits_cpu)(super::context::raw_type(dtype));
            let from_float = traits.from_float.expect("ggml rounds to 8 bits");
            from_float(x.as_ptr(), blocks.as_mut_ptr().cast(), self.n_in as i64);
        }
        let (quants, rest) = prepared.split_at_mut(self.n_in);
        let (scales, extra) = rest.split_at_mut(self.n_blocks() * size_of::<f32>());
        let half = |bytes: &[u8]| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32();
        let header = dtype.block_bytes() - BLOCK;
        for (ib, block) in blocks.chunks_exact(dtype.block_bytes()).enumerate() {
            let bytes = &block[header..];
            quants[ib * BLOCK..][..BLOCK].copy_from_slice(bytes);
            scales[ib * 4..][..4].copy_from_slice(&half(block).to_ne_bytes());
            if self.has_minima() {
                extra[ib * 4..][..4].copy_from_slice(&half(&block[2..]).to_ne_bytes());
                continue;
            }
            let n = self.extra_len();
            let extra = &mut extra[4 * n * ib..][..4 * n];
            for (place, columns) in extra.chunks_exact_mut(4).zip(bytes.chunks_exact(BLOCK / n)) {
                let sum: i32 = columns.iter().map(|&q| i32::from(q as i8)).sum();
                place.copy_from_slice(&(-self.bias() * sum).to_ne_bytes());
            }
        }
    }

    /// Multiplies one group by prepared rows of activations: sixteen products for each of them.
    pub(super) fn multiply(&self, group: &[u8], rows: &[u8], products: &mut [[f32; GROUP]]) {
        self.multiply_with(kernels().expect("nothing is packed without a kernel"), group, rows, products);
    }

    fn multiply_with(&self, kernels: Kernels, group: &[u8], rows: &[u8], products: &mut [[f32; GROUP]]) {
        let kernel = match (kernels, self.dtype) {
            #[cfg(target_arch = "x86_64")]
            (Kernels::Avx512Vnni, DType::Q4_0) => avx512::multiply_blocks,
            #[cfg(target_arch = "x86_64")]
            (Kernels::Avx512Vnni, DType::Q4_1) => avx512::multiply_columns::<4, true>,
            #[cfg(target_arch = "x86_64")]
            (Kernels::Avx512Vnni, _) => avx512::multiply_columns::<8, false>,
            #[cfg(target_arch = "x86_64")]
            (Kernels::Avx2, DType::Q4_1) => avx2::multiply_columns,
            #[cfg(target_arch = "x86_64")]
            (Kernels::Avx2, _) => avx2::multiply_blocks,
        };
        assert!(group.len() == self.group_bytes() && rows.len() == products.len() * self.activation_bytes());
        // SAFETY: the processor has the instructions; the lengths were just compared with what the layout needs.
        unsafe { kernel(Group::new(self, group), self.n_blocks(), rows, self.activation_bytes(), products) }
    }
}

/// Where the parts of a group lie.
#[derive(Clone, Copy)]
struct Group {
    bytes: usize,
    n_blocks: usize,
    quants: *const u8,
    scales: *const u16,
    minima: *const u16,
}

impl Group {
    fn new(packing: &Packing, bytes: &[u8]) -> Group {
        let (quants, scales) = bytes.split_at(packing.n_blocks() * packing.quants_bytes());
        let minima = if packing.has_minima() { &scales[packing.n_blocks() * GROUP * size_of::<f16>()..] } else { &[] };
        Group {
            bytes: packing.group_bytes(),
            n_blocks: packing.n_blocks(),
            quants: quants.as_ptr(),
            scales: scales.as_ptr().cast(),
            minima: minima.as_ptr().cast(),
        }
    }
}

impl Group {
    /// Asks for the part of the next group that lies where block `ib` lies in this one, while this one is computed with.
    /// The processor's own prefetching begins anew with every page and every stream. Into the second cache: two groups and
    /// the rows are more than the first one holds.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn fetch_next(&self, ib: usize) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
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
    /// With minima the sum of a block's quants times its scale (f32); without, the sum of the quants times what was added
    /// to the weights, negative (i32): of a block, or with 8 bits of each column of four.
    extra: *const i32,
}

impl Row {
    /// # Safety
    /// `bytes` points to a prepared row of `n_blocks` blocks.
    unsafe fn new(bytes: *const u8, n_blocks: usize) -> Row {
        // SAFETY: the parts lie inside the row.
        unsafe {
            let scales = bytes.add(n_blocks * BLOCK);
            Row { quants: bytes.cast(), scales: scales.cast(), extra: scales.add(n_blocks * 4).cast() }
        }
    }
}

/// Memory of the current thread, kept from use to use.
pub(super) struct Scratch(Vec<u8>);

thread_local! {
    static SCRATCH: std::cell::RefCell<Vec<Vec<u8>>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Scratch {
    pub(super) fn take() -> Scratch {
        Scratch(SCRATCH.with_borrow_mut(|free| free.pop().unwrap_or_default()))
    }

    pub(super) fn bytes(&mut self, n: usize) -> &mut [u8] {
        if self.0.len() < n {
            self.0.resize(n, 0);
        }
        &mut self.0[..n]
    }

    pub(super) fn floats(&mut self, n: usize) -> &mut [f32] {
        let bytes = self.bytes((n + 1) * size_of::<f32>());
        // SAFETY: any bytes are floats, and the floats in the middle are aligned.
        let (_, floats, _) = unsafe { bytes.align_to_mut::<f32>() };
        &mut floats[..n]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.0);
        SCRATCH.with_borrow_mut(|free| free.push(memory));
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Rows of blocks with scales of ordinary size.
    fn weights(packing: &Packing, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let n = packing.n_out * packing.dtype.row_bytes(packing.n_in).unwrap();
        let mut bytes: Vec<u8> = (0..n).map(|_| rng.random()).collect();
        for block in bytes.chunks_exact_mut(packing.dtype.block_bytes()) {
            for at in 0..if packing.has_minima() { 2 } else { 1 } {
                let scale = f16::from_f32(rng.random_range(-0.1..0.1));
                block[2 * at..][..2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        bytes
    }

    /// The products of one row: of q4_0 block after block, of the others as ggml's own dot product gives them.
    fn reference(packing: &Packing, weights: &[u8], x: &[f32]) -> Vec<f32> {
        let mut blocks = vec![0u8; packing.activation_dtype().row_bytes(packing.n_in).unwrap()];
        let n = packing.n_in as i32;
        // SAFETY: the table of types is static.
        let traits = |t: DType| unsafe { &*(functions().ggml_get_type_traits_cpu)(super::super::context::raw_type(t)) };
        // SAFETY: the buffers are as long as ggml's functions need.
        unsafe {
            traits(packing.activation_dtype()).from_float.unwrap()(x.as_ptr(), blocks.as_mut_ptr().cast(), n.into());
        }
        let dot = |row: &[u8]| {
            if packing.dtype == DType::Q4_0 {
                return dot_q4_0(row, &blocks);
            }
            let mut sum = 0.0;
            // SAFETY: as above.
            unsafe {
                let dot = traits(packing.dtype).vec_dot.unwrap();
                dot(n, &mut sum, 0, row.as_ptr().cast(), 0, blocks.as_ptr().cast(), 0, 1);
            }
            sum
        };
        weights.chunks_exact(packing.dtype.row_bytes(packing.n_in).unwrap()).map(dot).collect()
    }

    fn dot_q4_0(row: &[u8], activations: &[u8]) -> f32 {
        let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
        row.chunks_exact(18).zip(activations.chunks_exact(34)).fold(0.0, |sum, (w, a)| {
            let weight = |i: usize| i32::from(if i < 16 { w[2 + i] & 15 } else { w[2 + i - 16] >> 4 }) - 8;
            let products: i32 = (0..32).map(|i| weight(i) * i32::from(a[2 + i] as i8)).sum();
            (products as f32).mul_add(half(w) * half(a), sum)
        })
    }

    #[test]
    fn products_are_those_of_ggml_to_the_bit() {
        let _tables = super::super::Device::cpu(1).expect("ggml fills its tables");
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for dtype in [DType::Q4_0, DType::Q4_1, DType::Q8_0] {
            let Some(packing) = Packing::of(dtype, [96, 40]) else { continue };
            let bytes = weights(&packing, &mut rng);
            let mut packed = vec![0; packing.n_groups() * packing.group_bytes()];
            let (head, tail) = bytes.split_at(packing.dtype.row_bytes(96).unwrap() * 17);
            packing.pack(&[head, tail], &mut packed);
            for n_rows in 1..=19 {
                let x: Vec<f32> = (0..n_rows * 96).map(|_| rng.random_range(-2.0..2.0)).collect();
                let mut rows = vec![0; n_rows * packing.activation_bytes()];
                for (row, x) in rows.chunks_exact_mut(packing.activation_bytes()).zip(x.chunks_exact(96)) {
                    packing.prepare(x, row);
                }
                let mut products = vec![[0.0; GROUP]; n_rows];
                let all = kernels_up_to(cpu::processor_isa()).into_iter().filter(|kernels| kernels.multiplies(dtype));
                let groups = || packed.chunks_exact(packing.group_bytes()).enumerate();
                for (kernels, (g, group)) in all.flat_map(|kernels| groups().map(move |group| (kernels, group))) {
                    packing.multiply_with(kernels, group, &rows, &mut products);
                    for (x, products) in x.chunks_exact(96).zip(&products) {
                        for (i, expected) in
                            reference(&packing, &bytes, x).iter().enumerate().skip(g * GROUP).take(GROUP)
                        {
                            assert_eq!(
                                products[i % GROUP].to_bits(),
                                expected.to_bits(),
                                "{kernels:?} {dtype} {n_rows} row {i}"
                            );
                        }
                    }
                }
            }
        }
    }
}
