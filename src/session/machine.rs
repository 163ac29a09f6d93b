//! Takes rows through ranges of the plan. Owns the cache, the hidden states between two ranges, and the graphs; refuses to
//! know which rows make a timeline.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use half::f16;

use super::hidden::Hidden;
use super::reader::{Placed, Reader};
use super::{Error, Inputs, SessionParams, TokenId};
use crate::dtype::DType;
use crate::ggml::{Builder, Device, Ops, Order, Run, Runner, Slot, Stored, Tensor, Weight};
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
    /// What was read of it there, if anything was: \[n_out\].
    pub(super) reading: Vec<f32>,
    /// How sums over it are taken where it runs beside others: a token of an answer must not depend on what runs beside it.
    pub(super) order: Order,
}

impl Row {
    /// A row that sees all before it.
    pub(super) fn on_timeline(token: TokenId, position: usize, order: Order) -> Row {
        Row { token, position, cache_row: position, hole: 0..0, depth: 0, slot: None, reading: Vec::new(), order }
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
    readers: Vec<Placed>,
    /// One for each device of the model's placement.
    runners: Vec<Runner<GraphKey, Slots>>,
    /// How often each device had been revived when it was last looked at.
    generations: Vec<u64>,
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

/// Rows in a graph that runs them row by row.
const ROW_BY_ROW: usize = 16;

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
    /// Whether kernels get every row alone.
    row_by_row: bool,
    /// Cache rows that the mask covers; 0 without a mask.
    n_kv: usize,
    n_out: usize,
    keep: Keep,
}

/// Where the rows of a graph come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    /// From their tokens.
    Tokens,
    /// From where they wait on the graph's device.
    Waiting,
    /// From elsewhere, through this process's memory.
    Host,
}

/// Where the rows of a graph go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// To where they wait on the graph's device.
    Waiting,
    /// To where they wait for another device.
    Host,
    /// Nowhere: they leave their keys and values.
    Nowhere,
    /// Those that are wanted: to the output head.
    Head,
    /// Those that are wanted: to the output head on another device.
    HeadElsewhere,
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
    states: Option<Slot>,
    hidden_to: Option<Slot>,
    out_rows: Option<Slot>,
    hidden: Option<Slot>,
    reading: Option<Slot>,
    logits: Option<Slot>,
}

impl Machine {
    pub(super) fn new(model: Arc<Model>, params: SessionParams) -> Result<Machine, Error> {
        let config = model.config();
        let (cache, placement) = (cache(&model, &params)?, model.placement());
        let hidden = Hidden::new(config.n_embd, placement.devices(), params.n_batch)?;
        let runners = placement.devices().iter().map(|device| Runner::new(device.clone())).collect();
        let generations = placement.devices().iter().map(|device| device.generation()).collect();
        let (readers, hidden_rows, inputs) = (Vec::new(), Vec::new(), None);
        let mut machine = Machine {
            model,
            params,
            cache,
            hidden,
            readers,
            runners,
            generations,
            n_run: 0,
            keep: 0,
            hidden_rows,
            inputs,
        };
        machine.place_readers()?;
        machine.rehearse()?;
        Ok(machine)
    }

    /// Puts every reader where the states wait that it reads. On the CPU they are read without.
    fn place_readers(&mut self) -> Result<(), Error> {
        let mut placed = Vec::new();
        for reader in self.params.readers.iter().filter(|reader| reader.depth < self.n_steps()) {
            let device = self.home(Plan::Whole, reader.depth);
            if device > 0 {
                let norm = self.model.config().final_norm();
                let on = &self.model.placement().devices()[device];
                placed.push(Placed::new(reader, norm, device, on)?);
            }
        }
        self.readers = placed;
        Ok(())
    }

    pub(super) fn set_readers(&mut self, readers: Vec<Reader>) -> Result<(), Error> {
        let had_some = !self.readers.is_empty();
        let before = std::mem::replace(&mut self.params.readers, readers);
        if let Err(error) = self.place_readers() {
            self.params.readers = before;
            return Err(error);
        }
        if had_some || !self.readers.is_empty() {
            self.runners.iter_mut().for_each(Runner::forget_all);
        }
        Ok(())
    }

