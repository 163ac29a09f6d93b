//! Owns how the tokens of an answer are found: at full depth, by stops that stand, or by drafts that full depth verifies.
//! Refuses to know text.
//!
//! *Fast* is AdaInfer's way: a token that a checkpoint is sure of stands, and its deeper layers wait as pending rows.
//! *Verified* gives full depth's tokens, whatever is drafted: drafts are evaluated together, and each stands only if the
//! sampler, with the same random number, chooses it from full depth's logits. With one random number per token that is the
//! accept rule of speculative sampling (arXiv 2211.17192, sec. 2.3) with both draws coupled: the distribution is the full
//! model's, and for a given seed even the text is.

mod bandit;
mod prompt_lookup;
mod race;

use std::fmt;
use std::time::{Duration, Instant};

use crate::engine::{self, Error, Sequence, Step, TokenId};
use crate::exit::{Checkpoint, Probe};
use crate::sample::Sampler;
use bandit::{Arm, Bandit};

pub use race::{Raced, race};

/// How tokens are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Every token at full depth.
    #[default]
    Off,
    /// A token that a checkpoint is sure of stands.
    Fast,
    /// Drafts from a source, verified.
    Verified(Source),
    /// Verified, with what is measured to be fastest, which may be nothing: by the name of who wants full depth's text.
    Measured,
    /// Whatever is measured to be fastest at full depth's text: today what [`Mode::Measured`] is.
    Auto,
}

/// Where drafts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The checkpoints, as long as they are sure.
    Checkpoints,
    /// Every token after so many layers (LayerSkip, arXiv 2404.16710).
    Layer(usize),
    /// The sequence's draft plan, which skips parts of layers (Draft & Verify, arXiv 2309.08168).
    Plan,
    /// What followed the same tokens before.
    Lookup,
}

/// What becomes of the deeper layers' cache rows of a token that stands early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kv {
    /// They wait, and become what full depth would have written.
    #[default]
    Deferred,
    /// They are made of the state that the token had.
    Propagate,
    /// There are none: deeper layers do not see the token.
    Mask,
}

/// How an answer is found.
#[derive(Clone, Debug)]
pub struct Options {
    /// The mode.
    pub mode: Mode,
    /// Where drafts come from, besides lookup, if the mode is [`Mode::Auto`].
    pub source: Source,
    /// Where to look, in rising order of layers; with lenses and probes that know how sure those are.
    pub checkpoints: Vec<Checkpoint>,
    /// Cache rows of tokens that stand early.
    pub kv: Kv,
    /// Drafts between two evaluations at full depth, or pending tokens that stand.
    pub most: usize,
}

/// What became of tokens and drafts.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Tokens drafted.
    pub drafted: usize,
    /// Drafts that were right.
    pub accepted: usize,
}

impl Mode {
    /// The name in flags.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Fast => "fast",
            Mode::Verified(_) | Mode::Measured => "verified",
            Mode::Auto => "auto",
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = 100.0 * self.accepted as f64 / self.drafted.max(1) as f64;
        write!(f, "drafts {}, right {} ({share:.1} %)", self.drafted, self.accepted)
    }
}

/// Finds the tokens of answers, one after the other.
pub struct Decoder {
    options: Options,
    bandit: Bandit,
    /// The evaluation whose tokens are being given out.
    cycle: Option<Cycle>,
    tally: Tally,
}

struct Cycle {
    arm: Arm,
    time: Duration,
    tokens: usize,
}

impl Decoder {
    /// For sequences of one model.
    pub fn new(options: Options) -> Decoder {
        Decoder { options, bandit: Bandit::default(), cycle: None, tally: Tally::default() }
    }

    /// How tokens are found from now on.
    pub fn set_mode(&mut self, mode: Mode) {
        self.options.mode = mode;
    }

    /// How tokens are found.
    pub fn mode(&self) -> Mode {
        self.options.mode
    }

    /// Where drafts come from.
    pub fn source(&self) -> Source {
        self.options.source
    }

    /// What the checkpoints read, for a sequence that can read it where the states are.
    pub fn probes(&self) -> Vec<engine::Probe> {
        let probe = |checkpoint: &Checkpoint| {
            let Probe { weights, bias } = checkpoint.probe.clone()?;
            Some(engine::Probe { depth: checkpoint.layer, weights, bias })
        };
        self.options.checkpoints.iter().filter_map(probe).collect()
    }

    /// Whether there are checkpoints to look at.
    pub fn has_checkpoints(&self) -> bool {
        !self.options.checkpoints.is_empty()
    }

    /// What became of drafts so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The next token, now the last of the sequence. Sure to stay, but in fast mode not sure to be full depth's.
    pub fn step(&mut self, sequence: &mut Sequence, sampler: &mut Sampler) -> Result<Step, Error> {
        let start = Instant::now();
        sequence.limit_logits(sampler);
        if self.options.mode == Mode::Fast {
            return self.step_fast(sequence, sampler);
        }
        let evaluates = !sequence.has_logits();
        if evaluates && sequence.n_drafts() == 0 {
            self.close_cycle();
            let arm = self.draft(sequence, sampler)?;
            self.cycle = Some(Cycle { arm, time: Duration::ZERO, tokens: 0 });
        }
        let step = sequence.step(sampler)?;
        self.tally.accepted += usize::from(step.was_drafted);
        if let Some(cycle) = &mut self.cycle {
            cycle.tokens += 1;
            cycle.time += start.elapsed();
        }
        Ok(step)
    }

    fn close_cycle(&mut self) {
        if let Some(Cycle { arm, time, tokens }) = self.cycle.take() {
            self.bandit.record(arm, tokens, time.as_secs_f64());
        }
    }

