//! Takes rows through ranges of the plan. Owns the cache, the hidden states between two ranges, and the graphs; refuses to
//! know which rows make a timeline.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::graph::{
    Feed, From, GraphKey, Keep, Plan, Slots, To, build, build_embeddings, build_head, first_seen, graph_size,
    has_window, mask, sketch, transposes_values,
};
use super::hidden::Hidden;
use super::reader::{Placed, Reader};
use super::{Error, Inputs, SessionParams, TokenId};
use crate::ggml::{self, Device, Order, Run, Runner, Slot, Weight};
use crate::model::{Cache, LayerStep, Model, ValueLayout};
use crate::plan::layers_of;

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
    /// Rows times layers run so far, by [`layers_of`].
    pub(super) n_run: f64,
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
            n_run: 0.0,
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
        let mut rows: Vec<Row> = (0..self.params.n_batch).map(|i| Row::on_timeline(0, i, Order::Prompt)).collect();
        let all: Vec<usize> = (0..rows.len()).collect();
        let mut refs: Vec<&mut Row> = rows.iter_mut().collect();
        let result = self.run(Plan::Whole, range, &mut refs, &all, &all[all.len() - 1..], &mut |_, _| {});
        rows.iter_mut().for_each(|row| self.forget(row));
        self.n_run = 0.0;
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
        // On a GPU that would cost more than rows beside each other gain.
        !is_cpu && !self.model.placement().devices()[device].is_gpu()
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
        let is_last = range.end == steps_of(&self.params, plan).len();
        let out_rows: Vec<usize> = (0..batch.len()).filter(|&i| is_last && outs.contains(&batch[i])).collect();
        if !is_last {
            self.give_slots(rows, batch)?;
        }
        self.clear_up_to(n_seen(rows, batch));
        let missing: Vec<usize> =
            self.hidden_rows.iter().filter(|(_, depth)| *depth <= range.start).map(|(row, _)| *row).collect();
        let key = self.key(plan, &range, rows, batch, out_rows.len(), missing.is_empty());
        let feed = self.feed(key, rows, batch, out_rows, &missing)?;
        if plan != Plan::Keys {
            let steps = &steps_of(&self.params, plan)[range];
            self.n_run += batch.len() as f64 * layers_of(steps, self.model.plan());
        }
        self.compute(key, &feed, rows, batch, finish)?;
        if is_last {
            for &i in batch {
                self.hidden.give_back(rows[i].slot.take());
            }
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
        // A row alone is added up in one way, whatever it is.
        let order = if n_rows == 1 { Order::Token } else { rows[batch[0]].order };
        let row_by_row = (2..=ROW_BY_ROW).contains(&n_rows) && order == Order::Token && self.runs_row_by_row(device);
        let keep = if n_out > 0 { self.keep } else { 0 };
        GraphKey { plan, start: range.start, end: range.end, n_rows, order, row_by_row, n_kv, n_out, keep }
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
        let (cache_rows, places) = (of(|row| row.cache_row), of(|row| row.slot.unwrap_or(0)));
        let states = match self.ends(key).0 {
            From::Host if key.start == 0 => self.embed(&tokens, &positions)?,
            From::Host => self.hidden.read(0, &places),
            From::Tokens | From::Waiting => Vec::new(),
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
            To::Waiting | To::Nowhere => {}
            To::Host => {
                let states = hidden.into_owned();
                self.hidden.write(0, &feed.places, &states);
            }
            To::Head => {
                let logits = read(slots.logits)?;
                if let Some(bad) = first_not_finite(&logits, feed.out_rows.len(), key.keep) {
                    return self.refuse(key.plan, rows[batch[feed.out_rows[bad]]]);
                }
                finish_rows(batch, &feed.out_rows, &hidden, &logits, finish);
            }
            To::HeadElsewhere => {
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

    /// Says where logits that no token can be chosen from come from: what there is to know is looked for only now.
    fn refuse(&mut self, plan: Plan, row: &Row) -> Result<(), Error> {
        let place = format!("after token {} of the text", row.position + 1);
        let cause = match (self.broken_weight(), plan) {
            (Some(weight), _) => weight,
            (None, Plan::Whole) => self.broken_step(row)?,
            (None, Plan::Draft | Plan::Keys) => "the draft's layers overflow".to_owned(),
        };
        Err(Error::NotFinite { place, cause })
    }

    fn broken_weight(&self) -> Option<String> {
        let (tensor, row) = self.model.broken_weight()?;
        Some(format!("tensor `{tensor}` has NaN or infinity in row {row} in `{}`", self.model.file().path().display()))
    }

    /// The first layer that makes a row's hidden state NaN or infinite: it is taken through them once more, one by one.
    fn broken_step(&mut self, row: &Row) -> Result<String, Error> {
        let mut again = Row::on_timeline(row.token, row.position, row.order);
        (again.cache_row, again.hole) = (row.cache_row, row.hole.clone());
        let mut found = None;
        for depth in 1..self.n_steps() {
            self.run(Plan::Whole, depth - 1..depth, &mut [&mut again], &[0], &[], &mut |_, _| {})?;
            again.depth = depth;
            if self.hidden_state(&again)?.iter().any(|x| !x.is_finite()) {
                found = Some(depth - 1);
                break;
            }
        }
        self.forget(&mut again);
        let layer = |step: usize| self.params.plan[step].il;
        Ok(match found {
            Some(step) => format!("the hidden state overflows in layer {}", layer(step)),
            None => format!("the numbers overflow in layer {} or in the output head", layer(self.n_steps() - 1)),
        })
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
        let mut run =
            self.runners[0].prepare(key, model.graph_size(0), &[model.store()], |g| build_embeddings(g, model, key))?;
        let slots = run.slots();
        Feed { tokens: tokens.to_vec(), positions: positions.to_vec(), ..Feed::default() }.fill(&mut run);
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
        let n_rows = states.len() / self.model.config().n_embd;
        let logits = self.logits_of(states)?;
        if first_not_finite(&logits, n_rows, self.keep).is_none() {
            return Ok(logits);
        }
        let overflow = || "the numbers overflow on the way".to_owned();
        let cause = self.broken_weight().unwrap_or_else(overflow);
        Err(Error::NotFinite { place: "of a hidden state".to_owned(), cause })
    }

    fn logits_of(&mut self, states: &[f32]) -> Result<Vec<f32>, Error> {
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
        let mut run = runner.prepare(key, graph_size(model, key), &stores, |g| build_head(g, model, key))?;
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
    let cache =
        Cache::new(model.config(), model.placement(), &params.plan, n_rows, params.type_k, params.type_v, layout);
    cache.map_err(|error| match error {
        ggml::Error::OutOfMemory { .. } => Error::CacheMemory { n_ctx: params.n_ctx, source: error },
        other => other.into(),
    })
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

/// Cache rows that a batch sees, from the first on.
fn n_seen(rows: &[&mut Row], batch: &[usize]) -> usize {
    batch.iter().map(|&i| rows[i].cache_row + 1).max().unwrap_or(0)
}

/// The first of so many rows of logits with one that is NaN or infinite. Of a shortlist -inf is right: it stands for a token that
/// is not among the best.
fn first_not_finite(logits: &[f32], n_rows: usize, keep: Keep) -> Option<usize> {
    const ENDLESS: u32 = f32::INFINITY.to_bits();
    if n_rows == 0 {
        return None;
    }
    let is_bad = |x: f32| {
        let is_finite = x.to_bits() & ENDLESS != ENDLESS;
        !is_finite & !((keep > 0) & (x == f32::NEG_INFINITY))
    };
    // Folded without an early end, which would keep the loop from being vectorized.
    let has_bad = |row: &[f32]| row.iter().fold(false, |bad, &x| bad | is_bad(x));
    logits.chunks_exact(logits.len() / n_rows).position(has_bad)
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
