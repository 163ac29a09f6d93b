//! Owns how far a row is on its way: in steps of a plan, in layers of the model, and what one is in the other.

use std::fmt;

use super::{Half, LayerStep};

/// So many steps of a plan, from the first on: how deep a row is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Depth(pub usize);

/// So many layers of the model, from the first on: what exit files count in. It is another number than the [`Depth`] of a
/// plan that leaves layers out, halves them or runs them twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerCount(pub usize);

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LayerCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many of the model's layers steps are worth, on a model whose full depth is `full`: a whole layer counts 1, one of its
/// two halves 0.5, its keys alone 0. Full depth is so the number of layers, whatever halves a model lacks. All that is said of
/// layers per token is counted by this.
pub fn layers_of(steps: &[LayerStep], full: &[LayerStep]) -> f64 {
    let of_step = |step: &LayerStep| {
        // A half that the model lacks is worth nothing, and the other then a whole layer.
        let own = |half: &Half| full.get(step.il).is_none_or(|whole| whole.has(*half));
        let (all, run) = Half::BOTH
            .iter()
            .filter(|half| own(half))
            .fold((0u32, 0u32), |(all, run), half| (all + 1, run + u32::from(step.has(*half))));
        f64::from(run) / f64::from(all.max(1))
    };
    // Halves are exact in binary, and so is every sum of them.
    steps.iter().map(of_step).sum()
}

/// How deep in a plan a state is that has been through the first `n_layers` layers: behind the last step that runs one of
/// them. `None` where nothing, or nothing else, runs.
pub fn depth_after(steps: &[LayerStep], LayerCount(n_layers): LayerCount) -> Option<Depth> {
    // The last one: in a plan that repeats layers a state has been through them only behind it.
    let depth = steps.iter().rposition(|step| step.il < n_layers)? + 1;
    (depth < steps.len()).then_some(Depth(depth))
}

/// The number of layers that a state has been through at a depth of a plan: the inverse of [`depth_after`] for plans in rising
/// order.
pub fn layers_before(steps: &[LayerStep], Depth(depth): Depth) -> LayerCount {
    LayerCount(steps[..depth].iter().map(|step| step.il + 1).max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::{Layers, full};
    use super::*;

    #[test]
    fn steps_are_worth_layers() {
        let worth =
            |text: &str, full: &[LayerStep]| layers_of(&Layers::parse(text).unwrap().steps(full).unwrap(), full);
        for (text, layers) in [("0-9", 10.0), ("~3-5", 7.0), ("~0-4:attn", 7.5), ("2-3x2", 12.0), ("0,0:mlp", 1.5)] {
            assert_eq!(worth(text, &full(10)), layers, "{text}");
        }
        let mut pruned = full(4);
        pruned[2] = pruned[2].without(Half::Attention).unwrap();
        assert_eq!((layers_of(&pruned, &pruned), worth("~2", &pruned), worth("~1:mlp", &pruned)), (4.0, 3.0, 3.5));
        assert_eq!(layers_of(&[LayerStep::whole(1).kv_only()], &full(4)), 0.0);
    }

    #[test]
    fn a_depth_belongs_to_a_number_of_layers() {
        let steps = Layers::parse("~3-5").unwrap().steps(&full(10)).unwrap();
        let depths: Vec<Option<usize>> = (0..=10).map(|n| Some(depth_after(&steps, LayerCount(n))?.0)).collect();
        let expected = [None, Some(1), Some(2), Some(3), Some(3), Some(3), Some(3), Some(4), Some(5), Some(6), None];
        assert_eq!(depths, expected);
        assert_eq!(
            (1..=7).map(|depth| layers_before(&steps, Depth(depth)).0).collect::<Vec<_>>(),
            [1, 2, 3, 7, 8, 9, 10]
        );
    }
}
