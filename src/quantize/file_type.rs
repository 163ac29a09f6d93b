//! Owns the file types: name, id, the tensor type each starts from, and how many bits a weight takes.

use std::str::FromStr;

use crate::dtype::DType;

/// What a whole file is quantized to: a tensor type, or a mix of several. Names and ids are llama.cpp's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
#[rustfmt::skip]
#[allow(missing_docs)] // the names are llama.cpp's
#[repr(u32)]
pub enum FileType {
    F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q8_0 = 7, Q5_0 = 8, Q5_1 = 9, Q2_K = 10,
    Q3_K_S = 11, Q3_K_M = 12, Q3_K_L = 13, Q4_K_S = 14, Q4_K_M = 15, Q5_K_S = 16, Q5_K_M = 17, Q6_K = 18,
    IQ2_XXS = 19, IQ2_XS = 20, Q2_K_S = 21, IQ3_XS = 22, IQ3_XXS = 23, IQ1_S = 24, IQ4_NL = 25, IQ3_S = 26, IQ3_M = 27,
    IQ2_S = 28, IQ2_M = 29, IQ4_XS = 30, IQ1_M = 31, BF16 = 32, TQ1_0 = 36, TQ2_0 = 37, MXFP4_MOE = 38,
    Q1_0 = 40, Q2_0 = 41,
}

impl FileType {
    /// Every type, from the fewest bits to the most.
    #[rustfmt::skip]
    pub const ALL: &[FileType] = &[
        FileType::Q1_0, FileType::IQ1_S, FileType::IQ1_M, FileType::TQ1_0, FileType::IQ2_XXS, FileType::TQ2_0,
        FileType::IQ2_XS, FileType::Q2_0, FileType::IQ2_S, FileType::IQ2_M, FileType::Q2_K_S, FileType::Q2_K,
        FileType::IQ3_XXS, FileType::IQ3_XS, FileType::Q3_K_S, FileType::IQ3_S, FileType::IQ3_M, FileType::Q3_K_M,
        FileType::Q3_K_L, FileType::IQ4_XS, FileType::IQ4_NL, FileType::Q4_0, FileType::Q4_K_S, FileType::Q4_K_M,
        FileType::Q4_1, FileType::Q5_K_S, FileType::Q5_0, FileType::Q5_K_M, FileType::Q5_1, FileType::Q6_K,
        FileType::Q8_0, FileType::MXFP4_MOE, FileType::F16, FileType::BF16, FileType::F32,
    ];

