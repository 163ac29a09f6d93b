//! Owns the fitting of a chain over the checkpoints, by the `crfs` crate.

use crfs::train::Trainer;
use crfs::{Attribute, Model};

use crate::exit::{Crf, Reading};
use crate::files::unfinished;

/// What a look gives to the chain, by name; `@` and the checkpoint follow unless all share their weights.
const TOP: &str = "top";
const GAP: &str = "gap";
const BIAS: &str = "bias";
const DEPTH: &str = "depth";

/// Fits chains of readings to whether stopping there was right. `chains`: by row, by checkpoint. `depths`: of each
/// checkpoint, between 0 and 1; with `shared`, weights are the same at all checkpoints and depth is a feature.
pub(super) fn fit(chains: &[Vec<(Reading, bool)>], depths: &[f32], shared: bool) -> Result<Vec<Crf>, String> {
    let weights = train(chains, depths, shared).map_err(|e| format!("the chain cannot be fitted: {e}"))?;
    // Weights are told apart by their names: with one name at all checkpoints they are shared.
    let name = |what: &str, i: usize| if shared { what.to_owned() } else { format!("{what}@{i}") };
    let step = |(i, &depth): (usize, &f32)| {
        let of = |what: &str, state: usize| weights.get(&name(what, i), state);
        // Depth is constant at a checkpoint, so it is part of the bias there.
        let state = |s: usize| [of(TOP, s), of(GAP, s), of(BIAS, s) + depth * of(DEPTH, s)];
        let transition = |s: usize| [weights.get(&s.to_string(), 0), weights.get(&s.to_string(), 1)];
        Crf { state: [state(0), state(1)], transition: [transition(0), transition(1)] }
    };
    Ok(depths.iter().enumerate().map(step).collect())
}

/// The squared weights count this much: top and gap are small numbers and need large weights.
const RIDGE: f64 = 0.01;

fn train(chains: &[Vec<(Reading, bool)>], depths: &[f32], shared: bool) -> std::io::Result<Weights> {
    let mut trainer = Trainer::lbfgs().with_c2(RIDGE)?.with_max_iterations(200)?;
    for chain in chains {
        let look = |(i, (reading, _)): (usize, &(Reading, bool))| {
            let (top, gap) = (f64::from(reading.top), f64::from(reading.gap));
            if shared {
                let depth = Attribute::new(DEPTH, f64::from(depths[i]));
                return vec![Attribute::new(TOP, top), Attribute::new(GAP, gap), Attribute::new(BIAS, 1.0), depth];
            }
            [(TOP, top), (GAP, gap), (BIAS, 1.0)].map(|(what, v)| Attribute::new(format!("{what}@{i}"), v)).to_vec()
        };
        let looks: Vec<Vec<Attribute>> = chain.iter().enumerate().map(look).collect();
        let states: Vec<&str> = chain.iter().map(|(_, right)| if *right { "1" } else { "0" }).collect();
        trainer.append(&looks, &states)?;
    }
    // The crate trains into files only.
    let (_, file) = unfinished::scratch()?;
    trainer.train(file.path())?;
    let bytes = std::fs::read(file.path())?;
    let mut text = Vec::new();
    Model::new(&bytes)?.dump(&mut text)?;
    Ok(Weights::parse(&String::from_utf8_lossy(&text)))
}

/// (from, to, weight) of states and attributes.
struct Weights(Vec<(String, String, f32)>);

impl Weights {
    /// The crate shows a model's weights as text only: `  (type) from --> to: weight`.
    fn parse(text: &str) -> Weights {
        let line = |line: &str| {
            let (_, rest) = line.trim().split_once(") ")?;
            let (from, rest) = rest.split_once(" --> ")?;
            let (to, weight) = rest.split_once(": ")?;
            Some((from.to_owned(), to.to_owned(), weight.parse().ok()?))
        };
        Weights(text.lines().filter_map(line).collect())
    }

    fn get(&self, from: &str, to: usize) -> f32 {
        let to = to.to_string();
        self.0.iter().find(|(f, t, _)| f == from && *t == to).map_or(0.0, |(.., weight)| *weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_learns_that_sure_looks_are_right() {
        let look = |top: f32, right| (Reading { label: 0, top, gap: top / 2.0 }, right);
        let chains: Vec<_> = (0..200)
            .map(|i| {
                let (low, high) = (0.3 + 0.001 * i as f32, 0.99 - 0.0005 * i as f32);
                vec![look(low, false), look(if i % 3 == 0 { high } else { low }, i % 3 == 0), look(high, true)]
            })
            .collect();
        for shared in [false, true] {
            let steps = fit(&chains, &[0.3, 0.5, 0.9], shared).unwrap();
            let after = |tops: [f32; 2]| {
                let first = steps[0].follow(None, [tops[0], tops[0] / 2.0]);
                let [wrong, right] = steps[1].follow(Some(first), [tops[1], tops[1] / 2.0]);
                right - wrong
            };
            assert!(after([0.4, 0.95]) > 0.0 && after([0.4, 0.45]) < 0.0, "shared: {shared}");
        }
    }
}
