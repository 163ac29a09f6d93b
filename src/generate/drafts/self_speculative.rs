//! Drafts by running part of the model: up to the checkpoint that is sure, up to one depth, or the draft plan.

use crate::engine::{Error, Sequence};
use crate::generate::{Options, Source, checkpoints};
use crate::plan::Depth;
use crate::sample::Sampler;

/// Drafts tokens one after the other, as many as the options allow or until no checkpoint is sure: how many.
pub(super) fn draft(
    options: &Options,
    source: Source,
    sequence: &mut Sequence,
    sampler: &Sampler,
) -> Result<usize, Error> {
    let mut sampler = sampler.clone(); // so that a draft takes the random number that its verification will take
    let mut history = sequence.tokens().to_vec();
    for n in 0..options.most {
        let found = match source {
            Source::Checkpoints => checkpoints::run(&options.checkpoints, sequence)?,
            Source::Depth(depth) => {
                // The lens of a checkpoint there reads the state better than the head alone, whoever drafts.
                let lens = options.checkpoints.iter().find(|checkpoint| checkpoint.at == depth);
                let lens = lens.and_then(|checkpoint| checkpoint.lens.as_ref());
                Some((depth, sequence.logits_at(depth, lens)?))
            }
            Source::Plan => Some((Depth(sequence.params().draft_plan.len()), sequence.run_draft_plan()?)),
            Source::Lookup => None,
        };
        let Some((depth, logits)) = found else { return Ok(n) };
        let token = sampler.sample(&logits, &history);
        match source {
            Source::Plan => sequence.draft_by_plan(token)?,
            _ => sequence.draft(token, depth)?,
        }
        history.push(token);
    }
    Ok(options.most)
}
