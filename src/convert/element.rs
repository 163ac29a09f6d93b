//! Owns the element types of checkpoints and the way from them to GGUF's types. Refuses types that are no
//! floating-point numbers.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::dtype::DType;

/// The element type of a tensor in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    Bf16,
    /// Signed bytes in groups with a scale each: llama2.c's version 2. The scales are no part of the bytes.
    I8,
}

impl Element {
    pub(super) fn bytes(self) -> usize {
        match self {
            Element::F64 => 8,
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
            Element::I8 => 1,
        }
    }

    /// The type of GGUF whose bytes are the same.
    pub(super) fn same(self) -> Option<DType> {
        match self {
            Element::F32 => Some(DType::F32),
            Element::F16 => Some(DType::F16),
            Element::Bf16 => Some(DType::BF16),
            Element::F64 | Element::I8 => None,
        }
    }
}

/// Elements that are converted at a time: they stay in the first cache, and are whole blocks of Q8_0.
const PIECE: usize = 1024;

/// Whether [`convert`] writes this type.
pub(super) fn is_target(to: DType) -> bool {
    matches!(to, DType::F32 | DType::F16 | DType::BF16 | DType::Q8_0)
}

/// Appends elements in another type. For Q8_0 their number is a multiple of 32.
pub(super) fn convert(raw: &[u8], from: Element, to: DType, out: &mut Vec<u8>) {
    if from.same() == Some(to) {
        out.extend_from_slice(raw);
        return;
    }
    let mut values = [0.0; PIECE];
    for piece in raw.chunks(PIECE * from.bytes()) {
        let values = &mut values[..piece.len() / from.bytes()];
        decode(piece, from, values);
        encode(values, to, out);
    }
}

fn decode(raw: &[u8], from: Element, values: &mut [f32]) {
    match from {
        Element::F64 => values.iter_mut().zip(raw.as_chunks().0).for_each(|(v, &b)| *v = f64::from_le_bytes(b) as f32),
        Element::F32 => values.iter_mut().zip(raw.as_chunks().0).for_each(|(v, &b)| *v = f32::from_le_bytes(b)),
        Element::F16 => {
            let mut halves = [f16::ZERO; PIECE];
            let halves = &mut halves[..values.len()];
            halves.iter_mut().zip(raw.as_chunks().0).for_each(|(v, &b)| *v = f16::from_le_bytes(b));
            halves.convert_to_f32_slice(values);
        }
        Element::Bf16 => values.iter_mut().zip(raw.as_chunks::<2>().0).for_each(|(v, &[lo, hi])| {
            *v = f32::from_le_bytes([0, 0, lo, hi]);
        }),
        Element::I8 => values.iter_mut().zip(raw).for_each(|(v, &b)| *v = f32::from(b as i8)),
    }
}

/// Whether there is neither NaN nor infinity among elements. All bits of an exponent are set in both, and only there.
pub(super) fn are_finite(raw: &[u8], element: Element) -> bool {
    match element {
        Element::F64 => raw.as_chunks().0.chunks(PIECE).all(|part| {
            part.iter().fold(0, |m, &b| m.max(u64::from_le_bytes(b) & (u64::MAX >> 1))) < 0x7FF0_0000_0000_0000
        }),
        Element::F32 => are_finite_f32(raw),
        Element::F16 => are_finite_16(raw, 0x7C00),
        Element::Bf16 => are_finite_16(raw, 0x7F80),
        Element::I8 => true,
    }
}

fn are_finite_f32(raw: &[u8]) -> bool {
    let largest = |part: &[[u8; 4]]| part.iter().fold(0, |m, &b| m.max(u32::from_le_bytes(b) & (u32::MAX >> 1)));
    raw.as_chunks().0.chunks(PIECE).all(|part| largest(part) < 0x7F80_0000)
}

