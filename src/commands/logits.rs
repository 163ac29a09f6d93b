//! Owns `logits`: scores of given tokens, for comparison with other programs.

use std::io::Write;

use anyhow::Context;
use serde_json::json;

use super::{each_line, load_model, new_session};
use crate::cli::LogitsArgs;
use crate::sample::argmax;

pub(super) fn logits(args: LogitsArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let model = load_model(&args.model)?;
    let mut session = new_session(&model, &args.model, Vec::new())?;
    each_line(&args.batch, out, |line| {
        let prompt = line.prompt.context("expected `prompt`, a list of token ids")?;
        let tokens = line.tokens.context("expected `tokens`, a list of token ids")?;
        let (mut chosen, mut logprobs) = (Vec::new(), Vec::new());
        session.score(&prompt, &tokens, &mut |i, logits| {
            chosen.push(argmax(logits));
            logprobs.push(log_softmax(logits, tokens[i] as usize));
        })?;
        Ok(json!({ "argmax": chosen, "logprob": logprobs }))
    })
}

/// ln softmax(logits)[i].
fn log_softmax(logits: &[f32], i: usize) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&l| (f64::from(l) - most).exp()).sum();
    f64::from(logits[i]) - most - sum.ln()
}
