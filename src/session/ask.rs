//! Questions of which only the last token's result is wanted: side by side after a common prefix, each as deep as it must.

use std::ops::ControlFlow;

use super::machine::{KV_STEP, Row};
use super::{Error, Session, TokenId, check_cuts};

/// Where [`Session::ask`] may stop.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    /// Layers run so far.
    pub layers_run: usize,
    /// The last row's hidden state, \[n_embd\].
    pub hidden: &'a [f32],
    /// What the output head makes of it, \[n_vocab\]; empty unless asked for, or at full depth.
    pub logits: &'a [f32],
}

/// A question on its way.
struct Question {
    index: usize,
    rows: Vec<Row>,
}

impl Session {
    /// Evaluates questions that follow a common prefix, each as if it were alone. The timeline becomes the prefix. All new
    /// rows go through one range of layers after the other; after each of the layers `cuts` (in rising order), and at full
    /// depth, `at_cut` is asked about each question that is still there. When it breaks, the question goes no deeper: its
    /// rows leave the batch. `with_logits` computes logits at the cuts too.
    ///
    /// The prefix goes as deep as the questions do, and no deeper: what its deeper layers owe is settled when it is needed.
    /// Questions leave nothing behind.
    pub fn ask(
        &mut self,
        prefix: &[TokenId],
        questions: &[&[TokenId]],
        cuts: &[usize],
        with_logits: bool,
        at_cut: &mut dyn FnMut(usize, Cut<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        check_cuts(cuts, self.n_steps())?;
        self.check(prefix)?;
        let mut live = self.place(prefix.len(), questions)?;
        self.rewind(self.common_prefix(prefix));
        self.extend(&prefix[self.tokens.len()..]);
        let result = self.walk(&mut live, cuts, with_logits, at_cut);
        for question in &mut live {
            question.rows.iter_mut().for_each(|row| self.machine.forget(row));
        }
        result
    }

    fn walk(
        &mut self,
        live: &mut Vec<Question>,
        cuts: &[usize],
        with_logits: bool,
        at_cut: &mut dyn FnMut(usize, Cut<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        for &cut in cuts {
            self.take_to(live, cut, at_cut)?;
            let lasts: Vec<&Row> = live.iter().filter_map(|question| question.rows.last()).collect();
            let logits = if with_logits { self.machine.heads_of(&lasts)? } else { Vec::new() };
            let n_vocab = logits.len() / live.len().max(1);
            let hidden: Vec<Vec<f32>> = lasts.iter().map(|row| self.machine.hidden_state(row)).collect();
            let mut place = 0;
            live.retain_mut(|question| {
                let logits = &logits[place * n_vocab..][..n_vocab];
                let stops = at_cut(question.index, Cut { layers_run: cut, hidden: &hidden[place], logits }).is_break();
                place += 1;
                if stops {
                    question.rows.iter_mut().for_each(|row| self.machine.forget(row));
                }
                !stops
            });
            if live.is_empty() {
                return Ok(());
            }
        }
        self.take_to(live, self.n_steps(), at_cut)
    }

    /// Takes the prefix and the questions to a depth.
    fn take_to(
        &mut self,
        live: &mut [Question],
        depth: usize,
        at_cut: &mut dyn FnMut(usize, Cut<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut rows: Vec<&mut Row> = self.rows.iter_mut().filter(|row| row.depth < depth).collect();
        let (mut outs, mut indices) = (Vec::new(), Vec::new());
        for question in live {
            rows.extend(question.rows.iter_mut());
            outs.push(rows.len() - 1);
            indices.push(question.index);
        }
        self.machine.deepen(&mut rows, depth, &outs, &mut |row, finished| {
            if let Some(i) = outs.iter().position(|&out| out == row) {
                let _ = at_cut(indices[i], Cut { layers_run: depth, hidden: finished.hidden, logits: finished.logits });
            }
        })
    }

    /// Gives every question its rows. Cache rows of the first follow the prefix; those of the others are so far behind as
    /// they would be there that they add up in the same order.
    fn place(&self, n_prefix: usize, questions: &[&[TokenId]]) -> Result<Vec<Question>, Error> {
        let mut first = n_prefix;
        let mut placed = Vec::new();
        for (index, tokens) in questions.iter().enumerate() {
            if tokens.is_empty() {
                return Err(Error::Empty);
            }
            tokens.iter().try_for_each(|&token| self.check_token(token))?;
            if first + tokens.len() > self.n_ctx() {
                return Err(Error::ContextFull { n_ctx: self.n_ctx() });
            }
            let row = |(i, &token): (usize, &TokenId)| Row {
                position: n_prefix + i,
                cache_row: first + i,
                hole: n_prefix..first,
                ..Row::on_timeline(token, 0)
            };
            placed.push(Question { index, rows: tokens.iter().enumerate().map(row).collect() });
            first += tokens.len().next_multiple_of(KV_STEP);
        }
        Ok(placed)
    }
}
