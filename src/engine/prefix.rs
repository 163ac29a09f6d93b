//! The beginning that texts have in common: evaluated once, seen by all of them.

use std::sync::Arc;

use super::cells::{Cells, Region};
use super::{Error, Sequence, TokenId};
use crate::kernels::Reduction;

/// The beginning of some texts, evaluated once and never changed: sequences that follow it ([`super::Engine::sequence_after`]) see
/// its cache rows where they are. A clone is the same prefix.
#[derive(Clone, Debug)]
pub struct Prefix(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    tokens: Vec<TokenId>,
    logits: Vec<f32>,
    region: Region,
    /// What devices had forgotten when it was made.
    n_lost: u64,
}

impl Prefix {
    /// Its tokens.
    pub fn tokens(&self) -> &[TokenId] {
        &self.0.tokens
    }

    /// Of its last token: \[n_vocab\].
    pub fn logits(&self) -> &[f32] {
        &self.0.logits
    }

    pub(super) fn region(&self) -> &Region {
        &self.0.region
    }
}

impl Sequence {
    /// Becomes a prefix, of which nothing has to be evaluated.
    pub(super) fn follow(&mut self, prefix: &Prefix) -> Result<(), Error> {
        self.prefix = Some(prefix.clone());
        // Before the first row: one that nobody can evaluate anew must not be followed.
        self.check_prefix(self.n_lost)?;
        self.cells = Cells::new(&self.region, Some((prefix.region(), prefix.tokens().len())));
        self.extend(prefix.tokens(), Reduction::Prefill);
        let done = self.full_depth();
        // Its cache rows are there: whoever follows begins behind them.
        self.rows.iter_mut().for_each(|row| row.depth = done);
        self.logits = prefix.logits().to_vec();
        self.has_logits = true;
        Ok(())
    }

    /// Ends the sequence and keeps its text, evaluated to full depth, as a prefix that others may share.
    ///
    /// # Errors
    /// An empty sequence, one that itself follows a prefix, and one with tokens that deeper layers do not see.
    pub fn into_prefix(mut self) -> Result<Prefix, Error> {
        // A prefix lies in one region, and every layer of it is seen by whoever follows.
        if !self.cells.shared.is_empty() || self.n_unmasked() < self.tokens.len() {
            let expected = "a sequence that shares no prefix itself, all of it seen by every layer".to_owned();
            return Err(Error::Parameter { name: "prefix", expected, found: format!("{} tokens", self.tokens.len()) });
        }
        self.logits()?;
        // Drafts were evaluated behind the text, and are nobody's part.
        self.drop_drafts();
        let Sequence { tokens, logits, region, n_lost, .. } = self;
        Ok(Prefix(Arc::new(Shared { tokens, logits, region, n_lost })))
    }

    /// What a device has forgotten of a prefix cannot be evaluated anew: it is others' too.
    pub(super) fn check_prefix(&self, n_lost: u64) -> Result<(), Error> {
        let is_lost = self.prefix.as_ref().is_some_and(|prefix| prefix.0.n_lost != n_lost);
        if is_lost { Err(Error::PrefixLost) } else { Ok(()) }
    }
}
