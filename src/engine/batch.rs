//! Rows of many sequences on their way together.

use std::collections::BTreeSet;

use super::executor::{Executor, Wanted};
use super::graph::Keep;
use super::params::check_cuts;
use super::row::Row;
use super::{Engine, Error, Sequence};
use crate::plan::Depth;

/// What shall be known of some sequences. Each goes as deep as it is asked to, and no row twice through a layer.
#[derive(Default)]
pub struct Batch<'b> {
    items: Vec<Item<'b>>,
}

/// What is asked of one sequence.
pub(super) struct Item<'b> {
    pub(super) sequence: &'b mut Sequence,
    /// How deep it shall go.
    pub(super) depth: Depth,
    /// At full depth: whether the last token's logits are wanted, and the drafts'.
    pub(super) wants_logits: bool,
}

impl<'b> Batch<'b> {
    /// The logits of a sequence's last token, and of its drafts: all that is pending goes to full depth.
    pub fn add(&mut self, sequence: &'b mut Sequence) {
        let depth = sequence.full_depth();
        self.items.push(Item { sequence, depth, wants_logits: true });
    }

    /// The hidden states of a sequence's tokens and drafts at a depth of the plan; at full depth, keys and values alone.
    pub fn add_to_depth(&mut self, sequence: &'b mut Sequence, depth: Depth) {
        self.items.push(Item { sequence, depth, wants_logits: false });
    }

    pub(super) fn of(item: Item<'b>) -> Batch<'b> {
        Batch { items: vec![item] }
    }
}

impl Engine {
    /// Takes what is pending of every sequence of a batch to the depth that is asked for, rows of one depth together: from depth
    /// to depth in rising order, and those that are not asked to go deeper leave.
    ///
    /// # Errors
    /// A sequence of another engine or without tokens; a depth that the plan does not have; a device that is lost; logits that are NaN or infinite.
    pub fn forward(&self, batch: &mut Batch<'_>) -> Result<(), Error> {
        let executor = &mut *self.lock();
        for item in &mut batch.items {
            if !item.sequence.is_of(self) {
                return Err(Error::of_another_engine("batch"));
            }
            // Full depth is no cut: there rows end, with or without logits.
            if item.depth != executor.full_depth() {
                check_cuts(&[item.depth], executor.n_steps())?;
            }
        }
        let Some(deepest) = batch.items.iter().map(|item| item.depth).max() else { return Ok(()) };
        // Before any is looked at: what one of them needs may be what another's rows are lost with.
        executor.revive(deepest)?;
        batch.items.iter_mut().try_for_each(|item| item.sequence.prepare(executor, item.wants_logits))?;
        let keeps = batch.items.iter().filter(|item| item.wants_logits).map(|item| item.sequence.keep());
        // One head serves all: with one that wants every logit, all get every logit.
        let keep = keeps.reduce(|a, b| if a == 0 || b == 0 { 0 } else { a.max(b) }).unwrap_or(0);
        // From the shallowest on: what goes deeper has passed there together with the others.
        let depths: BTreeSet<Depth> = batch.items.iter().map(|item| item.depth).collect();
        depths.into_iter().try_for_each(|depth| run_to_depth(executor, &mut batch.items, depth, keep))?;
        batch.items.iter_mut().filter(|item| item.wants_logits).for_each(|item| item.sequence.settled(keep));
        Ok(())
    }
}

/// Takes the rows of all that go so deep, or deeper, to a depth.
fn run_to_depth(executor: &mut Executor, items: &mut [Item<'_>], depth: Depth, keep: Keep) -> Result<(), Error> {
    // Rows of a sequence stay in their order: each sees those before it.
    let (mut rows, mut outs, mut logits) = (Vec::<&mut Row>::new(), Vec::new(), Vec::<&mut Vec<f32>>::new());
    for item in items.iter_mut().filter(|item| item.depth >= depth) {
        let wants_logits = item.wants_logits && item.depth == depth;
        for (row, target) in item.sequence.pending(depth) {
            // Only the last row of a text, and its drafts, have somewhere to put logits.
            if let Some(target) = target.filter(|_| wants_logits) {
                outs.push(rows.len());
                logits.push(target);
            }
            rows.push(row);
        }
    }
    let wanted = Wanted { rows: &outs, keep };
    executor.run_to_depth(&mut rows, depth, wanted, &mut |row, finished| {
        if let Ok(i) = outs.binary_search(&row) {
            logits[i].clear();
            logits[i].extend_from_slice(finished.logits);
        }
    })
}
