//! Which device runs a step, where rows wait before it, and what is done about devices that are lost.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Executor, Wanted, steps_of};
use crate::engine::Error;
use crate::engine::graph::{GraphKey, Plan};
use crate::engine::row::Row;
use crate::kernels::Reduction;
use crate::model::Placement;
use crate::plan::Depth;

impl Executor {
    /// Builds the largest and the smallest graph of every range on devices other than the CPU, and runs a batch on GPUs, which
    /// take some memory only then: what they cannot compute, or have no memory for, shows before the first token.
    pub(super) fn rehearse(&mut self) -> Result<(), Error> {
        for range in self.segments(Plan::Whole, 0..self.n_steps()) {
            let device = self.device_at(Plan::Whole, range.start);
            // The CPU computes all nodes, and its memory is there once it is asked for.
            if device == Placement::CPU {
                continue;
            }
            // The largest needs the most memory, the smallest has kernels of its own.
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
        let wanted = Wanted { rows: &all[all.len() - 1..], keep: 0 };
        let result = self.run(Plan::Whole, range, &mut refs, &all, wanted, &mut |_, _| {});
        // It counts for nobody.
        self.n_run = 0.0;
        result
    }

    /// Makes devices that were lost and are needed up to a depth usable again. What they have forgotten counts in `n_lost`.
    pub(in crate::engine) fn revive(&mut self, to: Depth) -> Result<(), Error> {
        let mut needed: BTreeSet<usize> = (0..to.0).map(|step| self.device_at(Plan::Whole, step)).collect();
        needed.extend((to == self.full_depth()).then(|| self.model.placement().of_output()));
        for i in needed {
            let (device, seen) = (&self.model.placement().devices()[i], &mut self.generations[i]);
            device.revive()?;
            // It came back without what it held.
            if device.generation() != *seen {
                (*seen, self.n_lost) = (device.generation(), self.n_lost + 1);
                // Every row is evaluated anew, and then seen.
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
        // Workers do not speak to each other: from one to the next a state comes by here.
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
