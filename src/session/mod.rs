//! One mutable timeline of token ids: its cache, its logits, its place. Owns what changes while a model runs; refuses
//! to know text.
//!
//! Every token is a row on its way through the layers. A row that has been through some of them only is *pending*: its
//! hidden state waits, and the next run that goes deeper takes it along, so that its cache rows become exactly what full
//! depth would have written. Depth never rises along the timeline: a row sees all rows before it.
//!
//! Behind the timeline there may be *guesses*: tokens that somebody expects. They are evaluated together with the
//! timeline's last token, and each becomes part of the timeline when it is what the sampler chooses: what is generated
//! does not depend on what was guessed.

mod ask;
mod graph;
mod guess;
mod hidden;
mod machine;
mod read;
mod reader;
mod state;
mod trace;

pub use ask::{AtCut, Cut, Question, View};
pub use read::{InputSums, Inputs};
pub use reader::Reader;
pub use trace::Shown;

use std::collections::VecDeque;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::dtype::DType;
use crate::ggml::{self, Device, Order};
use crate::model::{Config, LayerStep, MAX_POSITIONS, Model};
use crate::plan::{Half, number};
use crate::sample::Sampler;
use graph::Keep;
use guess::{Guess, Ran};
use machine::{Machine, Row};

/// A token's place in the vocabulary.
pub type TokenId = u32;

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No room for another token.
    #[error("the context of {n_ctx} tokens is full")]
    ContextFull {
        /// The session's context.
        n_ctx: usize,
    },
    /// A token that the model does not have.
    #[error("token {token}: expected an id below {n_vocab}")]
    Token {
        /// The id.
        token: TokenId,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// A parameter that the model cannot take.
    #[error("`{name}`: expected {expected}, found {found}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What is possible.
        expected: String,
        /// What was asked for.
        found: String,
    },
    /// A context whose cache cannot be.
    #[error("a context of {n_ctx} tokens: expected {expected}\nhint: -c sets another")]
    Context {
        /// The context asked for, by the caller or by the model's metadata.
        n_ctx: usize,
        /// What is possible.
        expected: String,
    },
    /// Keys and values for which there is no memory.
    #[error("keys and values of {n_ctx} tokens: {source}")]
    CacheMemory {
        /// The context.
        n_ctx: usize,
        /// What there was no memory for.
        source: ggml::Error,
    },
    /// Logits that no token can be chosen from.
    #[error("the logits {place} are NaN or infinite: {cause}")]
    NotFinite {
        /// Where in the text.
        place: String,
        /// The tensor or the layer that they come from.
        cause: String,
    },
    /// Nothing has been evaluated yet.
    #[error("there is no token to continue from")]
    Empty,
    /// A saved state that does not belong to this session.
    #[error("saved state: expected {expected}, found {found}")]
    State {
        /// What this session needs.
        expected: String,
        /// What the state says.
        found: String,
    },
    /// Reading or writing a state failed.
    #[error("saved state: {0}")]
    Io(#[from] io::Error),
    /// Memory or device.
    #[error(transparent)]
    Ggml(#[from] ggml::Error),
}

/// How a session runs.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionParams {
    /// Tokens of context; 0 for as many as the model was trained with. A model with learned positions takes no more.
    pub n_ctx: usize,
    /// Rows that run at once while a prompt is read.
    pub n_batch: usize,
    /// Element type of cached keys.
    pub type_k: DType,
    /// Element type of cached values.
    pub type_v: DType,
    /// Whether attention is one fused operation; `None` for what suits each device ([`SessionParams::fuses_attention_on`]).
    pub flash_attn: Option<bool>,
    /// Where the plan is cut into ranges that run as graphs of their own; empty for one range.
    pub cuts: Vec<usize>,
    /// What runs, in order; empty for everything that the model has.
    pub plan: Vec<LayerStep>,
    /// Whether steps compute only the logits that the sampler chooses among, where that is faster: a low-bit copy of the
    /// output head tells which ([`crate::ggml::Ops::shortlist`]).
    pub shortlist: bool,
    /// What is read of hidden states on devices other than the CPU ([`Session::reach_reading`]).
    pub readers: Vec<Reader>,
    /// What runs to guess a token ([`Session::skim`]), steps of the plan with their turns; empty for nothing.
    pub draft_plan: Vec<LayerStep>,
}

