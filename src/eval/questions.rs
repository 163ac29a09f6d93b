//! Owns a task's questions as token ids, and what an answer is among logits.

use std::collections::HashMap;

use super::{Answers, Error, Item, Task};
use crate::engine::{Branch, Cut, TokenId};
use crate::exit::{Reading, softmax_reading};
use crate::tokenizer::{Special, Tokenizer};

/// A task, ready to ask.
pub struct Questions<'t> {
    task: &'t Task,
    tokenizer: &'t Tokenizer,
    /// By group: what comes before every question, as text and as ids.
    prefixes: HashMap<String, (String, Vec<TokenId>)>,
    label_ids: Vec<TokenId>,
}

/// A question as token ids: parts that run side by side after a prefix.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// What it shares with others: the solved examples; of choices, the prompt too.
    pub(super) prefix: Vec<TokenId>,
    /// How much of the prefix are the solved examples, which can be kept from question to question.
    pub(super) n_kept: usize,
    /// The rest of the prompt; or for each choice the prompt's last token and the choice, without its own last.
    pub(super) parts: Vec<Vec<TokenId>>,
    /// Of each choice: its tokens, of which part rows give the likelihood.
    choices: Vec<Vec<TokenId>>,
    /// Of each choice: what its log-likelihood is divided by.
    lengths: Vec<f32>,
    /// Open answers: the first tokens of what is accepted.
    accepted: Vec<TokenId>,
    answer: usize,
}

impl Asked {
    /// What the sequence is asked.
    pub(super) fn questions(&self) -> impl Iterator<Item = Branch<'_>> {
        let shown = |tokens: &[TokenId]| if self.choices.is_empty() { 1 } else { tokens.len() };
        self.parts.iter().map(move |tokens| Branch { tokens, shown: shown(tokens) })
    }

    /// Whether an answer is right.
    pub(super) fn is_right(&self, answer: usize) -> bool {
        match self.accepted.is_empty() {
            true => answer == self.answer,
            false => self.accepted.contains(&(answer as TokenId)),
        }
    }

    /// The right answer; of several accepted the given one, if it is among them.
    pub(super) fn truth(&self, given: usize) -> usize {
        match self.accepted.first() {
            None => self.answer,
            Some(_) if self.is_right(given) => given,
            Some(&first) => first as usize,
        }
    }
}

impl<'t> Questions<'t> {
    /// Prepares a task. Labels must differ in their first token.
    pub fn new(task: &'t Task, tokenizer: &'t Tokenizer) -> Result<Questions<'t>, Error> {
        let wrong = |why: String| Error::Task { place: task.name.clone(), why };
        let mut label_ids = Vec::new();
        for label in task.labels() {
            let id = first_token(tokenizer, label).ok_or_else(|| wrong(format!("`labels`: {label:?} has no token")))?;
            if let Some(i) = label_ids.iter().position(|&other| other == id) {
                let other = &task.labels()[i];
                return Err(wrong(format!(
                    "`labels`: expected different first tokens, found the same in {other:?} and {label:?}"
                )));
            }
            label_ids.push(id);
        }
        let mut prefixes = HashMap::new();
        for item in task.train.iter().chain(&task.test) {
            if !prefixes.contains_key(&item.group) {
                let text = task.prefix(&item.group);
                let ids = tokenizer.encode_with_bos(&text, Special::Plain);
                prefixes.insert(item.group.clone(), (text, ids));
            }
        }
        Ok(Questions { task, tokenizer, prefixes, label_ids })
    }

    pub(super) fn task(&self) -> &Task {
        self.task
    }

    pub(super) fn label_ids(&self) -> &[TokenId] {
        &self.label_ids
    }

    /// A question as ids.
    pub(super) fn of_item(&self, item: &Item) -> Asked {
        let (text, prefix_ids) = &self.prefixes[&item.group];
        let encode = |text: &str| self.tokenizer.encode_with_bos(text, Special::Plain);
        let prompt = format!("{text}{}", item.prompt);
        let mut ids = encode(&prompt);
        let accepted = item.accepted.iter().filter_map(|text| first_token(self.tokenizer, text)).collect();
        let mut asked = Asked {
            prefix: Vec::new(),
            n_kept: 0,
            parts: Vec::new(),
            choices: Vec::new(),
            lengths: Vec::new(),
            accepted,
            answer: item.answer,
        };
        let shared = prefix_ids.len().saturating_sub(1).min(common(prefix_ids, &ids)).min(ids.len() - 1);
        if let Answers::Choices { per_byte } = self.task.answers {
            let with_choice: Vec<Vec<TokenId>> =
                item.choices.iter().map(|choice| encode(&format!("{prompt}{choice}"))).collect();
            // The last token of the prompt may join with what follows.
            let common = with_choice.iter().map(|choice| common(&ids, choice).min(choice.len() - 1)).min().unwrap_or(0);
            let start = common.saturating_sub(1);
            ids.truncate(start);
            asked.n_kept = shared.min(start);
            asked.prefix = ids;
            for (choice, text) in with_choice.iter().zip(&item.choices) {
                asked.parts.push(choice[start..choice.len() - 1].to_vec());
                asked.choices.push(choice[start + 1..].to_vec());
                asked.lengths.push(if per_byte { text.len() as f32 } else { 1.0 });
            }
            return asked;
        }
        asked.n_kept = shared;
        asked.parts.push(ids.split_off(shared));
        asked.prefix = ids;
        asked
    }

    /// What logits answer: a label, a choice, or a token.
    pub(super) fn read(&self, asked: &Asked, cuts: &[&Cut]) -> Reading {
        let logits = &cuts[0].logits;
        match &self.task.answers {
            Answers::Labels(_) => {
                softmax_reading(&self.label_ids.iter().map(|&id| logits[id as usize]).collect::<Vec<_>>())
            }
            Answers::Open => softmax_reading(logits),
            Answers::Choices { .. } => {
                let choices = cuts.iter().zip(&asked.choices).zip(&asked.lengths);
                let scores = choices.map(|((cut, tokens), length)| likelihood(&cut.logits, tokens) / length);
                softmax_reading(&scores.collect::<Vec<_>>())
            }
        }
    }
}

fn first_token(tokenizer: &Tokenizer, text: &str) -> Option<TokenId> {
    tokenizer.encode(text, Special::Plain).first().copied()
}

fn common(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The log-likelihood of tokens, each by the logits of the row before it.
fn likelihood(logits: &[f32], tokens: &[TokenId]) -> f32 {
    let rows = logits.chunks_exact(logits.len() / tokens.len());
    let of_row = |(row, &token): (&[f32], &TokenId)| {
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
