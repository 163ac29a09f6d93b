//! Owns rotary positions: kinds of scaling, bases and their bounds. Refuses kinds that the forward pass does not have.

use super::super::Error;
use super::read::{Keys, Within};
use crate::ggml::{Pairs, Rope};

impl Keys<'_> {
    /// llama.cpp's keys for RoPE and its scaling. YaRN: arXiv 2309.00071.
    pub(super) fn rope(&self, head_dim: usize, pairs: Pairs) -> Result<Rope, Error> {
        let n_dims = self.optional_size("rope.dimension_count")?.unwrap_or(head_dim);
        if n_dims > head_dim || !n_dims.is_multiple_of(2) {
            let expected = format!("an even number up to the head's {head_dim}");
            return Err(self.invalid("rope.dimension_count", &expected, n_dims));
        }
        let factor = self.scaling_factor("rope.scaling.factor")?.or(self.scaling_factor("rope.scale_linear")?);
        let factor = factor.unwrap_or(1.0);
        let kind_key = self.key("rope.scaling.type");
        let kind = self.meta.str(&kind_key)?.unwrap_or("linear");
        // Below zero it is not set, as in llama.cpp.
        let ext_factor = self.number("rope.scaling.yarn_ext_factor", Within { least: -1.0, most: 1.0 })?;
        let (freq_scale, ext_factor) = match kind {
            // What stretches positions is in tensors of its own.
            "none" | "longrope" => (1.0, 0.0),
            "linear" => (1.0 / factor, 0.0),
            "yarn" => (1.0 / factor, ext_factor.filter(|&x| x >= 0.0).unwrap_or(1.0)),
            other => {
                return Err(self.invalid(
                    "rope.scaling.type",
                    "one of none, linear, yarn, longrope",
                    format!("`{other}`"),
                ));
            }
        };
        let within = |least, most| Within { least, most };
        Ok(Rope {
            pairs,
            n_dims,
            freq_base: self.freq_base("rope.freq_base")?.unwrap_or(10_000.0),
            freq_scale,
            ext_factor,
            attn_factor: self.number("rope.scaling.attn_factor", within(1e-3, 1e3))?.unwrap_or(1.0),
            beta_fast: self.number("rope.scaling.yarn_beta_fast", within(1e-3, 1e6))?.unwrap_or(32.0),
            beta_slow: self.number("rope.scaling.yarn_beta_slow", within(1e-3, 1e6))?.unwrap_or(1.0),
            n_ctx_orig: match self.optional_size("rope.scaling.original_context_length")? {
                Some(n) => self.check_positions("rope.scaling.original_context_length", n)?,
                None => self.n_ctx_train()?,
            },
        })
    }

    /// The logarithm of the base divides, and angles grow with its inverse: from 1 down there is no rotation to speak of.
    pub(super) fn freq_base(&self, key: &str) -> Result<Option<f32>, Error> {
        self.number(key, Within { least: 1.0 + f32::EPSILON, most: 1e30 })
    }

    /// By how much positions are stretched; 0 stands for not at all.
    pub(super) fn scaling_factor(&self, key: &str) -> Result<Option<f32>, Error> {
        if self.f32(key)? == Some(0.0) {
            return Ok(None);
        }
        self.number(key, Within { least: 1e-3, most: 1e6 })
    }
}