fn are_finite_16(raw: &[u8], exponent: u16) -> bool {
    let largest = |part: &[[u8; 2]]| part.iter().fold(0, |m, &b| m.max(u16::from_le_bytes(b) & (u16::MAX >> 1)));
    raw.as_chunks().0.chunks(PIECE).all(|part| largest(part) < exponent)
}

/// Whether all numbers that [`encode`] wrote are finite.
pub(super) fn are_finite_encoded(bytes: &[u8], dtype: DType) -> bool {
    match dtype {
        DType::F32 => are_finite_f32(bytes),
        DType::F16 => are_finite_16(bytes, 0x7C00),
        DType::BF16 => are_finite_16(bytes, 0x7F80),
        // The scale of each block; its integers are finite.
        DType::Q8_0 => bytes.as_chunks::<34>().0.iter().all(|b| f16::from_le_bytes([b[0], b[1]]).is_finite()),
        other => unreachable!("nothing is converted to {other}"),
    }
}

/// One element as it is stored.
pub(super) fn number(raw: &[u8], element: Element) -> f64 {
    match element {
        Element::F64 => raw.try_into().map_or(0.0, f64::from_le_bytes),
        _ => {
            let mut value = [0.0];
            decode(raw, element, &mut value);
            f64::from(value[0])
        }
    }
}

/// The largest number that a type of GGUF holds.
pub(super) fn largest(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => f64::from(f32::MAX),
        DType::F16 => f16::MAX.to_f64(),
        DType::BF16 => bf16::MAX.to_f64(),
        DType::Q8_0 => 127.0 * f16::MAX.to_f64(),
        other => unreachable!("nothing is converted to {other}"),
    }
}

/// Whether a type of GGUF holds a number, rounded.
pub(super) fn holds(dtype: DType, number: f64) -> bool {
    let mut bytes = Vec::new();
    encode(&[number as f32; 32], dtype, &mut bytes);
    number.is_finite() && are_finite_encoded(&bytes, dtype)
}

/// Appends numbers in a type of GGUF. For Q8_0 their number is a multiple of 32.
pub(super) fn encode(values: &[f32], to: DType, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + values.len() / to.block_len() * to.block_bytes(), 0);
    let place = &mut out[start..];
    match to {
        DType::F32 => place.as_chunks_mut().0.iter_mut().zip(values).for_each(|(b, v)| *b = v.to_le_bytes()),
        DType::F16 => place.chunks_mut(2 * PIECE).zip(values.chunks(PIECE)).for_each(|(b, v)| encode_f16(v, b)),
        DType::BF16 => {
            place.as_chunks_mut().0.iter_mut().zip(values).for_each(|(b, &v)| *b = bf16::from_f32(v).to_le_bytes());
        }
        DType::Q8_0 => place.as_chunks_mut().0.iter_mut().zip(values.as_chunks().0).for_each(|(b, v)| *b = q8_0(v)),
        other => unreachable!("nothing is converted to {other}"),
    }
}

fn encode_f16(values: &[f32], place: &mut [u8]) {
    let mut halves = [f16::ZERO; PIECE];
    let halves = &mut halves[..values.len()];
    halves.convert_from_f32_slice(values);
    place.as_chunks_mut().0.iter_mut().zip(halves).for_each(|(b, v)| *b = v.to_le_bytes());
}

