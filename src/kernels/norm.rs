//! Owns the norms of hidden states: as nodes of ggml, and row by row inside nodes of our own, with the same bits.

use crate::ggml::{NodeRun, Ops, Tensor, less_mean, row};

/// A norm with what belongs to it: tensors f32 \[n\]; inside a node, their places among its sources; or their numbers.
#[derive(Clone, Copy, Debug)]
pub enum Norm<V> {
    /// Each row divided by its root mean square (arXiv 1910.07467, eq. 4), times the weight.
    Rms {
        /// Multiplies.
        weight: V,
        /// Added to the mean of the squares.
        eps: f32,
    },
    /// Each row less its mean, divided by its standard deviation (arXiv 1607.06450, eq. 3), times the weight, plus the
    /// bias.
    Layer {
        /// Multiplies.
        weight: V,
        /// Added at the end.
        bias: Option<V>,
        /// Added to the variance.
        eps: f32,
    },
}

impl<V> Norm<V> {
    /// The same norm with something else in the place of its tensors, weight first.
    pub(super) fn map<W>(self, mut of: impl FnMut(V) -> W) -> Norm<W> {
        match self {
            Norm::Rms { weight, eps } => Norm::Rms { weight: of(weight), eps },
            Norm::Layer { weight, bias, eps } => Norm::Layer { weight: of(weight), bias: bias.map(of), eps },
        }
    }
}

impl<'g> Ops<'g> {
    /// The normed rows of `x`.
    #[track_caller]
    pub fn norm(&self, x: Tensor<'g>, norm: Norm<Tensor<'g>>) -> Tensor<'g> {
        match norm {
            Norm::Rms { weight, eps } => self.mul(self.rms_norm(x, eps), weight),
            Norm::Layer { weight, bias, eps } => {
                let scaled = self.mul(self.layer_norm(x, eps), weight);
                bias.map_or(scaled, |bias| self.add(scaled, bias))
            }
        }
    }
}

impl Norm<usize> {
    /// The numbers of a node's norm.
    ///
    /// # Safety
    /// The node's sources at these places are rows of f32 that nothing writes meanwhile.
    pub(super) unsafe fn read<'r>(self, run: &'r NodeRun<'_>) -> Norm<&'r [f32]> {
        // SAFETY: as promised by the caller.
        self.map(|place| unsafe { row(run.source(place), 0) })
    }
}

impl Norm<&[f32]> {
    /// Norms a row, adding up as ggml does.
    pub(super) fn apply(self, x: &[f32], y: &mut [f32]) {
        match self {
            Norm::Rms { weight, eps } => {
                // Products in f32, the sum in f64, one after the other: ggml's `ggml_compute_forward_rms_norm_f32`.
                let sum: f64 = x.iter().map(|v| f64::from(v * v)).sum();
                let scale = 1.0 / ((sum / x.len() as f64) as f32 + eps).sqrt();
                for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                    // Two roundings, as of ggml's two nodes: scale * w first would round otherwise.
                    *y = x * scale * w;
                }
            }
            Norm::Layer { weight, bias, eps } => {
                // One after the other in f64, as ggml does: other orders round otherwise once rows are long.
                let sum: f64 = x.iter().copied().map(f64::from).sum();
                let mean = sum as f32 / x.len() as f32;
                // ggml's own: it adds up in as many lanes as the level in use has.
                let variance = less_mean(x, mean, y) as f32;
                let scale = 1.0 / (variance + eps).sqrt();
                y.iter_mut().zip(weight).for_each(|(y, w)| *y = *y * scale * w);
                if let Some(bias) = bias {
                    y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            }
        }
    }
}
