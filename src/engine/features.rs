//! Makes of what the engine has at a checkpoint what the checkpoint sees: the hidden state, label logits, the vocabulary, the
//! likelihoods of choices, or what a confidence is read from. Decides nothing.

use super::{AnswerTokens, Cut, Probe, TokenId, View};
use crate::exit::{self, Checkpoint, Features, Input, Lens};
use crate::model::{self, FinalNorm, Model, OutputRow};
use crate::plan::Depth;

/// What a policy's checkpoints read by, on one model.
pub struct FeatureExtractor<'l> {
    input: Input,
    /// Where [`Input::Labels`] are read: by depth; at depth 0 without a lens.
    label_rows: Vec<(Depth, Vec<OutputRow>)>,
    lenses: Vec<(Depth, &'l Lens)>,
    norm: FinalNorm,
}

impl<'l> FeatureExtractor<'l> {
    /// For questions that have these labels, if they have any; with the lenses of some depths.
    ///
    /// # Errors
    /// Labels that the output head has no rows of.
    pub fn of_questions(
        input: Input,
        labels: &[TokenId],
        lenses: Vec<(Depth, &'l Lens)>,
        model: &Model,
    ) -> Result<FeatureExtractor<'l>, model::Error> {
        let rows = model.output_rows(labels)?;
        let mut label_rows = Vec::new();
        if input == Input::Labels {
            // A label's logit is linear in what the lens gives, and that is in the state: the lens goes into the row
            // once, and costs nothing at a look.
            let folded = |lens: &Lens, (row, constant): &OutputRow| {
                let (row, of_lens) = lens.fold(row);
                (row, of_lens + constant)
            };
            let fold = |lens: &Lens| rows.iter().map(|row| folded(lens, row)).collect();
            label_rows.extend(lenses.iter().map(|(depth, lens)| (*depth, fold(lens))));
            label_rows.push((Depth(0), rows));
        }
        // How sure the lens is of a token is no answer: a question is read by its logits.
        let input = if input == Input::Confidence { Input::Vocabulary } else { input };
        Ok(FeatureExtractor { input, label_rows, lenses, norm: model.config().final_norm() })
    }

