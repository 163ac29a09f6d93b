//! Owns what the parts of a layer cost in time when one token is generated, by running the model without them.

use std::sync::Arc;
use std::time::Instant;

use crate::engine::{EngineParams, Sequence, TokenId};
use crate::eval::Error;
use crate::generate::median;
use crate::model::{LayerStep, Model};
use crate::plan::Half;

/// Seconds that a generated token takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// In the attention of one layer.
    pub attention: f64,
    /// In its feed-forward network.
    pub feed_forward: f64,
    /// Outside of layers.
    pub rest: f64,
}

impl Costs {
    /// Seconds of a token that runs such steps.
    pub fn of(&self, plan: &[LayerStep]) -> f64 {
        let of = |half| if half == Half::Attention { self.attention } else { self.feed_forward };
        let cost = |step: &LayerStep| step.halves().map(of).sum::<f64>();
        self.rest + plan.iter().map(cost).sum::<f64>()
    }
}

/// Measures the costs of a plan's parts after `n_context` tokens, from `n_tokens` tokens each.
pub fn measure_costs(
    model: &Arc<Model>,
    params: &EngineParams,
    plan: &[LayerStep],
    n_context: usize,
    n_tokens: usize,
) -> Result<Costs, Error> {
    let without = |half: Half| -> Vec<LayerStep> { plan.iter().filter_map(|step| step.without(half)).collect() };
    let count = |half: Half| plan.iter().filter(|step| step.has(half)).count();
    let halves = [Half::Attention, Half::FeedForward];
    let mut plans = vec![plan.to_vec()];
    // Without one half there must be another left.
    let removable: Vec<Half> = halves.into_iter().filter(|&half| count(half) > 0 && count(half.other()) > 0).collect();
    plans.extend(removable.iter().map(|&half| without(half)));
    let times = token_times(model, params, &plans, n_context, n_tokens)?;
    let times: Vec<f64> = times.into_iter().map(|times| median(times).unwrap_or(0.0)).collect();
    let of = |half: Half| {
        let saved = removable.iter().position(|own| *own == half).map(|i| times[0] - times[i + 1]);
        saved.map_or(times[0], |saved| saved.max(0.0)) / count(half).max(1) as f64
    };
    let mut costs = Costs { attention: of(Half::Attention), feed_forward: of(Half::FeedForward), rest: 0.0 };
    costs.rest = (times[0] - costs.of(plan)).max(0.0);
    Ok(costs)
}

/// How many times as fast `plan` generates a token after `n_context` tokens as `unpruned` does: the median over pairs of tokens, so
/// that a slow moment of the machine hits both.
pub fn measure_speed(
    model: &Arc<Model>,
    params: &EngineParams,
    unpruned: &[LayerStep],
    plan: &[LayerStep],
    n_context: usize,
    n_tokens: usize,
) -> Result<f64, Error> {
    let times = token_times(model, params, &[unpruned.to_vec(), plan.to_vec()], n_context, n_tokens)?;
    let ratios = times[0].iter().zip(&times[1]).map(|(whole, pruned)| whole / pruned.max(f64::MIN_POSITIVE));
    Ok(median(ratios).unwrap_or(0.0))
}

/// Seconds of every generated token of each plan, after `n_context` tokens, measured by turns.
fn token_times(
    model: &Arc<Model>,
    params: &EngineParams,
    plans: &[Vec<LayerStep>],
    n_context: usize,
    n_tokens: usize,
) -> Result<Vec<Vec<f64>>, Error> {
    let n_vocab = model.config().n_vocab;
    let token = |i: usize| ((i * 7919 + 13) % n_vocab) as TokenId;
    let sequence = |plan: &Vec<LayerStep>| {
        let params = EngineParams { n_ctx: n_context + n_tokens + 1, ..params.with_plan(plan.clone()) };
        Ok((Sequence::alone(model.clone(), params)?, Vec::new()))
    };
    let mut sequences = plans.iter().map(sequence).collect::<Result<Vec<_>, Error>>()?;
    // Behind the sequences: they refuse what no machine holds.
    let context: Vec<TokenId> = (0..n_context).map(token).collect();
    for (sequence, _) in &mut sequences {
        sequence.sync(&context, &mut |_, _| std::ops::ControlFlow::Continue(()))?;
    }
    for i in 0..=n_tokens {
        for (sequence, times) in &mut sequences {
            sequence.push(token(n_context + i))?;
            let start = Instant::now();
            sequence.logits()?;
            // The first builds the graph.
            times.extend((i > 0).then(|| start.elapsed().as_secs_f64()));
        }
    }
    Ok(sequences.into_iter().map(|(_, times)| times).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::full;

    #[test]
    fn a_plan_costs_what_its_parts_do() {
        let costs = Costs { attention: 1.0, feed_forward: 2.0, rest: 5.0 };
        let mut plan = full(3);
        assert_eq!(costs.of(&plan), 14.0);
        plan[1] = plan[1].without(Half::Attention).unwrap();
        assert_eq!(costs.of(&plan[..2]), 10.0);
    }
}
