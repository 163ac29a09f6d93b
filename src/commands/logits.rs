//! `logits`: scores given tokens, line by line of a JSON Lines file.

use std::ops::ControlFlow;
use std::process::ExitCode;

use anyhow::ensure;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::shared::depth::numbers;
use super::shared::open::{Opened, find_model};
use super::shared::{batch, print_line};
use crate::cli::LogitsArgs;
use crate::engine::Sequence;
use crate::generate::Decoder;
use crate::sample::{Sampler, argmax};
use crate::tokenizer::TokenId;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    prompt: Vec<TokenId>,
    tokens: Vec<TokenId>,
}

#[derive(Default, Serialize)]
struct Scores {
    argmax: Vec<TokenId>,
    logprob: Vec<f64>,
    #[serde(flatten)]
    chosen: Option<Chosen>,
}

/// What generation chooses at each place, greedily, as the early-exit flags say.
#[derive(Default, Serialize)]
struct Chosen {
    chosen: Vec<TokenId>,
    /// Layers that each needed.
    layers: Vec<Value>,
}

pub(super) fn run(args: &LogitsArgs) -> anyhow::Result<ExitCode> {
    let (mut engine, mut decoder) = Opened::load(&find_model(&args.load.model)?, &args.load, &args.exits)?;
    let chooses = args.exits.exit.is_some() || args.exits.draft.is_some();
    batch::for_each(&args.batch, |request: Request| {
        let mut scores = score(&mut engine.sequence, &request)?;
        if chooses {
            scores.chosen = Some(choose(&mut engine.sequence, &mut decoder, &request)?);
        }
        print_line(&serde_json::to_string(&scores)?)?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn score(sequence: &mut Sequence, request: &Request) -> anyhow::Result<Scores> {
    let n_vocab = sequence.model().config().n_vocab;
    batch::check_ids("prompt", &request.prompt, n_vocab)?;
    batch::check_ids("tokens", &request.tokens, n_vocab)?;
    ensure!(!request.prompt.is_empty(), "prompt: expected at least one token, found none");
    let n_tokens = request.prompt.len() + request.tokens.len();
    ensure!(
        n_tokens <= sequence.n_ctx(),
        "prompt and tokens: expected at most {} tokens (the context), found {}",
        sequence.n_ctx(),
        n_tokens
    );
    let mut scores = Scores::default();
    // What another line left in the cache was rounded in other batches.
    sequence.rewind(0);
    sequence.score(&request.prompt, &request.tokens, &mut |i, logits| {
        scores.argmax.push(argmax(logits));
        scores.logprob.push(log_probability(logits, request.tokens[i]));
    })?;
    Ok(scores)
}

/// Generates along the given tokens: a choice that differs is noted and replaced.
fn choose(sequence: &mut Sequence, decoder: &mut Decoder, request: &Request) -> anyhow::Result<Chosen> {
    let (mut found, mut greedy) = (Chosen::default(), Sampler::greedy());
    sequence.rewind(0);
    sequence.sync(&request.prompt, &mut |_, _| ControlFlow::Continue(()))?;
    for &token in &request.tokens {
        let step = decoder.step(sequence, &mut greedy)?;
        found.chosen.push(step.token);
        found.layers.extend(numbers(&[step.layers]));
        if step.token != token {
            sequence.rewind(sequence.tokens().len() - 1);
            sequence.push(token)?;
        }
    }
    Ok(found)
}

/// Natural logarithm of the softmax of `logits` at `token`, summed in double precision: the vocabulary is long.
fn log_probability(logits: &[f32], token: TokenId) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    f64::from(logits[token as usize]) - max - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_softmax() {
        let logits = [0.1f32.ln(), 0.2f32.ln(), 0.7f32.ln()];
        for (token, p) in [(0, 0.1f64), (1, 0.2), (2, 0.7)] {
            // Single-precision logits carry about seven digits.
            assert!((log_probability(&logits, token) - p.ln()).abs() < 1e-6);
        }
        assert!((log_probability(&[1000.0, -1000.0], 1) + 2000.0).abs() < 1e-9);
    }
}
