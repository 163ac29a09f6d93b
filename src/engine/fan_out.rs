//! Branches of which only the last tokens' results are wanted: side by side after a common prefix, each as deep as it must.

use super::executor::{Finished, Wanted};
use super::params::check_cuts;
use super::row::{KV_STEP, Row};
use super::{Error, Sequence, TokenId};
use crate::kernels::Reduction;
use crate::plan::Depth;

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
    /// How deep it is.
    pub depth: Depth,
    /// The hidden states of its shown rows, before the final norm: \[n_embd\] each, one after the other. Empty where there is
    /// `reading`.
    pub hidden: Vec<f32>,
    /// With [`View::Hidden`], what a probe of the engine's made of them on another device than the CPU: \[n_out\] each.
    pub reading: Vec<f32>,
    /// What the output head makes of them, \[n_vocab\] each; empty unless asked for, or at full depth.
    pub logits: Vec<f32>,
}

/// Looks at those that are still there, and says of each whether it stops.
pub type AtCut<'a> = dyn FnMut(&[Cut]) -> Vec<bool> + 'a;

/// What a look needs.
#[derive(Clone, Copy)]
pub enum View<'v> {
    /// Hidden states.
    Hidden,
    /// Logits too.
    Logits,
    /// Logits of what this makes of a hidden state \[n_embd\] at a depth.
    Through(&'v dyn Fn(Depth, &[f32]) -> Vec<f32>),
}

/// What goes from checkpoint to checkpoint.
pub(super) enum Live {
    /// The last row of the text and its drafts, which take what is pending along.
    Text,
    /// A branch with rows of its own.
    Branch { branch: usize, rows: Vec<Row>, shown: usize },
}

