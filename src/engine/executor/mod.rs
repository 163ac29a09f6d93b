//! Takes rows through ranges of the plan. Owns the cache, the hidden states between two ranges, and the graphs; refuses to
//! know which rows make a text.

mod devices;
mod ends;
mod feed;
mod kv_ends;
mod not_finite;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use crate::engine::graph::{Feed, GraphKey, Keep, Plan, RowsTo, Slots, build, graph_size, sketch};
use crate::engine::hidden_states::HiddenStates;
use crate::engine::probe::{Placed, Probe};
use crate::engine::row::{KV_STEP, Row};
use crate::engine::{EngineParams, Error, Inputs};
use crate::ggml::{self, Device, Run, Runner, Slot};
use crate::kernels::Weight;
use crate::model::{Cache, LayerStep, Model, Placement, ValueLayout};
use crate::plan::{Depth, layers_of};
use not_finite::first_not_finite;

/// What a row has at full depth.
pub(in crate::engine) struct Finished<'a> {
    /// Before the final norm, \[n_embd\].
    pub(in crate::engine) hidden: &'a [f32],
    /// \[n_vocab\]
    pub(in crate::engine) logits: &'a [f32],
}

/// What is wanted of rows at full depth.
#[derive(Clone, Copy)]
pub(in crate::engine) struct Wanted<'w> {
    /// Of which rows, by their place among those that run, rising.
    pub(in crate::engine) rows: &'w [usize],
    /// How much of their logits.
    pub(in crate::engine) keep: Keep,
}