/// One block of Q8_0 as ggml's reference has it: the scale in f16, then each number divided by the scale in f32 and
/// rounded, halves away from zero. (ggml's vectorized code rounds halves to even.)
fn q8_0(block: &[f32; 32]) -> [u8; 34] {
    let largest = block.iter().fold(0f32, |m, v| if v.abs() > m { v.abs() } else { m });
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut out = [0; 34];
    out[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    out[2..].iter_mut().zip(block).for_each(|(q, v)| *q = round(v * inverse) as i8 as u8);
    out
}

/// `f32::round` for numbers as small as these, without a call: what is added is the largest number below one half.
fn round(x: f32) -> i32 {
    (x + 0.499_999_97_f32.copysign(x)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(values: &[f32], to: DType) -> Vec<u8> {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut out = Vec::new();
        convert(&raw, Element::F32, to, &mut out);
        out
    }

    #[test]
    fn the_same_type_is_copied_bit_by_bit() {
        let raw: Vec<u8> = (0..=255).collect();
        let mut out = Vec::new();
        convert(&raw, Element::Bf16, DType::BF16, &mut out);
        assert_eq!(out, raw);
    }

    #[test]
    fn halves_round_to_even_and_overflow_to_infinity() {
        let halves = converted(&[1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 1e6], DType::F16);
        let halves: Vec<f16> = halves.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b)).collect();
        assert_eq!(halves, [f16::from_bits(0x3C00), f16::from_bits(0x3C02), f16::INFINITY]);
    }

    #[test]
    fn what_is_not_finite_is_found_wherever_it_is() {
        for broken in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 1, PIECE - 1, PIECE, 3 * PIECE - 1] {
                let mut values = vec![-1.5f32; 3 * PIECE];
                let raw = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
                assert!(are_finite(&raw(&values), Element::F32));
                values[at] = broken;
                assert!(!are_finite(&raw(&values), Element::F32), "{broken} at {at}");
                let halves: Vec<u8> = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
                let brains: Vec<u8> = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
                let doubles: Vec<u8> = values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect();
                assert!(!are_finite(&halves, Element::F16) && !are_finite_encoded(&halves, DType::F16));
                assert!(!are_finite(&brains, Element::Bf16) && !are_finite_encoded(&brains, DType::BF16));
                assert!(!are_finite(&doubles, Element::F64));
            }
        }
        for most in [f32::MAX, -f32::MAX, f32::MIN_POSITIVE, -0.0] {
            assert!(are_finite(&most.to_le_bytes(), Element::F32), "{most}");
        }
    }

    #[test]
    fn types_hold_what_rounds_to_their_largest() {
        for (dtype, most, more) in
            [(DType::F16, 65519.0, 65520.0), (DType::Q8_0, 8_319_008.0, 8_400_000.0), (DType::F32, 3.4e38, 3.5e38)]
        {
            assert!(
                holds(dtype, most) && holds(dtype, -most) && !holds(dtype, more) && !holds(dtype, -more),
                "{dtype}"
            );
            assert!(!holds(dtype, f64::NAN));
        }
        assert!(holds(DType::BF16, 70000.0) && !holds(DType::BF16, f64::from(f32::MAX)));
    }

    #[test]
    fn blocks_round_halves_away_from_zero() {
        let mut values = [0.0; 64];
        (values[0], values[1], values[2], values[3]) = (127.0, 0.5, -0.5, 2.5);
        let out = converted(&values, DType::Q8_0);
        assert_eq!(out.len(), 68);
        assert_eq!(out[..2], f16::ONE.to_le_bytes());
        assert_eq!(out[2..6].iter().map(|&b| b as i8).collect::<Vec<_>>(), [127, 1, -1, 3]);
        assert!(out[34..].iter().all(|&b| b == 0), "a block of zeros has the scale 0");
    }

    #[test]
    fn rounding_is_that_of_f32() {
        for i in -127 * 4096..=127 * 4096 {
            let x = i as f32 / 4096.0;
            for x in [x, x.next_up(), x.next_down()] {
                assert_eq!(round(x), x.round() as i32, "{x}");
            }
        }
    }

    #[test]
    fn every_way_in_gives_the_same_numbers() {
        let numbers = [0.0f32, 1.0, -2.5, 0.15625, 384.0];
        let expected = converted(&numbers, DType::F32);
        let ways: [(Element, Vec<u8>); 3] = [
            (Element::F64, numbers.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect()),
            (Element::F16, numbers.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()),
            (Element::Bf16, numbers.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect()),
        ];
        for (from, raw) in ways {
            let mut out = Vec::new();
            convert(&raw, from, DType::F32, &mut out);
            assert_eq!(out, expected, "{from:?}");
        }
    }
}
