//! Owns the decision whether an answer stops at a checkpoint: the same for the tokens of a text and for the answers to
//! questions.

use super::{Checkpoint, Input, Probe, Reading, Scorer, reading_of};

/// What an engine shows a checkpoint of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Features {
    /// What the checkpoint's probe reads: the hidden state, or label logits.
    Vector(Vec<f32>),
    /// The probabilities that the probe made of it already, on the device where the state waits.
    Chances(Vec<f32>),
    /// What is read without a probe.
    Read {
        /// How sure it is.
        reading: Reading,
        /// The answer that it stands for: a vocabulary's best token is not always a label.
        answer: usize,
    },
}

/// One answer on its way through the checkpoints.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decision {
    /// A chain's belief before the next checkpoint: log-weights of "wrong" and "right".
    belief: Option<[f32; 2]>,
}

impl Decision {
    /// What a checkpoint of a policy that reads `input` answers, and whether that is sure enough to stop. Of
    /// [`Input::Confidence`] there is no answer but how sure it is: the lens's best token is found where it stops.
    pub fn at<At>(&mut self, checkpoint: &Checkpoint<At>, input: Input, features: &Features) -> (usize, bool) {
        let probe = checkpoint.probe.as_ref();
        let reading = match features {
            Features::Read { reading, .. } => Some(*reading),
            Features::Vector(x) => probe.and_then(|probe| read(probe, input, x)),
            Features::Chances(chances) if input == Input::Confidence => {
                chances.get(Probe::RIGHT).map(|&chance| Reading::of_chance(Probe::RIGHT, chance))
            }
            Features::Chances(chances) => Some(reading_of(chances)),
        };
        // Without the probe that should read them, features say nothing.
        let Some(reading) = reading else { return (0, false) };
        let answer = if let Features::Read { answer, .. } = features { *answer } else { reading.label };
        (answer, self.stops(checkpoint, &reading))
    }

    /// Whether a checkpoint's reading is sure enough to stop.
    pub fn stops<At>(&mut self, checkpoint: &Checkpoint<At>, reading: &Reading) -> bool {
        self.score(&checkpoint.scorer, reading) >= checkpoint.threshold
    }

    pub(super) fn score(&mut self, scorer: &Scorer, reading: &Reading) -> f32 {
        match scorer {
            Scorer::Top => reading.top,
            Scorer::Linear { weights, bias } => weights[0] * reading.top + weights[1] * reading.gap + bias,
            Scorer::Svm(svm) => svm.score([reading.top, reading.gap]),
            Scorer::Crf(step) => {
                // A chain counts every look: one that is left out would leave its belief behind.
                let belief = step.follow(self.belief, [reading.top, reading.gap]);
                self.belief = Some(belief);
                belief[1] - belief[0]
            }
        }
    }
}

fn read(probe: &Probe, input: Input, x: &[f32]) -> Option<Reading> {
    match input {
        // How probable "right" is, even where "wrong" is more so: never the larger of the two.
        Input::Confidence => Some(Reading::of_chance(Probe::RIGHT, probe.chance_of(Probe::RIGHT, x)?)),
        _ => Some(probe.read(x)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Depth;

    fn checkpoint(scorer: Scorer, threshold: f32) -> Checkpoint<Depth> {
        let probe = Probe { weights: vec![0.0, 0.0, 1.0, -1.0], bias: vec![0.0, 0.25] };
        Checkpoint { at: Depth(3), lens: None, probe: Some(probe), scorer, threshold }
    }

    #[test]
    fn a_probe_decides_alike_here_and_on_its_device() {
        for x in [[1.5, 0.5], [-2.0, 1.0]] {
            let odds = (x[0] - x[1] + 0.25f32).exp();
            let chances = vec![1.0 / (1.0 + odds), odds / (1.0 + odds)];
            for input in [Input::Hidden, Input::Confidence] {
                for (scorer, threshold) in
                    [(Scorer::Top, 0.7), (Scorer::Linear { weights: [1.0, 1.0], bias: 0.0 }, 1.0)]
                {
                    let checkpoint = checkpoint(scorer, threshold);
                    let here = Decision::default().at(&checkpoint, input, &Features::Vector(x.to_vec()));
                    let there = Decision::default().at(&checkpoint, input, &Features::Chances(chances.clone()));
                    assert_eq!(here, there, "{x:?} {input:?}");
                    // "Wrong" is an answer to a question, and as sure as "right"; of a token's confidence it never stops.
                    assert_eq!(here.1, input == Input::Hidden || x[0] > 0.0, "{x:?} {input:?}");
                }
            }
        }
        let blind = Checkpoint { probe: None, ..checkpoint(Scorer::Top, 0.0) };
        assert_eq!(Decision::default().at(&blind, Input::Hidden, &Features::Vector(vec![1.0, 1.0])), (0, false));
    }

    #[test]
    fn checkpoints_keep_their_order_at_other_places() {
        let at = |threshold: f32| Checkpoint { threshold, ..checkpoint(Scorer::Top, 0.0) };
        let some = (0..6).map(|i| Checkpoint { at: Depth(i), ..at(i as f32) }).collect();
        let found = crate::exit::placed(some, |Depth(i)| (i != 2).then_some(i / 2));
        let found: Vec<(usize, f32)> = found.iter().map(|checkpoint| (checkpoint.at, checkpoint.threshold)).collect();
        assert_eq!(found, [(0, 1.0), (1, 3.0), (2, 5.0)]);
    }
}
