//! Registers that are arrays: what kernels compute, by plain steps that any processor has. Tests compare the others with it.

use half::f16;

use super::GROUP;
use super::dots::Dots;
use super::lanes::Lanes;

/// Four bytes of each of sixteen rows.
#[derive(Clone, Copy)]
pub(super) struct Plain([u8; 4 * GROUP]);

/// A byte of each.
#[derive(Clone, Copy)]
pub(super) struct Bytes([u8; GROUP]);

macro_rules! lanes {
    ($register:ident, $n:expr) => {
        impl Lanes for $register {
            unsafe fn load(at: *const u8) -> Self {
                // SAFETY: as promised by the caller.
                $register(unsafe { at.cast::<[u8; $n]>().read() })
            }

            fn bits<const SHIFT: u32>(self, mask: u8) -> Self {
                assert_eq!(mask & !(0xff >> SHIFT), 0, "a neighbour's bits");
                $register(self.0.map(|byte| byte >> SHIFT & mask))
            }

            fn up<const SHIFT: u32>(self, mask: u8) -> Self {
                assert_eq!(mask & !(0xff << SHIFT), 0, "a neighbour's bits");
                $register(self.0.map(|byte| byte << SHIFT & mask))
            }

            fn or(self, other: Self) -> Self {
                $register(std::array::from_fn(|i| self.0[i] | other.0[i]))
            }

            fn lookup(self, table: &[u8; 16]) -> Self {
                $register(self.0.map(|byte| table[usize::from(byte)]))
            }
        }
    };
}

lanes!(Plain, 4 * GROUP);
lanes!(Bytes, GROUP);

impl Dots for Plain {
    const ROWS: usize = GROUP;
    type Ints = [i32; GROUP];
    type Floats = [f32; GROUP];
    type Bytes = Bytes;

    fn ints(x: i32) -> [i32; GROUP] {
        [x; GROUP]
    }

    fn dot(sums: [i32; GROUP], Plain(weights): Plain, four: i32) -> [i32; GROUP] {
        let four = four.to_le_bytes();
        std::array::from_fn(|r| {
            (0..4).fold(sums[r], |sum, k| sum + i32::from(weights[4 * r + k]) * i32::from(four[k] as i8))
        })
    }

    fn dot_pairs(sums: [i32; GROUP], Plain(pairs): Plain, two: i32) -> [i32; GROUP] {
        let two = [two as i16, (two >> 16) as i16];
        let pair = |r: usize, k: usize| i16::from_le_bytes([pairs[4 * r + 2 * k], pairs[4 * r + 2 * k + 1]]);
        std::array::from_fn(|r| (0..2).fold(sums[r], |sum, k| sum + i32::from(pair(r, k)) * i32::from(two[k])))
    }

    fn add_scaled(sums: [i32; GROUP], x: [i32; GROUP], scale: [i32; GROUP]) -> [i32; GROUP] {
        std::array::from_fn(|r| sums[r] + x[r] * scale[r])
    }

    fn sub(a: [i32; GROUP], b: [i32; GROUP]) -> [i32; GROUP] {
        std::array::from_fn(|r| a[r] - b[r])
    }

    fn raised(self) -> Plain {
        Plain(self.0.map(|byte| byte.wrapping_add(128)))
    }

    fn widen(bytes: Bytes, bias: i8, _: usize) -> [i32; GROUP] {
        bytes.0.map(|byte| i32::from(byte as i8 - bias))
    }

    fn pairs(a: Bytes, b: Bytes, bias: i8, factor: i16, _: usize) -> Plain {
        let number = |byte: u8| (i16::from(byte as i8 - bias) * factor).to_le_bytes();
        let pairs = a.0.iter().zip(b.0).flat_map(|(&a, b)| [number(a), number(b)]).flatten();
        Plain(pairs.collect::<Vec<u8>>().try_into().expect("four bytes of sixteen rows"))
    }

    unsafe fn halves(at: *const u8) -> [f32; GROUP] {
        // SAFETY: as promised by the caller.
        unsafe { at.cast::<[[u8; 2]; GROUP]>().read() }.map(|half| f16::from_le_bytes(half).to_f32())
    }

    unsafe fn exponents(at: *const u8) -> [f32; GROUP] {
        // SAFETY: as promised by the caller.
        unsafe { at.cast::<[u8; GROUP]>().read() }.map(|e| 2f64.powi(i32::from(e) - 128) as f32)
    }

    unsafe fn floats(at: *const f32) -> [f32; GROUP] {
        // SAFETY: as promised by the caller.
        unsafe { at.cast::<[f32; GROUP]>().read() }
    }

    unsafe fn store(x: [f32; GROUP], at: *mut f32) {
        // SAFETY: as promised by the caller.
        unsafe { at.cast::<[f32; GROUP]>().write(x) }
    }

    fn times(a: [f32; GROUP], x: f32) -> [f32; GROUP] {
        a.map(|a| a * x)
    }

    fn splat(x: f32) -> [f32; GROUP] {
        [x; GROUP]
    }

    fn mul_add(a: [f32; GROUP], b: [f32; GROUP], c: [f32; GROUP]) -> [f32; GROUP] {
        std::array::from_fn(|r| a[r].mul_add(b[r], c[r]))
    }

    fn sub_mul(c: [f32; GROUP], a: [f32; GROUP], b: [f32; GROUP]) -> [f32; GROUP] {
        std::array::from_fn(|r| (-a[r]).mul_add(b[r], c[r]))
    }

    fn to_floats(x: [i32; GROUP]) -> [f32; GROUP] {
        x.map(|x| x as f32)
    }
}
