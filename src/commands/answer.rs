//! Owns one streamed answer: tokens to text, stop strings, interrupts, the closing statistics.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::is_interrupted;
use crate::sample::Sampler;
use crate::session::{Error, Session};
use crate::tokenizer::{TokenId, Tokenizer};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The model ended it.
    EndOfGeneration,
    /// `n_predict` tokens were made.
    Length,
    /// A stop string appeared.
    StopString,
    /// The user interrupted it.
    Interrupted,
    /// No room for another token.
    ContextFull,
}

/// When to end an answer, and what to do when the context is full.
pub(super) struct Limits<'a> {
    pub(super) n_predict: usize,
    pub(super) stop: &'a [String],
    /// Tokens kept at the front when the context shifts; `None` stops instead.
    pub(super) shift_keep: Option<usize>,
}

/// An answer and what it cost.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) tokens: Vec<TokenId>,
    pub(super) text: String,
    pub(super) layers: Vec<usize>,
    pub(super) ending: Option<Ending>,
    pub(super) statistics: Statistics,
}

/// Sums over answers.
#[derive(Clone, Copy, Default)]
pub(super) struct Statistics {
    pub(super) n_prompt: usize,
    pub(super) prompt_time: Duration,
    pub(super) n_generated: usize,
    pub(super) generation_time: Duration,
    pub(super) layers: usize,
}

impl Statistics {
    pub(super) fn add(&mut self, other: &Statistics) {
        self.n_prompt += other.n_prompt;
        self.prompt_time += other.prompt_time;
        self.n_generated += other.n_generated;
        self.generation_time += other.generation_time;
        self.layers += other.layers;
    }

    /// The closing line of a run.
    pub(super) fn line(&self, n_layer: usize) -> String {
        let rate = |n: usize, time: Duration| if n == 0 { 0.0 } else { n as f64 / time.as_secs_f64().max(1e-9) };
        let mean = if self.n_generated == 0 { n_layer as f64 } else { self.layers as f64 / self.n_generated as f64 };
        format!(
            "prompt {} tokens, {:.1} tok/s; generation {} tokens, {:.1} tok/s; {mean:.1} of {n_layer} layers per token, {:.1} % saved",
            self.n_prompt,
            rate(self.n_prompt, self.prompt_time),
            self.n_generated,
            rate(self.n_generated, self.generation_time),
            100.0 * (1.0 - mean / n_layer as f64)
        )
    }
}

/// Brings the session to `prompt` and generates; `show` gets each piece of finished text.
pub(super) fn answer(
    session: &mut Session,
    tokenizer: &Tokenizer,
    sampler: &mut Sampler,
    prompt: &[TokenId],
    limits: &Limits<'_>,
    show: &mut dyn FnMut(&str) -> std::io::Result<()>,
) -> anyhow::Result<Answer> {
    let mut answer = Answer::default();
    let keep_going =
        |_: usize, _: usize| if is_interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let start = Instant::now();
    let synced = session.sync(prompt, &mut { keep_going })?;
    answer.statistics.n_prompt = synced.evaluated;
    answer.statistics.prompt_time = start.elapsed();
    if synced.interrupted {
        answer.ending = Some(Ending::Interrupted);
        return Ok(answer);
    }
    let start = Instant::now();
    let mut text = HeldText::new(limits.stop);
    let mut stream = tokenizer.stream();
    let ending = loop {
        if is_interrupted() {
            break Ending::Interrupted;
        }
        if answer.tokens.len() >= limits.n_predict {
            break Ending::Length;
        }
        let step = match (session.step(sampler), limits.shift_keep) {
            (Err(Error::ContextFull { .. }), Some(n_keep)) => {
                session.shift(n_keep, &mut { keep_going })?;
                continue;
            }
            (Err(Error::ContextFull { .. }), None) => break Ending::ContextFull,
            (step, _) => step?,
        };
        answer.statistics.n_generated += 1;
        answer.statistics.layers += step.layers_run;
        if tokenizer.is_end_of_generation(step.token) {
            break Ending::EndOfGeneration;
        }
        answer.tokens.push(step.token);
        answer.layers.push(step.layers_run);
        show(text.push(&stream.push(step.token)))?;
        if text.is_stopped() {
            break Ending::StopString;
        }
    };
    answer.statistics.generation_time = start.elapsed();
    if ending != Ending::StopString {
        show(text.push(&stream.finish()))?;
        show(text.rest())?;
    }
    answer.text = text.shown().to_owned();
    answer.ending = Some(ending);
    Ok(answer)
}

/// Text that is shown as far as it cannot be the beginning of a stop string.
struct HeldText<'a> {
    stop: &'a [String],
    text: String,
    shown: usize,
    stopped_at: Option<usize>,
}

impl<'a> HeldText<'a> {
    fn new(stop: &'a [String]) -> HeldText<'a> {
        HeldText { stop, text: String::new(), shown: 0, stopped_at: None }
    }

    /// Adds a piece and gives what may be shown now.
    fn push(&mut self, piece: &str) -> &str {
        self.text.push_str(piece);
        let stops = self.stop.iter().filter(|s| !s.is_empty());
        self.stopped_at =
            stops.clone().filter_map(|s| self.text[self.shown..].find(s.as_str())).min().map(|i| i + self.shown);
        let end = match self.stopped_at {
            Some(end) => end,
            None => self.text.len() - stops.map(|s| overlap(&self.text[self.shown..], s)).max().unwrap_or(0),
        };
        let start = std::mem::replace(&mut self.shown, end);
        &self.text[start..end]
    }

    fn is_stopped(&self) -> bool {
        self.stopped_at.is_some()
    }

    fn rest(&mut self) -> &str {
        let start = std::mem::replace(&mut self.shown, self.text.len());
        &self.text[start..]
    }

    fn shown(&self) -> &str {
        &self.text[..self.shown]
    }
}

/// Length of the longest end of `text` that begins `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices().map(|(i, _)| i).filter(|&i| text.ends_with(&stop[..i])).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_may_begin_a_stop_string_is_held_back() {
        let stop = ["END".to_owned()];
        let mut text = HeldText::new(&stop);
        assert_eq!(text.push("say E"), "say ");
        assert_eq!(text.push("N"), "");
        assert_eq!(text.push("ough"), "ENough");
        assert_eq!(text.push(" THE END, really"), " THE ");
        assert!(text.is_stopped());
        assert_eq!(text.shown(), "say ENough THE ");
    }
}
