//! Answers that stop early. One walk over checkpoints ([`Sequence::walk`]) serves the next token of a text and the questions
//! behind a prefix: the feature extractor makes of what the engine shows what a checkpoint sees, and the decision stops.

use super::fan_out::Live;
use super::params::check_cuts;
use super::{AnswerTokens, Branch, Cut, Error, FeatureExtractor, Question, Sequence, TokenId, View};
use crate::exit::{Checkpoint, Decision, Lens};
use crate::plan::Depth;

/// Where answers may stop: checkpoints on the engine's plan, in rising order, and what they read by.
#[derive(Clone, Copy)]
pub struct Exits<'e> {
    /// The checkpoints of one policy.
    pub checkpoints: &'e [Checkpoint<Depth>],
    /// Of the same policy.
    pub extractor: &'e FeatureExtractor<'e>,
}

/// What a question was answered, and how deep that took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The place of a label or a choice, or a token.
    pub answer: usize,
    /// What ran for it.
    pub depth: Depth,
}

/// Questions on their way, with what has been decided so far.
struct Walk<'w> {
    questions: &'w [Question<'w>],
    /// By branch: whose it is.
    owners: Vec<usize>,
    exits: Option<Exits<'w>>,
    decisions: Vec<Decision>,
    answers: Vec<Answer>,
}

impl<'w> Walk<'w> {
    fn new(questions: &'w [Question<'w>], exits: Option<Exits<'w>>) -> Walk<'w> {
        let owned = |(i, question): (usize, &Question<'_>)| vec![i; question.branches.len()];
        Walk {
            questions,
            owners: questions.iter().enumerate().flat_map(owned).collect(),
            exits,
            decisions: vec![Decision::default(); questions.len()],
            answers: vec![Answer::default(); questions.len()],
        }
    }

    fn depths(&self) -> Vec<Depth> {
        self.exits.iter().flat_map(|exits| exits.checkpoints.iter().map(|checkpoint| checkpoint.at)).collect()
    }

    /// Decides for every question that is still there, and says of each branch whether it stops.
    fn decide(&mut self, cuts: &[Cut]) -> Vec<bool> {
        let mut stops = Vec::new();
        // Branches of one question are neighbours, and stop together.
        for own in cuts.chunk_by(|a, b| self.owners[a.branch] == self.owners[b.branch]) {
            let (i, depth) = (self.owners[own[0].branch], own[0].depth);
            let answers = self.questions[i].answers;
            // Branches of a question are at one depth: they leave together.
            let checkpoint = self.exits.and_then(|exits| {
                Some((exits.extractor, exits.checkpoints.iter().find(|checkpoint| checkpoint.at == depth)?))
            });
            let (answer, stop) = match checkpoint {
                Some((extractor, checkpoint)) => {
                    let features = extractor.extract(answers, own);
                    self.decisions[i].at(checkpoint, extractor.input(), &features)
                }
                // Behind the last checkpoint there is full depth, whose answer is final.
                None => (answers.read(own).label, true),
            };
            // The last look counts: whoever goes on is answered again, deeper.
            self.answers[i] = Answer { answer, depth };
            stops.extend(vec![stop; own.len()]);
        }
        stops
    }
}

impl Sequence {
    /// Answers questions that follow a common prefix, side by side and each as if it were alone ([`Sequence::fan_out`]): at
    /// full depth, or with `exits` as early as the first checkpoint that is sure.
    ///
    /// # Errors
    /// Those of [`Sequence::fan_out`].
    pub fn answer(
        &mut self,
        prefix: &[TokenId],
        questions: &[Question<'_>],
        exits: Option<Exits<'_>>,
    ) -> Result<Vec<Answer>, Error> {
        // In the order of the questions: answers find them by the branches' numbers.
        let branches: Vec<Branch<'_>> =
            questions.iter().flat_map(|question| question.branches.iter().copied()).collect();
        let mut walk = Walk::new(questions, exits);
        let depths = walk.depths();
        let mut run = |view: View<'_>| self.fan_out(prefix, &branches, &depths, view, &mut |cuts| walk.decide(cuts));
        match exits {
            Some(exits) => exits.extractor.with_view(run)?,
            None => run(View::Hidden)?,
        }
        Ok(walk.answers)
    }

    /// Takes the last token of text and drafts from checkpoint to checkpoint. The first that is sure gives its depth, and what
    /// the next token is chosen from there: \[n_vocab\]. What the deeper layers are owed waits, as after
    /// [`Sequence::hidden_state_at`]; `None` where no checkpoint is sure.
    ///
    /// # Errors
    /// A sequence without tokens, checkpoints that the plan does not have, a device that is lost.
    pub fn exit_early(&mut self, exits: Exits<'_>) -> Result<Option<(Depth, Vec<f32>)>, Error> {
        // The text's next token is a question with one branch, whose rows are there already.
        let question = [Question { branches: vec![Branch { tokens: &[], shown: 1 }], answers: &AnswerTokens::Any }];
        let mut walk = Walk::new(&question, Some(exits));
        let (depths, mut live) = (walk.depths(), vec![Live::Text]);
        // At another plan's depth no state waits.
        check_cuts(&depths, self.n_steps())?;
        exits.extractor.with_view(|view| self.walk(&mut live, &depths, view, &mut |cuts| walk.decide(cuts)))?;
        // It waits behind the last checkpoint, and goes on from there.
        if !live.is_empty() {
            return Ok(None);
        }
        let depth = walk.answers[0].depth;
        Ok(Some((depth, self.logits_at(depth, exits.extractor.lens_at(depth))?)))
    }

    /// What a lens and the output head make of the last token's hidden state at a depth before full: \[n_vocab\].
    ///
    /// # Errors
    /// Those of [`Sequence::hidden_state_at`].
    pub fn logits_at(&mut self, depth: Depth, lens: Option<&Lens>) -> Result<Vec<f32>, Error> {
        let x = self.normed_state_at(depth)?;
        let x = match lens {
            Some(lens) => lens.apply(&x),
            None => x,
        };
        self.logits_of_states(&x)
    }
}
