//! Owns the decode loop: the next token of a text, one after the other.

use std::time::{Duration, Instant};

use super::drafts::{Arm, Drafter};
use super::{Kv, Mode, Options, Source, Tally, checkpoints};
use crate::engine::{Error, Probe, Sequence, Step};
use crate::plan::Depth;
use crate::sample::Sampler;

/// Finds the tokens of answers, one after the other.
pub struct Decoder {
    options: Options,
    drafter: Drafter,
    /// The evaluation whose tokens are being given out.
    cycle: Option<Cycle>,
}

struct Cycle {
    arm: Arm,
    time: Duration,
    tokens: usize,
}

impl Decoder {
    /// For sequences of one model.
    pub fn new(options: Options) -> Decoder {
        Decoder { options, drafter: Drafter::default(), cycle: None }
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
    pub fn probes(&self) -> Vec<Probe> {
        self.options.checkpoints.iter().filter_map(Probe::of).collect()
    }

    /// Whether there are checkpoints to look at.
    pub fn has_checkpoints(&self) -> bool {
        !self.options.checkpoints.is_empty()
    }

    /// What became of drafts so far.
    pub fn tally(&self) -> &Tally {
        &self.drafter.tally
    }

    /// The next token, now the last of the sequence. Sure to stay, but in fast mode not sure to be full depth's.
    pub fn step(&mut self, sequence: &mut Sequence, sampler: &mut Sampler) -> Result<Step, Error> {
        let start = Instant::now();
        // Before anything is evaluated: the head computes no more than the sampler looks at.
        sequence.limit_logits(sampler);
        if self.options.mode == Mode::Fast {
            return self.step_fast(sequence, sampler);
        }
        let evaluates = !sequence.has_logits();
        // Drafts that are left belong to the cycle that made them.
        if evaluates && sequence.n_drafts() == 0 {
            self.close_cycle();
            let arm = self.drafter.draft(&self.options, sequence, sampler)?;
            self.cycle = Some(Cycle { arm, time: Duration::ZERO, tokens: 0 });
        }
        let step = sequence.step(sampler)?;
        // Whoever drafted it: a draft is right where the sampler chooses it.
        self.drafter.tally.accepted += usize::from(step.was_drafted);
        if let Some(cycle) = &mut self.cycle {
            // The time of a cycle is that of all its tokens, drafting included: what pays is measured by it.
            cycle.tokens += 1;
            cycle.time += start.elapsed();
        }
        Ok(step)
    }

    fn close_cycle(&mut self) {
        if let Some(Cycle { arm, time, tokens }) = self.cycle.take() {
            self.drafter.record(arm, tokens, time.as_secs_f64());
        }
    }

    fn step_fast(&mut self, sequence: &mut Sequence, sampler: &mut Sampler) -> Result<Step, Error> {
        let Some((depth, logits)) = self.early(sequence)? else { return sequence.step(sampler) };
        // It stands: its row goes deeper with a later token, and changes nothing of this choice.
        let token = sampler.sample(&logits, sequence.tokens());
        sequence.push(token)?;
        Ok(Step { token, depth, layers: sequence.layers_at(depth), was_drafted: false })
    }

    /// What the token after the text is chosen from, in the modes off and fast: the logits \[n_vocab\], and how deep they
    /// come from. The token itself is the caller's to push.
    pub fn read_out(&mut self, sequence: &mut Sequence) -> Result<(Depth, Vec<f32>), Error> {
        let early = if self.options.mode == Mode::Fast { self.early(sequence)? } else { None };
        match early {
            Some(early) => Ok(early),
            None => Ok((sequence.full_depth(), sequence.logits()?.to_vec())),
        }
    }

    /// The depth and the logits of the last token, if it may stop early and a checkpoint is sure; its deeper cache rows are
    /// treated as the options say.
    fn early(&self, sequence: &mut Sequence) -> Result<Option<(Depth, Vec<f32>)>, Error> {
        // More that wait would make the evaluation that settles them longer than a reader waits for a token.
        let may_stop = !sequence.has_logits() && sequence.n_pending() <= self.options.most;
        let found = if may_stop { checkpoints::run(&self.options.checkpoints, sequence)? } else { None };
        if found.is_some() {
            match self.options.kv {
                Kv::Deferred => {}
                Kv::Propagate => sequence.propagate_kv()?,
                Kv::Mask => sequence.mask_kv(),
            }
        }
        Ok(found)
    }
}
