//! Owns the statistics of a run: tokens, time and layers, and the line that tells them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::depth::LayersPerToken;
use crate::engine::Step;

/// Sums over all prompts and answers of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    n_layer: usize,
    prompt_tokens: usize,
    reused_tokens: usize,
    prompt_time: Duration,
    generated_tokens: usize,
    decoded_tokens: usize,
    decode_time: Duration,
    /// Rows times layers.
    layers_executed: f64,
    /// Sum of what the tokens needed.
    layers_needed: f64,
    /// Tokens by the layers that they needed, in hundredths of a layer.
    depths: BTreeMap<u64, usize>,
}

impl Stats {
    /// Nothing has run yet, on a model of so many layers.
    pub(crate) fn new(n_layer: usize) -> Stats {
        Stats { n_layer, ..Stats::default() }
    }

    /// Counts a prompt: tokens evaluated, tokens found in the cache, time.
    pub(crate) fn prompt(&mut self, evaluated: usize, reused: usize, time: Duration) {
        self.prompt_tokens += evaluated;
        self.reused_tokens += reused;
        self.prompt_time += time;
    }

    /// Counts a token and the layers executed meanwhile. The first of an answer comes out of the prompt's last row: its time
    /// says nothing about the speed of generation, and what that row took is what was executed for it.
    pub(crate) fn token(&mut self, step: &Step, executed: f64, time: Duration, first: bool) {
        self.generated_tokens += 1;
        *self.depths.entry((100.0 * step.layers).round() as u64).or_default() += 1;
        self.layers_executed += if first { step.layers } else { executed };
        self.layers_needed += step.layers;
        if !first {
            self.decoded_tokens += 1;
            self.decode_time += time;
        }
    }

    /// Layers per token; `None` before the first.
    fn layers(&self) -> Option<LayersPerToken> {
        let n = self.generated_tokens as f64;
        let mean = |sum: f64| sum / n;
        (n > 0.0).then(|| LayersPerToken {
            executed: mean(self.layers_executed),
            needed: mean(self.layers_needed),
            n_layer: self.n_layer,
        })
    }

    /// How many tokens needed how many layers, drawn; nothing where all needed the same.
    pub(crate) fn histogram(&self) -> String {
        const WIDTH: usize = 40;
        if self.depths.len() < 2 {
            return String::new();
        }
        let most = self.depths.values().copied().max().unwrap_or(1);
        let mut text = "tokens by the layers that they needed:".to_owned();
        for (&hundredths, &n) in &self.depths {
            let (bar, layers) = ("#".repeat((n * WIDTH).div_ceil(most)), hundredths as f64 / 100.0);
            text += &format!("\n  {layers:>5} layers {n:>6} {bar}");
        }
        text
    }

    /// Prompt tokens that the cache already held.
    pub(crate) fn reused_tokens(&self) -> usize {
        self.reused_tokens
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prompt = Rate(self.prompt_tokens, self.prompt_time);
        let generation = Rate(self.decoded_tokens, self.decode_time);
        write!(f, "prompt {}, {prompt}", Tokens(self.prompt_tokens))?;
        write!(f, " | generated {}, {generation}", Tokens(self.generated_tokens))?;
        self.layers().map_or(Ok(()), |layers| write!(f, " | {layers}"))
    }
}

struct Tokens(usize);

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, if self.0 == 1 { "token" } else { "tokens" })
    }
}

struct Rate(usize, Duration);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("- tok/s");
        }
        write!(f, "{:.1} tok/s", self.0 as f64 / self.1.as_secs_f64().max(1e-9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Depth;

    #[test]
    fn the_line_tells_rates_and_layers() {
        let mut stats = Stats::new(30);
        stats.prompt(100, 20, Duration::from_millis(500));
        let step = |layers| Step { token: 1, depth: Depth(1), layers, was_drafted: false };
        stats.token(&step(30.0), 0.0, Duration::from_secs(9), true);
        assert_eq!(stats.histogram(), "");
        stats.token(&step(15.0), 15.0, Duration::from_millis(20), false);
        stats.token(&step(15.0), 15.0, Duration::from_millis(20), false);
        let histogram = stats.histogram();
        let lines: Vec<&str> = histogram.lines().skip(1).map(|line| line.trim_end_matches('#').trim()).collect();
        assert_eq!(lines, ["15 layers      2", "30 layers      1"]);
        assert_eq!(
            stats.to_string(),
            "prompt 100 tokens, 200.0 tok/s | generated 3 tokens, 50.0 tok/s | layers 20.00 of 30 per token, 33.3 % saved"
        );
    }

    /// What was chosen early and settled later is told beside what it took.
    #[test]
    fn the_line_and_the_histogram_agree() {
        let mut stats = Stats::new(30);
        for (layers, executed) in [(30.0, 30.0), (22.5, 22.5), (22.5, 22.5), (30.0, 45.0)] {
            let step = Step { token: 1, depth: Depth(1), layers, was_drafted: false };
            stats.token(&step, executed, Duration::from_millis(20), false);
        }
        assert!(stats.to_string().ends_with("layers 30.00 of 30 per token, 0.0 % saved, 26.25 needed"), "{stats}");
        assert!(stats.histogram().starts_with("tokens by the layers that they needed:\n   22.5 layers      2 #"));
    }

    #[test]
    fn nothing_run_has_no_rates() {
        assert_eq!(Stats::new(30).to_string(), "prompt 0 tokens, - tok/s | generated 0 tokens, - tok/s");
    }
}