impl Wanted<'static> {
    /// No results: rows that end before full depth, or leave keys and values alone.
    pub(in crate::engine) const NOTHING: Wanted<'static> = Wanted { rows: &[], keep: 0 };
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
    /// Rows that deeper layers do not see: cache row, and the depth from which on it is missing there.
    pub(in crate::engine) masked_rows: Vec<(usize, Depth)>,
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
            masked_rows,
            n_lost: 0,
            inputs,
        };
        // Before the first token: what a device cannot do, or has no memory for, shows now.
        executor.place_probes()?;
        executor.rehearse()?;
        Ok(executor)
    }

    /// Puts every probe where the states wait that it reads. On the CPU they are read without.
    fn place_probes(&mut self) -> Result<(), Error> {
        let mut placed = Vec::new();
        for probe in self.params.probes.iter().filter(|probe| probe.depth < self.full_depth()) {
            let device = self.home(Plan::Whole, probe.depth.0);
            // On the CPU a state is at hand: it is read without a graph.
            if device != Placement::CPU {
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
        // With the old ones at hand: a device that has no room for the new ones keeps those.
        let before = std::mem::replace(&mut self.params.probes, probes);
        if let Err(error) = self.place_probes() {
            self.params.probes = before;
            return Err(error);
        }
        if had_some || !self.probes.is_empty() {
            // Graphs that end where a probe reads hold its weights.
            self.runners.iter_mut().for_each(Runner::forget_all);
        }
        Ok(())
    }

    /// Whether there is something that reads states at a depth on their device.
    pub(in crate::engine) fn reads_at(&self, depth: Depth) -> bool {
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

    pub(in crate::engine) fn full_depth(&self) -> Depth {
        Depth(self.n_steps())
    }

    /// Changes what runs; nothing may be on its way.
    pub(in crate::engine) fn replan(&mut self, plan: Vec<LayerStep>) -> Result<(), Error> {
        self.params.plan = plan;
        self.runners.iter_mut().for_each(Runner::forget_all);
        // A plan that leaves steps out is served by the rows of those that are left: no memory is asked for.
        if !self.cache.serves(&self.params.plan) {
            self.cache = cache(&self.model, &self.params)?;
        }
        self.place_probes()
    }

    /// Gives a row a hidden state \[n_embd\] to wait with.
    pub(in crate::engine) fn enter(&mut self, row: &mut Row, state: &[f32]) -> Result<(), Error> {
        self.give_places(&mut [row], &[0])?;
        self.hidden.write(self.home(Plan::Whole, row.depth.0), &[place_of(row)], state);
        self.check_home(row.depth.0)
    }

    /// Makes the first `n` cache rows readable.
    pub(in crate::engine) fn clear_up_to(&mut self, n: usize) {
        // A mask covers whole steps: rows behind the last one seen are read, and multiplied by zero.
        self.cache.clear_up_to(n.next_multiple_of(KV_STEP).min(self.cache.n_rows()));
    }

    /// Takes every row that is shallower than `to` there, those of one depth together, in batches. Rows come in the order of
    /// what they see; a row that others see lies before them or is deep enough. At full depth `finish` gets what is wanted;
    /// of other rows nothing is computed.
    pub(in crate::engine) fn run_to_depth(
        &mut self,
        rows: &mut [&mut Row],
        to: Depth,
        wanted: Wanted<'_>,
        finish: &mut dyn FnMut(usize, Finished<'_>),
    ) -> Result<(), Error> {
        for range in self.ranges(rows, to) {
            let here: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].depth.0 == range.start).collect();
            let kinds: Vec<_> = rows.iter().map(|row| self.kind_of(row, range.start)).collect();
            // Neighbours only: a row that others see must have run before them.
            for same in here.chunk_by(|&a, &b| kinds[a] == kinds[b]) {
                let most = if kinds[same[0]].is_alone() { ROW_BY_ROW } else { self.params.n_batch };
                for batch in same.chunks(most) {
                    self.run(Plan::Whole, range.clone(), rows, batch, wanted, finish)?;
                    for &i in batch {
                        rows[i].depth = Depth(range.end);
                    }
                }
            }
        }
        Ok(())
    }

    /// The ranges of the plan that rows go through on their way to a depth: cut where some wait, where the plan is cut, where
    /// a row that they see is missing from there on, and where another device goes on.
    fn ranges(&self, rows: &[&mut Row], to: Depth) -> Vec<Range<usize>> {
        let missing = self.masked_rows.iter().filter(|(at, _)| rows.iter().any(|row| row.sees(*at)));
        let missing = missing.map(|&(_, depth)| depth.0);
        let borders = self.segments(Plan::Whole, 0..self.n_steps()).into_iter().map(|range| range.start);
        let cuts = self.params.cuts.iter().map(|cut| cut.0);
        let depths = rows.iter().map(|row| row.depth.0).chain(cuts).chain(missing).chain(borders);
        let starts: BTreeSet<usize> = depths.filter(|&depth| depth < to.0).chain([0]).collect();
        let ends: Vec<usize> = starts.iter().skip(1).copied().chain([to.0]).collect();
        starts.into_iter().zip(ends).map(|(start, end)| start..end).collect()
    }

    /// Takes a row through the draft plan, whose cache rows stand until the row is evaluated: its logits.
    pub(in crate::engine) fn run_draft_plan(&mut self, row: &mut Row, keep: Keep) -> Result<Vec<f32>, Error> {
        let (mut logits, wanted) = (Vec::new(), Wanted { rows: &[0], keep });
        let n_steps = self.params.draft_plan.len();
        let ranges = self.segments(Plan::Draft, 0..n_steps);
        let result = ranges.into_iter().try_for_each(|range| {
            self.run(Plan::Draft, range, &mut [row], &[0], wanted, &mut |_, finished| {
                logits.extend_from_slice(finished.logits);
            })
        });
        // Its state is worth nothing: what the row is evaluated to comes from the plan itself.
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
        wanted: Wanted<'_>,
        finish: &mut dyn FnMut(usize, Finished<'_>),
    ) -> Result<(), Error> {
        let is_last = range.end == steps_of(&self.params, plan).len();
        let out_rows: Vec<usize> = (0..batch.len()).filter(|&i| is_last && wanted.rows.contains(&batch[i])).collect();
        // Before the graph is looked up: more places are another store, and make the graphs that know the old one go.
        if !is_last {
            self.give_places(rows, batch)?;
        }
        self.clear_up_to(n_seen(rows, batch));
        let missing = self.missing(batch.iter().map(|&i| &*rows[i]), range.start);
        let keep = if out_rows.is_empty() { 0 } else { wanted.keep };
        let key = self.key(plan, &range, rows, batch, (out_rows.len(), keep), missing.is_empty());
        let feed = self.feed(key, rows, batch, out_rows, &missing)?;
        // Keys and values alone are worth no layer.
        if plan != Plan::Keys {
            let steps = &steps_of(&self.params, plan)[range];
            self.n_run += batch.len() as f64 * layers_of(steps, self.model.plan());
        }
        self.compute(key, &feed, rows, batch, finish)?;
        // Places are few: whoever has nothing to wait for gives its own back.
        if is_last {
            batch.iter().for_each(|&i| rows[i].place = None);
        }
        Ok(())
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
            // Also where nothing was read: what an earlier depth said is no longer true.
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
                // No sampler may choose from them: a comparison with NaN is false, and some token would win.
                if let Some(bad) = first_not_finite(&logits, feed.out_rows.len(), key.keep) {
                    return self.refuse(key.plan, rows[batch[feed.out_rows[bad]]]);
                }
                finish_rows(batch, &feed.out_rows, &hidden, &logits, finish);
            }
            RowsTo::HeadElsewhere => {
                let states = hidden.into_owned();
                let logits = self.logits_of(&states, key.keep)?;
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

    /// The graph of a key on its device, ready for its inputs.
    fn prepare(&mut self, device: usize, key: GraphKey) -> Result<Run<'_, Slots>, Error> {
        let ends = self.ends(key);
        let (model, cache, hidden) = (&self.model, &self.cache, self.hidden.states(device));
        let mut stores = vec![model.store(), hidden.store()];
        stores.extend(cache.store());
        stores.extend(sketch(model, key.keep).map(Weight::store));
        let reads =
            |probe: &&Placed| key.plan == Plan::Whole && (probe.depth, probe.device) == (Depth(key.end), device);
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
            // More rows wait than ever did: a long prompt that stops early, or many sequences.
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
        let state = self.hidden.read(self.home(Plan::Whole, row.depth.0), &[place_of(row)]);
        self.check_home(row.depth.0)?;
        Ok(state)
    }
}

fn cache(model: &Model, params: &EngineParams) -> Result<Cache, Error> {
    let layout = |device: &Device| {
        if params.fuses_attention_on(device) { ValueLayout::Rows } else { ValueLayout::Columns }
    };
    let devices = model.placement().devices();
    let step = devices.iter().map(|device| kv_step(device)).max().unwrap_or(KV_STEP);
    // Regions of whole steps: a row has the same place in a step wherever its sequence lies.
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
