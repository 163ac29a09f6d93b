//! A question as token ids: branches of a prefix, and what among their logits is an answer.

use super::{Branch, Cut, TokenId};
use crate::exit::{Reading, softmax_reading};

/// What is asked behind a prefix. Its branches run side by side, and stop together.
#[derive(Clone, Debug)]
pub struct Question<'q> {
    /// One, or one for each choice.
    pub branches: Vec<Branch<'q>>,
    /// What is an answer.
    pub answers: &'q AnswerTokens,
}

/// How an answer is told from logits. It is a number: the place of a label or a choice, or a token.
#[derive(Clone, Debug, PartialEq)]
pub enum AnswerTokens {
    /// One of these tokens.
    Labels(Vec<TokenId>),
    /// Any token.
    Any,
    /// One of the branches, by the likelihood of what each shows.
    Choices(Vec<Choice>),
}

/// A text that may be the answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Its tokens, of which the shown rows of its branch give the likelihood.
    pub tokens: Vec<TokenId>,
    /// What the log-likelihood is divided by.
    pub divisor: f32,
}

impl AnswerTokens {
    /// What the logits of a question's branches answer, and how sure that is.
    pub fn read(&self, cuts: &[Cut]) -> Reading {
        let logits = &cuts[0].logits;
        match self {
            AnswerTokens::Labels(ids) => {
                softmax_reading(&ids.iter().map(|&id| logits[id as usize]).collect::<Vec<_>>())
            }
            // Over the whole vocabulary: how probable the best token is, whatever others mean the same.
            AnswerTokens::Any => softmax_reading(logits),
            AnswerTokens::Choices(choices) => {
                let scores = cuts
                    .iter()
                    .zip(choices)
                    .map(|(cut, choice)| likelihood(&cut.logits, &choice.tokens) / choice.divisor);
                softmax_reading(&scores.collect::<Vec<_>>())
            }
        }
    }
}

/// The log-likelihood of tokens, each by the logits of the row before it.
fn likelihood(logits: &[f32], tokens: &[TokenId]) -> f32 {
    let rows = logits.chunks_exact(logits.len() / tokens.len());
    let of_row = |(row, &token): (&[f32], &TokenId)| {
        // The largest is taken out first, or the sum overflows.
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row[token as usize] - max - row.iter().map(|x| (x - max).exp()).sum::<f32>().ln()
    };
    rows.zip(tokens).map(of_row).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_likelihood_is_the_sum_over_tokens() {
        let logits = [0.0, 3f32.ln(), 0.0, 0.0];
        assert!((likelihood(&logits, &[1, 0]) - (0.75f32.ln() + 0.5f32.ln())).abs() < 1e-6);
    }
}
