//! Owns the keys and values of past positions, a row per position and step that has attention. Refuses rows beyond its length.

use std::ops::Range;
use std::sync::Arc;

use super::{Config, LayerStep, Placement, Rows};
use crate::dtype::DType;
use crate::ggml::{self, Builder, Device, Store, StoreBuilder, Stored, Tensor};
use crate::kernels::Heads;
use crate::plan::Half;

/// How values lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueLayout {
    /// A row per position, as flash attention reads them.
    Rows,
    /// A column per position, as a matrix product over positions reads them.
    Columns,
}

/// The key-value cache of an engine, each layer's on the layer's device. Memory is touched as rows come into use.
pub struct Cache {
    /// Layer and turn of the steps that have rows, in the order of these.
    steps: Vec<(usize, usize)>,
    k: Vec<Stored>,
    v: Vec<Stored>,
    /// Of each.
    layouts: Vec<ValueLayout>,
    /// Of those on the CPU.
    layout_on_cpu: ValueLayout,
    types: [DType; 2],
    n_embd_v: usize,
    n_rows: usize,
    n_ctx: usize,
    n_clear: usize,
}

impl Cache {
    /// A cache of `n_rows` positions for every step that has attention. `layout` says how values lie on a device.
    pub fn new(
        config: &Config,
        placement: &Placement,
        steps: &[LayerStep],
        n_rows: usize,
        type_k: DType,
        type_v: DType,
        layout: impl Fn(&Device) -> ValueLayout,
    ) -> Result<Cache, ggml::Error> {
        let shape_v = |layout| match layout {
            ValueLayout::Rows => [config.n_embd_v(), n_rows],
            ValueLayout::Columns => [n_rows, config.n_embd_v()],
        };
        let mut with_rows: Vec<(usize, usize)> = Vec::new();
        for step in steps.iter().filter(|step| step.has(Half::Attention)) {
            if !with_rows.contains(&(step.il, step.turn)) {
                with_rows.push((step.il, step.turn));
            }
        }
        let mut builder = StoreBuilder::new(2 * with_rows.len());
        let (mut k, mut v, mut layouts) = (Vec::new(), Vec::new(), Vec::new());
        for (il, _) in &with_rows {
            let device = &placement.devices()[placement.of_layer(*il)];
            layouts.push(layout(device));
            builder.place_on(device);
            k.push(builder.add_empty(&format!("cache_k-{il}"), type_k, &[config.n_embd_k(), n_rows])?);
            v.push(builder.add_empty(&format!("cache_v-{il}"), type_v, &shape_v(layout(device)))?);
        }
        let (n_embd_v, layout_on_cpu, types) = (config.n_embd_v(), layout(placement.cpu()), [type_k, type_v]);
        Ok(Cache { steps: with_rows, k, v, layouts, layout_on_cpu, types, n_embd_v, n_rows, n_ctx: n_rows, n_clear: 0 })
    }

    /// The same, said to hold texts of at most so many tokens each.
    pub fn for_texts_of(self, n_ctx: usize) -> Cache {
        Cache { n_ctx, ..self }
    }

    /// Tokens of a text at most.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Positions there is room for.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Holds the rows, where a step has any.
    pub fn store(&self) -> Option<&Arc<Store>> {
        self.k.first().map(Stored::store)
    }

    /// Whether every one of these steps that has attention has rows.
    pub fn serves(&self, steps: &[LayerStep]) -> bool {
        steps.iter().all(|step| !step.has(Half::Attention) || self.steps.contains(&(step.il, step.turn)))
    }

    /// Bytes of all rows.
    pub fn bytes(&self) -> usize {
        self.k.iter().chain(&self.v).map(|stored| stored.t().nbytes()).sum()
    }

    fn place(&self, step: &LayerStep) -> usize {
        let wanted = (step.il, step.turn);
        self.steps.iter().position(|own| *own == wanted).expect("the engine made rows for every step with attention")
    }

