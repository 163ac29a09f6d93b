//! Owns the change of whole rows between f32 and ggml's block types, by ggml's own functions. Refuses values that those
//! could not take: they would end the process.

use rayon::prelude::*;

use super::context::raw_type;
use super::isa::functions;
use super::{init, sys};
use crate::dtype::DType;

/// Whether rows can be written in this type.
pub fn can_quantize_to(dtype: DType) -> bool {
    use DType::*;
    !matches!(dtype, Q8_1 | Q8_K | I8 | I16 | I32 | I64 | F64)
}

/// Whether the numbers of rows in this type can be read.
pub fn can_dequantize(dtype: DType) -> bool {
    use DType::*;
    !matches!(dtype, Q8_1 | Q8_K | I8 | I16 | I32 | I64 | F64)
}

/// Whether rows in this type can be multiplied by: it has numbers, and the processor a product for it.
pub fn can_multiply(dtype: DType) -> bool {
    // SAFETY: the table of types is static.
    let has_product = unsafe { (*sys::ggml_get_type_traits_cpu(raw_type(dtype))).vec_dot.is_some() };
    can_dequantize(dtype) && has_product
}

/// Whether ggml writes this type only with the importance of each column given.
pub fn needs_importance(dtype: DType) -> bool {
    // SAFETY: a pure function of any type.
    unsafe { sys::ggml_quantize_requires_imatrix(raw_type(dtype)) }
}

/// Makes the tables that a type is quantized with. [`quantize_rows`] does it too; ahead of time it costs the first rows
/// nothing.
pub fn prepare_quantize(dtype: DType) {
    init();
    // SAFETY: any type is allowed, any thread may call, and a second call does nothing.
    unsafe { sys::ggml_quantize_init(raw_type(dtype)) };
}

/// Whether the blocks hold no NaN and no infinity.
pub fn is_valid(dtype: DType, blocks: &[u8]) -> bool {
    // SAFETY: reads as many bytes as are given.
    unsafe { sys::ggml_validate_row_data(raw_type(dtype), blocks.as_ptr().cast(), blocks.len()) }
}

/// The numbers in a row of blocks, as f32.
pub fn dequantize(dtype: DType, row: &[u8]) -> Vec<f32> {
    init();
    let n = row.len() / dtype.block_bytes() * dtype.block_len();
    let mut values = vec![0.0; n];
    // SAFETY: the table of types is static; the row holds n elements, and there is room for as many numbers.
    unsafe {
        let traits = &*sys::ggml_get_type_traits(raw_type(dtype));
        match traits.to_float {
            Some(to_float) => to_float(row.as_ptr().cast(), values.as_mut_ptr(), n as i64),
            None => {
                assert_eq!(dtype, DType::F32, "dequantize: {dtype} has no numbers");
                std::ptr::copy_nonoverlapping(row.as_ptr(), values.as_mut_ptr().cast(), row.len());
            }
        }
    }
    values
}

/// Rows of `n` numbers as blocks of another type, all processor cores at work.
pub(crate) fn quantize(to: DType, from: DType, rows: &[u8], n: usize) -> Vec<u8> {
    let (row_bytes, to_bytes) = (from.row_bytes(n).expect("whole blocks"), to.row_bytes(n).expect("whole blocks"));
    let mut blocks = vec![0; rows.len() / row_bytes * to_bytes];
    rows.par_chunks_exact(row_bytes).zip(blocks.par_chunks_exact_mut(to_bytes)).for_each(|(row, place)| {
        let values = dequantize(from, row);
        round_row(to, &values, place);
    });
    blocks
}

/// Rounds a row of numbers to blocks as ggml does before it multiplies.
#[track_caller]
pub(crate) fn round_row(to: DType, values: &[f32], blocks: &mut [u8]) {
    assert_eq!(to.row_bytes(values.len()), Some(blocks.len()), "round_row: {to}");
    // SAFETY: the table of types is static; `from_float` reads the numbers and writes one row of blocks.
    unsafe {
        let from_float = (*cpu_traits(to)).from_float.expect("a type that numbers can be rounded to");
        from_float(values.as_ptr(), blocks.as_mut_ptr().cast(), values.len() as i64);
    }
}

