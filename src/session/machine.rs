//! Takes rows through ranges of the plan. Owns the cache, the hidden states between two ranges, and the graphs; refuses to
//! know which rows make a timeline.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use half::f16;

use super::{Error, Inputs, SessionParams, TokenId};
use crate::dtype::DType;
use crate::ggml::{Builder, Order, Runner, Slot, StoreBuilder, Stored, Tensor, Weight};
use crate::model::{Cache, LayerStep, Model, Rows, ValueLayout};
use crate::plan::Half;

/// A token on its way through the layers.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) token: TokenId,
    /// Its place in the text.
    pub(super) position: usize,
    /// Where its keys and values go. It sees the cache rows up to this one...
    pub(super) cache_row: usize,
    /// ...except these.
    pub(super) hole: Range<usize>,
    /// Steps of the plan that it has been through.
    pub(super) depth: usize,
    /// Where its hidden state waits, between two ranges.
    pub(super) slot: Option<usize>,
    /// How sums over it are taken where it runs beside others: a token of an answer must not depend on what runs beside it.
    pub(super) order: Order,
}

impl Row {
    /// A row that sees all before it.
    pub(super) fn on_timeline(token: TokenId, position: usize, order: Order) -> Row {
        Row { token, position, cache_row: position, hole: 0..0, depth: 0, slot: None, order }
    }
}

/// What a row has at full depth.
pub(super) struct Finished<'a> {
    /// Before the final norm, \[n_embd\].
    pub(super) hidden: &'a [f32],
    /// \[n_vocab\]
    pub(super) logits: &'a [f32],
}

pub(super) struct Machine {
    pub(super) model: Arc<Model>,
    pub(super) params: SessionParams,
    pub(super) cache: Cache,
    hidden: Hidden,
    runner: Runner<GraphKey, Slots>,
    /// Rows times steps run so far; keys and values alone do not count.
    pub(super) n_run: usize,
    /// Of logits computed from now on.
    pub(super) keep: Keep,
    /// Rows that deeper layers do not see: cache row, and the depth from which on it is missing there.
    pub(super) hidden_rows: Vec<(usize, usize)>,
    /// What entered the multiplications, where somebody asks.
    pub(super) inputs: Option<Inputs>,
}

/// Cache rows in a graph are rounded up to this, so that one graph serves many steps; and rows that see each other's
/// cache rows at another place add up in the same order if the places differ by a multiple of it.
pub(super) const KV_STEP: usize = 64;

/// Which steps run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Plan {
    /// The session's.
    Whole,
    /// The one that guesses.
    Draft,
    /// The session's, keys and values only.
    Keys,
}

/// Groups of sixteen tokens whose logits are exact; 0 for the whole vocabulary.
pub(super) type Keep = usize;

/// What makes two graphs the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct GraphKey {
    plan: Plan,
    start: usize,
    end: usize,
    n_rows: usize,
    order: Order,
    /// Cache rows that the mask covers; 0 without a mask.
    n_kv: usize,
    n_out: usize,
    keep: Keep,
}

#[derive(Clone, Copy, Default)]
struct Slots {
    tokens: Option<Slot>,
    positions: Option<Slot>,
    cache_rows: Option<Slot>,
    value_places: Option<Slot>,
    sees: Option<Slot>,
    mask: Option<Slot>,
    hidden_from: Option<Slot>,
    hidden_to: Option<Slot>,
    out_rows: Option<Slot>,
    hidden: Option<Slot>,
    logits: Option<Slot>,
}

impl Machine {
    pub(super) fn new(model: Arc<Model>, params: SessionParams) -> Result<Machine, Error> {
        let config = model.config();
        let cache = cache(&model, &params)?;
        let hidden = Hidden::new(config.n_embd, params.n_batch)?;
        let runner = Runner::new(model.device().clone());
        let (hidden_rows, inputs) = (Vec::new(), None);
        Ok(Machine { model, params, cache, hidden, runner, n_run: 0, keep: 0, hidden_rows, inputs })
    }

    /// Sums up what enters every multiplication from now on.
    pub(super) fn observe(&mut self) {
        self.runner.observe();
        self.inputs = Some(Inputs::new());
    }

    pub(super) fn n_steps(&self) -> usize {
        self.params.plan.len()
    }

