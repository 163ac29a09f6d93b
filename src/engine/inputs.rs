//! A text of which many places are looked at: their logits, and what enters the multiplications on the way.

use std::collections::BTreeMap;

use super::executor::Wanted;
use super::row::Row;
use super::{Error, Sequence, TokenId};
use crate::kernels::{Observed, Reduction};

/// Sums over the rows that entered a multiplication, column by column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputSums {
    /// Rows so far.
    pub n_rows: u64,
    /// \[n_in\]
    pub sums: Vec<f64>,
    /// Sums of squares, \[n_in\].
    pub squares: Vec<f64>,
}

/// By the weight that is multiplied by; matrices that the model keeps in one tensor have their names joined by `+`.
pub type Inputs = BTreeMap<String, InputSums>;

impl InputSums {
    pub(super) fn merge(&mut self, other: &InputSums) {
        self.n_rows += other.n_rows;
        for (all, new) in [(&mut self.sums, &other.sums), (&mut self.squares, &other.squares)] {
            all.resize(new.len(), 0.0);
            all.iter_mut().zip(new).for_each(|(all, &new)| *all += new);
        }
    }

    pub(super) fn add(&mut self, observed: &Observed<'_>) {
        self.n_rows += observed.n_rows as u64;
        for (all, new) in [(&mut self.sums, observed.sums), (&mut self.squares, observed.squares)] {
            all.resize(new.len(), 0.0);
            all.iter_mut().zip(new).for_each(|(all, &new)| *all += f64::from(new));
        }
    }
}

impl Sequence {
    /// Evaluates a text through the whole plan, in batches, in place of the sequence's. `shown` are the places that are looked at,
    /// rising: `each` gets them batch by batch, with their logits, \[n_vocab\] each.
    pub fn read(
        &mut self,
        tokens: &[TokenId],
        shown: &[usize],
        each: &mut dyn FnMut(&[usize], &[f32]),
    ) -> Result<(), Error> {
        self.check(tokens)?;
        // Every logit of a place is looked at: a shortlist would hide most.
        self.need(0);
        self.rewind(0);
        self.extend(tokens, Reduction::Prefill);
        let (engine, full, n_batch) = (self.engine().clone(), self.full_depth(), self.params.n_batch);
        let mut executor = engine.lock();
        // In batches: all logits of a long text would not fit into memory.
        let (mut logits, mut rest) = (Vec::new(), shown);
        for (i, batch) in self.rows.chunks_mut(n_batch).enumerate() {
            let (start, end) = (i * n_batch, i * n_batch + batch.len());
            // Places rise, so those of a batch are the first that are left.
            let (here, later) = rest.split_at(rest.partition_point(|&place| place < end));
            rest = later;
            let outs: Vec<usize> = here.iter().map(|place| place - start).collect();
            let mut rows: Vec<&mut Row> = batch.iter_mut().collect();
            logits.clear();
            let wanted = Wanted { rows: &outs, keep: 0 };
            executor.run_to_depth(&mut rows, full, wanted, &mut |_, finished| logits.extend(finished.logits))?;
            each(here, &logits);
        }
        Ok(())
    }
}
