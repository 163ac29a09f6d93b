//! Tokens that may come next, and evaluation to less than full depth.

use super::params::check_cuts;
use super::row::Row;
use super::{Error, Sequence, TokenId};
use crate::kernels::Reduction;
use crate::plan::{Depth, layers_of};

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
    pub(super) depth: Depth,
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

    /// What the plan up to a depth is worth in layers of the model.
    pub fn layers_at(&self, depth: Depth) -> f64 {
        let plan = self.plan();
        layers_of(&plan[..depth.0.min(plan.len())], self.model().plan())
    }

    /// Drafts behind the text.
    pub fn n_drafts(&self) -> usize {
        self.drafts.len()
    }

    /// Drafts a token behind the text and the drafts before it, found at a depth of the plan. It is evaluated with the
    /// next step, as far as it is not yet. Without room in the context nothing is drafted.
    pub fn draft(&mut self, token: TokenId, depth: Depth) -> Result<(), Error> {
        self.add_draft(token, Ran { depth, layers: self.layers_at(depth) })
    }

    /// Drafts a token as [`Sequence::draft`] does, found by the draft plan ([`Sequence::run_draft_plan`]).
    pub fn draft_by_plan(&mut self, token: TokenId) -> Result<(), Error> {
        let plan = &self.params.draft_plan;
        let ran = Ran { depth: Depth(plan.len()), layers: layers_of(plan, self.model().plan()) };
        self.add_draft(token, ran)
    }

    fn add_draft(&mut self, token: TokenId, ran: Ran) -> Result<(), Error> {
        self.check_token(token)?;
        let position = self.tokens.len() + self.drafts.len();
        // A draft that finds no room is no error: the token comes without it, or the context is full.
        if position < self.n_ctx() {
            let row = self.row_at(token, position, Reduction::Decode);
            self.drafts.push_back(Draft { token, row, ran, logits: Vec::new() });
        }
        Ok(())
    }

    /// Takes the text and the drafts to a depth before full; gives the last one's hidden state there, before the final norm:
    /// \[n_embd\]. What they owe to deeper layers is settled when somebody goes there.
    pub fn hidden_state_at(&mut self, depth: Depth) -> Result<Vec<f32>, Error> {
        check_cuts(&[depth], self.n_steps())?;
        // What is pending before it goes along: the row sees it.
        self.run_to_depth(depth, false)?;
        self.lock().hidden_state(self.last_row()?)
    }

    /// Takes the text and the drafts to a depth as [`Sequence::hidden_state_at`] does; gives what a probe of the engine makes of
    /// the last one there. `None` where there is no probe, or the state waits on the CPU: it is at hand.
    pub fn probe_at(&mut self, depth: Depth) -> Result<Option<Vec<f32>>, Error> {
        if !self.lock().reads_at(depth) {
            return Ok(None);
        }
        self.run_to_depth(depth, false)?;
        // A row that is deeper was read by another probe, or by none.
        let last = self.last_row()?;
        Ok((last.depth == depth && !last.reading.is_empty()).then(|| last.reading.clone()))
    }

    pub(super) fn last_row(&self) -> Result<&Row, Error> {
        self.drafts.back().map(|draft| &draft.row).or(self.rows.last()).ok_or(Error::Empty)
    }

    /// What [`Sequence::hidden_state_at`] gives, normed as before the output head: \[n_embd\].
    pub fn normed_state_at(&mut self, depth: Depth) -> Result<Vec<f32>, Error> {
        let hidden = self.hidden_state_at(depth)?;
        Ok(self.model().config().final_norm().apply(&hidden))
    }

    /// Ends the way of all tokens that are pending: their keys and values for deeper layers come from the states they have. An
    /// approximation (as in CALM, arXiv 2207.07061, sec. 3.3).
    pub fn propagate_kv(&mut self) -> Result<(), Error> {
        let (engine, full) = (self.engine().clone(), self.full_depth());
        let mut rows: Vec<&mut Row> = self.rows.iter_mut().filter(|row| row.depth < full).collect();
        engine.lock().propagate_kv(&mut rows)
    }

    /// Ends the way of all tokens that are pending: deeper layers do not see them. An approximation (as in SpecEE, arXiv
    /// 2504.08850).
    pub fn mask_kv(&mut self) {
        let (engine, full) = (self.engine().clone(), self.full_depth());
        let mut rows: Vec<&mut Row> = self.rows.iter_mut().filter(|row| row.depth < full).collect();
        engine.lock().mask_kv(&mut rows);
    }

    /// What the draft plan makes of the last token of text and drafts: logits \[n_vocab\]. It has to be evaluated all the same.
    pub fn run_draft_plan(&mut self) -> Result<Vec<f32>, Error> {
        self.revive(self.full_depth())?;
        let (engine, keep, n_ctx) = (self.engine().clone(), self.keep(), self.n_ctx());
        let position = self.tokens.len() + self.drafts.len();
        // The draft plan's cache rows stand until the row is evaluated, which overwrites them.
        let row = self.drafts.back_mut().map(|draft| &mut draft.row).or(self.rows.last_mut()).ok_or(Error::Empty)?;
        let mut executor = engine.lock();
        // Its cache rows are still to be written: the draft's may lie there.
        if row.depth == Depth(0) {
            return executor.run_draft_plan(row, keep);
        }
        // What it has of its own stays: the draft's cache rows go behind.
        let own = row.cache_row;
        if position >= n_ctx {
            return Err(Error::ContextFull { n_ctx });
        }
        // A row has one hole; here it would need another, for its own cache row.
        if !row.hole.is_empty() {
            let expected = "a last token that has not begun its way, behind a shared prefix".to_owned();
            return Err(Error::Parameter { name: "draft_plan", expected, found: format!("depth {}", row.depth) });
        }
        let (token, position, first, reduction) = (row.token, row.position, row.first, row.reduction);
        let mut row = Row { first, cache_row: own + 1, hole: own..own + 1, ..Row::new(token, position, reduction) };
        executor.run_draft_plan(&mut row, keep)
    }

    /// What the output head makes of hidden states, \[n_embd\] each: \[n_vocab\] each.
    pub fn logits_of_states(&mut self, states: &[f32]) -> Result<Vec<f32>, Error> {
        self.lock().logits_of_states(states, self.keep())
    }

    /// Makes the first draft part of the text if it is this token; otherwise all drafts are wrong. Gives what ran to draft it.
    pub(super) fn accept(&mut self, token: TokenId) -> Option<Ran> {
        // Those behind a wrong one followed from it.
        if self.drafts.front().is_none_or(|draft| draft.token != token) {
            self.drop_drafts();
            return None;
        }
        let draft = self.drafts.pop_front()?;
        // The row has been where it stands now: nothing has to be evaluated again.
        self.tokens.push(token);
        self.rows.push(draft.row);
        self.has_logits = !draft.logits.is_empty();
        // A sequence without drafts would evaluate it with the next step, alone.
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
            last.depth = Depth(0);
            (self.has_logits, self.is_ahead) = (false, false);
        }
    }
}