impl Default for SessionParams {
    fn default() -> SessionParams {
        SessionParams {
            n_ctx: 0,
            n_batch: 512,
            type_k: DType::F16,
            type_v: DType::F16,
            flash_attn: None,
            cuts: Vec::new(),
            plan: Vec::new(),
            shortlist: true,
            readers: Vec::new(),
            draft_plan: Vec::new(),
        }
    }
}

impl SessionParams {
    /// The same with another plan.
    pub fn with_plan(&self, plan: Vec<LayerStep>) -> SessionParams {
        SessionParams { plan, ..self.clone() }
    }

    /// Tokens of context for a model, once it is certain that their cache has a size that a machine could hold. Refuses others
    /// before anything is loaded.
    pub fn context_for(&self, config: &Config) -> Result<usize, Error> {
        let n_ctx = if self.n_ctx == 0 { config.n_ctx_train } else { self.n_ctx };
        if let Some(most) = config.n_ctx_max().filter(|&most| n_ctx > most) {
            let expected = format!("at most {most} tokens: this model has learned no positions beyond");
            return Err(Error::Parameter { name: "ctx-size", expected, found: n_ctx.to_string() });
        }
        if n_ctx > MAX_POSITIONS {
            return Err(Error::Context { n_ctx, expected: format!("at most {MAX_POSITIONS}") });
        }
        let row = |n, dtype: DType| dtype.row_bytes(n).unwrap_or(0) as u128;
        let rows = row(config.n_embd_k(), self.type_k) + row(config.n_embd_v(), self.type_v);
        let bytes = rows * config.n_layer as u128 * n_ctx as u128;
        if bytes > isize::MAX as u128 {
            let expected = format!("keys and values that fit in memory (these take {bytes} bytes)");
            return Err(Error::Context { n_ctx, expected });
        }
        Ok(n_ctx)
    }

    fn may_do_without_flash(&self) -> bool {
        self.flash_attn.is_none() && !self.type_v.is_quantized()
    }

    /// Whether attention is one fused operation on a device. Quantized values need it. On the CPU ggml's accumulates values in
    /// f16: it saves memory at long contexts and costs accuracy; on GPUs it is the fastest.
    pub fn fuses_attention_on(&self, device: &Device) -> bool {
        self.flash_attn.unwrap_or(self.type_v.is_quantized() || device.is_gpu())
    }
}

/// What [`Session::sync`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Tokens whose cache rows were already there.
    pub reused: usize,
    /// Tokens evaluated now.
    pub evaluated: usize,
    /// Whether the caller stopped it before the end.
    pub interrupted: bool,
}

/// What [`Session::step`] did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The sampled token, now the last of the timeline.
    pub token: TokenId,
    /// Steps of the plan run to choose it; of a guess that came true, to guess it.
    pub layers_run: usize,
    /// What the token needed: the same in layers of the model ([`crate::plan::layers_of`]).
    pub layers: f64,
    /// Whether it is a guess that came true.
    pub was_guessed: bool,
}

/// A timeline of tokens on a model. Several sessions may share one model.
pub struct Session {
    machine: Machine,
    tokens: Vec<TokenId>,
    /// One for each token.
    rows: Vec<Row>,
    /// Of the last token of the timeline, if it is done.
    logits: Vec<f32>,
    has_logits: bool,
    /// Of those, and of the guesses'.
    logits_keep: Keep,
    /// The last token was evaluated as a guess, earlier than it had to be.
    is_ahead: bool,
    guesses: VecDeque<Guess>,
    /// Tokens sampled so far, on this timeline and others.
    n_sampled: usize,
}

/// The low-bit copy of the head takes as long to make (50 ms, demo model) as 200 to 300 tokens save by it: whoever waits
/// that long before making it never loses more than that again.
const SKETCH_AFTER: usize = 192;