    /// Whether there is something that reads states at a depth on their device.
    pub(super) fn reads_at(&self, depth: usize) -> bool {
        self.readers.iter().any(|reader| reader.depth == depth)
    }

    /// Builds the largest and the smallest graph of every range on devices other than the CPU, and runs a batch on GPUs, which
    /// take some memory only then: what they cannot compute, or have no memory for, shows before the first token.
    fn rehearse(&mut self) -> Result<(), Error> {
        for range in self.segments(Plan::Whole, 0..self.n_steps()) {
            let device = self.device_at(Plan::Whole, range.start);
            if device == 0 {
                continue;
            }
            for (n_rows, n_kv) in [(self.params.n_batch, self.cache.n_rows()), (1, self.n_kv(1, device))] {
                let n_out = usize::from(range.end == self.n_steps());
                let order = if n_rows == 1 { Order::Token } else { Order::Prompt };
                let (start, end) = (range.start, range.end);
                let key =
                    GraphKey { plan: Plan::Whole, start, end, n_rows, order, row_by_row: false, n_kv, n_out, keep: 0 };
                self.prepare(device, key)?;
            }
            if self.model.placement().devices()[device].is_gpu() {
                self.run_a_batch(range)?;
            }
        }
        Ok(())
    }

    /// Runs a batch of anything through the steps of one device. What it leaves in the cache is overwritten before it is seen.
    fn run_a_batch(&mut self, range: Range<usize>) -> Result<(), Error> {
        let mut rows: Vec<Row> =
            (0..self.params.n_batch).map(|i| Row::on_timeline(0, i, Order::Prompt)).collect();
        let all: Vec<usize> = (0..rows.len()).collect();
        let mut refs: Vec<&mut Row> = rows.iter_mut().collect();
        let result = self.run(Plan::Whole, range, &mut refs, &all, &all[all.len() - 1..], &mut |_, _| {});
        rows.iter_mut().for_each(|row| self.forget(row));
        self.n_run = 0;
        result
    }

    /// Makes devices that were lost and are needed up to a depth usable again. True if one has forgotten what was in its memory
    /// since the last look.
    pub(super) fn revive(&mut self, to: usize) -> Result<bool, Error> {
        let mut needed: BTreeSet<usize> = (0..to).map(|step| self.device_at(Plan::Whole, step)).collect();
        needed.extend((to == self.n_steps()).then(|| self.model.placement().of_output()));
        let mut forgot = false;
        for i in needed {
            let (device, seen) = (&self.model.placement().devices()[i], &mut self.generations[i]);
            device.revive()?;
            forgot |= device.generation() != *seen;
            *seen = device.generation();
        }
        Ok(forgot)
    }

    /// Why reads and writes since the last check are worth nothing, if they are.
    pub(super) fn check_devices(&self) -> Result<(), Error> {
        Ok(self.model.placement().devices().iter().try_for_each(|device| device.check())?)
    }

    /// The same of where states wait at a depth.
    fn check_home(&self, depth: usize) -> Result<(), Error> {
        Ok(self.model.placement().devices()[self.home(Plan::Whole, depth)].check()?)
    }

    /// The device that runs a step.
    fn device_at(&self, plan: Plan, step: usize) -> usize {
        self.model.placement().of_layer(steps_of(&self.params, plan)[step].il)
    }

    /// Where rows wait before a step: with the device that ran them so far and goes on with them, or on the CPU.
    fn home(&self, plan: Plan, depth: usize) -> usize {
        let before = self.device_at(plan, depth - 1);
        if before == self.device_at(plan, depth) { before } else { 0 }
    }

