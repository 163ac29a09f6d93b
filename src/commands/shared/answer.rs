//! One answer: evaluates a prompt, then generates until something ends it. Owns the loop between sequence and text;
//! where the text goes is the caller's business.

use std::io;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Context;

use super::stats::Stats;
use super::stop::{Found, StopMatcher};
use super::{interrupt, progress};
use crate::engine::{self, Sequence};
use crate::generate::Decoder;
use crate::sample::Sampler;
use crate::tokenizer::{TextStream, TokenId, Tokenizer};

/// What ends an answer, besides the model itself and Ctrl-C.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits<'s> {
    /// Tokens at most.
    pub(crate) n_predict: usize,
    /// Texts that end the answer and are not shown.
    pub(crate) stop: &'s [String],
    /// Whether a full context forgets its older half, and how many tokens at its beginning it must keep.
    pub(crate) shift: Option<usize>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The model ended it.
    Model,
    /// One of the stop strings came.
    StopString,
    /// The wanted number of tokens is there.
    Limit,
    /// Ctrl-C.
    Interrupted,
    /// No room for another token.
    ContextFull,
}

/// A finished answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What was generated, with the token that ended it if the model did.
    pub(crate) tokens: Vec<TokenId>,
    /// Layers that each token needed.
    pub(crate) layers: Vec<f64>,
    /// The text as it was shown.
    pub(crate) text: String,
    pub(crate) end: End,
}

/// Nobody gets the answer: no other will be written either.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the answer")]
pub(crate) struct CannotWrite;

/// Brings the sequence to `tokens`. Says whether Ctrl-C cut it short.
pub(crate) fn prompt(sequence: &mut Sequence, tokens: &[TokenId], stats: &mut Stats) -> anyhow::Result<bool> {
    let start = Instant::now();
    let bar = progress::tokens();
    let mut first = true;
    let synced = sequence.sync(tokens, &mut |done, total| {
        // One batch is over before a bar could be read.
        if !first || done < total {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
        first = false;
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.finish_and_clear();
    let synced = synced?;
    stats.prompt(synced.evaluated, synced.reused, start.elapsed());
    Ok(synced.interrupted)
}

/// What finds the tokens of an answer.
pub(crate) struct Finder<'a> {
    pub(crate) sequence: &'a mut Sequence,
    pub(crate) decoder: &'a mut Decoder,
    pub(crate) sampler: &'a mut Sampler,
    pub(crate) stats: &'a mut Stats,
}

/// Gets text as soon as it is sure to stay, with the layers that its last token needed.
pub(crate) type Show<'a> = dyn FnMut(&str, f64) -> io::Result<()> + 'a;

/// Generates after what the sequence holds. `stream` makes the text, and `show` gets whole characters.
pub(crate) fn generate(
    mut finder: Finder<'_>,
    tokenizer: &Tokenizer,
    mut stream: TextStream<'_>,
    limits: &Limits<'_>,
    show: &mut Show<'_>,
) -> anyhow::Result<Answer> {
    let mut stop = StopMatcher::new(limits.stop);
    let mut end_text = "";
    let mut answer = Answer { tokens: Vec::new(), layers: Vec::new(), text: String::new(), end: End::Limit };
    let mut emit = |answer: &mut Answer, text: &str| {
        answer.text.push_str(text);
        show(text, answer.layers.last().copied().unwrap_or(0.0)).context(CannotWrite)
    };
    while answer.tokens.len() < limits.n_predict {
        if interrupt::requested() {
            answer.end = End::Interrupted;
            break;
        }
        let Some(token) = finder.next(limits, &mut answer)? else { break };
        if tokenizer.is_end_of_generation(token) {
            answer.end = End::Model;
            end_text = stream.end_text(token);
            break;
        }
        match stop.push(&stream.push(token)) {
            Found::Text(text) => emit(&mut answer, &text)?,
            Found::Stop(text) => {
                emit(&mut answer, &text)?;
                answer.end = End::StopString;
                return Ok(answer);
            }
        }
    }
    // Bytes of a character that never became whole, and what might have become a stop string.
    match stop.push(&stream.finish()) {
        Found::Text(text) => emit(&mut answer, &(text + &stop.finish()))?,
        Found::Stop(text) => emit(&mut answer, &text)?,
    }
    // Shown, but no part of what was said.
    if !end_text.is_empty() {
        show(end_text, answer.layers.last().copied().unwrap_or(0.0)).context(CannotWrite)?;
    }
    Ok(answer)
}

impl Finder<'_> {
    /// The next token, also written down in `answer`; `None` when the context is full and may not be shifted.
    fn next(&mut self, limits: &Limits<'_>, answer: &mut Answer) -> anyhow::Result<Option<TokenId>> {
        loop {
            let (start, executed) = (Instant::now(), self.sequence.engine().layers_executed());
            match (self.decoder.step(self.sequence, self.sampler), limits.shift) {
                (Ok(step), _) => {
                    let executed = self.sequence.engine().layers_executed() - executed;
                    self.stats.token(&step, executed, start.elapsed(), answer.tokens.is_empty());
                    answer.tokens.push(step.token);
                    answer.layers.push(step.layers);
                    return Ok(Some(step.token));
                }
                (Err(engine::Error::ContextFull { .. }), Some(n_keep)) => {
                    self.sequence.shift(n_keep, &mut |_, _| ControlFlow::Continue(()))?;
                }
                (Err(engine::Error::ContextFull { .. }), None) => {
                    answer.end = End::ContextFull;
                    return Ok(None);
                }
                (Err(error), _) => return Err(error.into()),
            }
        }
    }
}
