//! What lies before the first step and behind the last, where it runs by itself: embeddings and the output head.

use super::not_finite::first_not_finite;
use super::{Executor, ROW_BY_ROW};
use crate::engine::graph::{Feed, GraphKey, Keep, Plan, build_embeddings, build_head, graph_size, sketch};
use crate::engine::{Error, TokenId};
use crate::kernels::{Reduction, Weight};
use crate::model::Placement;

impl Executor {
    /// Embeddings of tokens at their positions, made on the CPU: \[n_embd\] each.
    pub(super) fn embed(&mut self, tokens: &[usize], positions: &[usize]) -> Result<Vec<f32>, Error> {
        let n_rows = tokens.len();
        // No attention here: the order of its sums does not matter.
        let reduction = Reduction::Decode;
        let row_by_row = false;
        let key =
            GraphKey { plan: Plan::Whole, start: 0, end: 0, n_rows, reduction, row_by_row, n_kv: 0, n_out: 0, keep: 0 };
        let model = &self.model;
        let mut run = self.runners[Placement::CPU]
            .prepare(key, model.graph_size(0), &[model.store()], |g| build_embeddings(g, model, key))?;
        let slots = run.slots();
        Feed { tokens: tokens.to_vec(), positions: positions.to_vec(), ..Feed::default() }.fill(&mut run);
        let computed = run.compute()?;
        Ok(slots.hidden.map_or_else(Vec::new, |slot| computed.f32(slot).to_vec()))
    }

    /// What tokens are before the first step: \[n_embd\] each, one after the other.
    pub(in crate::engine) fn embeddings(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>, Error> {
        let tokens: Vec<usize> = tokens.iter().map(|&token| token as usize).collect();
        self.embed(&tokens, &(0..tokens.len()).collect::<Vec<_>>())
    }

    /// What the output head makes of hidden states, \[n_embd\] each: \[n_vocab\] each, one after the other.
    pub(in crate::engine) fn logits_of_states(&mut self, states: &[f32], keep: Keep) -> Result<Vec<f32>, Error> {
        let n_rows = states.len() / self.model.config().n_embd;
        let logits = self.logits_of(states, keep)?;
        // What is wrong with the weights is looked for only where something came out wrong: it reads the whole file.
        if first_not_finite(&logits, n_rows, keep).is_none() {
            return Ok(logits);
        }
        let overflow = || "the numbers overflow on the way".to_owned();
        let cause = self.broken_weight().unwrap_or_else(overflow);
        Err(Error::NotFinite { place: "of a hidden state".to_owned(), cause })
    }

    pub(super) fn logits_of(&mut self, states: &[f32], keep: Keep) -> Result<Vec<f32>, Error> {
        let n_embd = self.model.config().n_embd;
        let (n, n_rows) = (self.n_steps(), states.len() / n_embd);
        let of_output = self.model.placement().of_output();
        // A graph of no rows is none.
        if n_rows == 0 {
            return Ok(Vec::new());
        }
        let key = GraphKey {
            plan: Plan::Whole,
            start: n,
            end: n,
            n_rows,
            reduction: Reduction::Decode,
            // The head sees no cache: rows that somebody hides do not matter here.
            row_by_row: (2..=ROW_BY_ROW).contains(&n_rows) && self.runs_row_by_row(of_output, true),
            n_kv: 0,
            n_out: n_rows,
            keep,
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
