//! Owns the ways to read a chunk: at full depth, at given depths, or as fast generation would.

use std::ops::{ControlFlow, Range};

use super::Error;
use crate::engine::{Sequence, TokenId};
use crate::generate::Decoder;
use crate::plan::Depth;

/// How the distribution at a place comes about.
pub enum Reading {
    /// The whole plan of the sequence, in batches.
    Batches(Sequence),
    /// Token by token, as a decoder chooses: at full depth, or after the checkpoint that is sure.
    Tokens(Sequence, Box<Decoder>),
    /// Given depths, one place after the other and from the beginning again: for each depth a sequence that runs no more, and
    /// which of the turns are its.
    Forced {
        /// The depth of each turn.
        turns: Vec<Depth>,
        /// For each depth, its sequence.
        sequences: Vec<(Depth, Sequence)>,
    },
}

/// Rows that are given on at once, where they come one by one.
const AT_ONCE: usize = 32;

/// Gets places, counted from the first that is scored, and their logits, \[n_vocab\] each.
pub(super) type Each<'a> = dyn FnMut(&[usize], &[f32]) + 'a;

impl Reading {
    /// Reads a chunk and gives the logits of the places `scored` to `each`. Returns the depth of each place.
    pub fn chunk(&mut self, input: &[TokenId], scored: Range<usize>, each: &mut Each<'_>) -> Result<Vec<Depth>, Error> {
        match self {
            Reading::Batches(sequence) => {
                batches(sequence, input, scored.start, scored.clone().collect(), each)?;
                Ok(vec![sequence.full_depth(); scored.len()])
            }
            Reading::Tokens(sequence, decoder) => tokens(sequence, decoder, input, scored, each),
            Reading::Forced { turns, sequences } => {
                let turn = |place: usize| turns[(place - scored.start) % turns.len()];
                for (depth, sequence) in sequences {
                    let own = scored.clone().filter(|&place| turn(place) == *depth).collect();
                    batches(sequence, input, scored.start, own, each)?;
                }
                Ok(scored.clone().map(turn).collect())
            }
        }
    }

    /// Rows times layers run so far.
    pub fn layers_executed(&self) -> f64 {
        match self {
            Reading::Batches(sequence) | Reading::Tokens(sequence, _) => sequence.engine().layers_executed(),
            Reading::Forced { sequences, .. } => {
                sequences.iter().map(|(_, sequence)| sequence.engine().layers_executed()).sum()
            }
        }
    }
}

fn batches(
    sequence: &mut Sequence,
    input: &[TokenId],
    first: usize,
    places: Vec<usize>,
    each: &mut Each<'_>,
) -> Result<(), Error> {
    sequence.read(input, &places, &mut |places, logits| {
        let from_first: Vec<usize> = places.iter().map(|place| place - first).collect();
        each(&from_first, logits);
    })?;
    Ok(())
}

/// What lies before the first place is a prompt; each token after it is pushed once its distribution was read.
fn tokens(
    sequence: &mut Sequence,
    decoder: &mut Decoder,
    input: &[TokenId],
    scored: Range<usize>,
    each: &mut Each<'_>,
) -> Result<Vec<Depth>, Error> {
    sequence.rewind(0);
    sequence.sync(&input[..scored.start], &mut |_, _| ControlFlow::Continue(()))?;
    let (mut depths, mut places, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for place in scored.clone() {
        sequence.push(input[place])?;
        let (depth, logits) = decoder.read_out(sequence)?;
        depths.push(depth);
        places.push(place - scored.start);
        rows.extend(logits);
        if places.len() == AT_ONCE || place + 1 == scored.end {
            each(&places, &rows);
            places.clear();
            rows.clear();
        }
    }
    Ok(depths)
}