    /// The parts of a range of steps that run on one device each.
    fn segments(&self, plan: Plan, range: Range<usize>) -> Vec<Range<usize>> {
        let borders =
            (range.start + 1..range.end).filter(|&step| self.device_at(plan, step - 1) != self.device_at(plan, step));
        let ends: Vec<usize> = borders.chain([range.end]).collect();
        let starts = [range.start].into_iter().chain(ends.iter().copied());
        starts.zip(ends.iter().copied()).map(|(start, end)| start..end).collect()
    }

    /// Sums up what enters every multiplication from now on.
    pub(super) fn observe(&mut self) {
        self.runners.iter_mut().for_each(Runner::observe);
        self.inputs = Some(Inputs::new());
    }

    pub(super) fn n_steps(&self) -> usize {
        self.params.plan.len()
    }

    /// Changes what runs; nothing may be on its way.
    pub(super) fn replan(&mut self, plan: Vec<LayerStep>) -> Result<(), Error> {
        self.params.plan = plan;
        self.runners.iter_mut().for_each(Runner::forget_all);
        if !self.cache.serves(&self.params.plan) {
            self.cache = cache(&self.model, &self.params)?;
        }
        self.place_readers()
    }

    /// Gives a row a hidden state \[n_embd\] to wait with.
    pub(super) fn enter(&mut self, row: &mut Row, state: &[f32]) -> Result<(), Error> {
        self.give_slots(&mut [row], &[0])?;
        self.hidden.write(self.home(Plan::Whole, row.depth), &[row.slot.unwrap_or(0)], state);
        self.check_home(row.depth)
    }

