//! One mutable timeline of token ids: its cache, its logits, its place. Owns what changes while a model runs; refuses
//! to know text.

use std::io::{self, Read, Write};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use half::f16;

use crate::dtype::DType;
use crate::ggml::{self, Builder, Order, Runner, Slot, StoreBuilder, Stored, Tensor};
use crate::model::{Cache, LayerStep, Model, Rows, ValueLayout};
use crate::sample::Sampler;

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
    /// Tokens of context; 0 for as many as the model was trained with.
    pub n_ctx: usize,
    /// Rows that run at once while a prompt is read.
    pub n_batch: usize,
    /// Element type of cached keys.
    pub type_k: DType,
    /// Element type of cached values.
    pub type_v: DType,
    /// Whether attention is one fused operation. On the CPU ggml's accumulates values in f16: it saves memory at long
    /// contexts and costs accuracy, so it is off by default. Quantized values need it.
    pub flash_attn: bool,
    /// Where the layers are cut into ranges that run as graphs of their own; empty for one range.
    pub cuts: Vec<usize>,
}

impl Default for SessionParams {
    fn default() -> SessionParams {
        SessionParams {
            n_ctx: 0,
            n_batch: 512,
            type_k: DType::F16,
            type_v: DType::F16,
            flash_attn: false,
            cuts: Vec::new(),
        }
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

/// What [`Session::ask`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Tokens whose cache rows were already there.
    pub reused: usize,
    /// Tokens evaluated now.
    pub evaluated: usize,
    /// Layers run for them.
    pub layers_run: usize,
}

/// Where [`Session::ask`] may stop.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    /// Layers run so far.
    pub layers_run: usize,
    /// The last row's hidden state, \[n_embd\].
    pub hidden: &'a [f32],
    /// What the output head makes of it, \[n_vocab\]; empty unless asked for.
    pub logits: &'a [f32],
}

/// What [`Session::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The sampled token, now the last of the timeline.
    pub token: TokenId,
    /// Layers run to choose it.
    pub layers_run: usize,
}

/// A timeline of tokens on a model. Several sessions may share one model.
pub struct Session {
    model: Arc<Model>,
    params: SessionParams,
    cache: Cache,
    /// Hidden states on their way from one range to the next, \[n_embd, rows\].
    hidden: Stored,
    runner: Runner<GraphKey, Slots>,
    tokens: Vec<TokenId>,
    /// Tokens whose cache rows are filled, counted from the first.
    n_done: usize,
    /// Of the last token evaluated, if it is the last one done.
    logits: Vec<f32>,
    has_logits: bool,
}

/// Cache rows in a graph are rounded up to this, so that one graph serves many steps.
const KV_STEP: usize = 64;

/// What makes two graphs the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct GraphKey {
    start: usize,
    end: usize,
    n_rows: usize,
    /// Where the rows' hidden states begin.
    hidden_row: usize,
    /// Cache rows that the mask covers; 0 without a mask.
    n_kv: usize,
    n_out: usize,
}

#[derive(Clone, Copy, Default)]
struct Slots {
    tokens: Option<Slot>,
    positions: Option<Slot>,
    cache_rows: Option<Slot>,
    value_places: Option<Slot>,
    mask: Option<Slot>,
    out_rows: Option<Slot>,
    logits: Option<Slot>,
}

impl Slots {
    fn only_logits(slot: Slot) -> Slots {
        Slots { logits: Some(slot), ..Slots::default() }
    }
}

