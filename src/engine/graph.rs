//! Builds the graphs that take rows through a range of the plan. Owns what makes two graphs the same, and what is given to one;
//! refuses to know how rows got there.

use half::f16;

use super::probe::Placed;
use super::row::Row;
use crate::dtype::DType;
use crate::ggml::{Builder, Ops, Run, Slot, Stored, Tensor};
use crate::kernels::{Reduction, Weight};
use crate::model::{Cache, LayerStep, Model, Rows, Visible};
use crate::plan::Half;

/// Which steps run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Plan {
    /// The engine's.
    Whole,
    /// The one that drafts.
    Draft,
    /// The engine's, keys and values only.
    Keys,
}

/// Groups of sixteen tokens whose logits are exact; 0 for the whole vocabulary.
pub(super) type Keep = usize;

/// What makes two graphs the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct GraphKey {
    pub(super) plan: Plan,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) n_rows: usize,
    pub(super) reduction: Reduction,
    /// Whether kernels get every row alone.
    pub(super) row_by_row: bool,
    /// Cache rows that the mask covers; 0 without a mask.
    pub(super) n_kv: usize,
    pub(super) n_out: usize,
    pub(super) keep: Keep,
}

/// Where the rows of a graph come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RowsFrom {
    /// From their tokens.
    Tokens,
    /// From where they wait on the graph's device.
    Waiting,
    /// From elsewhere, through this process's memory.
    Host,
}

/// Where the rows of a graph go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RowsTo {
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
pub(super) struct Slots {
    pub(super) tokens: Option<Slot>,
    pub(super) positions: Option<Slot>,
    pub(super) cache_rows: Option<Slot>,
    pub(super) value_places: Option<Slot>,
    pub(super) sees: Option<Slot>,
    pub(super) mask: Option<Slot>,
    pub(super) window_sees: Option<Slot>,
    pub(super) window_mask: Option<Slot>,
    pub(super) hidden_from: Option<Slot>,
    pub(super) states: Option<Slot>,
    pub(super) hidden_to: Option<Slot>,
    pub(super) out_rows: Option<Slot>,
    pub(super) hidden: Option<Slot>,
    pub(super) reading: Option<Slot>,
    pub(super) logits: Option<Slot>,
}

/// What a graph is given: a number, or some, of each row.
#[derive(Default)]
pub(super) struct Feed {
    pub(super) tokens: Vec<usize>,
    pub(super) positions: Vec<usize>,
    pub(super) cache_rows: Vec<usize>,
    /// Where states wait.
    pub(super) places: Vec<usize>,
    pub(super) out_rows: Vec<usize>,
    /// What [`crate::ggml::Ops::attention`] takes: the first row seen, the hole, and the last row seen.
    pub(super) sees: Vec<usize>,
    /// The same in layers with a window.
    pub(super) window_sees: Vec<usize>,
    /// States from elsewhere, \[n_embd\] each.
    pub(super) states: Vec<f32>,
    pub(super) value_places: Vec<i64>,
    pub(super) mask: Vec<f16>,
    pub(super) window_mask: Vec<f16>,
}

impl Feed {
    /// Fills the inputs that the graph has.
    pub(super) fn fill(&self, run: &mut Run<'_, Slots>) {
        let slots = run.slots();
        for (slot, values) in [
            (slots.tokens, &self.tokens),
            (slots.positions, &self.positions),
            (slots.hidden_from, &self.places),
            (slots.out_rows, &self.out_rows),
            (slots.sees, &self.sees),
            (slots.window_sees, &self.window_sees),
        ] {
            if let Some(slot) = slot {
                run.set_i32(slot, &values.iter().map(|&v| v as i32).collect::<Vec<_>>());
            }
        }
        for (slot, values) in [(slots.cache_rows, &self.cache_rows), (slots.hidden_to, &self.places)] {
            if let Some(slot) = slot {
                run.set_i64(slot, &values.iter().map(|&v| v as i64).collect::<Vec<_>>());
            }
        }
        if let Some(slot) = slots.states {
            run.set_f32(slot, &self.states);
        }
        if let Some(slot) = slots.value_places {
            run.set_i64(slot, &self.value_places);
        }
        for (slot, mask) in [(slots.mask, &self.mask), (slots.window_mask, &self.window_mask)] {
            if let Some(slot) = slot {
                run.set_f16(slot, mask);
            }
        }
    }
}

