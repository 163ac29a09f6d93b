//! What makes the graph of a batch, and what it is given.

use std::ops::Range;

use super::{Executor, ROW_BY_ROW, kv_step, n_seen, steps_of};
use crate::engine::Error;
use crate::engine::graph::{
    Feed, GraphKey, Keep, Plan, RowsFrom, RowsTo, first_seen, has_window, mask, transposes_values,
};
use crate::engine::hidden_states::Place;
use crate::engine::row::Row;
use crate::kernels::Reduction;
use crate::model::Placement;

/// What rows that run beside each other have in common, so that none changes another's bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    /// The order of their sums.
    reduction: Reduction,
    /// Whether they see every cache row that positions say: others need a mask, and another kernel.
    sees_all: bool,
    /// The cache rows in the graph, where a kernel's order depends on them.
    n_kv: Option<usize>,
}

impl Kind {
    /// Whether the rows are run one by one.
    pub(super) fn is_alone(self) -> bool {
        self.n_kv.is_some()
    }
}

impl Executor {
    /// What a row has in common with those that it runs beside from a step on.
    pub(super) fn kind_of(&self, row: &Row, start: usize) -> Kind {
        let device = self.device_at(Plan::Whole, start);
        let sees_all = self.missing(std::iter::once(row), start).is_empty();
        let is_alone = row.reduction == Reduction::Decode && self.runs_row_by_row(device, sees_all);
        let n_kv = is_alone.then(|| self.n_kv(row.cache_row + 1, device));
        Kind { reduction: row.reduction, sees_all, n_kv }
    }

    /// Whether rows of [`Reduction::Decode`] have to be run row by row to come out as each alone would. With rows that are
    /// missing, attention is ggml's over a mask, on the CPU too.
    pub(super) fn runs_row_by_row(&self, device: usize, sees_all: bool) -> bool {
        // Our kernels add up a row alike, alone and beside others; ggml's do not.
        let is_cpu = device == Placement::CPU && sees_all && self.model.adds_rows_up_alike(&self.cache);
        // On a GPU that would cost more than rows beside each other gain.
        !is_cpu && !self.model.placement().devices()[device].is_gpu()
    }

    /// Cache rows in the graph of rows that see so many, on a device.
    pub(super) fn n_kv(&self, n_seen: usize, device: usize) -> usize {
        n_seen.next_multiple_of(kv_step(&self.model.placement().devices()[device])).min(self.cache.n_rows())
    }

    /// What the graph of a batch depends on.
    pub(super) fn key(
        &self,
        plan: Plan,
        range: &Range<usize>,
        rows: &[&mut Row],
        batch: &[usize],
        (n_out, keep): (usize, Keep),
        sees_all: bool,
    ) -> GraphKey {
        let (n_rows, device) = (batch.len(), self.device_at(plan, range.start));
        // Our kernel tells from positions what a row sees; ggml's take a mask, and so do rows that miss some.
        let by_position = device == Placement::CPU && sees_all && self.model.masks_by_position(&self.cache);
        // One key for every length; with a mask one for each step of cache rows.
        let n_kv = if by_position { 0 } else { self.n_kv(n_seen(rows, batch), device) };
        let reduction = rows[batch[0]].reduction; // of all of them
        let row_by_row = (2..=ROW_BY_ROW).contains(&n_rows)
            && reduction == Reduction::Decode
            && self.runs_row_by_row(device, sees_all);
        GraphKey { plan, start: range.start, end: range.end, n_rows, reduction, row_by_row, n_kv, n_out, keep }
    }

    /// What a batch gives to its graph.
    pub(super) fn feed(
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
            // Embeddings are on the CPU, wherever the first layer is.
            RowsFrom::Host if key.start == 0 => self.embed(&tokens, &positions)?,
            RowsFrom::Host => self.hidden.read(0, &places),
            RowsFrom::Tokens | RowsFrom::Waiting => Vec::new(),
        };
        let by_column = transposes_values(&self.cache, &steps_of(&self.params, key.plan)[key.start..key.end]);
        let value_places = if by_column { self.cache.value_places(&cache_rows) } else { Vec::new() };
        // What only some graphs take is empty for others: `fill` gives what a graph has a slot for.
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

    /// Where the rows of a graph come from, and where they go.
    pub(super) fn ends(&self, key: GraphKey) -> (RowsFrom, RowsTo) {
        let GraphKey { plan, start, end, n_out, .. } = key;
        let device = self.device_at(plan, start);
        let from = match start {
            0 if device == Placement::CPU => RowsFrom::Tokens,
            0 => RowsFrom::Host,
            // Whoever ran them so far goes on: the states have not moved.
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
}
