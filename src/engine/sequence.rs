//! One text on an engine: its tokens, how far each has come, its logits.
//!
//! Behind the text there may be *drafts*: tokens that may come next. They are evaluated together with the last token, and each
//! becomes part of the text when it is what the sampler chooses: what is generated does not depend on what was drafted.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, MutexGuard};

use super::batch::{Batch, Item};
use super::cells::{Cells, Region};
use super::draft::{Draft, Ran};
use super::executor::Executor;
use super::graph::Keep;
use super::params::{check_plan, check_probes};
use super::prefix::Prefix;
use super::row::Row;
use super::{Engine, EngineParams, Error, Probe, TokenId};
use crate::kernels::Reduction;
use crate::model::{LayerStep, Model};
use crate::plan::{Depth, number};
use crate::sample::Sampler;

/// What [`Sequence::sync`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Tokens whose cache rows were already there.
    pub reused: usize,
    /// Tokens evaluated now.
    pub evaluated: usize,
    /// Whether the caller stopped it before the end.
    pub interrupted: bool,
}

/// What [`Sequence::step`] did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The sampled token, now the last of the sequence.
    pub token: TokenId,
    /// How deep it was to be chosen; of a draft that was accepted, to be drafted.
    pub depth: Depth,
    /// What the token needed: the same in layers of the model ([`crate::plan::layers_of`]).
    pub layers: f64,
    /// Whether it is a draft that was accepted.
    pub was_drafted: bool,
}

/// A text on an engine.
pub struct Sequence {
    engine: Engine,
    /// The engine's, for those who read them often.
    pub(super) params: Arc<EngineParams>,
    pub(super) region: Region,
    pub(super) prefix: Option<Prefix>,
    pub(super) cells: Cells,
    pub(super) tokens: Vec<TokenId>,
    /// One for each token.
    pub(super) rows: Vec<Row>,
    /// Of the last token, if it is done: \[n_vocab\].
    pub(super) logits: Vec<f32>,
    pub(super) has_logits: bool,
    /// Of those, and of the drafts'.
    logits_keep: Keep,
    /// Of logits from now on.
    keep: Keep,
    /// The last token was evaluated as a draft, earlier than it had to be.
    pub(super) is_ahead: bool,
    pub(super) drafts: VecDeque<Draft>,
    /// Tokens sampled so far, of this text and others.
    n_sampled: usize,
    /// What devices had forgotten when this was last looked at.
    pub(super) n_lost: u64,
}

/// The low-bit copy of the head takes as long to make (50 ms, demo model) as 200 to 300 tokens save by it: whoever waits
/// that long before making it never loses more than that again.
const SKETCH_AFTER: usize = 192;

impl Sequence {
    /// An empty sequence on an engine of its own: a chat, a text that is measured.
    ///
    /// # Errors
    /// Those of [`Engine::new`].
    pub fn alone(model: Arc<Model>, params: EngineParams) -> Result<Sequence, Error> {
        Engine::new(model, EngineParams { n_seq: 1, ..params })?.sequence()
    }

    pub(super) fn new(engine: Engine, region: Region) -> Sequence {
        let (params, n_lost) = {
            let mut executor = engine.lock();
            executor.unmask(region.rows()); // of a sequence that had them before
            (Arc::new(executor.params.clone()), executor.n_lost)
        };
        // Behind no prefix: `follow` gives it one.
        let cells = Cells::new(&region, None);
        Sequence {
            engine,
            params,
            region,
            prefix: None,
            cells,
            tokens: Vec::new(),
            rows: Vec::new(),
            logits: Vec::new(),
            has_logits: false,
            logits_keep: 0,
            keep: 0,
            is_ahead: false,
            drafts: VecDeque::new(),
            n_sampled: 0,
            n_lost,
        }
    }