/// The first cache row that a row sees in a window of so many positions.
pub(super) fn first_seen(row: &Row, window: usize) -> usize {
    // A window counts positions; in the cache a hole may lie between them.
    let at = row.first + (row.position + 1).saturating_sub(window);
    // Rows before the hole lie side by side from the first on, those behind it so much further on.
    if at <= row.hole.start { at } else { at + row.hole.len() }
}

/// What each row sees: its own cache row and those before it in the window, but for the hole and what is missing there:
/// \[n_kv\] each.
pub(super) fn mask<'r>(
    rows: impl ExactSizeIterator<Item = &'r Row>,
    missing: &[usize],
    n_kv: usize,
    window: usize,
) -> Vec<f16> {
    let mut mask = vec![f16::NEG_INFINITY; rows.len() * n_kv];
    for (seen, row) in mask.chunks_exact_mut(n_kv).zip(rows) {
        seen[first_seen(row, window)..=row.cache_row].fill(f16::ZERO);
        // Rows in the hole are others': behind a shared prefix, or of branches beside it.
        seen[row.hole.clone()].fill(f16::NEG_INFINITY);
        missing.iter().filter(|&&at| at < n_kv).for_each(|&at| seen[at] = f16::NEG_INFINITY);
    }
    mask
}

/// Whether the values of steps on one device lie by column.
pub(super) fn transposes_values(cache: &Cache, steps: &[LayerStep]) -> bool {
    steps.iter().find(|step| step.has(Half::Attention)).is_some_and(|step| cache.transposes_values(step))
}

/// Whether any of these steps sees a window only.
pub(super) fn has_window(model: &Model, steps: &[LayerStep]) -> bool {
    steps.iter().any(|step| step.has(Half::Attention) && model.config().has_window(step.il))
}

/// Bound on the tensors of a graph.
pub(super) fn graph_size(model: &Model, key: GraphKey) -> usize {
    // Each row has nodes of its own there.
    let each = if key.row_by_row { Ops::TENSORS_ROW_BY_ROW * key.n_rows } else { 1 };
    each * model.graph_size(key.end - key.start)
}

/// The graph that takes `key.n_rows` rows through the steps `key.start..key.end` of the plan.
pub(super) fn build<'g>(
    g: &Builder<'g>,
    model: &'g Model,
    plan: &[LayerStep],
    cache: &'g Cache,
    (hidden, probe): (&'g Stored, Option<&'g Placed>),
    key: GraphKey,
    (from, to): (RowsFrom, RowsTo),
) -> Slots {
    // What it changes lies in the operations: a layer is written once.
    let g = &if key.row_by_row { g.row_by_row() } else { *g };
    let (n_rows, mut slots) = (key.n_rows, Slots::default());
    let mut steps = plan[key.start..key.end].to_vec();
    let rows = rows_of(g, model, &steps, cache, key, &mut slots);
    let h = match from {
        RowsFrom::Tokens => {
            model.embed(g, input(g, "inp_tokens", DType::I32, &[n_rows], &mut slots.tokens), rows.positions)
        }
        RowsFrom::Waiting => {
            g.ops.get_rows(hidden.t(), input(g, "inp_hidden_from", DType::I32, &[n_rows], &mut slots.hidden_from))
        }
        RowsFrom::Host => input(g, "inp_states", DType::F32, &[model.config().n_embd, n_rows], &mut slots.states),
    };
    if key.plan == Plan::Keys {
        // Steps without attention have no cache rows to fill.
        steps = steps.into_iter().filter(|step| step.has(Half::Attention)).map(LayerStep::kv_only).collect();
    }
    match to {
        RowsTo::Host => slots.hidden = Some(g.output(model.run(g, &steps, cache, &rows, h))),
        RowsTo::Waiting => {
            let h = model.run(g, &steps, cache, &rows, h);
            let places = input(g, "inp_hidden_to", DType::I64, &[n_rows], &mut slots.hidden_to);
            g.effect(g.ops.set_rows(hidden.t(), h, places));
            // Beside the state, which stays on the device: a few numbers come back.
            slots.reading = probe.map(|probe| g.output(probe.read(g, h)));
        }
        RowsTo::Nowhere | RowsTo::Head | RowsTo::HeadElsewhere => {
            run_to_end(g, model, steps, (cache, &rows), h, (key, to), &mut slots);
        }
    }
    slots
}

/// An input of a graph, which is given through a slot.
fn input<'g>(g: &Builder<'g>, name: &str, dtype: DType, shape: &[usize], slot: &mut Option<Slot>) -> Tensor<'g> {
    let (tensor, given) = g.input(name, dtype, shape);
    *slot = Some(given);
    tensor
}