    /// Changes what runs; nothing may be on its way.
    pub(super) fn replan(&mut self, plan: Vec<LayerStep>) -> Result<(), Error> {
        self.params.plan = plan;
        self.runner.forget_all();
        if !self.cache.serves(&self.params.plan) {
            self.cache = cache(&self.model, &self.params)?;
        }
        Ok(())
    }

    /// Gives a row a hidden state \[n_embd\] to wait with.
    pub(super) fn enter(&mut self, row: &mut Row, state: &[f32]) -> Result<(), Error> {
        self.give_slots(&mut [row], &[0])?;
        let (slot, bytes) = (row.slot.unwrap_or(0), state.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<u8>>());
        self.hidden.states.write(slot * bytes.len(), &bytes);
        Ok(())
    }

    /// Gives back what a row holds.
    pub(super) fn forget(&mut self, row: &mut Row) {
        self.hidden.free.extend(row.slot.take());
    }

    /// Makes the first `n` cache rows readable.
    pub(super) fn clear_up_to(&mut self, n: usize) {
        self.cache.clear_up_to(n.next_multiple_of(KV_STEP).min(self.cache.n_rows()));
    }

    /// Takes every row that is shallower than `to` there, those of one depth together, in batches. Rows come in the order of
    /// what they see; a row that others see lies before them or is deep enough. At full depth `finish` gets what the rows
    /// `outs` have; the others' is not computed.
    pub(super) fn deepen(
        &mut self,
        rows: &mut [&mut Row],
        to: usize,
        outs: &[usize],
        finish: &mut dyn FnMut(usize, Finished<'_>),
    ) -> Result<(), Error> {
        let missing = self.hidden_rows.iter().map(|&(_, depth)| depth);
        let depths = rows.iter().map(|row| row.depth).chain(self.params.cuts.iter().copied()).chain(missing);
        let starts: BTreeSet<usize> = depths.filter(|&depth| depth < to).chain([0]).collect();
        let ends: Vec<usize> = starts.iter().skip(1).copied().chain([to]).collect();
        for (start, end) in starts.into_iter().zip(ends) {
            let here: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].depth == start).collect();
            let orders: Vec<Order> = rows.iter().map(|row| row.order).collect();
            let (n_batch, same_order) = (self.params.n_batch, here.chunk_by(|&a, &b| orders[a] == orders[b]));
            for batch in same_order.flat_map(|same| same.chunks(n_batch)) {
                self.run(Plan::Whole, start..end, rows, batch, outs, finish)?;
                for &i in batch {
                    rows[i].depth = end;
                }
            }
        }
        Ok(())
    }

    /// Fills the deeper layers' cache rows of waiting rows from the states that they have, and ends their way.
    pub(super) fn propagate(&mut self, rows: &mut [&mut Row]) -> Result<(), Error> {
        for i in 0..rows.len() {
            self.run(Plan::Keys, rows[i].depth..self.n_steps(), rows, &[i], &[], &mut |_, _| {})?;
            rows[i].depth = self.n_steps();
        }
        Ok(())
    }

    /// Ends the way of waiting rows: deeper layers do not see them.
    pub(super) fn hide(&mut self, rows: &mut [&mut Row]) {
        for row in rows {
            self.hidden_rows.push((row.cache_row, row.depth));
            self.forget(row);
            row.depth = self.n_steps();
        }
    }

    /// Takes a row through the draft plan, whose cache rows stand until the row is evaluated: its logits.
    pub(super) fn skim(&mut self, row: &mut Row) -> Result<Vec<f32>, Error> {
        let mut logits = Vec::new();
        let n_steps = self.params.draft_plan.len();
        self.run(Plan::Draft, 0..n_steps, &mut [row], &[0], &[0], &mut |_, finished| {
            logits.extend_from_slice(finished.logits);
        })?;
        Ok(logits)
    }

    /// Takes the rows `batch` through a range of a plan.
    fn run(
        &mut self,
        plan: Plan,
        range: Range<usize>,
        rows: &mut [&mut Row],
        batch: &[usize],
        outs: &[usize],
        finish: &mut dyn FnMut(usize, Finished<'_>),
    ) -> Result<(), Error> {
        let n_rows = batch.len();
        let is_last = range.end == steps_of(&self.params, plan).len();
        let out_rows: Vec<usize> = (0..n_rows).filter(|&i| is_last && outs.contains(&batch[i])).collect();
        if !is_last {
            self.give_slots(rows, batch)?;
        }
        let n_seen = batch.iter().map(|&i| rows[i].cache_row + 1).max().unwrap_or(0);
        self.clear_up_to(n_seen);
        let (model, cache, hidden) = (&self.model, &self.cache, &self.hidden.states);
        let n_kv = n_seen.next_multiple_of(KV_STEP).min(cache.n_rows());
        let missing: Vec<usize> =
            self.hidden_rows.iter().filter(|(_, depth)| *depth <= range.start).map(|(row, _)| *row).collect();
        let by_position = missing.is_empty() && model.masks_by_position(cache);
        let n_kv = if by_position { 0 } else { n_kv };
        // A row alone is added up in one way, whatever it is.
        let order = if n_rows == 1 { Order::Token } else { rows[batch[0]].order };
        let n_out = out_rows.len();
        let keep = if n_out > 0 { self.keep } else { 0 };
        let key = GraphKey { plan, start: range.start, end: range.end, n_rows, order, n_kv, n_out, keep };
        let mut stores = vec![model.store(), hidden.store()];
        stores.extend(cache.store());
        stores.extend(sketch(model, keep).map(Weight::store));
        let size = model.graph_size(range.len());
        let steps = steps_of(&self.params, plan);
        self.n_run += if plan == Plan::Keys { 0 } else { n_rows * range.len() };
        let mut run = self.runner.prepare(key, size, &stores, |g| build(g, model, steps, cache, hidden, key))?;
        let slots = run.slots();
        let of = |value: fn(&Row) -> usize| batch.iter().map(|&i| value(rows[i])).collect::<Vec<_>>();
        let cache_rows = of(|row| row.cache_row);
        let places = of(|row| row.slot.unwrap_or(0));
        for (slot, values) in [
            (slots.tokens, of(|row| row.token as usize)),
            (slots.positions, of(|row| row.position)),
            (slots.hidden_from, places.clone()),
            (slots.out_rows, out_rows.clone()),
            (slots.sees, batch.iter().flat_map(|&i| sees(rows[i])).collect()),
        ] {
            if let Some(slot) = slot {
                run.set_i32(slot, &values.iter().map(|&v| v as i32).collect::<Vec<_>>());
            }
        }
        for (slot, values) in [(slots.cache_rows, &cache_rows), (slots.hidden_to, &places)] {
            if let Some(slot) = slot {
                run.set_i64(slot, &values.iter().map(|&v| v as i64).collect::<Vec<_>>());
            }
        }
        if let Some(slot) = slots.value_places {
            run.set_i64(slot, &cache.value_places(&cache_rows));
        }
        if let Some(slot) = slots.mask {
            run.set_f16(slot, &mask(batch.iter().map(|&i| &*rows[i]), &missing, n_rows, key.n_kv));
        }
        let computed = run.compute()?;
        if let Some(inputs) = &mut self.inputs {
            computed.observed().for_each(|seen| inputs.entry(seen.weight.to_owned()).or_default().add(&seen));
        }
        if let (Some(hidden), Some(logits)) = (slots.hidden, slots.logits) {
            let parts = |slot, n_out: usize| {
                let all: &[f32] = computed.f32(slot);
                all.chunks_exact(all.len() / n_out)
            };
            for ((&row, hidden), logits) in out_rows.iter().zip(parts(hidden, n_out)).zip(parts(logits, n_out)) {
                finish(batch[row], Finished { hidden, logits });
            }
        }
        if is_last {
            for &i in batch {
                self.hidden.free.extend(rows[i].slot.take());
            }
        }
        Ok(())
    }

    /// A place for the hidden state of every row of the batch.
    fn give_slots(&mut self, rows: &mut [&mut Row], batch: &[usize]) -> Result<(), Error> {
        let wanting = batch.iter().filter(|&&i| rows[i].slot.is_none()).count();
        if self.hidden.free.len() < wanting {
            self.hidden.grow(wanting)?;
            self.runner.forget_all(); // its graphs use the old one
        }
        for &i in batch {
            if rows[i].slot.is_none() {
                rows[i].slot = self.hidden.free.pop();
            }
        }
        Ok(())
    }

    /// The waiting hidden state of a row: \[n_embd\].
    pub(super) fn hidden_state(&self, row: &Row) -> Vec<f32> {
        let slot = row.slot.expect("a row between two ranges has a place");
        let mut bytes = vec![0; self.model.config().n_embd * size_of::<f32>()];
        self.hidden.states.read(slot * bytes.len(), &mut bytes);
        bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    /// What tokens are before the first step: \[n_embd\] each, one after the other.
    pub(super) fn embeddings(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>, Error> {
        let (model, n_rows) = (&self.model, tokens.len());
        let (plan, order) = (Plan::Whole, Order::Token);
        let key = GraphKey { plan, start: 0, end: 0, n_rows, order, n_kv: 0, n_out: 0, keep: 0 };
        let mut run = self.runner.prepare(key, model.graph_size(0), &[model.store()], |g| {
            let (tokens, slot) = g.input("inp_tokens", DType::I32, &[n_rows]);
            let (positions, positions_slot) = g.input("inp_pos", DType::I32, &[n_rows]);
            let hidden = g.output(model.embed(g, tokens, positions));
            Slots { tokens: Some(slot), positions: Some(positions_slot), hidden: Some(hidden), ..Slots::default() }
        })?;
        let slots = run.slots();
        if let Some(slot) = slots.tokens {
            run.set_i32(slot, &tokens.iter().map(|&token| token as i32).collect::<Vec<_>>());
        }
        if let Some(slot) = slots.positions {
            run.set_i32(slot, &(0..n_rows as i32).collect::<Vec<_>>());
        }
        let computed = run.compute()?;
        Ok(slots.hidden.map_or_else(Vec::new, |slot| computed.f32(slot).to_vec()))
    }

    /// What the output head makes of hidden states, \[n_embd\] each: \[n_vocab\] each, one after the other.
    pub(super) fn heads_of(&mut self, states: &[f32]) -> Result<Vec<f32>, Error> {
        let n_embd = self.model.config().n_embd;
        let (n, n_rows) = (self.n_steps(), states.len() / n_embd);
        if n_rows == 0 {
            return Ok(Vec::new());
        }
        let key = GraphKey {
            plan: Plan::Whole,
            start: n,
            end: n,
            n_rows,
            order: Order::Token,
            n_kv: 0,
            n_out: n_rows,
            keep: self.keep,
        };
        let model = &self.model;
        let stores: Vec<_> = std::iter::once(model.store()).chain(sketch(model, key.keep).map(Weight::store)).collect();
        let mut run = self.runner.prepare(key, model.graph_size(0), &stores, |g| {
            let (states, slot) = g.input("inp_hidden", DType::F32, &[n_embd, n_rows]);
            let logits = g.output(head(g, model, states, key.keep));
            Slots { hidden: Some(slot), logits: Some(logits), ..Slots::default() }
        })?;
        let slots = run.slots();
        if let Some(slot) = slots.hidden {
            run.set_f32(slot, states);
        }
        let computed = run.compute()?;
        Ok(slots.logits.map_or_else(Vec::new, |slot| computed.f32(slot).to_vec()))
    }
}

fn cache(model: &Model, params: &SessionParams) -> Result<Cache, Error> {
    let layout = if params.flash_attn { ValueLayout::Rows } else { ValueLayout::Columns };
    let n_rows = params.n_ctx.next_multiple_of(KV_STEP);
    Ok(Cache::new(model.config(), &params.plan, n_rows, params.type_k, params.type_v, layout)?)
}

fn steps_of(params: &SessionParams, plan: Plan) -> &[LayerStep] {
    match plan {
        Plan::Whole | Plan::Keys => &params.plan,
        Plan::Draft => &params.draft_plan,
    }
}

/// The graph that takes `key.n_rows` rows through the steps `key.start..key.end` of the plan.
fn build<'g>(
    g: &Builder<'g>,
    model: &'g Model,
    plan: &[LayerStep],
    cache: &'g Cache,
    hidden: &'g Stored,
    key: GraphKey,
) -> Slots {
    let GraphKey { start, end, n_rows, order, n_kv, n_out, keep, .. } = key;
    let mut slots = Slots::default();
    let input = |name, dtype, shape: &[usize], slot: &mut Option<Slot>| {
        let (tensor, given) = g.input(name, dtype, shape);
        *slot = Some(given);
        tensor
    };
    let positions = input("inp_pos", DType::I32, &[n_rows], &mut slots.positions);
    let cache_rows = input("inp_cache_rows", DType::I64, &[n_rows], &mut slots.cache_rows);
    let n_values = model.config().n_embd_v() * n_rows;
    let by_column = cache.transposes_values();
    let value_places = by_column.then(|| input("inp_value_places", DType::I64, &[n_values], &mut slots.value_places));
    let sees = (n_kv == 0).then(|| input("inp_sees", DType::I32, &[3, n_rows], &mut slots.sees));
    let mask = (n_kv > 0).then(|| input("inp_mask", DType::F16, &[n_kv, n_rows], &mut slots.mask));
    let rows = Rows { positions, cache_rows, value_places, sees, mask, order };

    let mut h = if start == 0 {
        model.embed(g, input("inp_tokens", DType::I32, &[n_rows], &mut slots.tokens), positions)
    } else {
        g.ops.get_rows(hidden.t(), input("inp_hidden_from", DType::I32, &[n_rows], &mut slots.hidden_from))
    };
    let mut steps = plan[start..end].to_vec();
    if key.plan == Plan::Keys {
        steps = steps.into_iter().filter(|step| step.attention).map(LayerStep::keys).collect();
    }
    if end < plan.len() {
        h = model.run(g, &steps, cache, &rows, h);
        let places = input("inp_hidden_to", DType::I64, &[n_rows], &mut slots.hidden_to);
        g.effect(g.ops.set_rows(hidden.t(), h, places));
        return slots;
    }
    // After the last attention only rows that give logits go on.
    let finish = steps.pop_if(|last| last.feed_forward).map(|last| {
        steps.extend(last.attention.then(|| last.only(Half::Attention)));
        last.only(Half::FeedForward)
    });
    h = model.run(g, &steps, cache, &rows, h);
    if n_out == 0 {
        g.effect(h);
        return slots;
    }
    if n_out < n_rows {
        h = g.ops.get_rows(h, input("inp_out_rows", DType::I32, &[n_out], &mut slots.out_rows));
    }
    h = model.run(g, finish.as_slice(), cache, &rows, h);
    slots.hidden = Some(g.output(h));
    slots.logits = Some(g.output(head(g, model, h, keep)));
    slots
}

fn head<'g>(g: &Builder<'g>, model: &'g Model, h: Tensor<'g>, keep: Keep) -> Tensor<'g> {
    match sketch(model, keep) {
        Some(sketch) => model.best_of_head(g, sketch, h, keep),
        None => model.head(g, h),
    }
}

