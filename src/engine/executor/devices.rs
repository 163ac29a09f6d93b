//! Which device runs a step, where rows wait before it, and what is done about devices that are lost.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Executor, steps_of};
use crate::engine::Error;
use crate::engine::graph::{GraphKey, Plan};
use crate::engine::row::{KV_STEP, Row};
use crate::ggml::Device;
use crate::kernels::Reduction;
use crate::model::Placement;

impl Executor {
    /// Builds the largest and the smallest graph of every range on devices other than the CPU, and runs a batch on GPUs, which
    /// take some memory only then: what they cannot compute, or have no memory for, shows before the first token.
    pub(super) fn rehearse(&mut self) -> Result<(), Error> {
        for range in self.segments(Plan::Whole, 0..self.n_steps()) {
            let device = self.device_at(Plan::Whole, range.start);
            if device == Placement::CPU {
                continue;
            }
            for (n_rows, n_kv) in [(self.params.n_batch, self.cache.n_rows()), (1, self.n_kv(1, device))] {
                let n_out = usize::from(range.end == self.n_steps());
                let reduction = if n_rows == 1 { Reduction::Decode } else { Reduction::Prefill };
                let (start, end) = (range.start, range.end);
                let key = GraphKey {
                    plan: Plan::Whole,
                    start,
                    end,
                    n_rows,
                    reduction,
                    row_by_row: false,
                    n_kv,
                    n_out,
                    keep: 0,
                };
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
        let mut rows: Vec<Row> = (0..self.params.n_batch).map(|i| Row::new(0, i, Reduction::Prefill)).collect();
        let all: Vec<usize> = (0..rows.len()).collect();
        let mut refs: Vec<&mut Row> = rows.iter_mut().collect();
        let result = self.run(Plan::Whole, range, &mut refs, &all, &all[all.len() - 1..], &mut |_, _| {});
        self.n_run = 0.0;
        result
    }

    /// Makes devices that were lost and are needed up to a depth usable again. What they have forgotten counts in `n_lost`.
    pub(in crate::engine) fn revive(&mut self, to: usize) -> Result<(), Error> {
        let mut needed: BTreeSet<usize> = (0..to).map(|step| self.device_at(Plan::Whole, step)).collect();
        needed.extend((to == self.n_steps()).then(|| self.model.placement().of_output()));
        for i in needed {
            let (device, seen) = (&self.model.placement().devices()[i], &mut self.generations[i]);
            device.revive()?;
            if device.generation() != *seen {
                (*seen, self.n_lost) = (device.generation(), self.n_lost + 1);
                self.masked_rows.clear();
            }
        }
        Ok(())
    }

    /// Why reads and writes since the last check are worth nothing, if they are.
    pub(in crate::engine) fn check_devices(&self) -> Result<(), Error> {
        Ok(self.model.placement().devices().iter().try_for_each(|device| device.check())?)
    }

    /// The same of where states wait at a depth.
    pub(super) fn check_home(&self, depth: usize) -> Result<(), Error> {
        Ok(self.model.placement().devices()[self.home(Plan::Whole, depth)].check()?)
    }

    /// The device that runs a step.
    pub(super) fn device_at(&self, plan: Plan, step: usize) -> usize {
        self.model.placement().of_layer(steps_of(&self.params, plan)[step].il)
    }

    /// Where rows wait before a step: with the device that ran them so far and goes on with them, or on the CPU.
    pub(super) fn home(&self, plan: Plan, depth: usize) -> usize {
        let before = self.device_at(plan, depth - 1);
        if before == self.device_at(plan, depth) { before } else { Placement::CPU }
    }

    /// The parts of a range of steps that run on one device each.
    pub(super) fn segments(&self, plan: Plan, range: Range<usize>) -> Vec<Range<usize>> {
        let borders =
            (range.start + 1..range.end).filter(|&step| self.device_at(plan, step - 1) != self.device_at(plan, step));
        let ends: Vec<usize> = borders.chain([range.end]).collect();
        let starts = [range.start].into_iter().chain(ends.iter().copied());
        starts.zip(ends.iter().copied()).map(|(start, end)| start..end).collect()
    }
}

/// What cache rows in a graph are rounded up to on a device.
pub(super) fn kv_step(device: &Device) -> usize {
    /// ggml's fastest kernels take whole blocks of it.
    const GPU: usize = 256;
    if device.is_gpu() { GPU } else { KV_STEP }
}
