//! Writes a plan as the shorter of two texts: what runs, or what is left out.

use super::{Half, LayerStep, Runs};

/// The text of a plan, on a model whose full depth is `full`.
pub fn text(steps: &[LayerStep], full: &[LayerStep]) -> String {
    let list = runs(steps.iter().map(|step| (step.il, half_of(step, full))), "");
    match left_out(steps, full) {
        Some(left_out) if !left_out.is_empty() && left_out.len() < list.len() => left_out,
        _ => list,
    }
}

/// The half that runs, where the layer has another.
fn half_of(step: &LayerStep, full: &[LayerStep]) -> Option<Half> {
    match step.runs {
        Runs::Half(half) if full.get(step.il).is_none_or(|whole| whole.runs != step.runs) => Some(half),
        _ => None,
    }
}

/// What is missing, if the steps are in rising order.
fn left_out(steps: &[LayerStep], full: &[LayerStep]) -> Option<String> {
    if !steps.is_sorted_by(|a, b| a.il < b.il) {
        return None;
    }
    let missing = full.iter().filter_map(|whole| match steps.iter().find(|step| step.il == whole.il) {
        None => Some((whole.il, None)),
        Some(step) if step.runs == whole.runs => None,
        Some(step) => Some((whole.il, step.halves().next().map(Half::other))),
    });
    Some(runs(missing, "~"))
}

/// Items of neighbouring layers of which the same is said.
fn runs(layers: impl Iterator<Item = (usize, Option<Half>)>, mark: &str) -> String {
    let mut runs: Vec<(usize, usize, Option<Half>)> = Vec::new();
    for (il, half) in layers {
        match runs.last_mut() {
            Some((_, last, same)) if *last + 1 == il && *same == half => *last = il,
            _ => runs.push((il, il, half)),
        }
    }
    let item = |&(first, last, half): &(usize, usize, Option<Half>)| {
        let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
        let half = half.map_or_else(String::new, |half| format!(":{}", half.name()));
        format!("{mark}{range}{half}")
    };
    runs.iter().map(item).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::super::{Layers, full};
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same_plan() {
        let full = full(30);
        for (plan, expected) in [
            ("0-29", "0-29"),
            ("~7", "~7"),
            ("~20-29:attn", "~20-29:attn"),
            ("~3,~20:attn,~21:mlp", "~3,~20:attn,~21:mlp"),
            ("5<>6", "0-4,6,5,7-29"),
            ("8-12x2", "0-12,8-29"),
            ("3,2:mlp", "3,2:mlp"),
            ("0-1", "0-1"),
        ] {
            let steps = Layers::parse(plan).unwrap().steps(&full).unwrap();
            let written = text(&steps, &full);
            assert_eq!(written, expected);
            assert_eq!(Layers::parse(&written).unwrap().steps(&full).unwrap(), steps, "{plan}");
        }
    }

    #[test]
    fn what_a_model_lacks_is_not_said() {
        let mut full = full(4);
        full[2] = full[2].without(Half::Attention).unwrap();
        assert_eq!(text(&full, &full), "0-3");
        let steps = Layers::parse("~2").unwrap().steps(&full).unwrap();
        assert_eq!(text(&steps, &full), "~2");
        assert!(Layers::parse("0,2:attn").unwrap().steps(&full).is_err());
    }
}
