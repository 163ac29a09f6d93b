//! Owns the norms of hidden states: as nodes of ggml, and row by row inside nodes of our own, with the same bits.

use super::context::Tensor;
use super::cpu::functions;
use super::node::{NodeRun, row};
use super::ops::Ops;
use super::sys;

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
    /// Each row less its mean, divided by its standard deviation (arXiv 1607.06450, eq. 3), times the weight, plus the bias.
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
    /// The rows of `x`, each divided by its root mean square.
    #[track_caller]
    pub fn rms_norm(&self, x: Tensor<'g>, eps: f32) -> Tensor<'g> {
        // SAFETY: the tensor is alive.
        self.adopt(unsafe { sys::ggml_rms_norm(self.room(), x.as_ptr(), eps) })
    }

    /// The rows of `x`, each less its mean and divided by its standard deviation.
    #[track_caller]
    pub fn layer_norm(&self, x: Tensor<'g>, eps: f32) -> Tensor<'g> {
        // SAFETY: the tensor is alive.
        self.adopt(unsafe { sys::ggml_norm(self.room(), x.as_ptr(), eps) })
    }

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
                // Products in f32, the sum in f64, one after the other.
                let sum: f64 = x.iter().map(|v| f64::from(v * v)).sum();
                let scale = 1.0 / ((sum / x.len() as f64) as f32 + eps).sqrt();
                for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                    *y = x * scale * w;
                }
            }
            Norm::Layer { weight, bias, eps } => {
                let sum: f64 = x.iter().copied().map(f64::from).sum();
                let mean = sum as f32 / x.len() as f32;
                assert_eq!(x.len(), y.len());
                // SAFETY: both hold n numbers.
                let variance =
                    unsafe { (functions().ggml_vec_cvar_f32)(x.len() as i32, y.as_mut_ptr(), x.as_ptr(), mean) } as f32;
                let scale = 1.0 / (variance + eps).sqrt();
                y.iter_mut().zip(weight).for_each(|(y, w)| *y = *y * scale * w);
                if let Some(bias) = bias {
                    y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            }
        }
    }
}
