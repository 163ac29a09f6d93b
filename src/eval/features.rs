//! Owns what a checkpoint sees of a question.

use super::Error;
use super::questions::{Asked, Questions};
use crate::engine::{self, Cut, View};
use crate::exit::{Checkpoint, Decision, Input, Lens, Probe, Reading, reading_of, softmax_reading};
use crate::model::{FinalNorm, Model, OutputRow};

/// Makes of a cut what a policy reads.
pub(super) struct FeatureExtractor<'q> {
    pub(super) input: Input,
    questions: Option<&'q Questions<'q>>,
    /// Where [`Input::Labels`] are read: by layer; layer 0 is without a lens.
    label_rows: Vec<(usize, Vec<OutputRow>)>,
    lenses: Vec<(usize, &'q Lens)>,
    norm: FinalNorm,
}

/// What a checkpoint has before it.
pub(super) struct Features {
    /// What a fitted read-out reads.
    pub(super) input: Vec<f32>,
    /// What is read without one.
    pub(super) reading: Option<Reading>,
    /// The answer that `reading` stands for: a vocabulary's best token is not always a label.
    answer: usize,
}

impl<'q> FeatureExtractor<'q> {
    /// With the lenses of some layers.
    pub(super) fn new(
        input: Input,
        questions: &'q Questions<'q>,
        lenses: Vec<(usize, &'q Lens)>,
        model: &Model,
    ) -> Result<FeatureExtractor<'q>, Error> {
        let rows = model.output_rows(questions.label_ids())?;
        let mut label_rows = Vec::new();
        if input == Input::Labels {
            let folded = |lens: &Lens, (row, constant): &OutputRow| {
                let (row, of_lens) = lens.fold(row);
                (row, of_lens + constant)
            };
            let fold = |lens: &Lens| rows.iter().map(|row| folded(lens, row)).collect();
            label_rows.extend(lenses.iter().map(|(layer, lens)| (*layer, fold(lens))));
            label_rows.push((0, rows));
        }
        Ok(FeatureExtractor {
            input,
            questions: Some(questions),
            label_rows,
            lenses,
            norm: model.config().final_norm(),
        })
    }

