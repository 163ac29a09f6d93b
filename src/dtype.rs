//! Owns the facts about ggml's element types: id, name, block length, bytes per block. Refuses to know any arithmetic.

/// An element type of ggml 0.26. A row of a quantized type is a sequence of blocks; an unquantized type has
/// blocks of one element.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
#[repr(u32)]
#[rustfmt::skip]
#[allow(missing_docs)] // the names are ggml's
pub enum DType {
    F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q8_1 = 9,
    Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, Q8_K = 15,
    IQ2_XXS = 16, IQ2_XS = 17, IQ3_XXS = 18, IQ1_S = 19, IQ4_NL = 20, IQ3_S = 21, IQ2_S = 22, IQ4_XS = 23,
    I8 = 24, I16 = 25, I32 = 26, I64 = 27, F64 = 28, IQ1_M = 29, BF16 = 30,
    TQ1_0 = 34, TQ2_0 = 35, MXFP4 = 39, NVFP4 = 40, Q1_0 = 41, Q2_0 = 42,
}

impl DType {
    /// Every type, in the order of the ids.
    #[rustfmt::skip]
    pub const ALL: &[DType] = &[
        DType::F32, DType::F16, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::Q8_1,
        DType::Q2_K, DType::Q3_K, DType::Q4_K, DType::Q5_K, DType::Q6_K, DType::Q8_K,
        DType::IQ2_XXS, DType::IQ2_XS, DType::IQ3_XXS, DType::IQ1_S, DType::IQ4_NL, DType::IQ3_S, DType::IQ2_S,
        DType::IQ4_XS, DType::I8, DType::I16, DType::I32, DType::I64, DType::F64, DType::IQ1_M, DType::BF16,
        DType::TQ1_0, DType::TQ2_0, DType::MXFP4, DType::NVFP4, DType::Q1_0, DType::Q2_0,
    ];

    /// The type with this id in GGUF files and in `ggml.h`.
    pub fn from_id(id: u32) -> Option<DType> {
        DType::ALL.iter().copied().find(|t| t.id() == id)
    }

    /// The id in GGUF files and in `ggml.h`.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// ggml's name of the type, such as `q4_0` or `q6_K`.
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// The type with this name; upper and lower case are the same.
    pub fn from_name(name: &str) -> Option<DType> {
        DType::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Elements per block.
    pub fn block_len(self) -> usize {
        self.facts().1
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        self.facts().2
    }

    /// Whether several elements share a block.
    pub fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Bytes of a row of `n` elements. `None` when `n` is no multiple of the block length, or on overflow.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        if !n.is_multiple_of(self.block_len()) {
            return None;
        }
        (n / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Name, elements per block, bytes per block.
    fn facts(self) -> (&'static str, usize, usize) {
        match self {
            DType::F32 => ("f32", 1, 4),
            DType::F16 => ("f16", 1, 2),
            DType::Q4_0 => ("q4_0", 32, 18),
            DType::Q4_1 => ("q4_1", 32, 20),
            DType::Q5_0 => ("q5_0", 32, 22),
            DType::Q5_1 => ("q5_1", 32, 24),
            DType::Q8_0 => ("q8_0", 32, 34),
            DType::Q8_1 => ("q8_1", 32, 36),
            DType::Q2_K => ("q2_K", 256, 84),
            DType::Q3_K => ("q3_K", 256, 110),
            DType::Q4_K => ("q4_K", 256, 144),
            DType::Q5_K => ("q5_K", 256, 176),
            DType::Q6_K => ("q6_K", 256, 210),
            DType::Q8_K => ("q8_K", 256, 292),
            DType::IQ2_XXS => ("iq2_xxs", 256, 66),
            DType::IQ2_XS => ("iq2_xs", 256, 74),
            DType::IQ3_XXS => ("iq3_xxs", 256, 98),
            DType::IQ1_S => ("iq1_s", 256, 50),
            DType::IQ4_NL => ("iq4_nl", 32, 18),
            DType::IQ3_S => ("iq3_s", 256, 110),
            DType::IQ2_S => ("iq2_s", 256, 82),
            DType::IQ4_XS => ("iq4_xs", 256, 136),
            DType::I8 => ("i8", 1, 1),
            DType::I16 => ("i16", 1, 2),
            DType::I32 => ("i32", 1, 4),
            DType::I64 => ("i64", 1, 8),
            DType::F64 => ("f64", 1, 8),
            DType::IQ1_M => ("iq1_m", 256, 56),
            DType::BF16 => ("bf16", 1, 2),
            DType::TQ1_0 => ("tq1_0", 256, 54),
            DType::TQ2_0 => ("tq2_0", 256, 66),
            DType::MXFP4 => ("mxfp4", 32, 17),
            DType::NVFP4 => ("nvfp4", 64, 36),
            DType::Q1_0 => ("q1_0", 128, 18),
            DType::Q2_0 => ("q2_0", 64, 18),
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_are_unique_and_lead_back() {
        for (i, &t) in DType::ALL.iter().enumerate() {
            assert_eq!(DType::from_id(t.id()), Some(t));
            assert_eq!(DType::from_name(t.name()), Some(t));
            assert_eq!(format!("{t:?}").to_lowercase(), t.name().to_lowercase());
            assert!(i == 0 || DType::ALL[i - 1].id() < t.id(), "ALL is in the order of the ids");
        }
        assert_eq!(DType::ALL.len(), 35);
        assert_eq!(DType::from_name("Q6_k"), Some(DType::Q6_K));
    }

    #[test]
    fn removed_and_unknown_ids_are_none() {
        for id in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(DType::from_id(id), None, "{id}");
        }
    }

    #[test]
    fn row_bytes_refuses_partial_blocks_and_overflow() {
        assert_eq!(DType::Q4_1.row_bytes(576), Some(360));
        assert_eq!(DType::Q4_1.row_bytes(0), Some(0));
        assert_eq!(DType::Q4_K.row_bytes(576), None);
        assert_eq!(DType::F64.row_bytes(usize::MAX), None);
    }
}
