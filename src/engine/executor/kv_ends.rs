//! The two approximations that end a row's way before full depth, and what others see of rows that ended so.

use std::ops::Range;

use super::{Executor, Wanted};
use crate::engine::Error;
use crate::engine::graph::Plan;
use crate::engine::row::Row;
use crate::plan::Depth;

impl Executor {
    /// Fills the deeper layers' cache rows of waiting rows from the states that they have, and ends their way.
    pub(in crate::engine) fn propagate_kv(&mut self, rows: &mut [&mut Row]) -> Result<(), Error> {
        for i in 0..rows.len() {
            // One by one: rows may have stopped at different depths, and this happens to few.
            for range in self.segments(Plan::Keys, rows[i].depth.0..self.n_steps()) {
                let end = range.end;
                self.run(Plan::Keys, range, rows, &[i], Wanted::NOTHING, &mut |_, _| {})?;
                rows[i].depth = Depth(end);
            }
        }
        Ok(())
    }

    /// Ends the way of waiting rows: deeper layers do not see them.
    pub(in crate::engine) fn mask_kv(&mut self, rows: &mut [&mut Row]) {
        for row in rows {
            self.masked_rows.push((row.cache_row, row.depth));
            // Done as far as anybody is concerned: nothing is owed any more.
            (row.place, row.depth) = (None, self.full_depth());
        }
    }

    /// Lets deeper layers see rows that they did not: they are another's from now on, or free.
    pub(in crate::engine) fn unmask(&mut self, rows: Range<usize>) {
        self.masked_rows.retain(|(row, _)| !rows.contains(row));
    }

    /// Cache rows that some of these rows would see from a step on, but that were not written there.
    pub(super) fn missing<'r>(&self, rows: impl Iterator<Item = &'r Row> + Clone, start: usize) -> Vec<usize> {
        let ends_before = self.masked_rows.iter().filter(|(_, depth)| depth.0 <= start);
        // A row of another sequence is seen by none of them: their graph needs no mask for it.
        let is_seen = |at: usize| rows.clone().any(|row| row.sees(at));
        ends_before.map(|&(at, _)| at).filter(|&at| is_seen(at)).collect()
    }
}