    fn step_fast(&mut self, sequence: &mut Sequence, sampler: &mut Sampler) -> Result<Step, Error> {
        let Some((layer, logits)) = self.early(sequence)? else { return sequence.step(sampler) };
        let token = sampler.sample(&logits, sequence.tokens());
        sequence.push(token)?;
        Ok(Step { token, layers_run: layer, layers: sequence.layers_at(layer), was_drafted: false })
    }

    /// What the token after the text is chosen from, in the modes off and fast: the logits \[n_vocab\], and the layers run
    /// for them. The token itself is the caller's to push.
    pub fn read_out(&mut self, sequence: &mut Sequence) -> Result<(usize, Vec<f32>), Error> {
        let early = if self.options.mode == Mode::Fast { self.early(sequence)? } else { None };
        match early {
            Some(early) => Ok(early),
            None => Ok((sequence.n_steps(), sequence.logits()?.to_vec())),
        }
    }

    /// The depth and the logits of the last token, if it may stop early and a checkpoint is sure; its deeper cache rows are
    /// treated as the options say.
    fn early(&self, sequence: &mut Sequence) -> Result<Option<(usize, Vec<f32>)>, Error> {
        let may_stop = !sequence.has_logits() && sequence.n_pending() <= self.options.most;
        let found = if may_stop { self.run_checkpoints(sequence)? } else { None };
        if found.is_some() {
            match self.options.kv {
                Kv::Deferred => {}
                Kv::Propagate => sequence.propagate_kv()?,
                Kv::Mask => sequence.mask_kv(),
            }
        }
        Ok(found)
    }

    /// Takes the last token through the checkpoints. The first that is sure gives its depth and its logits.
    fn run_checkpoints(&self, sequence: &mut Sequence) -> Result<Option<(usize, Vec<f32>)>, Error> {
        for checkpoint in &self.options.checkpoints {
            let (chance, x) = match sequence.probe_at(checkpoint.layer)? {
                Some(chances) => (Checkpoint::chance_among(&chances), None),
                None => {
                    let x = sequence.normed_state_at(checkpoint.layer)?;
                    (checkpoint.chance(&x), Some(x))
                }
            };
            if chance.is_some_and(|chance| chance >= checkpoint.threshold) {
                let x = x.map_or_else(|| sequence.normed_state_at(checkpoint.layer), Ok)?;
                return Ok(Some((checkpoint.layer, sequence.logits_of_states(&through(checkpoint, x))?)));
            }
        }
        Ok(None)
    }

    /// Puts drafts behind the text.
    fn draft(&mut self, sequence: &mut Sequence, sampler: &Sampler) -> Result<Arm, Error> {
        let (source, most) = match self.options.mode {
            Mode::Off | Mode::Fast => return Ok(Arm::Plain),
            Mode::Verified(source) => (source, self.options.most),
            Mode::Measured | Mode::Auto => return self.draft_auto(sequence, sampler),
        };
        match source {
            Source::Lookup => {
                let found = prompt_lookup::continuation(sequence.tokens(), most);
                self.draft_all(sequence, &found.tokens)?;
            }
            source => self.draft_by_running(sequence, sampler, source, most)?,
        }
        Ok(Arm::Plain)
    }

    fn draft_auto(&mut self, sequence: &mut Sequence, sampler: &Sampler) -> Result<Arm, Error> {
        let found = prompt_lookup::continuation(sequence.tokens(), self.options.most);
        let n = self.bandit.choose_lookup(found.matched, found.tokens.len());
        if n > 0 {
            self.draft_all(sequence, &found.tokens[..n])?;
            return Ok(Arm::Lookup { matched: found.matched, drafted: n });
        }
        let runs = match self.options.source {
            Source::Lookup => false,
            Source::Checkpoints => self.has_checkpoints(),
            Source::Layer(_) | Source::Plan => true,
        };
        if runs && self.bandit.tries_running() {
            self.draft_by_running(sequence, sampler, self.options.source, self.options.most)?;
            return Ok(Arm::Running);
        }
        Ok(Arm::Plain)
    }

    fn draft_all(&mut self, sequence: &mut Sequence, tokens: &[TokenId]) -> Result<(), Error> {
        self.tally.drafted += tokens.len();
        tokens.iter().try_for_each(|&token| sequence.draft(token, 0))
    }

    fn draft_by_running(
        &mut self,
        sequence: &mut Sequence,
        sampler: &Sampler,
        source: Source,
        most: usize,
    ) -> Result<(), Error> {
        let mut sampler = sampler.clone(); // so that a draft takes the random number that its verification will take
        let mut history = sequence.tokens().to_vec();
        for _ in 0..most {
            let found = match source {
                Source::Checkpoints => self.run_checkpoints(sequence)?,
                Source::Layer(layer) => {
                    let x = sequence.normed_state_at(layer)?;
                    let lens = self.options.checkpoints.iter().find(|checkpoint| checkpoint.layer == layer);
                    let state = lens.map_or(x.clone(), |checkpoint| through(checkpoint, x));
                    Some((layer, sequence.logits_of_states(&state)?))
                }
                Source::Plan => Some((sequence.params().draft_plan.len(), sequence.run_draft_plan()?)),
                Source::Lookup => None,
            };
            let Some((layers, logits)) = found else { break };
            let token = sampler.sample(&logits, &history);
            match source {
                Source::Plan => sequence.draft_by_plan(token)?,
                _ => sequence.draft(token, layers)?,
            }
            self.tally.drafted += 1;
            history.push(token);
        }
        Ok(())
    }
}

/// What a checkpoint's lens makes of a normed hidden state.
fn through(checkpoint: &Checkpoint, x: Vec<f32>) -> Vec<f32> {
    checkpoint.lens.as_ref().map_or(x.clone(), |lens| lens.apply(&x))
}
