//! The output head: the last matrix, whole or by its best rows.

use std::sync::OnceLock;

use crate::dtype::DType;
use crate::ggml::{Builder, Stored, Tensor};
use crate::kernels::{Fused, Norm, Weight};

/// A matrix \[n_in, n_vocab\] with its low-bit copy.
pub(super) struct Head {
    weight: Weight,
    /// \[n_vocab\]
    bias: Option<Stored>,
    /// Made when first asked for.
    sketch: OnceLock<Option<Weight>>,
}

impl Head {
    pub(super) fn new(weight: Weight, bias: Option<Stored>) -> Head {
        Head { weight, bias, sketch: OnceLock::new() }
    }

    /// Logits \[n_vocab, t\] of the states `h` \[n_in, t\], normed first where there is a norm.
    pub(super) fn logits<'g>(&'g self, g: &Builder<'g>, h: Tensor<'g>, norm: Option<Norm<Tensor<'g>>>) -> Tensor<'g> {
        let bias = self.bias.as_ref().map(Stored::t);
        g.ops.linear(&self.weight, h, Fused { norm, bias, ..Fused::default() }).named("result_output", None)
    }

    /// The best of them, -inf for the others.
    pub(super) fn best<'g>(
        &'g self,
        g: &Builder<'g>,
        sketch: &'g Weight,
        h: Tensor<'g>,
        norm: Option<Norm<Tensor<'g>>>,
        keep: usize,
    ) -> Tensor<'g> {
        g.ops.shortlist(&self.weight, sketch, h, norm, keep).named("result_output", None)
    }

    /// The low-bit copy of the matrix, whose rows of blocks are `data`, if it is of use.
    pub(super) fn sketch(&self, dtype: DType, data: &[u8]) -> Option<&Weight> {
        // The copy knows of no bias.
        if self.bias.is_some() {
            return None;
        }
        // Without memory for it the whole head serves.
        self.sketch.get_or_init(|| self.weight.sketch(dtype, data).unwrap_or(None)).as_ref()
    }
}
