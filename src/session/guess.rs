//! Tokens that are expected to follow the timeline, and evaluation to less than full depth.

use super::machine::Row;
use super::{Error, Session, TokenId};
use crate::ggml::Order;
use crate::plan::layers_of;

/// An expected token.
#[derive(Debug)]
pub(super) struct Guess {
    pub(super) token: TokenId,
    pub(super) row: Row,
    pub(super) ran: Ran,
    /// What follows it at full depth, once it has been there: \[n_vocab\].
    pub(super) logits: Vec<f32>,
}

/// What ran to choose a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ran {
    pub(super) steps: usize,
    /// The same in layers of the model.
    pub(super) layers: f64,
}

impl Session {
    /// Whether the next [`Session::step`] has nothing to evaluate.
    pub fn has_logits(&self) -> bool {
        self.has_logits
    }

    /// Tokens of the timeline that have not been through every layer.
    pub fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_done()
    }

    /// Rows times layers run so far, of everything: drafts, guesses that were wrong and what was owed included
    /// ([`crate::plan::layers_of`]).
    pub fn layers_executed(&self) -> f64 {
        self.machine.n_run
    }

    /// What the first `depth` steps of the plan are worth in layers of the model.
    pub fn layers_at(&self, depth: usize) -> f64 {
        let plan = self.plan();
        layers_of(&plan[..depth.min(plan.len())], self.model().plan())
    }

    /// Guesses behind the timeline.
    pub fn n_guesses(&self) -> usize {
        self.guesses.len()
    }

    /// Expects a token behind the timeline and the guesses before it, found after so many steps of the plan. It is evaluated
    /// with the next step, as far as it is not yet. Without room in the context nothing is expected.
    pub fn guess(&mut self, token: TokenId, layers_run: usize) -> Result<(), Error> {
        self.expect(token, Ran { steps: layers_run, layers: self.layers_at(layers_run) })
    }

    /// Expects a token as [`Session::guess`] does, found by the draft plan ([`Session::skim`]).
    pub fn guess_skimmed(&mut self, token: TokenId) -> Result<(), Error> {
        let draft = &self.machine.params.draft_plan;
        let ran = Ran { steps: draft.len(), layers: layers_of(draft, self.model().plan()) };
        self.expect(token, ran)
    }

    fn expect(&mut self, token: TokenId, ran: Ran) -> Result<(), Error> {
        self.check_token(token)?;
        let position = self.tokens.len() + self.guesses.len();
        if position < self.n_ctx() {
            let row = Row::on_timeline(token, position, Order::Token);
            self.guesses.push_back(Guess { token, row, ran, logits: Vec::new() });
        }
        Ok(())
    }

    /// Takes the timeline and the guesses to a depth before full; gives the last one's hidden state there, before the
    /// final norm: \[n_embd\]. What they owe to deeper layers is settled when somebody goes there.
    pub fn reach(&mut self, depth: usize) -> Result<Vec<f32>, Error> {
        self.take_to_depth(depth)?;
        self.machine.hidden_state(self.last_row()?)
    }

    /// Takes the timeline and the guesses to a depth as [`Session::reach`] does; gives what a reader of the session's makes of
    /// the last one there. `None` where there is no reader, or the state waits on the CPU: it is at hand.
    pub fn reach_reading(&mut self, depth: usize) -> Result<Option<Vec<f32>>, Error> {
        if !self.machine.reads_at(depth) {
            return Ok(None);
        }
        self.take_to_depth(depth)?;
        let last = self.last_row()?;
        Ok((last.depth == depth && !last.reading.is_empty()).then(|| last.reading.clone()))
    }

    fn take_to_depth(&mut self, depth: usize) -> Result<(), Error> {
        super::check_cuts(&[depth], self.n_steps())?;
        self.revive(depth)?;
        let mut rows: Vec<&mut Row> = self.rows.iter_mut().collect();
        rows.extend(self.guesses.iter_mut().map(|guess| &mut guess.row));
        rows.retain(|row| row.depth < depth);
        self.machine.deepen(&mut rows, depth, &[], &mut |_, _| {})
    }

    fn last_row(&self) -> Result<&Row, Error> {
        self.guesses.back().map(|guess| &guess.row).or(self.rows.last()).ok_or(Error::Empty)
    }

    /// What [`Session::reach`] gives, normed as before the output head: \[n_embd\].
    pub fn reach_normed(&mut self, depth: usize) -> Result<Vec<f32>, Error> {
        let hidden = self.reach(depth)?;
        Ok(self.model().config().final_norm().apply(&hidden))
    }

    /// Ends the way of all tokens that wait: their keys and values for deeper layers come from the states they have. An
    /// approximation (as in CALM, arXiv 2207.07061, sec. 3.3).
    pub fn propagate(&mut self) -> Result<(), Error> {
        let n_steps = self.n_steps();
        let mut rows: Vec<&mut Row> = self.rows.iter_mut().filter(|row| row.depth < n_steps).collect();
        self.machine.propagate(&mut rows)
    }

    /// Ends the way of all tokens that wait: deeper layers do not see them. An approximation (as in SpecEE, arXiv
    /// 2504.08850).
    pub fn hide(&mut self) {
        let n_steps = self.n_steps();
        let mut rows: Vec<&mut Row> = self.rows.iter_mut().filter(|row| row.depth < n_steps).collect();
        self.machine.hide(&mut rows);
    }

    /// What the draft plan makes of the last token of timeline and guesses: logits \[n_vocab\]. It has to be evaluated all
    /// the same.
    pub fn skim(&mut self) -> Result<Vec<f32>, Error> {
        self.revive(self.n_steps())?;
        let row = self.guesses.back_mut().map(|guess| &mut guess.row).or(self.rows.last_mut()).ok_or(Error::Empty)?;
        if row.depth == 0 {
            return self.machine.skim(row);
        }
        // What it has of its own stays: the draft's cache rows go behind.
        let (own, n_ctx) = (row.cache_row, self.machine.params.n_ctx);
        if own + 1 >= n_ctx {
            return Err(Error::ContextFull { n_ctx });
        }
        let mut row =
            Row { cache_row: own + 1, hole: own..own + 1, ..Row::on_timeline(row.token, row.position, row.order) };
        self.machine.skim(&mut row)
    }

    /// What the output head makes of hidden states, \[n_embd\] each: \[n_vocab\] each.
    pub fn heads_of(&mut self, states: &[f32]) -> Result<Vec<f32>, Error> {
        self.machine.heads_of(states)
    }

    /// Makes the first guess part of the timeline if it is this token; otherwise all guesses are wrong. Gives what ran
    /// to guess it.
    pub(super) fn accept(&mut self, token: TokenId) -> Option<Ran> {
        if self.guesses.front().is_none_or(|guess| guess.token != token) {
            self.drop_guesses();
            return None;
        }
        let guess = self.guesses.pop_front()?;
        self.tokens.push(token);
        self.rows.push(guess.row);
        self.has_logits = !guess.logits.is_empty();
        self.is_ahead = self.has_logits;
        if self.has_logits {
            self.logits = guess.logits;
        }
        Some(guess.ran)
    }

    pub(super) fn drop_guesses(&mut self) {
        while let Some(mut guess) = self.guesses.pop_front() {
            self.machine.forget(&mut guess.row);
        }
    }

    /// Forgets what was evaluated earlier than it had to be, so that it will be evaluated where a session without guesses
    /// does it, and rounded as there.
    pub(super) fn forget_ahead(&mut self) {
        self.drop_guesses();
        if self.is_ahead
            && let Some(last) = self.rows.last_mut()
        {
            last.depth = 0;
            (self.has_logits, self.is_ahead) = (false, false);
        }
    }
}
