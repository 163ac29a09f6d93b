//! Branches of which only the last tokens' results are wanted: side by side after a common prefix, each as deep as it must.

use super::params::check_cuts;
use super::row::{KV_STEP, Row};
use super::{Error, Sequence, TokenId};
use crate::kernels::Reduction;

/// What follows the common prefix.
#[derive(Clone, Copy, Debug)]
pub struct Branch<'q> {
    /// The tokens; at least one.
    pub tokens: &'q [TokenId],
    /// How many of the last tokens are looked at; at least one.
    pub shown: usize,
}

/// A branch on its way, where [`Sequence::fan_out`] may stop it.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Which branch.
    pub branch: usize,
    /// Layers run so far.
    pub layers_run: usize,
    /// The hidden states of its shown rows, before the final norm: \[n_embd\] each, one after the other. Empty where there is
    /// `reading`.
    pub hidden: Vec<f32>,
    /// With [`View::Hidden`], what a probe of the engine's made of them on another device than the CPU: \[n_out\] each.
    pub reading: Vec<f32>,
    /// What the output head makes of them, \[n_vocab\] each; empty unless asked for, or at full depth.
    pub logits: Vec<f32>,
}

/// Looks at the branches that are still there, and says of each whether it stops.
pub type AtCut<'a> = dyn FnMut(&[Cut]) -> Vec<bool> + 'a;

/// What a look needs.
#[derive(Clone, Copy)]
pub enum View<'v> {
    /// Hidden states.
    Hidden,
    /// Logits too.
    Logits,
    /// Logits of what this makes of a hidden state \[n_embd\] after so many layers.
    Through(&'v dyn Fn(usize, &[f32]) -> Vec<f32>),
}

/// A branch with its rows.
struct Live {
    branch: usize,
    rows: Vec<Row>,
    shown: usize,
}

impl Live {
    fn shown_rows(&self) -> &[Row] {
        &self.rows[self.rows.len() - self.shown..]
    }
}