    /// The engine that it runs on.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        self.engine.model()
    }

    /// How the engine runs.
    pub fn params(&self) -> &EngineParams {
        &self.params
    }

    /// Changes what is read of hidden states on devices other than the CPU, from the next rows on.
    pub fn set_probes(&mut self, probes: Vec<Probe>) -> Result<(), Error> {
        check_probes(&probes, self.model().config().n_embd, self.n_steps())?;
        let engine = self.engine.clone();
        let mut executor = engine.lock();
        executor.set_probes(probes)?;
        self.params = Arc::new(executor.params.clone());
        Ok(())
    }

    /// Runs another plan from now on. The sequence becomes empty; it has to be the only one of its engine.
    pub fn replan(&mut self, mut plan: Vec<LayerStep>) -> Result<(), Error> {
        number(&mut plan);
        check_plan(&plan, self.model())?;
        if self.engine.regions.n_taken() > 1 {
            let found = format!("{} sequences", self.engine.regions.n_taken());
            return Err(Error::Parameter {
                name: "plan",
                expected: "a single sequence on the engine".to_owned(),
                found,
            });
        }
        self.rewind(0);
        let engine = self.engine.clone();
        let mut executor = engine.lock();
        // Cuts and drafts were chosen for the plan that goes.
        executor.params.cuts.clear();
        executor.params.draft_plan.clear();
        executor.replan(plan)?;
        self.params = Arc::new(executor.params.clone());
        Ok(())
    }

    /// What runs, in order.
    pub fn plan(&self) -> &[LayerStep] {
        &self.params.plan
    }

    /// Steps of the plan.
    pub fn n_steps(&self) -> usize {
        self.params.plan.len()
    }

    /// The depth that is full here: all steps of the plan.
    pub fn full_depth(&self) -> Depth {
        Depth(self.n_steps())
    }

    /// The text. Its last token may not have been evaluated yet.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens there is room for.
    pub fn n_ctx(&self) -> usize {
        self.params.n_ctx
    }

    /// Whether a sequence of this model could have room for more.
    pub fn may_grow(&self) -> bool {
        self.model().config().n_ctx_max().is_none_or(|most| self.n_ctx() < most)
    }

    /// Makes the text equal to `tokens` and evaluates it: keeps the common prefix, forgets the rest, runs the new part in
    /// batches. `progress` hears how many of the new tokens are done of how many, and may stop it between two batches; the text
    /// then ends where it got to.
    pub fn sync(
        &mut self,
        tokens: &[TokenId],
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Synced, Error> {
        self.check(tokens)?;
        self.revive(self.full_depth())?;
        // What a draft evaluated earlier was rounded beside others: a prompt that is read again must come out the same.
        self.forget_ahead();
        self.need(0); // of a prompt the whole head costs little
        self.rewind(self.common_prefix(tokens));
        // The last token goes again where its logits are not at hand.
        let reused = self.n_done().min(tokens.len() - usize::from(!self.has_logits && !tokens.is_empty()));
        self.rewind(reused);
        let total = tokens.len() - reused;
        // A prompt in batches, each at full depth: so the caller may stop it between two.
        for batch in tokens[reused..].chunks(self.params.n_batch) {
            self.extend(batch, Reduction::Prefill);
            let is_last = self.tokens.len() == tokens.len();
            self.run_to_depth(self.full_depth(), is_last)?;
            let done = self.tokens.len() - reused;
            if progress(done, total).is_break() && !is_last {
                return Ok(Synced { reused, evaluated: done, interrupted: true });
            }
        }
        Ok(Synced { reused, evaluated: total, interrupted: false })
    }

    /// Tokens that have been through every layer, counted from the first.
    pub(super) fn n_done(&self) -> usize {
        self.rows.partition_point(|row| row.depth == self.full_depth())
    }

    /// Puts tokens behind the text, to be evaluated later.
    pub(super) fn extend(&mut self, tokens: &[TokenId], reduction: Reduction) {
        if tokens.is_empty() {
            return;
        }
        self.drop_drafts();
        let first = self.tokens.len();
        // A row that comes alone adds up as a token of an answer does, as ggml adds up a single row.
        let reduction = if tokens.len() == 1 { Reduction::Decode } else { reduction };
        for (i, &token) in tokens.iter().enumerate() {
            let row = self.row_at(token, first + i, reduction);
            self.rows.push(row);
        }
        self.tokens.extend(tokens);
        (self.has_logits, self.is_ahead) = (false, false);
    }

    /// A row that sees all positions before it.
    pub(super) fn row_at(&self, token: TokenId, position: usize, reduction: Reduction) -> Row {
        let (first, cache_row, hole) = (self.cells.first(), self.cells.row_of(position), self.cells.hole());
        Row { first, cache_row, hole, ..Row::new(token, position, reduction) }
    }

    pub(super) fn common_prefix(&self, tokens: &[TokenId]) -> usize {
        self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }

    /// Samples the next token and puts it behind the text; before that, evaluates what is not evaluated yet.
    pub fn step(&mut self, sampler: &mut Sampler) -> Result<Step, Error> {
        if self.tokens.len() >= self.n_ctx() {
            return Err(Error::ContextFull { n_ctx: self.n_ctx() });
        }
        self.limit_logits(sampler);
        self.settle()?;
        let token = sampler.sample(&self.logits, &self.tokens);
        self.n_sampled += 1;
        // Sampled first, compared then: with the random number that it takes either way.
        let drafted = self.accept(token);
        if drafted.is_none() {
            self.extend(&[token], Reduction::Decode);
        }
        let full = self.full_depth();
        let whole = || Ran { depth: full, layers: self.layers_at(full) };
        let Ran { depth, layers } = drafted.unwrap_or_else(whole);
        Ok(Step { token, depth, layers, was_drafted: drafted.is_some() })
    }

    /// Logits from now on are those that this sampler chooses among.
    pub fn limit_logits(&mut self, sampler: &Sampler) {
        /// More would cost what they save.
        const MOST: usize = 128;
        let groups = |reach: usize| (2 * reach).max(MOST / 4);
        let wants = self.params.shortlist && self.n_sampled >= SKETCH_AFTER;
        // A sampler that looks at few tokens needs few exact logits; one without a bound needs them all.
        let keep = sampler.reach().map(groups).filter(|&n| wants && n <= 2 * MOST);
        self.need(keep.unwrap_or(0));
    }

    /// Logits from now on have so many exact groups, 0 for all. Those at hand that have fewer are forgotten.
    pub(super) fn need(&mut self, keep: Keep) {
        self.keep = keep;
        if self.logits_keep > 0 && (keep == 0 || keep > self.logits_keep) {
            self.drop_drafts();
            (self.has_logits, self.is_ahead) = (false, false);
        }
    }

    pub(super) fn keep(&self) -> Keep {
        self.keep
    }

    /// Puts a given token behind the text, to be evaluated with the next step.
    pub fn push(&mut self, token: TokenId) -> Result<(), Error> {
        self.append(&[token])
    }

    /// Puts given tokens behind the text, to be evaluated together as a prompt is.
    pub fn append(&mut self, tokens: &[TokenId]) -> Result<(), Error> {
        tokens.iter().try_for_each(|&token| self.check_token(token))?;
        if self.tokens.len() + tokens.len() > self.n_ctx() {
            return Err(Error::ContextFull { n_ctx: self.n_ctx() });
        }
        self.extend(tokens, Reduction::Prefill);
        Ok(())
    }

    /// Keeps the first `n` tokens and forgets the rest.
    pub fn rewind(&mut self, n: usize) {
        self.drop_drafts();
        // Logits belong to the last token: they go with it.
        let keeps_last = n >= self.tokens.len();
        (self.has_logits, self.is_ahead) = (self.has_logits && keeps_last, self.is_ahead && keeps_last);
        if keeps_last {
            return;
        }
        // Those of a shared prefix are seen by every layer.
        let first = self.cells.row_of(n.max(self.cells.shared.len()));
        self.lock().unmask(first..self.region.rows().end);
        self.keep_first(n);
    }

    fn keep_first(&mut self, n: usize) {
        self.tokens.truncate(n);
        self.rows.truncate(n);
        // A sequence that is rewound into its prefix goes on in its own region, never in the prefix's.
        if n < self.cells.shared.len() {
            // What follows the shorter prefix lies behind it as if it were all.
            let shared = self.prefix.as_ref().map(|prefix| (prefix.region(), n));
            self.cells = Cells::new(&self.region, shared);
        }
    }

    /// Logits of the last token, evaluating what is not evaluated yet: \[n_vocab\].
    pub fn logits(&mut self) -> Result<&[f32], Error> {
        self.need(0);
        self.settle()?;
        Ok(&self.logits)
    }

    /// Feeds `prompt`, then `tokens` as given, one at a time as generation does: the kernels for several rows round
    /// differently, and on small models that moves the argmax of 2 tokens in 100. `each` gets, for every index in
    /// `tokens`, the logits from which that token would have been chosen.
    pub fn score(
        &mut self,
        prompt: &[TokenId],
        tokens: &[TokenId],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        if prompt.is_empty() {
            return Err(Error::Empty);
        }
        // All of it before any: a line that cannot be scored leaves no half of itself.
        self.check(&[prompt, tokens].concat())?;
        self.sync(prompt, &mut |_, _| ControlFlow::Continue(()))?;
        let Some((_, fed)) = tokens.split_last() else { return Ok(()) };
        each(0, &self.logits);
        for (i, &token) in fed.iter().enumerate() {
            self.push(token)?;
            each(i + 1, self.logits()?);
        }
        Ok(())
    }

    /// Makes room when the context is full: keeps the first `n_keep` tokens and the later half of the others, and
    /// evaluates what moved at its new place. Returns how many tokens were dropped.
    pub fn shift(
        &mut self,
        n_keep: usize,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<usize, Error> {
        let n_keep = n_keep.min(self.tokens.len());
        let n_drop = (self.tokens.len() - n_keep).div_ceil(2);
        let mut kept = self.tokens.clone();
        // Positions change for all that is behind: its keys were rotated for others, and are made anew.
        kept.drain(n_keep..n_keep + n_drop);
        self.sync(&kept, progress)?;
        Ok(n_drop)
    }

    pub(super) fn check(&self, tokens: &[TokenId]) -> Result<(), Error> {
        if tokens.len() > self.n_ctx() {
            return Err(Error::ContextFull { n_ctx: self.n_ctx() });
        }
        tokens.iter().try_for_each(|&token| self.check_token(token))
    }

    pub(super) fn check_token(&self, token: TokenId) -> Result<(), Error> {
        let n_vocab = self.model().config().n_vocab;
        if (token as usize) < n_vocab { Ok(()) } else { Err(Error::Token { token, n_vocab }) }
    }

    /// Evaluates the text to its end, so that its last token's logits are known, and with it the drafts.
    fn settle(&mut self) -> Result<(), Error> {
        let is_settled = self.has_logits && self.n_done() == self.tokens.len() && self.n_lost == self.lock().n_lost;
        if is_settled { Ok(()) } else { self.run_to_depth(self.full_depth(), true) }
    }

    /// Takes what is pending to a depth, alone.
    pub(super) fn run_to_depth(&mut self, depth: Depth, wants_logits: bool) -> Result<(), Error> {
        let engine = self.engine.clone();
        engine.forward(&mut Batch::of(Item { sequence: self, depth, wants_logits }))
    }

    /// Whether it belongs to an engine.
    pub(super) fn is_of(&self, engine: &Engine) -> bool {
        Arc::ptr_eq(&self.engine.executor, &engine.executor)
    }

    /// What has to be true before rows run, on devices that are there.
    pub(super) fn prepare(&mut self, executor: &Executor, wants_logits: bool) -> Result<(), Error> {
        // What a device forgot counts as not evaluated, before anybody asks what is pending.
        self.forget_lost(executor)?;
        let Some(last) = self.rows.last() else { return Err(Error::Empty) };
        if wants_logits && !self.has_logits && last.depth == self.full_depth() {
            self.evaluate_last_again();
        }
        Ok(())
    }

    /// The last token has been through every layer, and its logits are forgotten: it goes again, alone, in a row of its own.
    fn evaluate_last_again(&mut self) {
        let Some(&token) = self.tokens.last() else { return };
        let n = self.tokens.len();
        if n == self.cells.shared.len() {
            self.drop_drafts(); // their rows lie behind one that is others' too
        }
        self.keep_first(n - 1);
        self.tokens.push(token);
        self.rows.push(self.row_at(token, n - 1, Reduction::Decode));
    }

    /// The rows that are not at a depth yet, and where logits of them belong.
    pub(super) fn pending(&mut self, depth: Depth) -> impl Iterator<Item = (&mut Row, Option<&mut Vec<f32>>)> {
        let last = self.rows.len() - 1;
        // Only the last token's are kept: earlier ones have chosen already.
        let mut logits = Some(&mut self.logits);
        let rows = self.rows.iter_mut().enumerate();
        let rows = rows.map(move |(i, row)| (row, if i == last { logits.take() } else { None }));
        let drafts = self.drafts.iter_mut().map(|draft| (&mut draft.row, Some(&mut draft.logits)));
        rows.chain(drafts).filter(move |(row, _)| row.depth < depth)
    }

    /// The logits of the last token are there.
    pub(super) fn settled(&mut self, keep: Keep) {
        (self.has_logits, self.is_ahead, self.logits_keep) = (true, false, keep);
    }

    /// Makes devices that were lost and are needed up to a depth usable again. What they have forgotten is evaluated anew.
    pub(super) fn revive(&mut self, to: Depth) -> Result<(), Error> {
        let engine = self.engine.clone();
        let mut executor = engine.lock();
        executor.revive(to)?;
        self.forget_lost(&executor)
    }

    fn forget_lost(&mut self, executor: &Executor) -> Result<(), Error> {
        if self.n_lost == executor.n_lost {
            return Ok(());
        }
        // A prefix is others' too: a sequence cannot evaluate it for them.
        self.check_prefix(executor.n_lost)?;
        self.n_lost = executor.n_lost;
        let drafts = self.drafts.iter_mut().map(|draft| &mut draft.row);
        self.rows.iter_mut().chain(drafts).for_each(|row| (row.place, row.depth) = (None, Depth(0)));
        self.drafts.iter_mut().for_each(|draft| draft.logits.clear());
        (self.has_logits, self.is_ahead) = (false, false);
        Ok(())
    }

    /// Tokens up to the first that deeper layers do not see.
    pub(super) fn n_unmasked(&self) -> usize {
        let masked = &self.lock().masked_rows;
        let is_masked = |row: &Row| masked.iter().any(|(at, _)| *at == row.cache_row);
        self.rows.iter().position(is_masked).unwrap_or(self.rows.len())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Executor> {
        self.engine.lock()
    }
}