impl Sequence {
    /// Evaluates branches that follow a common prefix, each as if it were alone. The text becomes the prefix. All new
    /// rows go through one range of the plan after the other; at each of the depths `cuts` (in rising order), `at_cut` looks
    /// at the branches that are still there. One that stops goes no deeper: its rows leave the batch. At full depth it
    /// looks at the rest, with logits.
    ///
    /// The prefix goes as deep as the branches do, and no deeper: what its deeper layers owe is settled when it is needed.
    /// Branches leave nothing behind.
    pub fn fan_out(
        &mut self,
        prefix: &[TokenId],
        branches: &[Branch<'_>],
        cuts: &[Depth],
        view: View<'_>,
        at_cut: &mut AtCut<'_>,
    ) -> Result<(), Error> {
        check_cuts(cuts, self.n_steps())?;
        self.check(prefix)?;
        self.revive(self.full_depth())?;
        // Answers are read from every logit: a shortlist may lack a label.
        self.need(0);
        self.rewind(self.common_prefix(prefix));
        // Before the prefix is put behind the text: what has no room changes nothing.
        let mut live = self.place(prefix.len(), branches)?;
        self.extend(&prefix[self.tokens.len()..], Reduction::Prefill);
        self.walk(&mut live, cuts, view, at_cut)?;
        // Once every branch has left, the prefix goes no deeper either.
        if !live.is_empty() || cuts.is_empty() {
            at_cut(&self.take_to_end(&mut live)?);
        }
        Ok(())
    }

    /// The walk over checkpoints: takes those that are there to one cut after the other, shows what they have there, and lets
    /// leave whoever `at_cut` stops. Nobody is left afterwards, or some that no cut was enough for.
    pub(super) fn walk(
        &mut self,
        live: &mut Vec<Live>,
        cuts: &[Depth],
        view: View<'_>,
        at_cut: &mut AtCut<'_>,
    ) -> Result<(), Error> {
        for &cut in cuts {
            // What is deeper already has nothing to show there.
            if self.is_beyond(live, cut)? {
                continue;
            }
            self.take_to(live, cut)?;
            let seen = self.look(live, cut, view)?;
            // Who says nothing about a branch lets it go on.
            let mut stops = at_cut(&seen).into_iter();
            live.retain(|_| !stops.next().unwrap_or(false));
            if live.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Whether the text's last row is past a depth: branches are where the walk has taken them.
    fn is_beyond(&self, live: &[Live], depth: Depth) -> Result<bool, Error> {
        Ok(matches!(live, [Live::Text]) && self.last_row()?.depth > depth)
    }

    /// The rows that one of them shows.
    fn shown_rows<'l>(&'l self, live: &'l Live) -> Result<&'l [Row], Error> {
        match live {
            Live::Text => self.last_row().map(std::slice::from_ref),
            Live::Branch { rows, shown, .. } => Ok(&rows[rows.len() - shown..]),
        }
    }

    /// What they show between two ranges.
    fn look(&mut self, live: &[Live], depth: Depth, view: View<'_>) -> Result<Vec<Cut>, Error> {
        let mut cuts: Vec<Cut> = live.iter().map(|live| Cut::empty(live.branch(), depth)).collect();
        let (mut seen, mut n_seen) = (Vec::new(), Vec::new());
        for (live, cut) in live.iter().zip(&mut cuts) {
            let rows = self.shown_rows(live)?;
            n_seen.push(rows.len());
            // A probe where the state waits has read it: the state itself need not come here.
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
                // Logits are made of many states at once below; the states go to whoever looks.
                cut.hidden.extend(hidden);
            }
        }
        // One head for all of them: its weights are read once.
        let logits = self.logits_of_states(&seen)?;
        let n_vocab = self.model().config().n_vocab;
        let mut rest = &logits[..];
        for (n, cut) in n_seen.into_iter().zip(&mut cuts) {
            let (own, others) = rest.split_at((n * n_vocab).min(rest.len()));
            cut.logits.extend(own);
            rest = others;
        }
        Ok(cuts)
    }

    /// Takes the text, or the prefix and the branches, to a depth before full.
    fn take_to(&mut self, live: &mut [Live], depth: Depth) -> Result<(), Error> {
        if matches!(live, [Live::Text]) {
            // As any evaluation of a text: pending rows and drafts ride along.
            return self.run_to_depth(depth, false);
        }
        self.run_branches(live, depth, Wanted::NOTHING, &mut |_, _| {})
    }

    /// Takes the prefix and the branches to full depth: what the branches show there.
    fn take_to_end(&mut self, live: &mut [Live]) -> Result<Vec<Cut>, Error> {
        let full = self.full_depth();
        let mut cuts: Vec<Cut> = live.iter().map(|live| Cut::empty(live.branch(), full)).collect();
        let mut n = self.rows.iter().filter(|row| row.depth < full).count();
        let (mut outs, mut owners) = (Vec::new(), Vec::new());
        for (i, live) in live.iter().enumerate() {
            let Live::Branch { rows, shown, .. } = live else { continue };
            n += rows.len();
            // Results are asked for by place among all rows, those of the prefix first.
            outs.extend(n - shown..n);
            owners.resize(outs.len(), i);
        }
        self.run_branches(live, full, Wanted { rows: &outs, keep: 0 }, &mut |row, finished| {
            if let Ok(i) = outs.binary_search(&row) {
                cuts[owners[i]].hidden.extend(finished.hidden);
                cuts[owners[i]].logits.extend(finished.logits);
            }
        })?;
        Ok(cuts)
    }

    /// Rows of the prefix come first, since the branches see them.
    fn run_branches(
        &mut self,
        live: &mut [Live],
        depth: Depth,
        wanted: Wanted<'_>,
        finish: &mut dyn FnMut(usize, Finished<'_>),
    ) -> Result<(), Error> {
        let engine = self.engine().clone();
        let mut rows: Vec<&mut Row> = self.rows.iter_mut().filter(|row| row.depth < depth).collect();
        for live in live {
            if let Live::Branch { rows: own, .. } = live {
                rows.extend(own);
            }
        }
        engine.lock().run_to_depth(&mut rows, depth, wanted, finish)
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
            // A token that the model lacks would read beyond its embeddings.
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
            placed.push(Live::Branch { branch, rows: tokens.iter().enumerate().map(row).collect(), shown });
            // The next branch begins at the same place in a step as the first: its sums have the same order.
            first += tokens.len().next_multiple_of(KV_STEP);
        }
        Ok(placed)
    }
}

impl Live {
    /// A text is its only branch.
    fn branch(&self) -> usize {
        match self {
            Live::Text => 0,
            Live::Branch { branch, .. } => *branch,
        }
    }
}

impl Cut {
    fn empty(branch: usize, depth: Depth) -> Cut {
        Cut { branch, depth, hidden: Vec::new(), reading: Vec::new(), logits: Vec::new() }
    }
}
