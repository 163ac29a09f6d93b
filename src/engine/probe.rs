//! Owns what is read of hidden states on the devices where they wait, so that a few numbers come back instead of the states.

use super::Error;
use crate::dtype::DType;
use crate::exit::{self, Checkpoint};
use crate::ggml::{Builder, Device, Store, StoreBuilder, Stored, Tensor};
use crate::model::FinalNorm;
use crate::plan::Depth;
use std::sync::Arc;

/// softmax(W x + b) of a hidden state x after so many steps, normed as before the output head ([`FinalNorm::apply`]).
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// What has run before it.
    pub depth: Depth,
    /// W: \[n_embd, n_out\], a row for each number that is read.
    pub weights: Vec<f32>,
    /// b: \[n_out\]
    pub bias: Vec<f32>,
}

impl Probe {
    /// That of a checkpoint, if it has one.
    pub fn of(checkpoint: &Checkpoint<Depth>) -> Option<Probe> {
        let exit::Probe { weights, bias } = checkpoint.probe.clone()?;
        Some(Probe { depth: checkpoint.at, weights, bias })
    }
}

/// A probe on a device other than the CPU.
pub(super) struct Placed {
    pub(super) depth: Depth,
    /// Its place in the placement.
    pub(super) device: usize,
    weights: Stored,
    bias: Stored,
    norm: FinalNorm,
}

impl Placed {
    pub(super) fn new(probe: &Probe, norm: FinalNorm, device: usize, on: &Arc<Device>) -> Result<Placed, Error> {
        let n_out = probe.bias.len();
        let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<u8>>();
        let mut builder = StoreBuilder::new(2);
        // Where the states wait: only what is read of them travels.
        builder.place_on(on);
        let n_embd = probe.weights.len() / n_out;
        let weights = builder.add_plain("probe.weight", DType::F32, &[n_embd, n_out], &bytes(&probe.weights))?;
        let bias = builder.add_plain("probe.bias", DType::F32, &[n_out], &bytes(&probe.bias))?;
        Ok(Placed { depth: probe.depth, device, weights, bias, norm })
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        self.weights.store()
    }

    /// What is read of the rows of `h` \[n_embd, t\]: \[n_out, t\].
    pub(super) fn read<'g>(&'g self, g: &Builder<'g>, h: Tensor<'g>) -> Tensor<'g> {
        // Without the norm's weights, as the states were normed that probes are fitted to.
        let x = match self.norm {
            FinalNorm::Rms(eps) => g.ops.rms_norm(h, eps),
            FinalNorm::Layer(eps) => g.ops.layer_norm(h, eps),
            FinalNorm::None => h,
        };
        g.ops.probabilities(g.ops.add(g.ops.mul_mat(self.weights.t(), x), self.bias.t()))
    }
}
