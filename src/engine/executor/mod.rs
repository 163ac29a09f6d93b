//! Takes rows through ranges of the plan. Owns the cache, the hidden states between two ranges, and the graphs; refuses to
//! know which rows make a text.

mod devices;
mod ends;
mod not_finite;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use crate::engine::graph::{
    Feed, GraphKey, Keep, Plan, RowsFrom, RowsTo, Slots, build, first_seen, graph_size, has_window, mask, sketch,
    transposes_values,
};
use crate::engine::hidden_states::{HiddenStates, Place};
use crate::engine::probe::{Placed, Probe};
use crate::engine::row::{KV_STEP, Row};
use crate::engine::{EngineParams, Error, Inputs};
use crate::ggml::{self, Device, Reduction, Run, Runner, Slot, Weight};
use crate::model::{Cache, LayerStep, Model, ValueLayout};
use crate::plan::layers_of;
use not_finite::first_not_finite;

/// What a row has at full depth.
pub(in crate::engine) struct Finished<'a> {
    /// Before the final norm, \[n_embd\].
    pub(in crate::engine) hidden: &'a [f32],
    /// \[n_vocab\]
    pub(in crate::engine) logits: &'a [f32],
}

pub(in crate::engine) struct Executor {
    pub(in crate::engine) model: Arc<Model>,
    pub(in crate::engine) params: EngineParams,
    pub(in crate::engine) cache: Cache,
    hidden: HiddenStates,
    probes: Vec<Placed>,
    /// One for each device of the model's placement.
    runners: Vec<Runner<GraphKey, Slots>>,
    /// How often each device had been revived when it was last looked at.
    generations: Vec<u64>,
    /// Rows times layers run so far, by [`layers_of`].
    pub(in crate::engine) n_run: f64,
    /// Of logits computed from now on.
    pub(in crate::engine) keep: Keep,
    /// Rows that deeper layers do not see: cache row, and the depth from which on it is missing there.
    pub(in crate::engine) masked_rows: Vec<(usize, usize)>,
    /// How often devices have forgotten what was in their memory.
    pub(in crate::engine) n_lost: u64,
    /// What entered the multiplications, where somebody asks.
    pub(in crate::engine) inputs: Option<Inputs>,
}

/// Rows in a graph that runs them row by row.
const ROW_BY_ROW: usize = 16;

impl Executor {
    pub(in crate::engine) fn new(model: Arc<Model>, params: EngineParams) -> Result<Executor, Error> {
        let config = model.config();
        let (cache, placement) = (cache(&model, &params)?, model.placement());
        let hidden = HiddenStates::new(config.n_embd, placement.devices(), params.n_batch)?;
        let runners = placement.devices().iter().map(|device| Runner::new(device.clone())).collect();
        let generations = placement.devices().iter().map(|device| device.generation()).collect();
        let (probes, masked_rows, inputs) = (Vec::new(), Vec::new(), None);
        let mut executor = Executor {
            model,
            params,
            cache,
            hidden,
            probes,
            runners,
            generations,
            n_run: 0.0,
            keep: 0,
            masked_rows,
            n_lost: 0,
            inputs,
        };
        executor.place_probes()?;
        executor.rehearse()?;
        Ok(executor)
    }

    /// Puts every probe where the states wait that it reads. On the CPU they are read without.
    fn place_probes(&mut self) -> Result<(), Error> {
        let mut placed = Vec::new();
        for probe in self.params.probes.iter().filter(|probe| probe.depth < self.n_steps()) {
            let device = self.home(Plan::Whole, probe.depth);
            if device > 0 {
                let norm = self.model.config().final_norm();
                let on = &self.model.placement().devices()[device];
                placed.push(Placed::new(probe, norm, device, on)?);
            }
        }
        self.probes = placed;
        Ok(())
    }

    pub(in crate::engine) fn set_probes(&mut self, probes: Vec<Probe>) -> Result<(), Error> {
        if probes == self.params.probes {
            return Ok(());
        }
        let had_some = !self.probes.is_empty();
        let before = std::mem::replace(&mut self.params.probes, probes);
        if let Err(error) = self.place_probes() {
            self.params.probes = before;
            return Err(error);
        }
        if had_some || !self.probes.is_empty() {
            self.runners.iter_mut().for_each(Runner::forget_all);
        }
        Ok(())
    }

    /// Whether there is something that reads states at a depth on their device.
    pub(in crate::engine) fn reads_at(&self, depth: usize) -> bool {
        self.probes.iter().any(|probe| probe.depth == depth)
    }

    /// Sums up what enters every multiplication from now on.
    pub(in crate::engine) fn observe(&mut self) {
        self.runners.iter_mut().for_each(Runner::observe);
        self.inputs = Some(Inputs::new());
    }

