//! Owns where drafts come from, and which of the sources is worth its time.

mod bandit;
mod prompt_lookup;
mod self_speculative;

use super::{Mode, Options, Source, Tally};
use crate::engine::{Error, Sequence, TokenId};
use crate::plan::Depth;
use crate::sample::Sampler;
use bandit::Bandit;

pub(super) use bandit::Arm;

/// Puts drafts behind texts.
#[derive(Default)]
pub(super) struct Drafter {
    bandit: Bandit,
    pub(super) tally: Tally,
}

impl Drafter {
    /// Puts drafts behind the text, as the options say: what of it is measured as one.
    pub(super) fn draft(
        &mut self,
        options: &Options,
        sequence: &mut Sequence,
        sampler: &Sampler,
    ) -> Result<Arm, Error> {
        let source = match options.mode {
            Mode::Off | Mode::Fast => return Ok(Arm::Plain),
            Mode::Verified(source) => source,
            Mode::Measured | Mode::Auto => return self.draft_what_pays(options, sequence, sampler),
        };
        // A source that was asked for drafts always: nothing of it is measured.
        match source {
            Source::Lookup => {
                let found = prompt_lookup::continuation(sequence.tokens(), options.most);
                self.draft_all(sequence, &found.tokens)?;
            }
            source => self.tally.drafted += self_speculative::draft(options, source, sequence, sampler)?,
        }
        Ok(Arm::Plain)
    }

    /// Takes note of what an evaluation gave.
    pub(super) fn record(&mut self, arm: Arm, tokens: usize, seconds: f64) {
        self.bandit.record(arm, tokens, seconds);
    }

    fn draft_what_pays(&mut self, options: &Options, sequence: &mut Sequence, sampler: &Sampler) -> Result<Arm, Error> {
        // Lookup first: it costs no evaluation of its own.
        let found = prompt_lookup::continuation(sequence.tokens(), options.most);
        // As many as are likely to be right: each wrong one costs a row for nothing.
        let n = self.bandit.choose_lookup(found.matched, found.tokens.len());
        if n > 0 {
            self.draft_all(sequence, &found.tokens[..n])?;
            return Ok(Arm::Lookup { matched: found.matched, drafted: n });
        }
        let runs = match options.source {
            Source::Lookup => false,
            Source::Checkpoints => !options.checkpoints.is_empty(),
            Source::Depth(_) | Source::Plan => true,
        };
        // These cost layers before they are verified, right or wrong.
        if runs && self.bandit.tries_running() {
            self.tally.drafted += self_speculative::draft(options, options.source, sequence, sampler)?;
            return Ok(Arm::Running);
        }
        Ok(Arm::Plain)
    }

    fn draft_all(&mut self, sequence: &mut Sequence, tokens: &[TokenId]) -> Result<(), Error> {
        self.tally.drafted += tokens.len();
        tokens.iter().try_for_each(|&token| sequence.draft(token, Depth(0)))
    }
}