impl Sequence {
    /// Evaluates branches that follow a common prefix, each as if it were alone. The text becomes the prefix. All new
    /// rows go through one range of layers after the other; after each of the layers `cuts` (in rising order), `at_cut` looks
    /// at the branches that are still there. One that stops goes no deeper: its rows leave the batch. At full depth it
    /// looks at the rest, with logits.
    ///
    /// The prefix goes as deep as the branches do, and no deeper: what its deeper layers owe is settled when it is needed.
    /// Branches leave nothing behind.
    pub fn fan_out(
        &mut self,
        prefix: &[TokenId],
        branches: &[Branch<'_>],
        cuts: &[usize],
        view: View<'_>,
        at_cut: &mut AtCut<'_>,
    ) -> Result<(), Error> {
        check_cuts(cuts, self.n_steps())?;
        self.check(prefix)?;
        self.revive(self.n_steps())?;
        self.need(0);
        self.rewind(self.common_prefix(prefix));
        let mut live = self.place(prefix.len(), branches)?;
        self.extend(&prefix[self.tokens.len()..], Reduction::Prefill);
        self.walk(&mut live, cuts, view, at_cut)
    }

    fn walk(
        &mut self,
        live: &mut Vec<Live>,
        cuts: &[usize],
        view: View<'_>,
        at_cut: &mut AtCut<'_>,
    ) -> Result<(), Error> {
        for &cut in cuts {
            self.take_to(live, cut)?;
            let seen = self.look(live, cut, view)?;
            let mut stops = at_cut(&seen).into_iter();
            live.retain(|_| !stops.next().unwrap_or(false));
            if live.is_empty() {
                return Ok(());
            }
        }
        let seen = self.take_to(live, self.n_steps())?;
        at_cut(&seen);
        Ok(())
    }

    /// What the branches show between two ranges.
    fn look(&mut self, live: &[Live], depth: usize, view: View<'_>) -> Result<Vec<Cut>, Error> {
        let mut cuts: Vec<Cut> = live.iter().map(|q| Cut::empty(q.branch, depth)).collect();
        let mut seen = Vec::new();
        for (branch, cut) in live.iter().zip(&mut cuts) {
            let rows = branch.shown_rows();
            if matches!(view, View::Hidden) && rows.iter().all(|row| !row.reading.is_empty()) {
                cut.reading.extend(rows.iter().flat_map(|row| &row.reading));
                continue;
            }
            for row in rows {
                let hidden = self.lock().hidden_state(row)?;
                match view {
                    View::Hidden => {}
                    View::Logits => seen.extend(&hidden),
                    View::Through(lens) => seen.extend(lens(depth, &hidden)),
                }
                cut.hidden.extend(hidden);
            }
        }
        let logits = self.logits_of_states(&seen)?;
        let n_vocab = self.model().config().n_vocab;
        let mut rest = &logits[..];
        for (branch, cut) in live.iter().zip(&mut cuts) {
            let (own, others) = rest.split_at((branch.shown * n_vocab).min(rest.len()));
            cut.logits.extend(own);
            rest = others;
        }
        Ok(cuts)
    }

    /// Takes the prefix and the branches to a depth. At full depth gives what the branches show.
    fn take_to(&mut self, live: &mut [Live], depth: usize) -> Result<Vec<Cut>, Error> {
        let engine = self.engine().clone();
        let mut cuts: Vec<Cut> = live.iter().map(|q| Cut::empty(q.branch, depth)).collect();
        let mut rows: Vec<&mut Row> = self.rows.iter_mut().filter(|row| row.depth < depth).collect();
        let (mut outs, mut owners) = (Vec::new(), Vec::new());
        for (i, branch) in live.iter_mut().enumerate() {
            rows.extend(branch.rows.iter_mut());
            outs.extend(rows.len() - branch.shown..rows.len());
            owners.resize(outs.len(), i);
        }
        let mut executor = engine.lock();
        executor.keep = 0;
        executor.run_to_depth(&mut rows, depth, &outs, &mut |row, finished| {
            if let Ok(i) = outs.binary_search(&row) {
                cuts[owners[i]].hidden.extend(finished.hidden);
                cuts[owners[i]].logits.extend(finished.logits);
            }
        })?;
        Ok(cuts)
    }

    /// Gives every branch its rows. Cache rows of the first follow the prefix; those of the others are so far behind as
    /// they would be there that they add up in the same order.
    fn place(&self, n_prefix: usize, branches: &[Branch<'_>]) -> Result<Vec<Live>, Error> {
        let n_shared = self.cells.shared.len();
        if n_shared > 0 && n_shared < n_prefix && branches.len() > 1 {
            let expected = format!("the {n_shared} tokens that are shared with other sequences");
            return Err(Error::Parameter { name: "prefix", expected, found: format!("{n_prefix} tokens") });
        }
        let start = self.cells.row_of(n_prefix);
        // What lies between the prefix and a branch that begins at a row: others that run beside it.
        let hole = |first: usize| match n_shared {
            0 => start..first,
            n if n == n_prefix => self.cells.shared.end..first,
            _ => self.cells.hole(),
        };
        let mut first = start;
        let mut placed = Vec::new();
        for (branch, &Branch { tokens, shown }) in branches.iter().enumerate() {
            if tokens.is_empty() {
                return Err(Error::Empty);
            }
            if !(1..=tokens.len()).contains(&shown) {
                let expected = format!("between 1 and {}", tokens.len());
                return Err(Error::Parameter { name: "shown", expected, found: shown.to_string() });
            }
            tokens.iter().try_for_each(|&token| self.check_token(token))?;
            if n_prefix + (first - start) + tokens.len() > self.n_ctx() {
                return Err(Error::ContextFull { n_ctx: self.n_ctx() });
            }
            let row = |(i, &token): (usize, &TokenId)| Row {
                first: self.cells.first(),
                cache_row: first + i,
                hole: hole(first),
                ..Row::new(token, n_prefix + i, Reduction::Prefill)
            };
            placed.push(Live { branch, rows: tokens.iter().enumerate().map(row).collect(), shown });
            first += tokens.len().next_multiple_of(KV_STEP);
        }
        Ok(placed)
    }
}

impl Cut {
    fn empty(branch: usize, layers_run: usize) -> Cut {
        Cut { branch, layers_run, hidden: Vec::new(), reading: Vec::new(), logits: Vec::new() }
    }
}