    /// For the tokens of a text: [`Input::Vocabulary`] or [`Input::Confidence`].
    pub fn of_tokens(input: Input, lenses: Vec<(Depth, &'l Lens)>, model: &Model) -> FeatureExtractor<'l> {
        FeatureExtractor { input, label_rows: Vec::new(), lenses, norm: model.config().final_norm() }
    }

    /// What is read.
    pub fn input(&self) -> Input {
        self.input
    }

    /// Runs `ask` with the view that the input needs.
    pub fn with_view<R>(&self, ask: impl FnOnce(View<'_>) -> R) -> R {
        let through = |depth: Depth, hidden: &[f32]| {
            let lens = self.lens_at(depth).expect("all checkpoints have one, or none");
            lens.apply(&self.normed(hidden))
        };
        match self.input {
            Input::Hidden | Input::Labels | Input::Confidence => ask(View::Hidden),
            // Without a lens the head norms by itself.
            Input::Vocabulary | Input::Choices if self.lenses.is_empty() => ask(View::Logits),
            Input::Vocabulary | Input::Choices => ask(View::Through(&through)),
        }
    }

    /// What goes before the output head at a depth.
    pub fn lens_at(&self, depth: Depth) -> Option<&'l Lens> {
        self.lenses.iter().find(|(at, _)| *at == depth).map(|(_, lens)| *lens)
    }

    /// What a checkpoint sees of a question whose branches show `cuts`.
    pub fn extract(&self, answers: &AnswerTokens, cuts: &[Cut]) -> Features {
        let cut = &cuts[0];
        if !cut.reading.is_empty() {
            // Read on the device already: the state did not come here.
            return Features::Chances(cut.reading.clone());
        }
        match self.input {
            // Probes were fitted to normed states: the size of one says nothing.
            Input::Hidden | Input::Confidence => Features::Vector(self.normed(&cut.hidden)),
            Input::Labels => Features::Vector(self.labels(cut)),
            Input::Vocabulary => {
                let reading = AnswerTokens::Any.read(cuts);
                Features::Read { reading, answer: answers.read(cuts).label }
            }
            Input::Choices => {
                let reading = answers.read(cuts);
                Features::Read { reading, answer: reading.label }
            }
        }
    }

    fn labels(&self, cut: &Cut) -> Vec<f32> {
        let x = self.normed(&cut.hidden);
        let rows = self.label_rows_at(cut.depth);
        let dot = |row: &[f32]| row.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>();
        rows.iter().map(|(row, constant)| dot(row) + constant).collect()
    }

    fn label_rows_at(&self, depth: Depth) -> &[OutputRow] {
        // Without lenses the rows are the head's own at every depth.
        let wanted = if self.lenses.is_empty() { Depth(0) } else { depth };
        self.label_rows.iter().find(|(at, _)| *at == wanted).map_or(&[], |(_, rows)| rows)
    }

    /// What a sequence can read for the checkpoints where the states are: the fitted read-outs, with what lies before them.
    pub fn probes(&self, checkpoints: &[Checkpoint<Depth>]) -> Vec<Probe> {
        let probe = |checkpoint: &Checkpoint<Depth>| match self.input {
            Input::Hidden | Input::Confidence => Probe::of(checkpoint),
            Input::Labels => {
                let (at, probe) = (checkpoint.at, checkpoint.probe.as_ref()?);
                Some(through_labels(at, probe, self.label_rows_at(at)))
            }
            Input::Vocabulary | Input::Choices => None,
        };
        checkpoints.iter().filter_map(probe).collect()
    }

    /// A hidden state as the output head would take it.
    pub fn normed(&self, hidden: &[f32]) -> Vec<f32> {
        self.norm.apply(hidden)
    }
}

/// A read-out of label logits as one of the state that they are products of.
fn through_labels(depth: Depth, probe: &exit::Probe, rows: &[OutputRow]) -> Probe {
    let (mut weights, mut bias) = (Vec::new(), Vec::new());
    for (factors, constant) in probe.weights.chunks_exact(rows.len()).zip(&probe.bias) {
        // A read-out of products is one of the state: added up here, the device reads it with one matrix.
        let mut sum = vec![0.0; rows[0].0.len()];
        for (factor, (row, _)) in factors.iter().zip(rows) {
            sum.iter_mut().zip(row).for_each(|(sum, w)| *sum += factor * w);
        }
        weights.extend(sum);
        bias.push(constant + factors.iter().zip(rows).map(|(factor, (_, c))| factor * c).sum::<f32>());
    }
    Probe { depth, weights, bias }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::softmax_reading;

    #[test]
    fn a_read_out_of_labels_is_one_of_the_state() {
        let rows = [(vec![1.0, -2.0, 0.5], 0.25), (vec![0.0, 1.5, -1.0], -0.5)];
        let probe = exit::Probe { weights: vec![0.5, -1.0, 2.0, 0.25, -0.75, 1.0], bias: vec![0.1, 0.2, 0.3] };
        let reader = through_labels(Depth(7), &probe, &rows);
        let x = [0.3f32, -0.6, 1.2];
        let dot = |w: &[f32]| w.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>();
        let labels: Vec<f32> = rows.iter().map(|(row, constant)| dot(row) + constant).collect();
        let logits: Vec<f32> = reader.weights.chunks_exact(3).zip(&reader.bias).map(|(w, b)| dot(w) + b).collect();
        let (expected, found) = (probe.read(&labels), softmax_reading(&logits));
        assert_eq!((reader.depth, expected.label), (Depth(7), found.label));
        assert!((expected.top - found.top).abs() < 1e-6 && (expected.gap - found.gap).abs() < 1e-6, "{found:?}");
    }
}