    /// Gives back what a row holds.
    pub(super) fn forget(&mut self, row: &mut Row) {
        self.hidden.give_back(row.slot.take());
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
        let borders = self.segments(Plan::Whole, 0..self.n_steps()).into_iter().map(|range| range.start);
        let depths =
            rows.iter().map(|row| row.depth).chain(self.params.cuts.iter().copied()).chain(missing).chain(borders);
        let starts: BTreeSet<usize> = depths.filter(|&depth| depth < to).chain([0]).collect();
        let ends: Vec<usize> = starts.iter().skip(1).copied().chain([to]).collect();
        for (start, end) in starts.into_iter().zip(ends) {
            let here: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].depth == start).collect();
            let device = self.device_at(Plan::Whole, start);
            let kinds: Vec<_> = rows.iter().map(|row| self.kind_of(row, device)).collect();
            for same in here.chunk_by(|&a, &b| kinds[a] == kinds[b]) {
                let most = if kinds[same[0]].1.is_some() { ROW_BY_ROW } else { self.params.n_batch };
                for batch in same.chunks(most) {
                    self.run(Plan::Whole, start..end, rows, batch, outs, finish)?;
                    for &i in batch {
                        rows[i].depth = end;
                    }
                }
            }
        }
        Ok(())
    }

    /// What rows that run beside each other on a device have in common: the order of their sums, and the cache rows in the graph
    /// where a kernel's order depends on them.
    fn kind_of(&self, row: &Row, device: usize) -> (Order, Option<usize>) {
        let is_alone = row.order == Order::Token && self.runs_row_by_row(device);
        (row.order, is_alone.then(|| self.n_kv(row.cache_row + 1, device)))
    }

    /// Whether rows of [`Order::Token`] have to be run row by row to come out as each alone would.
    fn runs_row_by_row(&self, device: usize) -> bool {
        let is_cpu = device == 0 && self.hidden_rows.is_empty() && self.model.adds_rows_up_alike(&self.cache);
        !is_cpu && self.model.placement().devices()[device].can_run_row_by_row()
    }

    /// Cache rows in the graph of rows that see so many, on a device.
    fn n_kv(&self, n_seen: usize, device: usize) -> usize {
        n_seen.next_multiple_of(kv_step(&self.model.placement().devices()[device])).min(self.cache.n_rows())
    }

    /// Fills the deeper layers' cache rows of waiting rows from the states that they have, and ends their way.
    pub(super) fn propagate(&mut self, rows: &mut [&mut Row]) -> Result<(), Error> {
        for i in 0..rows.len() {
            for range in self.segments(Plan::Keys, rows[i].depth..self.n_steps()) {
                let end = range.end;
                self.run(Plan::Keys, range, rows, &[i], &[], &mut |_, _| {})?;
                rows[i].depth = end;
            }
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
        let ranges = self.segments(Plan::Draft, 0..n_steps);
        let result = ranges.into_iter().try_for_each(|range| {
            self.run(Plan::Draft, range, &mut [row], &[0], &[0], &mut |_, finished| {
                logits.extend_from_slice(finished.logits);
            })
        });
        self.forget(row);
        result.map(|()| logits)
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
        let device = self.device_at(plan, range.start);
        let n_kv = self.n_kv(n_seen, device);
        let missing: Vec<usize> =
            self.hidden_rows.iter().filter(|(_, depth)| *depth <= range.start).map(|(row, _)| *row).collect();
        let by_position = device == 0 && missing.is_empty() && self.model.masks_by_position(&self.cache);
        let n_kv = if by_position { 0 } else { n_kv };
        // A row alone is added up in one way, whatever it is.
        let order = if n_rows == 1 { Order::Token } else { rows[batch[0]].order };
        let n_out = out_rows.len();
        let keep = if n_out > 0 { self.keep } else { 0 };
        let row_by_row = (2..=ROW_BY_ROW).contains(&n_rows) && order == Order::Token && self.runs_row_by_row(device);
        let key = GraphKey { plan, start: range.start, end: range.end, n_rows, order, row_by_row, n_kv, n_out, keep };
        let (from, to) = self.ends(key);
        let of = |value: fn(&Row) -> usize| batch.iter().map(|&i| value(rows[i])).collect::<Vec<_>>();
        let tokens = of(|row| row.token as usize);
        let cache_rows = of(|row| row.cache_row);
        let places = of(|row| row.slot.unwrap_or(0));
        let states = match from {
            From::Host if range.start == 0 => self.embed(&tokens, &of(|row| row.position))?,
            From::Host => self.hidden.read(0, &places),
            From::Tokens | From::Waiting => Vec::new(),
        };
        let by_column = transposes_values(&self.cache, &steps_of(&self.params, plan)[range.clone()]);
        let value_places = by_column.then(|| self.cache.value_places(&cache_rows));
        let mask = (n_kv > 0).then(|| mask(batch.iter().map(|&i| &*rows[i]), &missing, n_rows, n_kv));
        self.n_run += if plan == Plan::Keys { 0 } else { n_rows * range.len() };
        let mut run = self.prepare(device, key)?;
        let slots = run.slots();
        for (slot, values) in [
            (slots.tokens, tokens),
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
        if let Some(slot) = slots.states {
            run.set_f32(slot, &states);
        }
        if let Some((slot, places)) = slots.value_places.zip(value_places) {
            run.set_i64(slot, &places);
        }
        if let Some((slot, mask)) = slots.mask.zip(mask) {
            run.set_f16(slot, &mask);
        }
        let computed = run.compute()?;
        let mut observed = Inputs::new();
        computed.observed().for_each(|seen| observed.entry(seen.weight.to_owned()).or_default().add(&seen));
        let read = |slot: Option<Slot>| slot.map_or(Ok(Cow::default()), |slot| computed.read(slot));
        let hidden = read(slots.hidden)?;
        let readings = read(slots.reading)?;
        for (n, &i) in batch.iter().enumerate() {
            let n_out = readings.len() / n_rows;
            rows[i].reading.clear();
            rows[i].reading.extend(&readings[n * n_out..(n + 1) * n_out]);
        }
        match to {
            To::Waiting | To::Nowhere => {}
            To::Host => {
                let states = hidden.into_owned();
                self.hidden.write(0, &places, &states);
            }
            To::Head => {
                let logits = read(slots.logits)?;
                finish_rows(batch, &out_rows, &hidden, &logits, finish);
            }
            To::HeadElsewhere => {
                let states = hidden.into_owned();
                let logits = self.heads_of(&states)?;
                finish_rows(batch, &out_rows, &states, &logits, finish);
            }
        }
        if let Some(inputs) = &mut self.inputs {
            observed.into_iter().for_each(|(weight, sums)| inputs.entry(weight).or_default().merge(&sums));
        }
        if is_last {
            for &i in batch {
                self.hidden.give_back(rows[i].slot.take());
            }
        }
        Ok(())
    }

    /// Where the rows of a graph come from, and where they go.
    fn ends(&self, key: GraphKey) -> (From, To) {
        let GraphKey { plan, start, end, n_out, .. } = key;
        let device = self.device_at(plan, start);
        let from = match start {
            0 if device == 0 => From::Tokens,
            0 => From::Host,
            _ if self.home(plan, start) == device => From::Waiting,
            _ => From::Host,
        };
        let to = if end < steps_of(&self.params, plan).len() {
            if self.home(plan, end) == device { To::Waiting } else { To::Host }
        } else if n_out == 0 {
            To::Nowhere
        } else if self.model.placement().of_output() == device {
            To::Head
        } else {
            To::HeadElsewhere
        };
        (from, to)
    }

    /// The graph of a key on its device, ready for its inputs.
    fn prepare(&mut self, device: usize, key: GraphKey) -> Result<Run<'_, Slots>, Error> {
        let ends = self.ends(key);
        let (model, cache, hidden) = (&self.model, &self.cache, self.hidden.states(device));
        let mut stores = vec![model.store(), hidden.store()];
        stores.extend(cache.store());
        stores.extend(sketch(model, key.keep).map(Weight::store));
        let reads = |reader: &&Placed| key.plan == Plan::Whole && (reader.depth, reader.device) == (key.end, device);
        let reader = self.readers.iter().find(reads);
        stores.extend(reader.map(Placed::store));
        let steps = steps_of(&self.params, key.plan);
        let size = graph_size(model, key);
        Ok(self.runners[device]
            .prepare(key, size, &stores, |g| build(g, model, steps, cache, (hidden, reader), key, ends))?)
    }

    /// Embeddings of tokens at their positions, made on the CPU: \[n_embd\] each.
    fn embed(&mut self, tokens: &[usize], positions: &[usize]) -> Result<Vec<f32>, Error> {
        let n_rows = tokens.len();
        let order = Order::Token;
        let row_by_row = false;
        let key =
            GraphKey { plan: Plan::Whole, start: 0, end: 0, n_rows, order, row_by_row, n_kv: 0, n_out: 0, keep: 0 };
        let model = &self.model;
        let mut run = self.runners[0].prepare(key, model.graph_size(0), &[model.store()], |g| {
            let (tokens, tokens_slot) = g.input("inp_tokens", DType::I32, &[n_rows]);
            let (positions, positions_slot) = g.input("inp_pos", DType::I32, &[n_rows]);
            let hidden = g.output(model.embed(g, tokens, positions));
            let (tokens, positions) = (Some(tokens_slot), Some(positions_slot));
            Slots { tokens, positions, hidden: Some(hidden), ..Slots::default() }
        })?;
        let slots = run.slots();
        for (slot, values) in [(slots.tokens, tokens), (slots.positions, positions)] {
            if let Some(slot) = slot {
                run.set_i32(slot, &values.iter().map(|&v| v as i32).collect::<Vec<_>>());
            }
        }
        let computed = run.compute()?;
        Ok(slots.hidden.map_or_else(Vec::new, |slot| computed.f32(slot).to_vec()))
    }

    /// A place for the hidden state of every row of the batch.
    fn give_slots(&mut self, rows: &mut [&mut Row], batch: &[usize]) -> Result<(), Error> {
        let wanting = batch.iter().filter(|&&i| rows[i].slot.is_none()).count();
        if self.hidden.n_free() < wanting {
            self.hidden.grow(wanting, self.model.placement().devices())?;
            self.runners.iter_mut().for_each(Runner::forget_all); // their graphs use the old ones
        }
        for &i in batch {
            if rows[i].slot.is_none() {
                rows[i].slot = self.hidden.take();
            }
        }
        Ok(())
    }

    /// The waiting hidden state of a row: \[n_embd\].
    pub(super) fn hidden_state(&self, row: &Row) -> Result<Vec<f32>, Error> {
        let slot = row.slot.expect("a row between two ranges has a place");
        let state = self.hidden.read(self.home(Plan::Whole, row.depth), &[slot]);
        self.check_home(row.depth)?;
        Ok(state)
    }

    /// What tokens are before the first step: \[n_embd\] each, one after the other.
    pub(super) fn embeddings(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>, Error> {
        let tokens: Vec<usize> = tokens.iter().map(|&token| token as usize).collect();
        self.embed(&tokens, &(0..tokens.len()).collect::<Vec<_>>())
    }

    /// What the output head makes of hidden states, \[n_embd\] each: \[n_vocab\] each, one after the other.
    pub(super) fn heads_of(&mut self, states: &[f32]) -> Result<Vec<f32>, Error> {
        let n_embd = self.model.config().n_embd;
        let (n, n_rows) = (self.n_steps(), states.len() / n_embd);
        let of_output = self.model.placement().of_output();
        if n_rows == 0 {
            return Ok(Vec::new());
        }
        let key = GraphKey {
            plan: Plan::Whole,
            start: n,
            end: n,
            n_rows,
            order: Order::Token,
            row_by_row: (2..=ROW_BY_ROW).contains(&n_rows) && self.runs_row_by_row(of_output),
            n_kv: 0,
            n_out: n_rows,
            keep: self.keep,
        };
        let model = &self.model;
        let stores: Vec<_> = std::iter::once(model.store()).chain(sketch(model, key.keep).map(Weight::store)).collect();
        let runner = &mut self.runners[of_output];
        let mut run = runner.prepare(key, graph_size(model, key), &stores, |g| {
            let g = &if key.row_by_row { g.row_by_row() } else { *g };
            let (states, slot) = g.input("inp_hidden", DType::F32, &[n_embd, n_rows]);
            let logits = g.output(head(g, model, states, key.keep));
            Slots { states: Some(slot), logits: Some(logits), ..Slots::default() }
        })?;
        let slots = run.slots();
        if let Some(slot) = slots.states {
            run.set_f32(slot, states);
        }
        let computed = run.compute()?;
        slots.logits.map_or(Ok(Vec::new()), |slot| Ok(computed.read(slot)?.into_owned()))
    }
}

fn cache(model: &Model, params: &SessionParams) -> Result<Cache, Error> {
    let layout = |device: &Device| {
        if params.fuses_attention_on(device) { ValueLayout::Rows } else { ValueLayout::Columns }
    };
    let devices = model.placement().devices();
    let step = devices.iter().map(|device| kv_step(device)).max().unwrap_or(KV_STEP);
    let n_rows = params.n_ctx.next_multiple_of(step);
    Ok(Cache::new(model.config(), model.placement(), &params.plan, n_rows, params.type_k, params.type_v, layout)?)
}

/// What cache rows in a graph are rounded up to on a device.
fn kv_step(device: &Device) -> usize {
    /// ggml's fastest kernels take whole blocks of it.
    const GPU: usize = 256;
    if device.is_gpu() { GPU } else { KV_STEP }
}

fn steps_of(params: &SessionParams, plan: Plan) -> &[LayerStep] {
    match plan {
        Plan::Whole | Plan::Keys => &params.plan,
        Plan::Draft => &params.draft_plan,
    }
}

/// Whether the values of steps on one device lie by column.
fn transposes_values(cache: &Cache, steps: &[LayerStep]) -> bool {
    steps.iter().find(|step| step.attention).is_some_and(|step| cache.transposes_values(step))
}

/// Bound on the tensors of a graph.
fn graph_size(model: &Model, key: GraphKey) -> usize {
    let each = if key.row_by_row { Ops::TENSORS_ROW_BY_ROW * key.n_rows } else { 1 };
    each * model.graph_size(key.end - key.start)
}

/// The graph that takes `key.n_rows` rows through the steps `key.start..key.end` of the plan.
fn build<'g>(
    g: &Builder<'g>,
    model: &'g Model,
    plan: &[LayerStep],
    cache: &'g Cache,
    (hidden, reader): (&'g Stored, Option<&'g Placed>),
    key: GraphKey,
    (from, to): (From, To),
) -> Slots {
    let GraphKey { start, end, n_rows, order, n_kv, n_out, keep, .. } = key;
    let g = &if key.row_by_row { g.row_by_row() } else { *g };
    let mut slots = Slots::default();
    let input = |name, dtype, shape: &[usize], slot: &mut Option<Slot>| {
        let (tensor, given) = g.input(name, dtype, shape);
        *slot = Some(given);
        tensor
    };
    let positions = input("inp_pos", DType::I32, &[n_rows], &mut slots.positions);
    let cache_rows = input("inp_cache_rows", DType::I64, &[n_rows], &mut slots.cache_rows);
    let n_values = model.config().n_embd_v() * n_rows;
    let by_column = transposes_values(cache, &plan[start..end]);
    let value_places = by_column.then(|| input("inp_value_places", DType::I64, &[n_values], &mut slots.value_places));
    let sees = (n_kv == 0).then(|| input("inp_sees", DType::I32, &[3, n_rows], &mut slots.sees));
    let mask = (n_kv > 0).then(|| input("inp_mask", DType::F16, &[n_kv, n_rows], &mut slots.mask));
    let rows = Rows { positions, cache_rows, value_places, sees, mask, order };

    let mut h = match from {
        From::Tokens => model.embed(g, input("inp_tokens", DType::I32, &[n_rows], &mut slots.tokens), positions),
        From::Waiting => {
            g.ops.get_rows(hidden.t(), input("inp_hidden_from", DType::I32, &[n_rows], &mut slots.hidden_from))
        }
        From::Host => input("inp_states", DType::F32, &[model.config().n_embd, n_rows], &mut slots.states),
    };
    let mut steps = plan[start..end].to_vec();
    if key.plan == Plan::Keys {
        steps = steps.into_iter().filter(|step| step.attention).map(LayerStep::keys).collect();
    }
    if matches!(to, To::Waiting | To::Host) {
        h = model.run(g, &steps, cache, &rows, h);
        if to == To::Host {
            slots.hidden = Some(g.output(h));
            return slots;
        }
        let places = input("inp_hidden_to", DType::I64, &[n_rows], &mut slots.hidden_to);
        g.effect(g.ops.set_rows(hidden.t(), h, places));
        slots.reading = reader.map(|reader| g.output(reader.read(g, h)));
        return slots;
    }
    // After the last attention only rows that give logits go on.
    let finish = steps.pop_if(|last| last.feed_forward).map(|last| {
        steps.extend(last.attention.then(|| last.only(Half::Attention)));
        last.only(Half::FeedForward)
    });
    h = model.run(g, &steps, cache, &rows, h);
    if to == To::Nowhere {
        g.effect(h);
        return slots;
    }
    if n_out < n_rows {
        h = g.ops.get_rows(h, input("inp_out_rows", DType::I32, &[n_out], &mut slots.out_rows));
    }
    h = model.run(g, finish.as_slice(), cache, &rows, h);
    slots.hidden = Some(g.output(h));
    if to == To::Head {
        slots.logits = Some(g.output(head(g, model, h, keep)));
    }
    slots
}

/// Hands out what the rows `out_rows` of a batch have at full depth.
fn finish_rows(
    batch: &[usize],
    out_rows: &[usize],
    hidden: &[f32],
    logits: &[f32],
    finish: &mut dyn FnMut(usize, Finished<'_>),
) {
    let n = out_rows.len();
    let parts = hidden.chunks_exact(hidden.len() / n).zip(logits.chunks_exact(logits.len() / n));
    for (&row, (hidden, logits)) in out_rows.iter().zip(parts) {
        finish(batch[row], Finished { hidden, logits });
    }
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