/// The places of a graph's rows, and what they may see.
fn rows_of<'g>(
    g: &Builder<'g>,
    model: &Model,
    steps: &[LayerStep],
    cache: &Cache,
    GraphKey { n_rows, n_kv, reduction, .. }: GraphKey,
    slots: &mut Slots,
) -> Rows<'g> {
    let positions = input(g, "inp_pos", DType::I32, &[n_rows], &mut slots.positions);
    let cache_rows = input(g, "inp_cache_rows", DType::I64, &[n_rows], &mut slots.cache_rows);
    let n_values = model.config().n_embd_v() * n_rows;
    // Steps of one range lie on one device, whose values lie alike.
    let value_places = transposes_values(cache, steps)
        .then(|| input(g, "inp_value_places", DType::I64, &[n_values], &mut slots.value_places));
    // A kernel that tells from positions what a row sees needs four numbers a row, and serves every length.
    let seen = |name, sees: &mut Option<Slot>, mask: &mut Option<Slot>| match n_kv {
        0 => Visible { sees: Some(input(g, name, DType::I32, &[4, n_rows], sees)), mask: None },
        n_kv => Visible { sees: None, mask: Some(input(g, name, DType::F16, &[n_kv, n_rows], mask)) },
    };
    let all = seen("inp_seen", &mut slots.sees, &mut slots.mask);
    let in_window = match has_window(model, steps) {
        true => seen("inp_seen_in_window", &mut slots.window_sees, &mut slots.window_mask),
        false => Visible::default(),
    };
    Rows { positions, cache_rows, value_places, all, in_window, reduction }
}

/// The last steps of a plan, and the output head where it is on this device.
fn run_to_end<'g>(
    g: &Builder<'g>,
    model: &'g Model,
    mut steps: Vec<LayerStep>,
    (cache, rows): (&'g Cache, &Rows<'g>),
    h: Tensor<'g>,
    (key, to): (GraphKey, RowsTo),
    slots: &mut Slots,
) {
    // After the last attention only rows that give logits go on: the feed-forward network and the head are most of the last
    // step's work, and of a prompt one row needs them. Not where the other half of the layer takes what it took.
    let is_split = !model.config().is_parallel;
    let finish = steps.pop_if(|last| is_split && last.has(Half::FeedForward)).and_then(|last| {
        steps.extend(last.only(Half::Attention));
        last.only(Half::FeedForward)
    });
    let mut h = model.run(g, &steps, cache, rows, h);
    if to == RowsTo::Nowhere {
        // Nobody looks at what the last layer gives: its keys and values count.
        g.effect(h);
        return;
    }
    if key.n_out < key.n_rows {
        h = g.ops.get_rows(h, input(g, "inp_out_rows", DType::I32, &[key.n_out], &mut slots.out_rows));
    }
    h = model.run(g, finish.as_slice(), cache, rows, h);
    slots.hidden = Some(g.output(h));
    if to == RowsTo::Head {
        slots.logits = Some(g.output(head(g, model, h, key.keep)));
    }
}

/// The graph that makes logits of `key.n_rows` states from elsewhere.
pub(super) fn build_head<'g>(g: &Builder<'g>, model: &'g Model, key: GraphKey) -> Slots {
    let g = &if key.row_by_row { g.row_by_row() } else { *g };
    let (states, slot) = g.input("inp_hidden", DType::F32, &[model.config().n_embd, key.n_rows]);
    let logits = g.output(head(g, model, states, key.keep));
    Slots { states: Some(slot), logits: Some(logits), ..Slots::default() }
}

/// The graph that makes states of `key.n_rows` tokens at their positions.
pub(super) fn build_embeddings<'g>(g: &Builder<'g>, model: &'g Model, key: GraphKey) -> Slots {
    let (tokens, tokens_slot) = g.input("inp_tokens", DType::I32, &[key.n_rows]);
    let (positions, positions_slot) = g.input("inp_pos", DType::I32, &[key.n_rows]);
    let hidden = g.output(model.embed(g, tokens, positions));
    Slots { tokens: Some(tokens_slot), positions: Some(positions_slot), hidden: Some(hidden), ..Slots::default() }
}

fn head<'g>(g: &Builder<'g>, model: &'g Model, h: Tensor<'g>, keep: Keep) -> Tensor<'g> {
    match sketch(model, keep) {
        Some(sketch) => model.best_of_head(g, sketch, h, keep),
        None => model.head(g, h),
    }
}

pub(super) fn sketch(model: &Model, keep: Keep) -> Option<&Weight> {
    if keep > 0 { model.sketch() } else { None }
}