    /// Looks at tokens, not at a task's questions.
    pub(super) fn of_tokens(lenses: Vec<(usize, &'q Lens)>, model: &Model) -> FeatureExtractor<'q> {
        let norm = model.config().final_norm();
        FeatureExtractor { input: Input::Vocabulary, questions: None, label_rows: Vec::new(), lenses, norm }
    }

    /// Runs `ask` with the view that the input needs.
    pub(super) fn with_view<R>(&self, ask: impl FnOnce(View<'_>) -> R) -> R {
        let through = |layer: usize, hidden: &[f32]| self.lens(layer).apply(&self.normed(hidden));
        match self.input {
            Input::Hidden | Input::Labels => ask(View::Hidden),
            _ if self.lenses.is_empty() => ask(View::Logits),
            _ => ask(View::Through(&through)),
        }
    }

    fn lens(&self, layer: usize) -> &Lens {
        self.lenses.iter().find(|(l, _)| *l == layer).expect("all checkpoints have one, or none").1
    }

    /// What there is to read of a question.
    pub(super) fn extract(&self, asked: &Asked, cuts: &[&Cut]) -> Features {
        if !cuts[0].reading.is_empty() {
            let reading = reading_of(&cuts[0].reading);
            return Features { input: Vec::new(), reading: Some(reading), answer: reading.label };
        }
        let fitted = |input| Features { input, reading: None, answer: 0 };
        match (self.input, self.questions) {
            (Input::Hidden, _) => fitted(self.normed(&cuts[0].hidden)),
            (Input::Labels, _) => fitted(self.labels(cuts[0])),
            (Input::Vocabulary | Input::Confidence, _) | (_, None) => {
                let answer = self.questions.map_or(0, |questions| questions.read(asked, cuts).label);
                Features { input: Vec::new(), reading: Some(softmax_reading(&cuts[0].logits)), answer }
            }
            (Input::Choices, Some(questions)) => {
                let reading = questions.read(asked, cuts);
                Features { input: Vec::new(), reading: Some(reading), answer: reading.label }
            }
        }
    }

    fn labels(&self, cut: &Cut) -> Vec<f32> {
        let x = self.normed(&cut.hidden);
        let rows = self.label_rows_at(cut.layers_run);
        let dot = |row: &[f32]| row.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>();
        rows.iter().map(|(row, constant)| dot(row) + constant).collect()
    }

    fn label_rows_at(&self, layer: usize) -> &[OutputRow] {
        let wanted = if self.lenses.is_empty() { 0 } else { layer };
        self.label_rows.iter().find(|(layer, _)| *layer == wanted).map_or(&[], |(_, rows)| rows)
    }

    /// What a sequence can read for the checkpoints where the states are: the fitted read-outs, with what lies before them.
    pub(super) fn probes(&self, checkpoints: &[Checkpoint]) -> Vec<engine::Probe> {
        let probe = |checkpoint: &Checkpoint| {
            let (depth, probe) = (checkpoint.layer, checkpoint.probe.as_ref()?);
            match self.input {
                Input::Hidden => {
                    Some(engine::Probe { depth, weights: probe.weights.clone(), bias: probe.bias.clone() })
                }
                Input::Labels => Some(through_labels(depth, probe, self.label_rows_at(depth))),
                Input::Vocabulary | Input::Choices | Input::Confidence => None,
            }
        };
        checkpoints.iter().filter_map(probe).collect()
    }

    pub(super) fn normed(&self, hidden: &[f32]) -> Vec<f32> {
        self.norm.apply(hidden)
    }
}

/// A read-out of label logits as one of the state that they are products of.
fn through_labels(depth: usize, probe: &Probe, rows: &[OutputRow]) -> engine::Probe {
    let (mut weights, mut bias) = (Vec::new(), Vec::new());
    for (factors, constant) in probe.weights.chunks_exact(rows.len()).zip(&probe.bias) {
        let mut sum = vec![0.0; rows[0].0.len()];
        for (factor, (row, _)) in factors.iter().zip(rows) {
            sum.iter_mut().zip(row).for_each(|(sum, w)| *sum += factor * w);
        }
        weights.extend(sum);
        bias.push(constant + factors.iter().zip(rows).map(|(factor, (_, c))| factor * c).sum::<f32>());
    }
    engine::Probe { depth, weights, bias }
}

impl Features {
    /// The answer, and whether a checkpoint stops with it.
    pub(super) fn decide(&self, checkpoint: &Checkpoint, decision: &mut Decision) -> (usize, bool) {
        let (reading, answer) = match (self.reading, &checkpoint.probe) {
            (Some(reading), _) => (reading, self.answer),
            (None, Some(probe)) => {
                let reading = probe.read(&self.input);
                (reading, reading.label)
            }
            (None, None) => return (self.answer, false),
        };
        (answer, decision.stops(checkpoint, &reading))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_out_of_labels_is_one_of_the_state() {
        let rows = [(vec![1.0, -2.0, 0.5], 0.25), (vec![0.0, 1.5, -1.0], -0.5)];
        let probe = Probe { weights: vec![0.5, -1.0, 2.0, 0.25, -0.75, 1.0], bias: vec![0.1, 0.2, 0.3] };
        let reader = through_labels(7, &probe, &rows);
        let x = [0.3f32, -0.6, 1.2];
        let dot = |w: &[f32]| w.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>();
        let labels: Vec<f32> = rows.iter().map(|(row, constant)| dot(row) + constant).collect();
        let logits: Vec<f32> = reader.weights.chunks_exact(3).zip(&reader.bias).map(|(w, b)| dot(w) + b).collect();
        let (expected, found) = (probe.read(&labels), softmax_reading(&logits));
        assert_eq!((reader.depth, expected.label), (7, found.label));
        assert!((expected.top - found.top).abs() < 1e-6 && (expected.gap - found.gap).abs() < 1e-6, "{found:?}");
    }
}
