//! How the results of `perplexity` are told.

use serde_json::{Value, json};

use crate::commands::shared::depth::LayersPerToken;
use crate::commands::shared::rounded;
use crate::eval::{Divergence, Estimate, Moments, Place, Quantile};

/// What was measured.
pub(super) struct Found {
    pub(super) model: String,
    pub(super) n_ctx: usize,
    pub(super) n_chunks: usize,
    pub(super) n_layer: usize,
    /// Whether some tokens may have stopped before full depth.
    pub(super) stops: bool,
    /// What the depths of the places are worth in layers: by the steps of the plan.
    pub(super) layers_at: Vec<f64>,
    /// Layers executed per scored token, where some wait for their deeper layers; elsewhere what they need.
    pub(super) executed: Option<f64>,
    /// What it was compared with, if it was.
    pub(super) base: Option<String>,
    pub(super) places: Vec<Place>,
}

impl Found {
    /// Names and values for a reader.
    pub(super) fn figures(&self) -> Vec<(String, String)> {
        let scored = format!("{}, {} tokens each, {} scored", self.n_chunks, self.n_ctx, self.places.len());
        let mut figures = vec![("chunks".to_owned(), scored)];
        let mut tell = |name: &str, value: String| figures.push((name.to_owned(), value));
        match (&self.base, self.divergence()) {
            (Some(base), Some(found)) => {
                tell("PPL", plain(found.ppl));
                tell("PPL(base)", format!("{}: {base}", plain(found.ppl_base)));
                tell("ln PPL correlation", format!("{:.2} %", 100.0 * found.ln_ppl_correlation));
                tell("ln(PPL/PPL(base))", plain(found.ln_ppl_ratio));
                tell("PPL/PPL(base)", plain(found.ppl_ratio));
                tell("PPL-PPL(base)", plain(found.ppl_difference));
                tell("mean KLD", plain(found.kld));
                for quantile in &found.kld_quantiles {
                    tell(&named(quantile, "KLD"), rounded(quantile.value, 6));
                }
                tell("mean Δp", percent(found.delta_p));
                for quantile in &found.delta_p_quantiles {
                    tell(&named(quantile, "Δp"), format!("{} %", rounded(100.0 * quantile.value, 3)));
                }
                tell("RMS Δp", percent(found.delta_p_rms));
                tell("same top token", percent(found.same_top));
            }
            _ => tell("PPL", plain(self.surprises().perplexity())),
        }
        let layers = self.layers();
        if self.stops || layers.needed != self.n_layer as f64 {
            let text = layers.to_string();
            tell("layers per token", text.trim_start_matches("layers ").replace(" per token", ""));
        }
        figures
    }

    /// The same for programs.
    pub(super) fn json(&self) -> Value {
        let mut running = Moments::default();
        let of_chunk = |places: &[Place]| {
            places.iter().for_each(|place| running.add(place.compared.surprise));
            running.perplexity().value
        };
        let so_far: Vec<f64> = self.places.chunks(self.places.len() / self.n_chunks).map(of_chunk).collect();
        json!({
            "model": self.model,
            "n_ctx": self.n_ctx,
            "n_chunks": self.n_chunks,
            "n": self.places.len(),
            "ppl": self.surprises().perplexity(),
            "ppl_so_far": so_far,
            "base": self.base,
            "divergence": self.divergence(),
            "n_layer": self.n_layer,
            "mean_layers": self.layers().needed,
            "layers_per_token": self.layers().executed,
            "layers_needed_per_token": self.layers().needed,
        })
    }

    fn divergence(&self) -> Option<Divergence> {
        let compared: Vec<_> = self.places.iter().map(|place| place.compared).collect();
        self.base.as_ref().map(|_| Divergence::of(&compared))
    }

    fn surprises(&self) -> Moments {
        self.places.iter().map(|place| place.compared.surprise).collect()
    }

    fn layers(&self) -> LayersPerToken {
        let needed: f64 = self.places.iter().map(|place| self.layers_at[place.depth.0]).sum();
        let needed = needed / self.places.len() as f64;
        LayersPerToken { executed: self.executed.unwrap_or(needed), needed, n_layer: self.n_layer }
    }
}

fn plain(estimate: Estimate) -> String {
    format!("{} ± {:.6}", rounded(estimate.value, 6), estimate.error)
}

fn percent(estimate: Estimate) -> String {
    format!("{} ± {:.3} %", rounded(100.0 * estimate.value, 3), 100.0 * estimate.error)
}

fn named(quantile: &Quantile, what: &str) -> String {
    match quantile.share {
        1.0 => format!("maximum {what}"),
        0.5 => format!("median {what}"),
        0.0 => format!("minimum {what}"),
        share => format!("{:.1} % {what}", 100.0 * share),
    }
}
