//! Texts of which the hidden states between steps are wanted, and other plans that begin in the middle of them.

use super::executor::Wanted;
use super::row::Row;
use super::{Error, Sequence, TokenId};
use crate::kernels::Reduction;
use crate::plan::Depth;

/// What some places of a text have at full depth. Kept by the caller, so that its memory is used again.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Before the final norm, \[n_embd\] each.
    pub hidden: Vec<f32>,
    /// \[n_vocab\] each.
    pub logits: Vec<f32>,
}

impl Sequence {
    /// Evaluates a text from its beginning. `each` gets what is there before every step: \[n_embd\] a token, one after the
    /// other. `out` becomes what the rising places `shown` have at full depth.
    pub fn trace(
        &mut self,
        tokens: &[TokenId],
        shown: &[usize],
        out: &mut Shown,
        each: &mut dyn FnMut(Vec<f32>),
    ) -> Result<(), Error> {
        let mut rows = self.window(tokens)?;
        each(self.lock().embeddings(tokens)?);
        self.walk_window(&mut rows, shown, out, each)
    }

    /// Evaluates a text of which is known what the plan makes of it up to a depth: `states`, \[n_embd\] a token;
    /// nothing needs to be known of depth 0. `out` becomes what the rising places `shown` have at full depth.
    pub fn resume(
        &mut self,
        tokens: &[TokenId],
        depth: Depth,
        states: &[f32],
        shown: &[usize],
        out: &mut Shown,
    ) -> Result<(), Error> {
        let n_embd = self.model().config().n_embd;
        if depth == self.full_depth() {
            // Nothing is left to run but the head.
            out.hidden = shown.iter().flat_map(|&i| &states[i * n_embd..(i + 1) * n_embd]).copied().collect();
            out.logits = self.logits_of_states(&out.hidden)?;
            return Ok(());
        }
        let mut rows = self.window(tokens)?;
        self.finish_window(&mut rows, depth, states, shown, out)
    }

    /// Rows of a text that is no part of the sequence, which becomes empty.
    fn window(&mut self, tokens: &[TokenId]) -> Result<Vec<Row>, Error> {
        self.check(tokens)?;
        self.rewind(0);
        self.need(0);
        // They are no rows of the sequence: nothing of them is pending when it goes on.
        let row = |(i, &token): (usize, &TokenId)| self.row_at(token, i, Reduction::Prefill);
        Ok(tokens.iter().enumerate().map(row).collect())
    }

    fn walk_window(
        &mut self,
        rows: &mut [Row],
        shown: &[usize],
        out: &mut Shown,
        each: &mut dyn FnMut(Vec<f32>),
    ) -> Result<(), Error> {
        for depth in (1..self.n_steps()).map(Depth) {
            let mut executor = self.lock();
            executor.run_to_depth(&mut rows.iter_mut().collect::<Vec<_>>(), depth, Wanted::NOTHING, &mut |_, _| {})?;
            // One step at a time: behind a range only its last state waits.
            let states: Vec<Vec<f32>> = rows.iter().map(|row| executor.hidden_state(row)).collect::<Result<_, _>>()?;
            drop(executor); // `each` may use the engine
            each(states.concat());
        }
        self.finish_window(rows, Depth(0), &[], shown, out)
    }

    /// Takes rows to full depth, after they got the states of a depth where there are any.
    fn finish_window(
        &mut self,
        rows: &mut [Row],
        depth: Depth,
        states: &[f32],
        shown: &[usize],
        out: &mut Shown,
    ) -> Result<(), Error> {
        let mut executor = self.lock();
        if depth > Depth(0) {
            let n_embd = self.model().config().n_embd;
            // As if they had come so far by themselves: the steps before are not run.
            for (row, state) in rows.iter_mut().zip(states.chunks_exact(n_embd)) {
                row.depth = depth;
                executor.enter(row, state)?;
            }
        }
        let (to, wanted) = (self.full_depth(), Wanted { rows: shown, keep: 0 });
        out.hidden.clear();
        out.logits.clear();
        executor.run_to_depth(&mut rows.iter_mut().collect::<Vec<_>>(), to, wanted, &mut |_, finished| {
            out.hidden.extend_from_slice(finished.hidden);
            out.logits.extend_from_slice(finished.logits);
        })
    }
}
