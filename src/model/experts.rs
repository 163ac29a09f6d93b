//! Experts: feed-forward networks of which a router gives each token the few that suit it.

use super::weights::{Linear, Loader};
use super::{Config, Error, Experts, attention};
use crate::ggml::{Builder, Stored, Tensor};
use crate::kernels::Fused;

pub(super) struct ExpertNetworks {
    experts: Experts,
    /// Scores of all experts: \[n_embd, n_expert\].
    router: Linear,
    gate: Matrices,
    up: Matrices,
    down: Matrices,
}

/// A matrix of each expert, with their biases where they have some.
struct Matrices {
    /// \[n_in, n_out, n_expert\]
    weight: Stored,
    /// \[n_out, n_expert\]
    bias: Option<Stored>,
}

impl ExpertNetworks {
    pub(super) fn load(
        w: &mut Loader<'_>,
        config: &Config,
        experts: Experts,
        blk: &str,
    ) -> Result<ExpertNetworks, Error> {
        let (n_embd, n_ff) = (config.n_embd, config.n_ff);
        let mut matrices = |name: &str, n_in, n_out| {
            let weight = w.experts(&format!("{blk}.{name}.weight"), [n_in, n_out], experts)?;
            let bias = w.optional_of_shapes(&format!("{blk}.{name}.bias"), &[&[n_out, experts.n]])?;
            Ok::<_, Error>(Matrices { weight, bias: bias.map(|(bias, _)| bias) })
        };
        let (gate, up) = (matrices("ffn_gate_exps", n_embd, n_ff)?, matrices("ffn_up_exps", n_embd, n_ff)?);
        let down = matrices("ffn_down_exps", n_ff, n_embd)?;
        let router = w.linear(&format!("{blk}.ffn_gate_inp"), [n_embd, experts.n])?;
        Ok(ExpertNetworks { experts, router, gate, up, down })
    }

    /// The experts' outputs for the rows `x` \[n_embd, t\], each times its weight, added up: \[n_embd, t\].
    pub(super) fn output<'g>(&'g self, g: &Builder<'g>, config: &Config, x: Tensor<'g>) -> Tensor<'g> {
        let (n_used, [n_embd, t, ..]) = (self.experts.n_used, x.shape());
        let scores = attention::linear(g, &self.router, x, Fused::default()); // [n_expert, t]
        let chosen = g.ops.largest(scores, n_used, &self.gate.weight); // [n_used, t]
        // Of the chosen alone: the same as a softmax over all whose chosen part is scaled to a sum of 1.
        let weights = g.ops.probabilities(g.ops.entries(scores, chosen)); // [n_used, t]
        let x = g.ops.reshape_3d(x, [n_embd, 1, t]);
        let (gate, up) = (self.gate.products(g, x, chosen), self.up.products(g, x, chosen)); // [n_ff, n_used, t]
        let inner = g.ops.gated(config.activation, gate, up);
        let found = self.down.products(g, inner, chosen); // [n_embd, n_used, t]
        let found = g.ops.mul(found, g.ops.reshape_3d(weights, [1, n_used, t]));
        let [_, one, row, _] = found.strides();
        let of = |i: usize| g.ops.view(found, [n_embd, t, 1], [row, row * t], i * one);
        // One after the other, in the order of their scores: a row is added up alike alone and beside others.
        (1..n_used).fold(of(0), |sum, i| g.ops.add(sum, of(i)))
    }
}

impl Matrices {
    fn products<'g>(&'g self, g: &Builder<'g>, x: Tensor<'g>, chosen: Tensor<'g>) -> Tensor<'g> {
        let products = g.ops.mul_mat_of(self.weight.t(), x, chosen);
        self.bias.as_ref().map_or(products, |bias| g.ops.add_of(products, bias.t(), chosen))
    }
}