    /// Makes the first `n` rows readable: masked rows are multiplied by zero, which a stray NaN would survive.
    pub fn clear_up_to(&mut self, n: usize) {
        if n <= self.n_clear {
            return;
        }
        let first = self.n_clear;
        // Elsewhere all rows begin as zeros.
        for il in 0..self.k.len() {
            if !self.k[il].is_host() {
                continue;
            }
            for (offset, len) in chunks(&self.k[il], ValueLayout::Rows, first..n) {
                self.k[il].clear(offset, len);
            }
            for (offset, len) in chunks(&self.v[il], self.layouts[il], first..n) {
                self.v[il].clear(offset, len);
            }
        }
        self.n_clear = n;
    }

    /// Hands the bytes of some rows to `each`, piece by piece: a row per position, however they lie.
    pub fn read_rows(
        &self,
        rows: &[Range<usize>],
        each: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let n = rows.iter().map(Range::len).sum();
        for ((k, v), layout) in self.k.iter().zip(&self.v).zip(&self.layouts) {
            for (tensor, layout) in [(k, ValueLayout::Rows), (v, *layout)] {
                let mut bytes = Vec::new();
                for (offset, len) in chunks_of(tensor, layout, rows) {
                    let start = bytes.len();
                    bytes.resize(start + len, 0);
                    tensor.read(offset, &mut bytes[start..]);
                }
                match layout {
                    ValueLayout::Rows => each(&bytes)?,
                    ValueLayout::Columns => each(&transposed(&bytes, n, tensor.t().strides()[0]))?,
                }
            }
        }
        Ok(())
    }

    /// Overwrites some rows with the pieces that [`Cache::read_rows`] gave: `next` gives one of so many bytes.
    pub fn write_rows(
        &mut self,
        rows: Range<usize>,
        next: &mut dyn FnMut(usize) -> std::io::Result<Vec<u8>>,
    ) -> std::io::Result<()> {
        let layouts = self.layouts.iter();
        for ((k, v), layout) in self.k.iter_mut().zip(&mut self.v).zip(layouts) {
            for (tensor, layout) in [(k, ValueLayout::Rows), (v, *layout)] {
                let places = chunks(tensor, layout, rows.clone());
                let mut bytes = next(places.iter().map(|(_, len)| len).sum())?;
                if layout == ValueLayout::Columns {
                    bytes = transposed(&bytes, places.len(), tensor.t().strides()[0]);
                }
                let mut rest = &bytes[..];
                for (offset, len) in places {
                    let (own, others) = rest.split_at(len);
                    tensor.write(offset, own);
                    rest = others;
                }
            }
        }
        Ok(())
    }

    /// Whether a step's values lie by column.
    pub fn transposes_values(&self, step: &LayerStep) -> bool {
        self.layouts[self.place(step)] == ValueLayout::Columns
    }

    /// Element index of every value of these rows in a cache that keeps them by column: \[n_embd_v\] per row.
    pub fn value_places(&self, rows: &[usize]) -> Vec<i64> {
        let of_row = |&row: &usize| (0..self.n_embd_v).map(move |channel| (channel * self.n_rows + row) as i64);
        rows.iter().flat_map(of_row).collect()
    }

