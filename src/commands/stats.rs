//! Owns the statistics of a run: tokens, time and layers, and the line that tells them.

use std::fmt;
use std::time::Duration;

use crate::session::Step;

/// Sums over all prompts and answers of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    n_layer: usize,
    prompt_tokens: usize,
    reused_tokens: usize,
    prompt_time: Duration,
    generated_tokens: usize,
    decoded_tokens: usize,
    decode_time: Duration,
    /// Rows times layers.
    layers_executed: usize,
    /// Tokens by the layers that were run to choose them.
    depths: Vec<usize>,
}

impl Stats {
    /// Nothing has run yet.
    pub(super) fn new(n_layer: usize) -> Stats {
        Stats { n_layer, ..Stats::default() }
    }

    /// Counts a prompt: tokens evaluated, tokens found in the cache, time.
    pub(super) fn prompt(&mut self, evaluated: usize, reused: usize, time: Duration) {
        self.prompt_tokens += evaluated;
        self.reused_tokens += reused;
        self.prompt_time += time;
    }

    /// Counts a token and the layers executed meanwhile. The first of an answer comes out of the prompt's evaluation, so its time says nothing
    /// about the speed of generation.
    pub(super) fn token(&mut self, step: &Step, executed: usize, time: Duration, first: bool) {
        self.generated_tokens += 1;
        self.depths.resize(self.n_layer + 1, 0);
        self.depths[step.layers_run.min(self.n_layer)] += 1;
        self.layers_executed += if first { self.n_layer } else { executed };
        if !first {
            self.decoded_tokens += 1;
            self.decode_time += time;
        }
    }

    /// How many tokens were chosen after how many layers, drawn; nothing where all were at full depth.
    pub(super) fn histogram(&self) -> String {
        const WIDTH: usize = 40;
        let most = self.depths.iter().copied().max().unwrap_or(0).max(1);
        let line = |(layers, &n): (usize, &usize)| {
            let bar = "#".repeat((n * WIDTH).div_ceil(most));
            format!("  {layers:>3} layers {n:>6} {bar}\n")
        };
        let early = self.depths.iter().take(self.n_layer).any(|&n| n > 0);
        let used = self.depths.iter().enumerate().filter(|(_, n)| early && **n > 0);
        used.map(line).collect::<String>().trim_end().to_owned()
    }

    /// Prompt tokens that the cache already held.
    pub(super) fn reused_tokens(&self) -> usize {
        self.reused_tokens
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prompt = Rate(self.prompt_tokens, self.prompt_time);
        let generation = Rate(self.decoded_tokens, self.decode_time);
        write!(f, "prompt {}, {prompt}", Tokens(self.prompt_tokens))?;
        write!(f, " | generated {}, {generation}", Tokens(self.generated_tokens))?;
        if self.generated_tokens == 0 {
            return Ok(());
        }
        let mean = self.layers_executed as f64 / self.generated_tokens as f64;
        let saved = 100.0 * (1.0 - mean / self.n_layer as f64);
        // Rounding may leave -0.0.
        write!(f, " | layers {mean:.2} of {} per token, {:.1} % saved", self.n_layer, saved.max(0.0))
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

    #[test]
    fn the_line_tells_rates_and_layers() {
        let mut stats = Stats::new(30);
        stats.prompt(100, 20, Duration::from_millis(500));
        let step = |layers_run| Step { token: 1, layers_run, was_guessed: false };
        stats.token(&step(30), 0, Duration::from_secs(9), true);
        assert_eq!(stats.histogram(), "");
        stats.token(&step(15), 15, Duration::from_millis(20), false);
        stats.token(&step(15), 15, Duration::from_millis(20), false);
        assert_eq!(stats.histogram().lines().count(), 2);
        assert_eq!(
            stats.to_string(),
            "prompt 100 tokens, 200.0 tok/s | generated 3 tokens, 50.0 tok/s | layers 20.00 of 30 per token, 33.3 % saved"
        );
    }

    #[test]
    fn nothing_run_has_no_rates() {
        assert_eq!(Stats::new(30).to_string(), "prompt 0 tokens, - tok/s | generated 0 tokens, - tok/s");
    }
}