impl Session {
    /// An empty timeline.
    pub fn new(model: Arc<Model>, mut params: SessionParams) -> Result<Session, Error> {
        let config = model.config();
        if params.n_ctx == 0 {
            params.n_ctx = config.n_ctx_train;
        }
        check_cache_type("cache-type-k", params.type_k, config.head_dim_k)?;
        check_cache_type("cache-type-v", params.type_v, config.head_dim_v)?;
        if params.type_v.is_quantized() && !params.flash_attn {
            let expected = "f32, f16 or bf16 without flash attention".to_owned();
            return Err(Error::Parameter { name: "cache-type-v", expected, found: params.type_v.name().to_owned() });
        }
        params.n_batch = params.n_batch.clamp(1, params.n_ctx);
        if let Some(&cut) = params.cuts.iter().find(|&&cut| cut == 0 || cut >= config.n_layer) {
            let expected = format!("layers between 1 and {}", config.n_layer - 1);
            return Err(Error::Parameter { name: "cuts", expected, found: cut.to_string() });
        }
        params.cuts.sort_unstable();
        params.cuts.dedup();
        let layout = if params.flash_attn { ValueLayout::Rows } else { ValueLayout::Columns };
        let cache = Cache::new(config, params.n_ctx.next_multiple_of(KV_STEP), params.type_k, params.type_v, layout)?;
        let hidden = hidden_states(config.n_embd, params.n_batch)?;
        let runner = Runner::new(model.device().clone());
        let logits = vec![0.0; config.n_vocab];
        Ok(Session { model, params, cache, hidden, runner, tokens: Vec::new(), n_done: 0, logits, has_logits: false })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The timeline. Its last token may not have been evaluated yet.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens there is room for.
    pub fn n_ctx(&self) -> usize {
        self.params.n_ctx
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
        self.rewind(self.common_prefix(tokens));
        // Logits of the last token are needed: evaluate it again if they are gone.
        if self.n_done == tokens.len() && !self.has_logits {
            self.n_done = self.n_done.saturating_sub(1);
        }
        let reused = self.n_done;
        self.tokens.truncate(reused);
        let total = tokens.len() - reused;
        for batch in tokens[reused..].chunks(self.params.n_batch) {
            self.tokens.extend(batch);
            let is_last = self.tokens.len() == tokens.len();
            self.evaluate_rest(is_last)?;
            if progress(self.n_done - reused, total).is_break() && !is_last {
                return Ok(Synced { reused, evaluated: self.n_done - reused, interrupted: true });
            }
        }
        Ok(Synced { reused, evaluated: total, interrupted: false })
    }

    fn common_prefix(&self, tokens: &[TokenId]) -> usize {
        self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }

    /// Samples the next token and puts it on the timeline; before that, evaluates what is not evaluated yet.
    pub fn step(&mut self, sampler: &mut Sampler) -> Result<Step, Error> {
        if self.tokens.len() >= self.params.n_ctx {
            return Err(Error::ContextFull { n_ctx: self.params.n_ctx });
        }
        self.settle()?;
        let token = sampler.sample(&self.logits, &self.tokens);
        self.tokens.push(token);
        Ok(Step { token, layers_run: self.model.config().n_layer })
    }

    /// Puts a given token on the timeline, to be evaluated with the next step.
    pub fn push(&mut self, token: TokenId) -> Result<(), Error> {
        self.check_token(token)?;
        if self.tokens.len() >= self.params.n_ctx {
            return Err(Error::ContextFull { n_ctx: self.params.n_ctx });
        }
        self.tokens.push(token);
        Ok(())
    }

    /// Keeps the first `n` tokens and forgets the rest.
    pub fn rewind(&mut self, n: usize) {
        if n < self.n_done {
            self.has_logits = false;
        }
        self.tokens.truncate(n);
        self.n_done = self.n_done.min(n);
    }

    /// Logits of the last token of the timeline, evaluating what is not evaluated yet: \[n_vocab\].
    pub fn logits(&mut self) -> Result<&[f32], Error> {
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

    /// Evaluates a question of which only the last token's result is wanted: keeps the common prefix, then takes all
    /// new rows through one range of layers after the other. `at_cut` is asked after each of the layers `cuts` (in
    /// rising order); when it breaks, nothing deeper is run. Without a break the logits are those of full depth.
    ///
    /// After a break only the prefix stays on the timeline: the deeper layers never saw the rest.
    pub fn ask(
        &mut self,
        tokens: &[TokenId],
        cuts: &[usize],
        with_logits: bool,
        at_cut: &mut dyn FnMut(Cut<'_>) -> ControlFlow<()>,
    ) -> Result<Asked, Error> {
        let Some(last) = tokens.len().checked_sub(1) else { return Err(Error::Empty) };
        self.check(tokens)?;
        let n_layer = self.model.config().n_layer;
        let is_between = |cut: &usize| (1..n_layer).contains(cut);
        if !cuts.iter().all(is_between) || !cuts.is_sorted_by(|a, b| a < b) {
            let expected = format!("layers between 1 and {}, rising", n_layer - 1);
            return Err(Error::Parameter { name: "cuts", expected, found: format!("{cuts:?}") });
        }
        self.rewind(self.common_prefix(tokens).min(last));
        let reused = self.n_done;
        self.tokens.truncate(reused);
        self.tokens.extend(&tokens[reused..]);
        let evaluated = tokens.len() - reused;
        self.make_room_for_hidden(evaluated)?;
        self.has_logits = false;
        let mut asked = Asked { reused, evaluated, layers_run: n_layer };
        for range in ranges(cuts, n_layer) {
            for first in (reused..tokens.len()).step_by(self.params.n_batch) {
                let n_rows = self.params.n_batch.min(tokens.len() - first);
                let n_out = usize::from(range.end == n_layer && first + n_rows == tokens.len());
                self.run_range(range.clone(), first, n_rows, first - reused, n_out)?;
            }
            if range.end == n_layer {
                break;
            }
            let logits = if with_logits { self.head_of(evaluated - 1)? } else { Vec::new() };
            let hidden = self.hidden_state(evaluated - 1);
            if at_cut(Cut { layers_run: range.end, hidden: &hidden, logits: &logits }).is_break() {
                asked.layers_run = range.end;
                self.rewind(reused);
                return Ok(asked);
            }
        }
        self.n_done = tokens.len();
        self.has_logits = true;
        Ok(asked)
    }

    /// Room for the hidden states of so many rows at once.
    fn make_room_for_hidden(&mut self, n_rows: usize) -> Result<(), Error> {
        let [n_embd, room, ..] = self.hidden.t().shape();
        if room < n_rows {
            self.hidden = hidden_states(n_embd, n_rows.next_multiple_of(self.params.n_batch))?;
            self.runner.forget(); // its graphs use the old one
        }
        Ok(())
    }

    /// What the output head makes of a row of hidden states: \[n_vocab\].
    fn head_of(&mut self, row: usize) -> Result<Vec<f32>, Error> {
        let n_layer = self.model.config().n_layer;
        let key = GraphKey { start: n_layer, end: n_layer, n_rows: 1, hidden_row: row, n_kv: 0, n_out: 1 };
        let (model, hidden) = (&self.model, &self.hidden);
        let stores = [model.store(), hidden.store()];
        let run = self.runner.prepare(key, model.graph_size(0), &stores, |g| {
            Slots::only_logits(g.output(model.head(g, hidden_rows(g, hidden, row, 1))))
        })?;
        let computed = run.compute()?;
        Ok(computed.slots().logits.map_or_else(Vec::new, |slot| computed.f32(slot).to_vec()))
    }

    fn hidden_state(&self, row: usize) -> Vec<f32> {
        let n_embd = self.model.config().n_embd;
        let mut bytes = vec![0; n_embd * size_of::<f32>()];
        self.hidden.read(row * bytes.len(), &mut bytes);
        bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
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

    /// Writes the timeline and its cache rows.
    pub fn save_state(&self, out: &mut dyn Write) -> Result<(), Error> {
        let header = self.fingerprint();
        for number in [header.len(), self.n_done] {
            out.write_all(&(number as u64).to_le_bytes())?;
        }
        out.write_all(header.as_bytes())?;
        for token in &self.tokens[..self.n_done] {
            out.write_all(&token.to_le_bytes())?;
        }
        self.cache.read_rows(self.n_done, &mut |bytes| out.write_all(bytes))?;
        Ok(())
    }

    /// Replaces the timeline by one that [`Session::save_state`] wrote. On an error the timeline is empty.
    pub fn load_state(&mut self, input: &mut dyn Read) -> Result<(), Error> {
        self.rewind(0);
        let expected = self.fingerprint();
        let [header_bytes, n_tokens] = [read_u64(input)?, read_u64(input)?];
        let mut header = Vec::new();
        input.take(header_bytes.min(4096)).read_to_end(&mut header)?;
        if header != expected.as_bytes() {
            return Err(Error::State { expected, found: String::from_utf8_lossy(&header).into_owned() });
        }
        if n_tokens > self.params.n_ctx as u64 {
            let expected = format!("at most {} tokens", self.params.n_ctx);
            return Err(Error::State { expected, found: n_tokens.to_string() });
        }
        let mut tokens = Vec::new();
        for _ in 0..n_tokens {
            let mut bytes = [0; 4];
            input.read_exact(&mut bytes)?;
            tokens.push(TokenId::from_le_bytes(bytes));
        }
        self.check(&tokens)?;
        self.cache.clear_up_to(tokens.len().next_multiple_of(KV_STEP));
        self.cache.write_rows(tokens.len(), &mut |bytes| input.read_exact(bytes))?;
        self.n_done = tokens.len();
        self.tokens = tokens;
        Ok(())
    }

    /// What a saved state must agree on.
    fn fingerprint(&self) -> String {
        let config = self.model.config();
        format!(
            "curtail state 1: {} `{}`, {} bytes, {} layers, rows of {}+{}, {} {}",
            config.architecture,
            config.name,
            self.model.file().file_bytes(),
            config.n_layer,
            config.n_embd_k(),
            config.n_embd_v(),
            self.params.type_k.name(),
            self.params.type_v.name()
        )
    }

    fn check(&self, tokens: &[TokenId]) -> Result<(), Error> {
        if tokens.len() > self.params.n_ctx {
            return Err(Error::ContextFull { n_ctx: self.params.n_ctx });
        }
        tokens.iter().try_for_each(|&token| self.check_token(token))
    }

    fn check_token(&self, token: TokenId) -> Result<(), Error> {
        let n_vocab = self.model.config().n_vocab;
        if (token as usize) < n_vocab { Ok(()) } else { Err(Error::Token { token, n_vocab }) }
    }

    /// Evaluates the timeline to its end, so that its last token's logits are known.
    fn settle(&mut self) -> Result<(), Error> {
        if self.tokens.is_empty() {
            return Err(Error::Empty);
        }
        if self.n_done == self.tokens.len() && !self.has_logits {
            self.n_done -= 1;
        }
        while self.n_done < self.tokens.len() {
            self.evaluate_rest(true)?;
        }
        Ok(())
    }

    /// Runs up to a batch of the tokens that are not done; the logits of the last one only where they are wanted.
    fn evaluate_rest(&mut self, wants_logits: bool) -> Result<(), Error> {
        let n_rows = (self.tokens.len() - self.n_done).min(self.params.n_batch);
        if n_rows == 0 {
            return Ok(());
        }
        self.has_logits = false;
        let n_layer = self.model.config().n_layer;
        for range in ranges(&self.params.cuts.clone(), n_layer) {
            let n_out = usize::from(wants_logits && range.end == n_layer);
            self.run_range(range, self.n_done, n_rows, 0, n_out)?;
        }
        self.n_done += n_rows;
        self.has_logits = wants_logits;
        Ok(())
    }

    /// Takes `n_rows` rows from position `first` on through a range of layers; their hidden states lie at `hidden_row`.
    fn run_range(
        &mut self,
        range: Range<usize>,
        first: usize,
        n_rows: usize,
        hidden_row: usize,
        n_out: usize,
    ) -> Result<(), Error> {
        let n_kv = (first + n_rows).next_multiple_of(KV_STEP).min(self.cache.n_rows());
        self.cache.clear_up_to(n_kv);
        let (model, cache, hidden) = (&self.model, &self.cache, &self.hidden);
        let n_kv = if model.masks_by_position(cache) { 0 } else { n_kv };
        let key = GraphKey { start: range.start, end: range.end, n_rows, hidden_row, n_kv, n_out };
        let stores = [model.store(), cache.store(), hidden.store()];
        let size = model.graph_size(key.end - key.start);
        let mut run = self.runner.prepare(key, size, &stores, |g| build_range(g, model, cache, hidden, key))?;
        let slots = run.slots();
        let rows = first..first + n_rows;
        if let Some(slot) = slots.tokens {
            run.set_i32(slot, &self.tokens[rows.clone()].iter().map(|&t| t as i32).collect::<Vec<_>>());
        }
        if let Some(slot) = slots.positions {
            run.set_i32(slot, &rows.clone().map(|p| p as i32).collect::<Vec<_>>());
        }
        if let Some(slot) = slots.cache_rows {
            run.set_i64(slot, &rows.clone().map(|p| p as i64).collect::<Vec<_>>());
        }
        if let Some(slot) = slots.value_places {
            run.set_i64(slot, &cache.value_places(rows.clone()));
        }
        if let Some(slot) = slots.mask {
            run.set_f16(slot, &causal_mask(rows, key.n_kv));
        }
        if let Some(slot) = slots.out_rows {
            run.set_i32(slot, &(n_rows - n_out..n_rows).map(|r| r as i32).collect::<Vec<_>>());
        }
        let computed = run.compute()?;
        if let Some(slot) = slots.logits {
            self.logits.copy_from_slice(computed.f32(slot));
        }
        Ok(())
    }
}

/// The graph that takes `key.n_rows` rows through the layers `key.start..key.end`.
fn build_range<'g>(g: &Builder<'g>, model: &'g Model, cache: &'g Cache, hidden: &'g Stored, key: GraphKey) -> Slots {
    let GraphKey { start, end, n_rows, hidden_row, n_kv, n_out } = key;
    let (positions, positions_slot) = g.input("inp_pos", DType::I32, &[n_rows]);
    let (cache_rows, cache_rows_slot) = g.input("inp_cache_rows", DType::I64, &[n_rows]);
    let mask = (n_kv > 0).then(|| g.input("inp_mask", DType::F16, &[n_kv, n_rows]));
    let value_places = cache
        .transposes_values()
        .then(|| g.input("inp_value_places", DType::I64, &[model.config().n_embd_v() * n_rows]));
    let rows = Rows {
        positions,
        cache_rows,
        value_places: value_places.map(|(tensor, _)| tensor),
        mask: mask.map(|(tensor, _)| tensor),
        order: if n_rows == 1 { Order::Token } else { Order::Prompt },
    };
    let mut slots = Slots {
        tokens: None,
        positions: Some(positions_slot),
        cache_rows: Some(cache_rows_slot),
        value_places: value_places.map(|(_, slot)| slot),
        mask: mask.map(|(_, slot)| slot),
        out_rows: None,
        logits: None,
    };
    let mut h = if start == 0 {
        let (tokens, slot) = g.input("inp_tokens", DType::I32, &[n_rows]);
        slots.tokens = Some(slot);
        model.embed(g, tokens)
    } else {
        hidden_rows(g, hidden, hidden_row, n_rows)
    };
    let mut steps: Vec<LayerStep> = (start..end).map(LayerStep::whole).collect();
    if end < model.config().n_layer {
        h = model.run(g, &steps, cache, &rows, h);
        g.effect(g.ops.copy(h, hidden_rows(g, hidden, hidden_row, n_rows)));
        return slots;
    }
    // After the last attention only rows that give logits go on.
    let last = steps.len() - 1;
    steps[last].feed_forward = false;
    h = model.run(g, &steps, cache, &rows, h);
    if n_out == 0 {
        g.effect(h);
        return slots;
    }
    if n_out < n_rows {
        let (out_rows, slot) = g.input("inp_out_rows", DType::I32, &[n_out]);
        slots.out_rows = Some(slot);
        h = g.ops.get_rows(h, out_rows);
    }
    let finish = LayerStep { il: end - 1, attention: false, feed_forward: true };
    h = model.run(g, &[finish], cache, &rows, h);
    slots.logits = Some(g.output(model.head(g, h)));
    slots
}

fn hidden_rows<'g>(g: &Builder<'g>, hidden: &'g Stored, first: usize, n_rows: usize) -> Tensor<'g> {
    let all = hidden.t();
    let (n_embd, row_bytes) = (all.shape()[0], all.strides()[1]);
    g.ops.view(all, [n_embd, n_rows, 1], [row_bytes, row_bytes * n_rows], first * row_bytes)
}

fn hidden_states(n_embd: usize, n_rows: usize) -> Result<Stored, Error> {
    let mut builder = StoreBuilder::new(1);
    builder.add_empty("hidden", DType::F32, &[n_embd, n_rows])?;
    Ok(builder.finish().remove(0))
}

/// The layers 0..n_layer, cut at these.
fn ranges(cuts: &[usize], n_layer: usize) -> Vec<Range<usize>> {
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain(std::iter::once(n_layer));
    starts.zip(ends).map(|(start, end)| start..end).collect()
}

/// Row i sees the cache up to its own position.
fn causal_mask(rows: Range<usize>, n_kv: usize) -> Vec<f16> {
    let mut mask = vec![f16::NEG_INFINITY; rows.len() * n_kv];
    for (seen, position) in mask.chunks_exact_mut(n_kv).zip(rows) {
        seen[..=position].fill(f16::ZERO);
    }
    mask
}

fn check_cache_type(name: &'static str, dtype: DType, head: usize) -> Result<(), Error> {
    const TYPES: [DType; 5] = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0];
    if !TYPES.contains(&dtype) || dtype.row_bytes(head).is_none() {
        let expected = format!("f32, f16, bf16, or (heads of a multiple of 32; this model's have {head}) q8_0, q4_0");
        return Err(Error::Parameter { name, expected, found: dtype.name().to_owned() });
    }
    Ok(())
}

fn read_u64(input: &mut dyn Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
