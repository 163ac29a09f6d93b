//! Texts of which the hidden states between steps are wanted, and other plans that begin in the middle of them.

use super::row::Row;
use super::{Error, Sequence, TokenId};
use crate::kernels::Reduction;

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

    /// Evaluates a text of which is known what the first `depth` steps of the plan make of it: `states`, \[n_embd\] a token;
    /// nothing needs to be known of depth 0. `out` becomes what the rising places `shown` have at full depth.
    pub fn resume(
        &mut self,
        tokens: &[TokenId],
        depth: usize,
        states: &[f32],
        shown: &[usize],
        out: &mut Shown,
    ) -> Result<(), Error> {
        let n_embd = self.model().config().n_embd;
        if depth == self.n_steps() {
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
        for depth in 1..self.n_steps() {
            let mut executor = self.lock();
            executor.run_to_depth(&mut rows.iter_mut().collect::<Vec<_>>(), depth, &[], &mut |_, _| {})?;
            let states: Vec<Vec<f32>> = rows.iter().map(|row| executor.hidden_state(row)).collect::<Result<_, _>>()?;
            drop(executor); // `each` may use the engine
            each(states.concat());
        }
        self.finish_window(rows, 0, &[], shown, out)
    }

    /// Takes rows to full depth, after they got the states of a depth where there are any.
    fn finish_window(
        &mut self,
        rows: &mut [Row],
        depth: usize,
        states: &[f32],
        shown: &[usize],
        out: &mut Shown,
    ) -> Result<(), Error> {
        let mut executor = self.lock();
        executor.keep = 0;
        if depth > 0 {
            let n_embd = self.model().config().n_embd;
            for (row, state) in rows.iter_mut().zip(states.chunks_exact(n_embd)) {
                row.depth = depth;
                executor.enter(row, state)?;
            }
        }
        let to = self.n_steps();
        out.hidden.clear();
        out.logits.clear();
        executor.run_to_depth(&mut rows.iter_mut().collect::<Vec<_>>(), to, shown, &mut |_, finished| {
            out.hidden.extend_from_slice(finished.hidden);
            out.logits.extend_from_slice(finished.logits);
        })
    }
}
