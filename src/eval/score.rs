//! Owns the scoring of a chunk: what a reading makes of its places, beside nothing, stored distributions, or another reading's.

use rayon::prelude::*;

use super::Error;
use super::base_file::Rows;
use super::divergence::{Base, Compared, compare, log_softmax};
use super::perplexity::{Chunks, surprise};
use super::score_mode::Reading;
use crate::engine::TokenId;
use crate::plan::Depth;

/// A scored place.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// Of the text's token; where nothing is compared, only the surprise counts.
    pub compared: Compared,
    /// How deep its distribution comes from.
    pub depth: Depth,
}

/// What the places of a chunk are compared with.
#[derive(Clone, Copy, Debug)]
pub enum Against<'a> {
    /// Nothing.
    Nothing,
    /// Stored distributions.
    Stored(&'a Rows),
    /// Another reading's logits, \[n_vocab\] for each scored place.
    Logits(&'a [f32]),
}

/// Scores chunk `i`. `see` gets the logits too, in the order in which they come.
pub fn score(
    reading: &mut Reading,
    chunks: &Chunks,
    i: usize,
    bos: Option<TokenId>,
    against: Against<'_>,
    see: &mut dyn FnMut(&[f32]),
) -> Result<Vec<Place>, Error> {
    let targets = chunks.targets(i);
    let mut places = vec![Place::default(); targets.len()];
    let depths = reading.chunk(&chunks.input(i, bos), chunks.scored(), &mut |at, logits| {
        let n_vocab = logits.len() / at.len().max(1);
        let rows = at.par_iter().zip(logits.par_chunks_exact(n_vocab.max(1)));
        let one = |scratch: &mut Vec<f32>, (&at, row)| (at, compared(against, at, row, targets[at], scratch));
        let found: Vec<(usize, Compared)> = rows.map_init(Vec::new, one).collect();
        found.into_iter().for_each(|(at, compared)| places[at].compared = compared);
        see(logits);
    })?;
    places.iter_mut().zip(depths).for_each(|(place, depth)| place.depth = depth);
    Ok(places)
}

fn compared(against: Against<'_>, at: usize, logits: &[f32], token: TokenId, scratch: &mut Vec<f32>) -> Compared {
    match against {
        Against::Nothing => Compared { surprise: surprise(logits, token), ..Compared::default() },
        Against::Stored(rows) => compare(rows.unpack(at, scratch), logits, token),
        Against::Logits(base) => {
            log_softmax(&base[at * logits.len()..][..logits.len()], scratch);
            compare(Base { log_probs: scratch, floor: f32::NEG_INFINITY }, logits, token)
        }
    }
}
