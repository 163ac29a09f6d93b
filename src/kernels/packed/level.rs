//! Levels of instructions that kernels are written for. Finer than [`Isa`], which is how ggml was compiled: a kernel
//! may need what only some processors of a level have.

use crate::ggml::{Isa, has_features, isa};

/// Instructions that a kernel needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no other processor has kernels
pub(super) enum Level {
    /// Eight rows of a group at a time.
    Avx2,
    /// Eight rows, with dot products of bytes.
    AvxVnni,
    /// Sixteen rows, with dot products of bytes.
    Avx512Vnni,
}

impl Level {
    /// The level of ggml's code that it belongs to: what `CURTAIL_ISA` turns off there is off here.
    fn isa(self) -> Isa {
        match self {
            // AVX-VNNI goes with AVX2: processors have it that lack AVX-512.
            Level::Avx2 | Level::AvxVnni => Isa::Avx2,
            Level::Avx512Vnni => Isa::Avx512,
        }
    }

    /// As the functions of the level name them in `target_feature`.
    fn features(self) -> &'static [&'static str] {
        match self {
            Level::Avx2 => &["avx2", "fma", "f16c"],
            Level::AvxVnni => &["avxvnni", "avx2", "fma", "f16c"],
            Level::Avx512Vnni => &["avx512f", "avx512bw", "avx512vnni", "f16c"],
        }
    }

    /// Whether a kernel of this level may run while ggml's code is of level `isa`.
    pub(super) fn is_usable_at(self, isa: Isa) -> bool {
        // Both: a level of ggml's is a promise of less than its kernels here need, such as AVX-512 without VNNI.
        isa >= self.isa() && has_features(self.features())
    }

    /// Whether a kernel of this level may run in this process.
    pub(super) fn is_usable(self) -> bool {
        self.is_usable_at(isa())
    }
}
