//! Tokens that may come next, and evaluation to less than full depth.

use super::params::check_cuts;
use super::row::Row;
use super::{Error, Sequence, TokenId};
use crate::kernels::Reduction;
use crate::plan::layers_of;

/// A token that may come next.
#[derive(Debug)]
pub(super) struct Draft {
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

impl Sequence {
    /// Whether the next [`Sequence::step`] has nothing to evaluate.
    pub fn has_logits(&self) -> bool {
        self.has_logits
    }

    /// Tokens that have not been through every layer.
    pub fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_done()
    }

    /// What the first `depth` steps of the plan are worth in layers of the model.
    pub fn layers_at(&self, depth: usize) -> f64 {
        let plan = self.plan();
        layers_of(&plan[..depth.min(plan.len())], self.model().plan())
    }

    /// Drafts behind the text.
    pub fn n_drafts(&self) -> usize {
        self.drafts.len()
    }

    /// Drafts a token behind the text and the drafts before it, found after so many steps of the plan. It is evaluated with the
    /// next step, as far as it is not yet. Without room in the context nothing is drafted.
    pub fn draft(&mut self, token: TokenId, layers_run: usize) -> Result<(), Error> {
        self.add_draft(token, Ran { steps: layers_run, layers: self.layers_at(layers_run) })
    }

    /// Drafts a token as [`Sequence::draft`] does, found by the draft plan ([`Sequence::run_draft_plan`]).
    pub fn draft_by_plan(&mut self, token: TokenId) -> Result<(), Error> {
        let plan = &self.params.draft_plan;
        let ran = Ran { steps: plan.len(), layers: layers_of(plan, self.model().plan()) };
        self.add_draft(token, ran)
    }

    fn add_draft(&mut self, token: TokenId, ran: Ran) -> Result<(), Error> {
        self.check_token(token)?;
        let position = self.tokens.len() + self.drafts.len();
        if position < self.n_ctx() {
            let row = self.row_at(token, position, Reduction::Decode);
            self.drafts.push_back(Draft { token, row, ran, logits: Vec::new() });
        }
        Ok(())
    }

    /// Takes the text and the drafts to a depth before full; gives the last one's hidden state there, before the final norm:
    /// \[n_embd\]. What they owe to deeper layers is settled when somebody goes there.
    pub fn hidden_state_at(&mut self, depth: usize) -> Result<Vec<f32>, Error> {
        check_cuts(&[depth], self.n_steps())?;
        self.run_to_depth(depth, false)?;
        self.lock().hidden_state(self.last_row()?)
    }

    /// Takes the text and the drafts to a depth as [`Sequence::hidden_state_at`] does; gives what a probe of the engine makes of
    /// the last one there. `None` where there is no probe, or the state waits on the CPU: it is at hand.
    pub fn probe_at(&mut self, depth: usize) -> Result<Option<Vec<f32>>, Error> {
        if !self.lock().reads_at(depth) {
            return Ok(None);
        }
        self.run_to_depth(depth, false)?;
        let last = self.last_row()?;
        Ok((last.depth == depth && !last.reading.is_empty()).then(|| last.reading.clone()))
    }

    fn last_row(&self) -> Result<&Row, Error> {
        self.drafts.back().map(|draft| &draft.row).or(self.rows.last()).ok_or(Error::Empty)
    }

    /// What [`Sequence::hidden_state_at`] gives, normed as before the output head: \[n_embd\].
    pub fn normed_state_at(&mut self, depth: usize) -> Result<Vec<f32>, Error> {
        let hidden = self.hidden_state_at(depth)?;
        Ok(self.model().config().final_norm().apply(&hidden))
    }

    /// Ends the way of all tokens that are pending: their keys and values for deeper layers come from the states they have. An
    /// approximation (as in CALM, arXiv 2207.07061, sec. 3.3).
    pub fn propagate_kv(&mut self) -> Result<(), Error> {
        let (engine, n_steps) = (self.engine().clone(), self.n_steps());
        let mut rows: Vec<&mut Row> = self.rows.iter_mut().filter(|row| row.depth < n_steps).collect();
        engine.lock().propagate_kv(&mut rows)
    }

    /// Ends the way of all tokens that are pending: deeper layers do not see them. An approximation (as in SpecEE, arXiv
    /// 2504.08850).
    pub fn mask_kv(&mut self) {
        let (engine, n_steps) = (self.engine().clone(), self.n_steps());
        let mut rows: Vec<&mut Row> = self.rows.iter_mut().filter(|row| row.depth < n_steps).collect();
        engine.lock().mask_kv(&mut rows);
    }

    /// What the draft plan makes of the last token of text and drafts: logits \[n_vocab\]. It has to be evaluated all the same.
    pub fn run_draft_plan(&mut self) -> Result<Vec<f32>, Error> {
        self.revive(self.n_steps())?;
        let (engine, keep, n_ctx) = (self.engine().clone(), self.keep(), self.n_ctx());
        let position = self.tokens.len() + self.drafts.len();
        let row = self.drafts.back_mut().map(|draft| &mut draft.row).or(self.rows.last_mut()).ok_or(Error::Empty)?;
        let mut executor = engine.lock();
        executor.keep = keep;
        if row.depth == 0 {
            return executor.run_draft_plan(row);
        }
        // What it has of its own stays: the draft's cache rows go behind.
        let own = row.cache_row;
        if position >= n_ctx {
            return Err(Error::ContextFull { n_ctx });
        }
        if !row.hole.is_empty() {
            let expected = "a last token that has not begun its way, behind a shared prefix".to_owned();
            return Err(Error::Parameter { name: "draft_plan", expected, found: format!("depth {}", row.depth) });
        }
        let (token, position, first, reduction) = (row.token, row.position, row.first, row.reduction);
        let mut row = Row { first, cache_row: own + 1, hole: own..own + 1, ..Row::new(token, position, reduction) };
        executor.run_draft_plan(&mut row)
    }

    /// What the output head makes of hidden states, \[n_embd\] each: \[n_vocab\] each.
    pub fn logits_of_states(&mut self, states: &[f32]) -> Result<Vec<f32>, Error> {
        let mut executor = self.lock();
        executor.keep = self.keep();
        executor.logits_of_states(states)
    }

    /// Makes the first draft part of the text if it is this token; otherwise all drafts are wrong. Gives what ran to draft it.
    pub(super) fn accept(&mut self, token: TokenId) -> Option<Ran> {
        if self.drafts.front().is_none_or(|draft| draft.token != token) {
            self.drop_drafts();
            return None;
        }
        let draft = self.drafts.pop_front()?;
        self.tokens.push(token);
        self.rows.push(draft.row);
        self.has_logits = !draft.logits.is_empty();
        self.is_ahead = self.has_logits;
        if self.has_logits {
            self.logits = draft.logits;
        }
        Some(draft.ran)
    }

    pub(super) fn drop_drafts(&mut self) {
        self.drafts.clear();
    }

    /// Forgets what was evaluated earlier than it had to be, so that it will be evaluated where a sequence without drafts does it,
    /// and rounded as there.
    pub(super) fn forget_ahead(&mut self) {
        self.drop_drafts();
        if self.is_ahead
            && let Some(last) = self.rows.last_mut()
        {
            last.depth = 0;
            (self.has_logits, self.is_ahead) = (false, false);
        }
    }
}