fn sketch(model: &Model, keep: Keep) -> Option<&Weight> {
    if keep > 0 { model.sketch() } else { None }
}

/// Hidden states of rows between two ranges, \[n_embd, places\].
struct Hidden {
    states: Stored,
    free: Vec<usize>,
}

impl Hidden {
    fn new(n_embd: usize, n_places: usize) -> Result<Hidden, Error> {
        Ok(Hidden { states: hidden_states(n_embd, n_places)?, free: (0..n_places).rev().collect() })
    }

    /// Room for at least `n` more.
    fn grow(&mut self, n: usize) -> Result<(), Error> {
        let [n_embd, before, ..] = self.states.t().shape();
        let after = (before + n).max(2 * before);
        let mut states = hidden_states(n_embd, after)?;
        let mut bytes = vec![0; n_embd * before * size_of::<f32>()];
        self.states.read(0, &mut bytes);
        states.write(0, &bytes);
        self.states = states;
        self.free.splice(0..0, (before..after).rev());
        Ok(())
    }
}

fn hidden_states(n_embd: usize, n_places: usize) -> Result<Stored, Error> {
    let mut builder = StoreBuilder::new(1);
    builder.add_empty("hidden", DType::F32, &[n_embd, n_places])?;
    Ok(builder.finish().remove(0))
}

/// What [`crate::ggml::Ops::attention`] takes: the hole, and the last row seen.
fn sees(row: &Row) -> [usize; 3] {
    [row.hole.start, row.hole.end, row.cache_row]
}

fn mask<'r>(rows: impl Iterator<Item = &'r Row>, missing: &[usize], n_rows: usize, n_kv: usize) -> Vec<f16> {
    let mut mask = vec![f16::NEG_INFINITY; n_rows * n_kv];
    for (seen, row) in mask.chunks_exact_mut(n_kv).zip(rows) {
        seen[..=row.cache_row].fill(f16::ZERO);
        seen[row.hole.clone()].fill(f16::NEG_INFINITY);
        missing.iter().filter(|&&at| at < n_kv).for_each(|&at| seen[at] = f16::NEG_INFINITY);
    }
    mask
}
