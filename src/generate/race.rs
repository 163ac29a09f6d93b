//! Owns the timing of drafts beside full depth.

use std::time::{Duration, Instant};

use super::median::median;
use super::{Decoder, Mode, Options, Tally};
use crate::engine::{Error, Sequence, TokenId};
use crate::sample::Sampler;

/// How drafts did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Raced {
    /// The share that was right.
    pub accepted: f64,
    /// Tokens per second over full depth's: the median of the prompts.
    pub speed: f64,
}

/// Generates `n` tokens after each prompt, greedily, at full depth and as `options` say, by turns.
pub fn race(sequence: &mut Sequence, options: &Options, prompts: &[Vec<TokenId>], n: usize) -> Result<Raced, Error> {
    let mut tally = Tally::default();
    let mut ratios = Vec::new();
    for prompt in prompts {
        // By turns, prompt by prompt: a slow moment of the machine hits both.
        let (dense, _) = generate(sequence, &Options { mode: Mode::Off, ..options.clone() }, prompt, n)?;
        let (time, some) = generate(sequence, options, prompt, n)?;
        tally.drafted += some.drafted;
        tally.accepted += some.accepted;
        ratios.push(dense.as_secs_f64() / time.as_secs_f64());
    }
    let accepted = tally.accepted as f64 / tally.drafted.max(1) as f64;
    // The median: one prompt that repeats itself would make any mean.
    Ok(Raced { accepted, speed: median(ratios).unwrap_or(1.0) })
}

fn generate(
    sequence: &mut Sequence,
    options: &Options,
    prompt: &[TokenId],
    n: usize,
) -> Result<(Duration, Tally), Error> {
    let mut decoder = Decoder::new(options.clone());
    let mut greedy = Sampler::greedy();
    // What the other way left in the cache must not help this one.
    sequence.rewind(0);
    sequence.sync(prompt, &mut |_, _| std::ops::ControlFlow::Continue(()))?;
    // The prompt is the same for both, and not timed.
    let start = Instant::now();
    for _ in 0..n {
        decoder.step(sequence, &mut greedy)?;
    }
    Ok((start.elapsed(), decoder.tally().clone()))
}