    pub(in crate::engine) fn n_steps(&self) -> usize {
        self.params.plan.len()
    }

    /// Changes what runs; nothing may be on its way.
    pub(in crate::engine) fn replan(&mut self, plan: Vec<LayerStep>) -> Result<(), Error> {
        self.params.plan = plan;
        self.runners.iter_mut().for_each(Runner::forget_all);
        if !self.cache.serves(&self.params.plan) {
            self.cache = cache(&self.model, &self.params)?;
        }
        self.place_probes()
    }

    /// Gives a row a hidden state \[n_embd\] to wait with.
    pub(in crate::engine) fn enter(&mut self, row: &mut Row, state: &[f32]) -> Result<(), Error> {
        self.give_places(&mut [row], &[0])?;
        self.hidden.write(self.home(Plan::Whole, row.depth), &[place_of(row)], state);
        self.check_home(row.depth)
    }

    /// Lets deeper layers see rows that they did not: they are another's from now on, or free.
    pub(in crate::engine) fn unmask(&mut self, rows: Range<usize>) {
        self.masked_rows.retain(|(row, _)| !rows.contains(row));
    }

    /// Makes the first `n` cache rows readable.
    pub(in crate::engine) fn clear_up_to(&mut self, n: usize) {
        self.cache.clear_up_to(n.next_multiple_of(KV_STEP).min(self.cache.n_rows()));
    }