    /// Adds to the graph the writing of keys `k` \[n_embd_k, t\] and values `v` \[n_embd_v, t\].
    pub(super) fn write<'g>(
        &'g self,
        g: &Builder<'g>,
        step: &LayerStep,
        rows: &Rows<'g>,
        k: Tensor<'g>,
        v: Tensor<'g>,
    ) {
        let i = self.place(step);
        g.effect(g.ops.set_rows(self.k[i].t(), k, rows.cache_rows));
        let Some(places) = rows.value_places else {
            g.effect(g.ops.set_rows(self.v[i].t(), v, rows.cache_rows));
            return;
        };
        // Each value is a row of one element.
        let (all, [n_embd_v, t, ..]) = (self.v[i].t(), v.shape());
        let element = all.strides()[0];
        let cells = g.ops.view(all, [1, self.n_rows * n_embd_v, 1], [element, element], 0);
        let values = if t == 1 {
            g.ops.view(v, [1, n_embd_v, 1], [v.strides()[0], v.strides()[0]], 0)
        } else {
            g.ops.reshape(g.ops.contiguous(v), [1, n_embd_v * t])
        };
        g.effect(g.ops.set_rows(cells, values, places));
    }

    /// Whether keys and values on the CPU lie as the kernel for such heads reads them.
    pub(super) fn has_kernel(&self, heads: &Heads) -> bool {
        self.layout_on_cpu == ValueLayout::Columns && heads.has_kernel(self.types[0], self.types[1])
    }

    /// All keys and values of a step, where there is such a kernel.
    pub(super) fn for_kernel<'g>(&'g self, step: &LayerStep, heads: &Heads) -> Option<(Tensor<'g>, Tensor<'g>)> {
        let i = self.place(step);
        self.has_kernel(heads).then(|| (self.k[i].t(), self.v[i].t()))
    }

    /// The first `n_kv` rows of keys, by head: \[head, n_kv, n_head_kv\].
    pub(super) fn keys<'g>(&'g self, g: &Builder<'g>, config: &Config, step: &LayerStep, n_kv: usize) -> Tensor<'g> {
        by_head(g, self.k[self.place(step)].t(), config.head_dim_k, config.n_head_kv, n_kv)
    }

    /// The first `n_kv` positions of values, by head: \[head_v, n_kv, n_head_kv\], or by column \[n_kv, head_v, n_head_kv\].
    pub(super) fn values<'g>(&'g self, g: &Builder<'g>, config: &Config, step: &LayerStep, n_kv: usize) -> Tensor<'g> {
        let (all, head, n_head) = (self.v[self.place(step)].t(), config.head_dim_v, config.n_head_kv);
        match self.layouts[self.place(step)] {
            ValueLayout::Rows => by_head(g, all, head, n_head, n_kv),
            ValueLayout::Columns => {
                let column = all.strides()[1];
                g.ops.view(all, [n_kv, head, n_head], [column, column * head], 0)
            }
        }
    }
}

/// A matrix with rows of `n` elements, each of `size` bytes, the other way round.
fn transposed(bytes: &[u8], n: usize, size: usize) -> Vec<u8> {
    let row = n * size;
    let column = |i: usize| bytes.chunks_exact(row).flat_map(move |row| &row[i * size..(i + 1) * size]);
    (0..n).flat_map(column).copied().collect()
}

/// Offsets and lengths of the bytes of some positions of a cache tensor, column by column where they lie so.
fn chunks_of(tensor: &Stored, layout: ValueLayout, spans: &[Range<usize>]) -> Vec<(usize, usize)> {
    let spans: Vec<Vec<_>> = spans.iter().map(|span| chunks(tensor, layout, span.clone())).collect();
    let n = spans.first().map_or(0, Vec::len);
    (0..n).flat_map(|i| spans.iter().map(move |span| span[i])).collect()
}

/// The same of positions that lie side by side.
fn chunks(tensor: &Stored, layout: ValueLayout, positions: Range<usize>) -> Vec<(usize, usize)> {
    let ([_, n_columns, ..], [element, row, ..]) = (tensor.t().shape(), tensor.t().strides());
    match layout {
        ValueLayout::Rows => vec![(positions.start * row, positions.len() * row)],
        ValueLayout::Columns => {
            (0..n_columns).map(|c| (c * row + positions.start * element, positions.len() * element)).collect()
        }
    }
}

fn by_head<'g>(g: &Builder<'g>, rows: Tensor<'g>, head: usize, n_head: usize, n_kv: usize) -> Tensor<'g> {
    let head_bytes = rows.dtype().row_bytes(head).expect("the sequence checked that heads are whole blocks");
    g.ops.view(rows, [head, n_kv, n_head], [rows.strides()[1], head_bytes], 0)
}
