//! Owns the norms of a layer: which tensors they are, and where they stand.

use super::Config;
use super::arch::{NormKind, Norms};
use super::attention::linear;
use super::weights::{Linear, Loader};
use super::{Error, attention};
use crate::ggml::{Builder, Stored, Tensor};
use crate::kernels::{Fused, Norm};

/// A norm's weight, and its bias where it has one.
pub(super) struct NormWeights {
    weight: Stored,
    bias: Option<Stored>,
}

impl NormWeights {
    pub(super) fn load(w: &mut Loader<'_>, name: &str, n: usize) -> Result<NormWeights, Error> {
        let weight = w.vector(&format!("{name}.weight"), n)?;
        Ok(NormWeights { weight, bias: w.optional_vector(&format!("{name}.bias"), n)? })
    }

    pub(super) fn of(&self, config: &Config) -> Norm<Tensor<'_>> {
        norm(config, self.weight.t(), self.bias.as_ref().map(Stored::t))
    }
}

fn norm<'g>(config: &Config, weight: Tensor<'g>, bias: Option<Tensor<'g>>) -> Norm<Tensor<'g>> {
    let eps = config.norm_eps;
    match config.norm {
        NormKind::Rms => Norm::Rms { weight, eps },
        NormKind::Layer => Norm::Layer { weight, bias, eps },
    }
}

/// The norms of half a layer.
pub(super) struct HalfNorms {
    /// Of what it takes.
    first: Option<NormWeights>,
    /// Of what it found, before that is added.
    before_sum: Option<NormWeights>,
    /// Of the sum.
    after_sum: Option<NormWeights>,
}

impl HalfNorms {
    /// `names`: what the norm that every half has may be called, the usual name first; `inner`: that before the sum.
    pub(super) fn load(
        w: &mut Loader<'_>,
        config: &Config,
        blk: &str,
        names: &[&str],
        inner: &str,
    ) -> Result<HalfNorms, Error> {
        let full = |name: &str| format!("{blk}.{name}");
        let outer = names.iter().find(|name| w.has(&full(&format!("{name}.weight")))).or(names.first());
        let mut at = |name: Option<&str>| name.map(|name| NormWeights::load(w, &full(name), config.n_embd)).transpose();
        Ok(HalfNorms {
            first: at(outer.copied().filter(|_| config.norms.come_first()))?,
            before_sum: at(config.norms.come_before_the_sum().then_some(inner))?,
            after_sum: at(outer.copied().filter(|_| config.norms == Norms::Post))?,
        })
    }

    /// The norm of what the half takes.
    pub(super) fn first(&self, config: &Config) -> Option<Norm<Tensor<'_>>> {
        self.first.as_ref().map(|norm| norm.of(config))
    }

    /// `h` with what the last matrix of the half makes of `x`.
    pub(super) fn added<'g>(
        &'g self,
        g: &Builder<'g>,
        config: &Config,
        h: Tensor<'g>,
        last: &'g Linear,
        x: Tensor<'g>,
    ) -> Tensor<'g> {
        // With the addition in the matrix's node a layer is fewer nodes; what comes between them keeps it out.
        if self.before_sum.is_none() && config.residual_scale.is_none() {
            let sum = linear(g, last, x, Fused { residual: Some(h), ..Fused::default() });
            return self.after_sum(g, config, sum);
        }
        self.sum(g, config, h, linear(g, last, x, Fused::default()))
    }

    /// `h` with what the half found.
    pub(super) fn sum<'g>(&'g self, g: &Builder<'g>, config: &Config, h: Tensor<'g>, found: Tensor<'g>) -> Tensor<'g> {
        let found = self.before_sum.as_ref().map_or(found, |norm| g.ops.norm(found, norm.of(config)));
        let found = config.residual_scale.map_or(found, |scale| g.ops.scale(found, scale));
        self.after_sum(g, config, g.ops.add(found, h))
    }

    fn after_sum<'g>(&'g self, g: &Builder<'g>, config: &Config, sum: Tensor<'g>) -> Tensor<'g> {
        self.after_sum.as_ref().map_or(sum, |norm| g.ops.norm(sum, norm.of(config)))
    }
}

/// The norm of queries or of keys.
pub(super) struct HeadNorm {
    weight: Stored,
    /// Whether all heads are normed as one.
    is_whole: bool,
}

impl HeadNorm {
    /// Of `n_head` heads; `None` where the file has no such tensor.
    pub(super) fn load(
        w: &mut Loader<'_>,
        config: &Config,
        name: &str,
        n_head: usize,
    ) -> Result<Option<HeadNorm>, Error> {
        let head = config.head_dim_k;
        // One weight for all heads, one for each, or one norm over all heads.
        let found = w.optional_of_shapes(name, &[&[head], &[head, n_head], &[head * n_head]])?;
        Ok(found.map(|(weight, i)| HeadNorm { weight, is_whole: i == 2 }))
    }

    /// `n_head` heads, the columns of `x` \[head * n_head, t\], normed: \[head, n_head, t\].
    pub(super) fn heads<'g>(&'g self, g: &Builder<'g>, config: &Config, x: Tensor<'g>, n_head: usize) -> Tensor<'g> {
        let norm = norm(config, self.weight.t(), None);
        match self.is_whole {
            true => attention::heads(g, g.ops.norm(x, norm), 0, n_head, config.head_dim_k),
            false => g.ops.norm(attention::heads(g, x, 0, n_head, config.head_dim_k), norm),
        }
    }
}