    /// Takes every row that is shallower than `to` there, those of one depth together, in batches. Rows come in the order of
    /// what they see; a row that others see lies before them or is deep enough. At full depth `finish` gets what the rows
    /// `outs` have; the others' is not computed.
    pub(in crate::engine) fn run_to_depth(
        &mut self,
        rows: &mut [&mut Row],
        to: usize,
        outs: &[usize],
        finish: &mut dyn FnMut(usize, Finished<'_>),
    ) -> Result<(), Error> {
        let missing = self.masked_rows.iter().map(|&(_, depth)| depth);
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
    fn kind_of(&self, row: &Row, device: usize) -> (Reduction, Option<usize>) {
        let is_alone = row.reduction == Reduction::Decode && self.runs_row_by_row(device);
        (row.reduction, is_alone.then(|| self.n_kv(row.cache_row + 1, device)))
    }

    /// Whether rows of [`Reduction::Decode`] have to be run row by row to come out as each alone would.
    fn runs_row_by_row(&self, device: usize) -> bool {
        let is_cpu = device == 0 && self.masked_rows.is_empty() && self.model.adds_rows_up_alike(&self.cache);
        // On a GPU that would cost more than rows beside each other gain.
        !is_cpu && !self.model.placement().devices()[device].is_gpu()
    }

    /// Cache rows in the graph of rows that see so many, on a device.
    fn n_kv(&self, n_seen: usize, device: usize) -> usize {
        n_seen.next_multiple_of(kv_step(&self.model.placement().devices()[device])).min(self.cache.n_rows())
    }

    /// Fills the deeper layers' cache rows of waiting rows from the states that they have, and ends their way.
    pub(in crate::engine) fn propagate_kv(&mut self, rows: &mut [&mut Row]) -> Result<(), Error> {
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
    pub(in crate::engine) fn mask_kv(&mut self, rows: &mut [&mut Row]) {
        for row in rows {
            self.masked_rows.push((row.cache_row, row.depth));
            (row.place, row.depth) = (None, self.n_steps());
        }
    }

    /// Takes a row through the draft plan, whose cache rows stand until the row is evaluated: its logits.
    pub(in crate::engine) fn run_draft_plan(&mut self, row: &mut Row) -> Result<Vec<f32>, Error> {
        let mut logits = Vec::new();
        let n_steps = self.params.draft_plan.len();
        let ranges = self.segments(Plan::Draft, 0..n_steps);
        let result = ranges.into_iter().try_for_each(|range| {
            self.run(Plan::Draft, range, &mut [row], &[0], &[0], &mut |_, finished| {
                logits.extend_from_slice(finished.logits);
            })
        });
        row.place = None;
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
        let is_last = range.end == steps_of(&self.params, plan).len();
        let out_rows: Vec<usize> = (0..batch.len()).filter(|&i| is_last && outs.contains(&batch[i])).collect();
        if !is_last {
            self.give_places(rows, batch)?;
        }
        self.clear_up_to(n_seen(rows, batch));
        let missing: Vec<usize> =
            self.masked_rows.iter().filter(|(_, depth)| *depth <= range.start).map(|(row, _)| *row).collect();
        let key = self.key(plan, &range, rows, batch, out_rows.len(), missing.is_empty());
        let feed = self.feed(key, rows, batch, out_rows, &missing)?;
        if plan != Plan::Keys {
            let steps = &steps_of(&self.params, plan)[range];
            self.n_run += batch.len() as f64 * layers_of(steps, self.model.plan());
        }
        self.compute(key, &feed, rows, batch, finish)?;
        if is_last {
            batch.iter().for_each(|&i| rows[i].place = None);
        }
        Ok(())
    }

    /// What the graph of a batch depends on.
    fn key(
        &self,
        plan: Plan,
        range: &Range<usize>,
        rows: &[&mut Row],
        batch: &[usize],
        n_out: usize,
        sees_all: bool,
    ) -> GraphKey {
        let (n_rows, device) = (batch.len(), self.device_at(plan, range.start));
        let by_position = device == 0 && sees_all && self.model.masks_by_position(&self.cache);
        let n_kv = if by_position { 0 } else { self.n_kv(n_seen(rows, batch), device) };
        let reduction = rows[batch[0]].reduction; // of all of them
        let row_by_row =
            (2..=ROW_BY_ROW).contains(&n_rows) && reduction == Reduction::Decode && self.runs_row_by_row(device);
        let keep = if n_out > 0 { self.keep } else { 0 };
        GraphKey { plan, start: range.start, end: range.end, n_rows, reduction, row_by_row, n_kv, n_out, keep }
    }

    /// What a batch gives to its graph.
    fn feed(
        &mut self,
        key: GraphKey,
        rows: &[&mut Row],
        batch: &[usize],
        out_rows: Vec<usize>,
        missing: &[usize],
    ) -> Result<Feed, Error> {
        let of = |value: fn(&Row) -> usize| batch.iter().map(|&i| value(rows[i])).collect::<Vec<_>>();
        let (tokens, positions) = (of(|row| row.token as usize), of(|row| row.position));
        let (cache_rows, places) = (of(|row| row.cache_row), of(|row| row.place.as_ref().map_or(0, Place::index)));
        let states = match self.ends(key).0 {
            RowsFrom::Host if key.start == 0 => self.embed(&tokens, &positions)?,
            RowsFrom::Host => self.hidden.read(0, &places),
            RowsFrom::Tokens | RowsFrom::Waiting => Vec::new(),
        };
        let by_column = transposes_values(&self.cache, &steps_of(&self.params, key.plan)[key.start..key.end]);
        let value_places = if by_column { self.cache.value_places(&cache_rows) } else { Vec::new() };
        let mut feed =
            Feed { tokens, positions, cache_rows, places, out_rows, states, value_places, ..Feed::default() };
        let sees = |window: usize| -> Vec<usize> {
            let ranges = |row: &Row| [first_seen(row, window), row.hole.start, row.hole.end, row.cache_row];
            batch.iter().flat_map(|&i| ranges(rows[i])).collect()
        };
        let mask = |window| mask(batch.iter().map(|&i| &*rows[i]), missing, key.n_kv, window);
        match key.n_kv {
            0 => feed.sees = sees(usize::MAX),
            _ => feed.mask = mask(usize::MAX),
        }
        let steps = &steps_of(&self.params, key.plan)[key.start..key.end];
        if let Some(window) = self.model.config().window.as_ref().filter(|_| has_window(&self.model, steps)) {
            match key.n_kv {
                0 => feed.window_sees = sees(window.size),
                _ => feed.window_mask = mask(window.size),
            }
        }
        Ok(feed)
    }

    /// Runs a batch's graph, and puts what comes out of it where it belongs.
    fn compute(
        &mut self,
        key: GraphKey,
        feed: &Feed,
        rows: &mut [&mut Row],
        batch: &[usize],
        finish: &mut dyn FnMut(usize, Finished<'_>),
    ) -> Result<(), Error> {
        let to = self.ends(key).1;
        let mut run = self.prepare(self.device_at(key.plan, key.start), key)?;
        let slots = run.slots();
        feed.fill(&mut run);
        let computed = run.compute()?;
        let mut observed = Inputs::new();
        computed.observed().for_each(|seen| observed.entry(seen.weight.to_owned()).or_default().add(&seen));
        let read = |slot: Option<Slot>| slot.map_or(Ok(Cow::default()), |slot| computed.read(slot));
        let (hidden, readings) = (read(slots.hidden)?, read(slots.reading)?);
        for (n, &i) in batch.iter().enumerate() {
            let n_out = readings.len() / batch.len();
            rows[i].reading.clear();
            rows[i].reading.extend(&readings[n * n_out..(n + 1) * n_out]);
        }
        match to {
            RowsTo::Waiting | RowsTo::Nowhere => {}
            RowsTo::Host => {
                let states = hidden.into_owned();
                self.hidden.write(0, &feed.places, &states);
            }
            RowsTo::Head => {
                let logits = read(slots.logits)?;
                if let Some(bad) = first_not_finite(&logits, feed.out_rows.len(), key.keep) {
                    return self.refuse(key.plan, rows[batch[feed.out_rows[bad]]]);
                }
                finish_rows(batch, &feed.out_rows, &hidden, &logits, finish);
            }
            RowsTo::HeadElsewhere => {
                let states = hidden.into_owned();
                let logits = self.logits_of(&states)?;
                if let Some(bad) = first_not_finite(&logits, feed.out_rows.len(), key.keep) {
                    return self.refuse(key.plan, rows[batch[feed.out_rows[bad]]]);
                }
                finish_rows(batch, &feed.out_rows, &states, &logits, finish);
            }
        }
        if let Some(inputs) = &mut self.inputs {
            observed.into_iter().for_each(|(weight, sums)| inputs.entry(weight).or_default().merge(&sums));
        }
        Ok(())
    }

    /// Where the rows of a graph come from, and where they go.
    fn ends(&self, key: GraphKey) -> (RowsFrom, RowsTo) {
        let GraphKey { plan, start, end, n_out, .. } = key;
        let device = self.device_at(plan, start);
        let from = match start {
            0 if device == 0 => RowsFrom::Tokens,
            0 => RowsFrom::Host,
            _ if self.home(plan, start) == device => RowsFrom::Waiting,
            _ => RowsFrom::Host,
        };
        let to = if end < steps_of(&self.params, plan).len() {
            if self.home(plan, end) == device { RowsTo::Waiting } else { RowsTo::Host }
        } else if n_out == 0 {
            RowsTo::Nowhere
        } else if self.model.placement().of_output() == device {
            RowsTo::Head
        } else {
            RowsTo::HeadElsewhere
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
        let reads = |probe: &&Placed| key.plan == Plan::Whole && (probe.depth, probe.device) == (key.end, device);
        let probe = self.probes.iter().find(reads);
        stores.extend(probe.map(Placed::store));
        let steps = steps_of(&self.params, key.plan);
        let size = graph_size(model, key);
        Ok(self.runners[device]
            .prepare(key, size, &stores, |g| build(g, model, steps, cache, (hidden, probe), key, ends))?)
    }

    /// A place for the hidden state of every row of the batch.
    fn give_places(&mut self, rows: &mut [&mut Row], batch: &[usize]) -> Result<(), Error> {
        let wanting = batch.iter().filter(|&&i| rows[i].place.is_none()).count();
        if self.hidden.n_free() < wanting {
            self.hidden.grow(wanting, self.model.placement().devices())?;
            self.runners.iter_mut().for_each(Runner::forget_all); // their graphs use the old ones
        }
        for &i in batch {
            if rows[i].place.is_none() {
                rows[i].place = self.hidden.take();
            }
        }
        Ok(())
    }

    /// The waiting hidden state of a row: \[n_embd\].
    pub(in crate::engine) fn hidden_state(&self, row: &Row) -> Result<Vec<f32>, Error> {
        let state = self.hidden.read(self.home(Plan::Whole, row.depth), &[place_of(row)]);
        self.check_home(row.depth)?;
        Ok(state)
    }
}

fn cache(model: &Model, params: &EngineParams) -> Result<Cache, Error> {
    let layout = |device: &Device| {
        if params.fuses_attention_on(device) { ValueLayout::Rows } else { ValueLayout::Columns }
    };
    let devices = model.placement().devices();
    let step = devices.iter().map(|device| kv_step(device)).max().unwrap_or(KV_STEP);
    let n_rows = params.n_seq * params.n_ctx.next_multiple_of(step);
    let cache =
        Cache::new(model.config(), model.placement(), &params.plan, n_rows, params.type_k, params.type_v, layout);
    cache.map(|cache| cache.for_texts_of(params.n_ctx)).map_err(|error| match error {
        ggml::Error::OutOfMemory { .. } => Error::CacheMemory { n_ctx: params.n_seq * params.n_ctx, source: error },
        other => other.into(),
    })
}

/// What cache rows in a graph are rounded up to on a device.
fn kv_step(device: &Device) -> usize {
    /// ggml's fastest kernels take whole blocks of it.
    const GPU: usize = 256;
    if device.is_gpu() { GPU } else { KV_STEP }
}

/// Where the hidden state of a row waits between two ranges.
fn place_of(row: &Row) -> usize {
    row.place.as_ref().expect("a row between two ranges has a place").index()
}

fn steps_of(params: &EngineParams, plan: Plan) -> &[LayerStep] {
    match plan {
        Plan::Whole | Plan::Keys => &params.plan,
        Plan::Draft => &params.draft_plan,
    }
}

/// Cache rows that a batch sees, from the first on.
fn n_seen(rows: &[&mut Row], batch: &[usize]) -> usize {
    batch.iter().map(|&i| rows[i].cache_row + 1).max().unwrap_or(0)
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
