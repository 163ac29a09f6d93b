//! Owns what a token is on its way through the layers. Refuses to know which rows make a text.

use std::ops::Range;

use super::TokenId;
use super::hidden_states::Place;
use crate::kernels::Reduction;
use crate::plan::Depth;

/// Cache rows in a graph are rounded up to this, so that one graph serves many steps; and rows that see each other's
/// cache rows at another place add up in the same order if the places differ by a multiple of it.
pub(super) const KV_STEP: usize = 64;

/// A token on its way through the layers.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) token: TokenId,
    /// Its place in the text.
    pub(super) position: usize,
    /// The cache row of the first position that it sees.
    pub(super) first: usize,
    /// Where its keys and values go. It sees the cache rows from `first` up to this one...
    pub(super) cache_row: usize,
    /// ...except these: between a prefix that it shares with others and its own, or of others that run beside it.
    pub(super) hole: Range<usize>,
    /// What of the plan it has been through.
    pub(super) depth: Depth,
    /// Where its hidden state waits, between two ranges.
    pub(super) place: Option<Place>,
    /// What was read of it there, if anything was: \[n_out\].
    pub(super) reading: Vec<f32>,
    /// How sums over it are taken where it runs beside others: a token of an answer must not depend on what runs beside it.
    pub(super) reduction: Reduction,
}

impl Row {
    /// A row at the cache row of its position, which sees all before it.
    pub(super) fn new(token: TokenId, position: usize, reduction: Reduction) -> Row {
        let reading = Vec::new();
        Row {
            token,
            position,
            first: 0,
            cache_row: position,
            hole: 0..0,
            depth: Depth(0),
            place: None,
            reading,
            reduction,
        }
    }

    /// Whether a cache row is among those that it sees, by its position.
    pub(super) fn sees(&self, cache_row: usize) -> bool {
        // Its own cache row too: keys are written before attention reads them.
        (self.first..=self.cache_row).contains(&cache_row) && !self.hole.contains(&cache_row)
    }

    /// The same token with the same sight, on its way from the beginning.
    pub(super) fn again(&self) -> Row {
        let (first, cache_row, hole) = (self.first, self.cache_row, self.hole.clone());
        Row { first, cache_row, hole, ..Row::new(self.token, self.position, self.reduction) }
    }
}