impl Session {
    /// An empty timeline.
    pub fn new(model: Arc<Model>, mut params: SessionParams) -> Result<Session, Error> {
        let config = model.config();
        params.n_ctx = params.context_for(config)?;
        check_cache_type("cache-type-k", params.type_k, config.head_dim_k)?;
        check_cache_type("cache-type-v", params.type_v, config.head_dim_v)?;
        if params.type_v.is_quantized() && params.flash_attn == Some(false) {
            let expected = "f32, f16 or bf16 without flash attention".to_owned();
            return Err(Error::Parameter { name: "cache-type-v", expected, found: params.type_v.name().to_owned() });
        }
        params.n_batch = params.n_batch.clamp(1, params.n_ctx);
        if params.plan.is_empty() {
            params.plan = model.plan().to_vec();
        }
        number(&mut params.plan);
        check_plan(&params.plan, &model)?;
        check_plan(&params.draft_plan, &model)?;
        let shared = |step: &&LayerStep| !params.plan.iter().any(|own| own.keys() == step.keys() && own.attention);
        if let Some(step) = params.draft_plan.iter().filter(|step| step.attention).find(shared) {
            let expected = "attention of steps that the plan runs too".to_owned();
            return Err(Error::Parameter { name: "draft_plan", expected, found: step.il.to_string() });
        }
        params.cuts.sort_unstable();
        params.cuts.dedup();
        check_cuts(&params.cuts, params.plan.len())?;
        check_readers(&params.readers, config.n_embd, params.plan.len())?;
        let logits = vec![0.0; config.n_vocab];
        let machine = match Machine::new(model.clone(), params.clone()) {
            // Heads of a size that a GPU fuses no attention of.
            Err(Error::Ggml(ggml::Error::Unsupported { .. })) if params.may_do_without_flash() => {
                Machine::new(model, SessionParams { flash_attn: Some(false), ..params })
            }
            result => result,
        }?;
        Ok(Session {
            machine,
            tokens: Vec::new(),
            rows: Vec::new(),
            logits,
            has_logits: false,
            logits_keep: 0,
            is_ahead: false,
            guesses: VecDeque::new(),
            n_sampled: 0,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.machine.model
    }

    /// How it runs.
    pub fn params(&self) -> &SessionParams {
        &self.machine.params
    }

    /// Changes what is read of hidden states on devices other than the CPU, from the next rows on.
    pub fn set_readers(&mut self, readers: Vec<Reader>) -> Result<(), Error> {
        if readers == self.machine.params.readers {
            return Ok(());
        }
        check_readers(&readers, self.model().config().n_embd, self.n_steps())?;
        self.machine.set_readers(readers)
    }

    /// What runs, in order.
    pub fn plan(&self) -> &[LayerStep] {
        &self.machine.params.plan
    }

    /// Steps of the plan: the depth that is full here.
    pub fn n_steps(&self) -> usize {
        self.machine.n_steps()
    }

    /// Bytes of memory that cached keys and values may take: those of steps that have attention.
    pub fn cache_bytes(&self) -> usize {
        self.machine.cache.bytes()
    }

    /// The timeline. Its last token may not have been evaluated yet.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens there is room for.
    pub fn n_ctx(&self) -> usize {
        self.machine.params.n_ctx
    }

    /// Whether a session of this model could have room for more.
    pub fn may_grow(&self) -> bool {
        self.model().config().n_ctx_max().is_none_or(|most| self.n_ctx() < most)
    }

    /// Makes the timeline equal to `tokens` and evaluates it: keeps the common prefix, forgets the rest, runs the new
    /// part in batches. `progress` hears how many of the new tokens are done of how many, and may stop it between two
    /// batches; the timeline then ends where it got to.
    pub fn sync(
        &mut self,
        tokens: &[TokenId],
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Synced, Error> {
        self.check(tokens)?;
        self.revive(self.n_steps())?;
        self.forget_ahead();
        self.need(0); // of a prompt the whole head costs little
        self.rewind(self.common_prefix(tokens));
        let reused = self.n_done().min(tokens.len() - usize::from(!self.has_logits && !tokens.is_empty()));
        self.rewind(reused);
        let total = tokens.len() - reused;
        for batch in tokens[reused..].chunks(self.machine.params.n_batch) {
            self.extend(batch, Order::Prompt);
            let is_last = self.tokens.len() == tokens.len();
            self.evaluate_rest(is_last)?;
            let done = self.tokens.len() - reused;
            if progress(done, total).is_break() && !is_last {
                return Ok(Synced { reused, evaluated: done, interrupted: true });
            }
        }
        Ok(Synced { reused, evaluated: total, interrupted: false })
    }

    /// Tokens that have been through every layer, counted from the first.
    fn n_done(&self) -> usize {
        self.rows.partition_point(|row| row.depth == self.n_steps())
    }

    /// Puts tokens on the timeline, to be evaluated later.
    fn extend(&mut self, tokens: &[TokenId], order: Order) {
        if tokens.is_empty() {
            return;
        }
        self.drop_guesses();
        let first = self.tokens.len();
        self.rows.extend(tokens.iter().enumerate().map(|(i, &token)| Row::on_timeline(token, first + i, order)));
        self.tokens.extend(tokens);
        (self.has_logits, self.is_ahead) = (false, false);
    }

    fn common_prefix(&self, tokens: &[TokenId]) -> usize {
        self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }

    /// Samples the next token and puts it on the timeline; before that, evaluates what is not evaluated yet.
    pub fn step(&mut self, sampler: &mut Sampler) -> Result<Step, Error> {
        if self.tokens.len() >= self.machine.params.n_ctx {
            return Err(Error::ContextFull { n_ctx: self.machine.params.n_ctx });
        }
        self.aim(sampler);
        self.settle()?;
        let token = sampler.sample(&self.logits, &self.tokens);
        self.n_sampled += 1;
        let guessed_after = self.accept(token);
        if guessed_after.is_none() {
            self.extend(&[token], Order::Token);
        }
        let n_steps = self.n_steps();
        let whole = || Ran { steps: n_steps, layers: self.layers_at(n_steps) };
        let Ran { steps, layers } = guessed_after.unwrap_or_else(whole);
        Ok(Step { token, layers_run: steps, layers, was_guessed: guessed_after.is_some() })
    }

    /// Logits from now on are those that this sampler chooses among.
    pub fn aim(&mut self, sampler: &Sampler) {
        /// More would cost what they save.
        const MOST: usize = 128;
        let groups = |reach: usize| (2 * reach).max(MOST / 4);
        let wants = self.machine.params.shortlist && self.n_sampled >= SKETCH_AFTER;
        let keep = sampler.reach().map(groups).filter(|&n| wants && n <= 2 * MOST);
        self.need(keep.unwrap_or(0));
    }

    /// Logits from now on have so many exact groups, 0 for all. Those at hand that have fewer are forgotten.
    fn need(&mut self, keep: Keep) {
        self.machine.keep = keep;
        if self.logits_keep > 0 && (keep == 0 || keep > self.logits_keep) {
            self.drop_guesses();
            (self.has_logits, self.is_ahead) = (false, false);
        }
    }

    /// Puts a given token on the timeline, to be evaluated with the next step.
    pub fn push(&mut self, token: TokenId) -> Result<(), Error> {
        self.check_token(token)?;
        if self.tokens.len() >= self.machine.params.n_ctx {
            return Err(Error::ContextFull { n_ctx: self.machine.params.n_ctx });
        }
        self.extend(&[token], Order::Token);
        Ok(())
    }

    /// Keeps the first `n` tokens and forgets the rest.
    pub fn rewind(&mut self, n: usize) {
        self.drop_guesses();
        let keeps_last = n >= self.tokens.len();
        (self.has_logits, self.is_ahead) = (self.has_logits && keeps_last, self.is_ahead && keeps_last);
        for row in self.rows.iter_mut().skip(n) {
            self.machine.forget(row);
        }
        self.tokens.truncate(n);
        self.rows.truncate(n);
        self.machine.hidden_rows.retain(|(row, _)| *row < n);
    }

    /// Logits of the last token of the timeline, evaluating what is not evaluated yet: \[n_vocab\].
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
        kept.drain(n_keep..n_keep + n_drop);
        self.sync(&kept, progress)?;
        Ok(n_drop)
    }

    fn check(&self, tokens: &[TokenId]) -> Result<(), Error> {
        if tokens.len() > self.machine.params.n_ctx {
            return Err(Error::ContextFull { n_ctx: self.machine.params.n_ctx });
        }
        tokens.iter().try_for_each(|&token| self.check_token(token))
    }

    fn check_token(&self, token: TokenId) -> Result<(), Error> {
        let n_vocab = self.model().config().n_vocab;
        if (token as usize) < n_vocab { Ok(()) } else { Err(Error::Token { token, n_vocab }) }
    }

    /// Evaluates the timeline to its end, so that its last token's logits are known, and with it the guesses.
    fn settle(&mut self) -> Result<(), Error> {
        if self.tokens.is_empty() {
            return Err(Error::Empty);
        }
        self.revive(self.n_steps())?;
        if !self.has_logits
            && let Some(last) = self.rows.last_mut()
        {
            last.depth = last.depth.min(self.machine.n_steps() - 1);
            if last.slot.is_none() {
                last.depth = 0; // its hidden state is gone: evaluate it again
            }
        }
        while self.n_done() < self.tokens.len() {
            self.evaluate_rest(true)?;
        }
        Ok(())
    }

    /// Makes devices that were lost and are needed up to a depth usable again. What they have forgotten is evaluated anew.
    fn revive(&mut self, to: usize) -> Result<(), Error> {
        if !self.machine.revive(to)? {
            return Ok(());
        }
        for row in self.rows.iter_mut().chain(self.guesses.iter_mut().map(|guess| &mut guess.row)) {
            self.machine.forget(row);
            row.depth = 0;
        }
        self.guesses.iter_mut().for_each(|guess| guess.logits.clear());
        self.machine.hidden_rows.clear();
        (self.has_logits, self.is_ahead) = (false, false);
        Ok(())
    }

    /// Takes up to a batch of the tokens that are not done through all layers; the last one's logits, and the guesses', only
    /// where they are wanted.
    fn evaluate_rest(&mut self, wants_logits: bool) -> Result<(), Error> {
        let n_done = self.n_done();
        let end = self.tokens.len().min(n_done + self.machine.params.n_batch);
        let ends_timeline = end == self.tokens.len();
        let mut rows: Vec<&mut Row> = self.rows[n_done..end].iter_mut().collect();
        let Some(last) = rows.len().checked_sub(1) else { return Ok(()) };
        let mut guessed = Vec::new();
        let mut outs = Vec::new();
        if wants_logits && ends_timeline {
            for guess in &mut self.guesses {
                rows.push(&mut guess.row);
                guessed.push(&mut guess.logits);
            }
            outs.extend(last..rows.len());
        }
        let logits = &mut self.logits;
        let to = self.machine.n_steps();
        self.machine.deepen(&mut rows, to, &outs, &mut |row, finished| match row.checked_sub(last + 1) {
            None => logits.copy_from_slice(finished.logits),
            Some(guess) => guessed[guess].extend_from_slice(finished.logits),
        })?;
        (self.has_logits, self.is_ahead) = (!outs.is_empty(), false);
        self.logits_keep = self.machine.keep;
        Ok(())
    }
}

/// Refuses steps that the model does not have.
fn check_plan(plan: &[LayerStep], model: &Model) -> Result<(), Error> {
    let has = |step: &LayerStep| {
        let own = model.plan().get(step.il);
        own.is_some_and(|own| [Half::Attention, Half::FeedForward].iter().all(|&half| own.has(half) || !step.has(half)))
    };
    match plan.iter().find(|step| step.is_empty() || !has(step)) {
        None => Ok(()),
        Some(step) => {
            let expected = format!("layers below {} with the halves that the model has", model.plan().len());
            Err(Error::Parameter { name: "plan", expected, found: format!("{step:?}") })
        }
    }
}

fn check_readers(readers: &[Reader], n_embd: usize, n_steps: usize) -> Result<(), Error> {
    for reader in readers {
        check_cuts(&[reader.depth], n_steps)?;
        let (expected, found) = (n_embd * reader.bias.len(), reader.weights.len());
        if expected != found || found == 0 {
            let expected = format!("{n_embd} weights for each of at least one number");
            return Err(Error::Parameter { name: "readers", expected, found: found.to_string() });
        }
    }
    Ok(())
}

fn check_cuts(cuts: &[usize], n_steps: usize) -> Result<(), Error> {
    if cuts.iter().all(|cut| (1..n_steps).contains(cut)) && cuts.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    let expected = format!("layers between 1 and {}, rising", n_steps - 1);
    Err(Error::Parameter { name: "cuts", expected, found: format!("{cuts:?}") })
}

fn check_cache_type(name: &'static str, dtype: DType, head: usize) -> Result<(), Error> {
    const TYPES: [DType; 5] = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0];
    if !TYPES.contains(&dtype) || dtype.row_bytes(head).is_none() {
        let expected = format!("f32, f16, bf16, or (heads of a multiple of 32; this model's have {head}) q8_0, q4_0");
        return Err(Error::Parameter { name, expected, found: dtype.name().to_owned() });
    }
    Ok(())
}
