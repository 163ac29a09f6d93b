//! Logits that no token can be chosen from, and where they come from.

use super::{Executor, Wanted};
use crate::engine::Error;
use crate::engine::graph::{Keep, Plan};
use crate::engine::row::Row;
use crate::plan::Depth;

impl Executor {
    /// Says where logits that no token can be chosen from come from: what there is to know is looked for only now.
    pub(super) fn refuse(&mut self, plan: Plan, row: &Row) -> Result<(), Error> {
        let place = format!("after token {} of the text", row.position + 1);
        let cause = match (self.broken_weight(), plan) {
            (Some(weight), _) => weight,
            (None, Plan::Whole) => self.broken_step(row)?,
            (None, Plan::Draft | Plan::Keys) => "the draft's layers overflow".to_owned(),
        };
        Err(Error::NotFinite { place, cause })
    }

    pub(super) fn broken_weight(&self) -> Option<String> {
        let (tensor, row) = self.model.broken_weight()?;
        Some(format!("tensor `{tensor}` has NaN or infinity in row {row} in `{}`", self.model.file().path().display()))
    }

    /// The first layer that makes a row's hidden state NaN or infinite: it is taken through them once more, one by one.
    fn broken_step(&mut self, row: &Row) -> Result<String, Error> {
        let mut again = row.again();
        let mut found = None;
        // Step by step: behind a range only its last state could be looked at.
        for depth in 1..self.n_steps() {
            self.run(Plan::Whole, depth - 1..depth, &mut [&mut again], &[0], Wanted::NOTHING, &mut |_, _| {})?;
            again.depth = Depth(depth);
            if self.hidden_state(&again)?.iter().any(|x| !x.is_finite()) {
                found = Some(depth - 1);
                break;
            }
        }
        let layer = |step: usize| self.params.plan[step].il;
        Ok(match found {
            Some(step) => format!("the hidden state overflows in layer {}", layer(step)),
            None => format!("the numbers overflow in layer {} or in the output head", layer(self.n_steps() - 1)),
        })
    }
}

/// The first of so many rows of logits with one that is NaN or infinite. Of a shortlist -inf is right: it stands for a token that
/// is not among the best.
pub(super) fn first_not_finite(logits: &[f32], n_rows: usize, keep: Keep) -> Option<usize> {
    const ENDLESS: u32 = f32::INFINITY.to_bits();
    if n_rows == 0 {
        return None;
    }
    let is_bad = |x: f32| {
        let is_finite = x.to_bits() & ENDLESS != ENDLESS;
        !is_finite & !((keep > 0) & (x == f32::NEG_INFINITY))
    };
    // Folded without an early end, which would keep the loop from being vectorized.
    let has_bad = |row: &[f32]| row.iter().fold(false, |bad, &x| bad | is_bad(x));
    logits.chunks_exact(logits.len() / n_rows).position(has_bad)
}