/// ggml's own product of a row of weights with rounded activations, to compare with.
#[cfg(test)]
pub(crate) fn dot(dtype: DType, weights: &[u8], activations: &[u8]) -> f32 {
    let n = weights.len() / dtype.block_bytes() * dtype.block_len();
    let (mut sum, n) = (0.0, n as i32);
    // SAFETY: the table of types is static; the row has n columns, and so have the activations.
    unsafe {
        let dot = (*cpu_traits(dtype)).vec_dot.expect("a type with a product");
        dot(n, &mut sum, 0, weights.as_ptr().cast(), 0, activations.as_ptr().cast(), 0, 1);
    }
    sum
}

/// What ggml's code for the level in use does with a type.
fn cpu_traits(dtype: DType) -> *const sys::ggml_type_traits_cpu {
    // SAFETY: a look-up in a static table.
    unsafe { (functions().ggml_get_type_traits_cpu)(raw_type(dtype)) }
}

/// The numbers in whole blocks, into a place for as many.
#[track_caller]
pub fn dequantize_into(dtype: DType, blocks: &[u8], values: &mut [f32]) {
    assert!(can_dequantize(dtype), "dequantize_into: {dtype} has no numbers");
    assert_eq!(dtype.row_bytes(values.len()), Some(blocks.len()), "dequantize_into: {dtype}");
    init();
    let n = values.len() as i64;
    // SAFETY: the blocks hold n numbers, there is room for as many, and the table of types is static.
    unsafe {
        match dtype {
            DType::F32 => std::ptr::copy_nonoverlapping(blocks.as_ptr(), values.as_mut_ptr().cast(), blocks.len()),
            // The processor's own conversion: the same numbers as the table's, faster.
            DType::F16 => (functions().ggml_cpu_fp16_to_fp32)(blocks.as_ptr().cast(), values.as_mut_ptr(), n),
            _ => {
                let traits = &*sys::ggml_get_type_traits(raw_type(dtype));
                traits.to_float.expect("a type with numbers")(blocks.as_ptr().cast(), values.as_mut_ptr(), n);
            }
        }
    }
}

/// Why rows cannot be written in a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// NaN or infinity.
    #[error("expected finite numbers, found NaN or infinity")]
    NotFinite,
    /// Numbers whose squares, weighted and added up, no f32 holds.
    #[error("expected numbers whose weighted squares fit in f32, found larger ones")]
    TooLarge,
    /// A scale that rounds to infinity.
    #[error("expected numbers that fit in the scales of `{0}`, found larger ones")]
    Overflow(DType),
}

/// Rows of `n` numbers as rows of blocks, each number's error weighted by the importance of its column where that is given:
/// `rows [n, r]`, `importance [n]` -> `blocks [n, r]`. Bit for bit what ggml's `ggml_quantize_chunk` makes of them.
#[track_caller]
pub fn quantize_rows(
    to: DType,
    rows: &[f32],
    n: usize,
    importance: Option<&[f32]>,
    blocks: &mut [u8],
) -> Result<(), RowsError> {
    let row_bytes = to.row_bytes(n).expect("quantize_rows: rows of whole blocks");
    assert!(n > 0 && rows.len().is_multiple_of(n) && blocks.len() == rows.len() / n * row_bytes, "quantize_rows: {to}");
    assert!(can_quantize_to(to) && importance.is_none_or(|w| w.len() == n), "quantize_rows: {to}");
    assert!(importance.is_some() || !needs_importance(to), "quantize_rows: {to} needs the importance of columns");
    check(to, rows, importance)?;
    init();
    // SAFETY: r rows of n numbers are read, and as many rows of blocks are written; a type that needs importance has it.
    unsafe {
        if to == DType::F16 {
            (functions().ggml_cpu_fp32_to_fp16)(rows.as_ptr(), blocks.as_mut_ptr().cast(), rows.len() as i64);
        } else {
            let importance = importance.map_or(std::ptr::null(), <[f32]>::as_ptr);
            let (source, target) = (rows.as_ptr(), blocks.as_mut_ptr().cast());
            let (n_rows, n) = ((rows.len() / n) as i64, n as i64);
            sys::ggml_quantize_chunk(raw_type(to), source, target, 0, n_rows, n, importance);
        }
    }
    if is_valid(to, blocks) { Ok(()) } else { Err(RowsError::Overflow(to)) }
}

fn check(to: DType, rows: &[f32], importance: Option<&[f32]>) -> Result<(), RowsError> {
    if !all_finite(rows) {
        return Err(RowsError::NotFinite);
    }
    // The searches of these types compare sums of `importance * x^3` over a block and end the process on a NaN.
    use DType::*;
    if matches!(to, IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S) {
        let largest = |values: &[f32]| values.iter().fold(0f32, |most, x| most.max(x.abs()));
        let weight = importance.map_or(1.0, |w| f64::from(largest(w)).max(1.0));
        let x = f64::from(largest(rows));
        if weight * x.max(1.0).powi(3) * 1e4 > f64::from(f32::MAX) {
            return Err(RowsError::TooLarge);
        }
    }
    Ok(())
}

fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    // Without an early end, which would keep the loop from being vectorized.
    values.chunks(4096).all(|chunk| !chunk.iter().fold(false, |bad, x| bad | (x.to_bits() & EXPONENT == EXPONENT)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use DType::*;

    fn wave(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 0.37).sin() * (1.0 + (i % 7) as f32)).collect()
    }

    #[test]
    fn rows_in_pieces_are_the_rows_at_once() {
        let (n, n_rows) = (512, 6);
        let rows = wave(n * n_rows);
        let importance: Vec<f32> = wave(n).iter().map(|x| x * x + 0.01).collect();
        // The others search in tables that take seconds to make; tests/it/golden/quantize.rs has them.
        let has_tables = |t: DType| matches!(t, IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS);
        for &to in DType::ALL.iter().filter(|&&t| can_quantize_to(t) && !has_tables(t)) {
            let row_bytes = to.row_bytes(n).unwrap();
            let (mut whole, mut parts) = (vec![0; row_bytes * n_rows], vec![0; row_bytes * n_rows]);
            quantize_rows(to, &rows, n, Some(&importance), &mut whole).unwrap();
            for (from, blocks) in rows.chunks(n * 2).zip(parts.chunks_mut(row_bytes * 2)) {
                quantize_rows(to, from, n, Some(&importance), blocks).unwrap();
            }
            assert!(whole == parts, "{to}");
            let mut back = vec![0.0; rows.len()];
            dequantize_into(to, &whole, &mut back);
            let error: f32 = rows.iter().zip(&back).map(|(a, b)| (a - b).powi(2)).sum();
            let power: f32 = rows.iter().map(|a| a * a).sum();
            assert!(error < power / 2.0, "{to}: {}", error / power);
        }
    }

    #[test]
    fn the_processors_half_floats_are_ggmls() {
        let mut values: Vec<f32> = (0..=u16::MAX).map(|h| half::f16::from_bits(h).to_f32()).collect();
        values.retain(|x| x.is_finite());
        // The numbers between two neighbours, and one step of f32 to either side.
        let ties: Vec<f32> = values.iter().map(|x| x * (1.0 + 2f32.powi(-11))).collect();
        values.extend(ties.iter().flat_map(|x| [*x, x.next_up(), x.next_down()]));
        values.retain(|x| x.abs() < 65504.0);
        let mut blocks = vec![0; values.len() * 2];
        quantize_rows(DType::F16, &values, values.len(), None, &mut blocks).unwrap();
        let mut expected = vec![0u8; values.len() * 2];
        let (n, place) = (values.len() as i64, expected.as_mut_ptr().cast());
        // SAFETY: one row of n numbers, and room for as many.
        unsafe { sys::ggml_quantize_chunk(raw_type(DType::F16), values.as_ptr(), place, 0, 1, n, std::ptr::null()) };
        assert!(blocks == expected);
    }

    #[test]
    fn what_would_end_the_process_is_refused() {
        let mut blocks = Vec::new();
        let ones = [1.0; 256];
        let mut quantize = |to: DType, x: f32, w: f32| {
            blocks.resize(to.row_bytes(256).unwrap(), 0);
            let mut rows = wave(256);
            rows[7] = x;
            quantize_rows(to, &rows, 256, Some(&ones.map(|one| one * w)), &mut blocks)
        };
        assert_eq!(quantize(DType::Q4_K, f32::NAN, 1.0), Err(RowsError::NotFinite));
        assert_eq!(quantize(DType::F32, f32::INFINITY, 1.0), Err(RowsError::NotFinite));
        assert_eq!(quantize(DType::Q8_0, 3e38, 1.0), Err(RowsError::Overflow(DType::Q8_0)));
        for to in [IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S] {
            assert_eq!(quantize(to, 1e20, 1.0), Err(RowsError::TooLarge), "{to}");
            assert_eq!(quantize(to, 1e4, 1e30), Err(RowsError::TooLarge), "{to}");
        }
        assert_eq!(quantize(IQ3_S, 2e4, 1e15), Ok(()));
        assert_eq!(quantize(IQ3_S, 2e4, 0.0), Ok(()));
    }
}
