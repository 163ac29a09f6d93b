//! Owns what "layers per token" means, and how it is told. All commands tell it by this.
//!
//! *Executed* is what the machine did: rows times layers of everything that ran while tokens were generated (their own way
//! through the layers, the finding of drafts, drafts that turned out wrong, rows whose owed layers were settled), over the
//! tokens. A prompt does not count, but for its last row, which the first token of an answer comes out of. *Needed* is what
//! each token was chosen after: the layers before the checkpoint that was sure of it, or before the draft that came true; 0
//! where it was looked up. Layers are counted as [`crate::plan::layers_of`] does, and always beside all that the model has:
//! `--layers` saves layers too. More executed than the model has is a loss, and is called one.

use std::fmt;

use serde_json::{Number, Value};

/// Layers per token of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LayersPerToken {
    pub(crate) executed: f64,
    pub(crate) needed: f64,
    /// Layers of the model.
    pub(crate) n_layer: usize,
}

impl LayersPerToken {
    /// Whether as much was executed as was needed, as it is printed.
    fn is_even(&self) -> bool {
        format!("{:.2}", self.executed) == format!("{:.2}", self.needed)
    }
}

impl fmt::Display for LayersPerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LayersPerToken { executed, needed, n_layer } = *self;
        let share = Saved::of(executed, n_layer as f64);
        write!(f, "layers {executed:.2} of {n_layer} per token, {share}")?;
        if self.is_even() { Ok(()) } else { write!(f, ", {needed:.2} needed") }
    }
}

/// A share that is saved, or lost.
pub(crate) struct Saved(f64);

impl Saved {
    /// What `part` of `whole` saves.
    pub(crate) fn of(part: f64, whole: f64) -> Saved {
        Saved(100.0 * (1.0 - part / whole))
    }
}

impl fmt::Display for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.1}", self.0.abs());
        // Rounding makes nothing of a small loss, and leaves -0.0 of nothing.
        let word = if self.0 < 0.0 && text != "0.0" { "more" } else { "saved" };
        write!(f, "{text} % {word}")
    }
}

/// Layers for programs: whole numbers without a point.
pub(crate) fn numbers(layers: &[f64]) -> Vec<Value> {
    let number = |&layers: &f64| match layers.fract() == 0.0 {
        true => Value::from(layers as u64),
        false => Number::from_f64(layers).map_or(Value::Null, Value::Number),
    };
    layers.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_a_loss() {
        let text = |executed, needed| LayersPerToken { executed, needed, n_layer: 30 }.to_string();
        assert_eq!(text(30.0, 30.0), "layers 30.00 of 30 per token, 0.0 % saved");
        assert_eq!(text(30.0, 25.5), "layers 30.00 of 30 per token, 0.0 % saved, 25.50 needed");
        assert_eq!(text(31.25, 24.0), "layers 31.25 of 30 per token, 4.2 % more, 24.00 needed");
        assert_eq!(text(22.5, 22.5), "layers 22.50 of 30 per token, 25.0 % saved");
        assert_eq!(text(30.001, 30.001), "layers 30.00 of 30 per token, 0.0 % saved");
    }

    #[test]
    fn whole_numbers_have_no_point() {
        assert_eq!(serde_json::to_string(&numbers(&[30.0, 22.5, 0.0])).unwrap(), "[30,22.5,0]");
    }
}
