//! Makes token ids of a task's questions.

use std::collections::HashMap;

use super::{Answers, Error, Item, Task};
use crate::engine::{AnswerTokens, Branch, Choice, Question, TokenId};
use crate::tokenizer::{Special, Tokenizer};

/// A task, ready to ask: its labels and its solved examples as token ids.
pub struct Questions<'t> {
    task: &'t Task,
    tokenizer: &'t Tokenizer,
    /// By group: what comes before every question, as text and as ids.
    prefixes: HashMap<String, (String, Vec<TokenId>)>,
    label_ids: Vec<TokenId>,
}

/// A question as token ids: parts that run side by side after a prefix.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What it shares with others: the solved examples; of choices, the prompt too.
    pub prefix: Vec<TokenId>,
    /// How much of the prefix are the solved examples, which can be kept from question to question.
    pub n_kept: usize,
    /// The rest of the prompt; or for each choice the prompt's last token and the choice, without its own last.
    pub parts: Vec<Vec<TokenId>>,
    /// What is an answer.
    pub answers: AnswerTokens,
    /// Open answers: the first tokens of what is accepted.
    accepted: Vec<TokenId>,
    answer: usize,
}

impl Asked {
    /// What a sequence is asked after the prefix.
    pub fn question(&self) -> Question<'_> {
        let shown = |tokens: &[TokenId]| match self.answers {
            AnswerTokens::Labels(_) | AnswerTokens::Any => 1,
            // Every row of a choice foretells one of its tokens.
            AnswerTokens::Choices(_) => tokens.len(),
        };
        let branches = self.parts.iter().map(|tokens| Branch { tokens, shown: shown(tokens) }).collect();
        Question { branches, answers: &self.answers }
    }

    /// Whether an answer is right.
    pub fn is_right(&self, answer: usize) -> bool {
        match self.accepted.is_empty() {
            true => answer == self.answer,
            // Of an open answer the first token counts.
            false => self.accepted.contains(&(answer as TokenId)),
        }
    }

    /// The right answer; of several accepted the given one, if it is among them.
    pub fn truth(&self, given: usize) -> usize {
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
            // By their first tokens they are told apart: with the same one both would always be as good.
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
            // Once for each group: the examples are most of the tokens.
            if !prefixes.contains_key(&item.group) {
                let text = task.prefix(&item.group);
                let ids = tokenizer.encode_with_bos(&text, Special::Plain);
                prefixes.insert(item.group.clone(), (text, ids));
            }
        }
        Ok(Questions { task, tokenizer, prefixes, label_ids })
    }

    /// The task.
    pub fn task(&self) -> &Task {
        self.task
    }

    /// The first token of each label; empty for tasks without.
    pub fn label_ids(&self) -> &[TokenId] {
        &self.label_ids
    }

    /// A question as ids.
    pub fn of_item(&self, item: &Item) -> Asked {
        let (text, prefix_ids) = &self.prefixes[&item.group];
        let encode = |text: &str| self.tokenizer.encode_with_bos(text, Special::Plain);
        // Encoded as one text: a token may reach over the border of two.
        let prompt = format!("{text}{}", item.prompt);
        let mut ids = encode(&prompt);
        let accepted = item.accepted.iter().filter_map(|text| first_token(self.tokenizer, text)).collect();
        let answers = match self.task.answers {
            Answers::Labels(_) => AnswerTokens::Labels(self.label_ids.clone()),
            Answers::Open => AnswerTokens::Any,
            Answers::Choices { .. } => AnswerTokens::Choices(Vec::new()),
        };
        let mut asked =
            Asked { prefix: Vec::new(), n_kept: 0, parts: Vec::new(), answers, accepted, answer: item.answer };
        // The last token of the examples may join with what follows, and a question needs one of its own.
        let shared = prefix_ids.len().saturating_sub(1).min(common(prefix_ids, &ids)).min(ids.len() - 1);
        // Choices branch off behind the whole prompt, so that it is evaluated once for all of them.
        if let Answers::Choices { per_byte } = self.task.answers {
            let with_choice: Vec<Vec<TokenId>> =
                item.choices.iter().map(|choice| encode(&format!("{prompt}{choice}"))).collect();
            // The last token of the prompt may join with what follows.
            let common = with_choice.iter().map(|choice| common(&ids, choice).min(choice.len() - 1)).min().unwrap_or(0);
            // The row before a token foretells it: each branch begins one token earlier.
            let start = common.saturating_sub(1);
            ids.truncate(start);
            asked.n_kept = shared.min(start);
            asked.prefix = ids;
            let mut choices = Vec::new();
            for (choice, text) in with_choice.iter().zip(&item.choices) {
                asked.parts.push(choice[start..choice.len() - 1].to_vec());
                let divisor = if per_byte { text.len() as f32 } else { 1.0 };
                choices.push(Choice { tokens: choice[start + 1..].to_vec(), divisor });
            }
            asked.answers = AnswerTokens::Choices(choices);
            return asked;
        }
        asked.n_kept = shared;
        // The prompt is the branch; its last row answers.
        asked.parts.push(ids.split_off(shared));
        asked.prefix = ids;
        asked
    }
}

fn first_token(tokenizer: &Tokenizer, text: &str) -> Option<TokenId> {
    tokenizer.encode(text, Special::Plain).first().copied()
}

fn common(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
