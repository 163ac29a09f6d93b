//! Answers questions, each as early as a policy allows.

use std::ops::ControlFlow;

use super::{Asked, Error, Questions};
use crate::engine::{Answer, Exits, FeatureExtractor, Question, Sequence, TokenId};
use crate::exit::{Checkpoint, Policy};
use crate::model::Model;
use crate::plan::Depth;

/// What makes of the engine's states what a policy reads of a task's questions.
///
/// # Errors
/// Labels that the output head has no rows of.
pub fn extractor<'p>(
    policy: &'p Policy<Depth>,
    questions: &Questions<'_>,
    model: &Model,
) -> Result<FeatureExtractor<'p>, Error> {
    let lens = |checkpoint: &'p Checkpoint<Depth>| Some((checkpoint.at, checkpoint.lens.as_ref()?));
    let lenses = policy.checkpoints.iter().filter_map(lens).collect();
    Ok(FeatureExtractor::of_questions(policy.input, questions.label_ids(), lenses, model)?)
}

/// Readies a sequence for questions like this one: evaluates what they have in common and is kept from question to question
/// (`n_kept` tokens of the prefix), and puts the read-outs of the policy where the states wait.
///
/// # Errors
/// Those of the engine.
pub fn prepare(sequence: &mut Sequence, asked: &Asked, n_kept: usize, exits: Option<Exits<'_>>) -> Result<(), Error> {
    keep(sequence, &asked.prefix[..n_kept])?;
    // On the CPU alone states are at hand, and read without.
    if let Some(exits) = exits.filter(|_| sequence.model().placement().devices().len() > 1) {
        sequence.set_probes(exits.extractor.probes(exits.checkpoints))?;
    }
    Ok(())
}

/// Answers questions of one prefix side by side; with `exits` each as early as it may.
///
/// # Errors
/// Those of the engine.
pub fn answer(sequence: &mut Sequence, batch: &[Asked], exits: Option<Exits<'_>>) -> Result<Vec<Answer>, Error> {
    // Without questions there is no prefix either.
    let Some(first) = batch.first() else { return Ok(Vec::new()) };
    let questions: Vec<Question<'_>> = batch.iter().map(Asked::question).collect();
    Ok(sequence.answer(&first.prefix, &questions, exits)?)
}

/// Makes the text these tokens, at full depth.
fn keep(sequence: &mut Sequence, tokens: &[TokenId]) -> Result<(), Error> {
    let common = sequence.tokens().iter().zip(tokens).take_while(|(a, b)| a == b).count();
    // Also where the rest is empty: what follows the examples is the question's.
    sequence.rewind(common);
    if common < tokens.len() {
        sequence.sync(tokens, &mut |_, _| ControlFlow::Continue(()))?;
    }
    Ok(())
}