    /// The value of `general.file_type`.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The name.
    pub fn name(self) -> &'static str {
        self.facts().0
    }

    /// The tensor type that the mix starts from, and that all tensors get without a mix.
    pub fn base(self) -> DType {
        self.facts().1
    }

    /// Bits per weight of Llama-3.1-8B, given an importance matrix.
    pub fn bits_per_weight(self) -> f64 {
        self.facts().2
    }

    /// The id that llama.cpp takes for that of a file which names no type and has most of its tensors in `dtype`.
    pub(super) fn guess(dtype: DType) -> u32 {
        const NVFP4: u32 = 39;
        let named = || FileType::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(dtype.name()));
        match dtype {
            DType::Q3_K => FileType::Q3_K_M.id(),
            DType::Q4_K => FileType::Q4_K_M.id(),
            DType::Q5_K => FileType::Q5_K_M.id(),
            DType::NVFP4 => NVFP4,
            _ => named().unwrap_or(FileType::F32).id(),
        }
    }

    /// Name, tensor type, bits per weight.
    fn facts(self) -> (&'static str, DType, f64) {
        use FileType::*;
        match self {
            F32 => ("F32", DType::F32, 32.00),
            F16 => ("F16", DType::F16, 16.00),
            BF16 => ("BF16", DType::BF16, 16.00),
            Q4_0 => ("Q4_0", DType::Q4_0, 4.65),
            Q4_1 => ("Q4_1", DType::Q4_1, 5.10),
            Q5_0 => ("Q5_0", DType::Q5_0, 5.59),
            Q5_1 => ("Q5_1", DType::Q5_1, 6.04),
            Q8_0 => ("Q8_0", DType::Q8_0, 8.50),
            Q2_K => ("Q2_K", DType::Q2_K, 3.16),
            Q2_K_S => ("Q2_K_S", DType::Q2_K, 2.97),
            Q3_K_S => ("Q3_K_S", DType::Q3_K, 3.64),
            Q3_K_M => ("Q3_K_M", DType::Q3_K, 4.00),
            Q3_K_L => ("Q3_K_L", DType::Q3_K, 4.30),
            Q4_K_S => ("Q4_K_S", DType::Q4_K, 4.67),
            Q4_K_M => ("Q4_K_M", DType::Q4_K, 4.89),
            Q5_K_S => ("Q5_K_S", DType::Q5_K, 5.57),
            Q5_K_M => ("Q5_K_M", DType::Q5_K, 5.70),
            Q6_K => ("Q6_K", DType::Q6_K, 6.56),
            IQ1_S => ("IQ1_S", DType::IQ1_S, 2.00),
            IQ1_M => ("IQ1_M", DType::IQ1_M, 2.15),
            IQ2_XXS => ("IQ2_XXS", DType::IQ2_XXS, 2.38),
            IQ2_XS => ("IQ2_XS", DType::IQ2_XS, 2.59),
            // The smaller type, in M's mix.
            IQ2_S => ("IQ2_S", DType::IQ2_XS, 2.74),
            IQ2_M => ("IQ2_M", DType::IQ2_S, 2.93),
            IQ3_XXS => ("IQ3_XXS", DType::IQ3_XXS, 3.25),
            IQ3_XS => ("IQ3_XS", DType::IQ3_S, 3.50),
            IQ3_S => ("IQ3_S", DType::IQ3_S, 3.66),
            IQ3_M => ("IQ3_M", DType::IQ3_S, 3.76),
            IQ4_NL => ("IQ4_NL", DType::IQ4_NL, 4.65),
            IQ4_XS => ("IQ4_XS", DType::IQ4_XS, 4.42),
            TQ1_0 => ("TQ1_0", DType::TQ1_0, 2.19),
            TQ2_0 => ("TQ2_0", DType::TQ2_0, 2.52),
            MXFP4_MOE => ("MXFP4_MOE", DType::MXFP4, 8.50),
            Q1_0 => ("Q1_0", DType::Q1_0, 1.48),
            Q2_0 => ("Q2_0", DType::Q2_0, 2.68),
        }
    }
}

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file of this type.
    Type(FileType),
    /// The tensors as they are.
    Copy,
}

impl Target {
    /// Names that stand for one of several mixes.
    pub const ALIASES: [(&str, FileType); 3] =
        [("Q3_K", FileType::Q3_K_M), ("Q4_K", FileType::Q4_K_M), ("Q5_K", FileType::Q5_K_M)];

    /// The name, in capitals.
    pub fn name(self) -> &'static str {
        match self {
            Target::Type(t) => t.name(),
            Target::Copy => "COPY",
        }
    }
}

impl FromStr for Target {
    type Err = String;

    /// A name in capitals or not, or an id.
    fn from_str(text: &str) -> Result<Target, String> {
        if text.eq_ignore_ascii_case("COPY") {
            return Ok(Target::Copy);
        }
        let alias = Target::ALIASES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|&(_, t)| t);
        let named = || FileType::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(text));
        let numbered = || text.parse().ok().and_then(|id: u32| FileType::ALL.iter().copied().find(|t| t.id() == id));
        let found = alias.or_else(named).or_else(numbered);
        found.map(Target::Type).ok_or_else(|| {
            let names: Vec<_> = FileType::ALL.iter().map(|t| t.name()).collect();
            format!("`{text}` is not a file type\nhint: one of {}, COPY", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_lead_back() {
        for &t in FileType::ALL {
            assert_eq!(t.name().to_lowercase().parse(), Ok(Target::Type(t)));
            assert_eq!(t.id().to_string().parse(), Ok(Target::Type(t)));
        }
        assert_eq!(FileType::ALL.len(), 35);
        assert_eq!("copy".parse(), Ok(Target::Copy));
        assert_eq!("q4_k".parse(), Ok(Target::Type(FileType::Q4_K_M)));
        assert!("Q4_K_X".parse::<Target>().is_err() && "4".parse::<Target>().is_err());
    }

    #[test]
    fn a_file_without_a_type_is_what_most_of_its_tensors_are() {
        for (dtype, expected) in [
            (DType::Q4_1, FileType::Q4_1),
            (DType::BF16, FileType::BF16),
            (DType::Q4_K, FileType::Q4_K_M),
            (DType::Q6_K, FileType::Q6_K),
            (DType::IQ2_S, FileType::IQ2_S),
            (DType::I32, FileType::F32),
        ] {
            assert_eq!(FileType::guess(dtype), expected.id(), "{dtype}");
        }
    }
}
