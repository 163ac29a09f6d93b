//! Owns a task: how answers are told apart, and the rows whose solved examples come before a question.

use std::path::PathBuf;

/// How answers are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answers {
    /// One of these texts, by its first token.
    Labels(Vec<String>),
    /// One of the row's choices, by the likelihood of its whole text.
    Choices {
        /// The likelihood is divided by the text's bytes.
        per_byte: bool,
    },
    /// Any text, by its first token.
    Open,
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What keeps rows apart; empty without groups.
    pub group: String,
    /// The prompt without shots, up to the answer.
    pub prompt: String,
    /// The row's choices, where the task has such.
    pub choices: Vec<String>,
    /// The right label's or choice's place in its list; 0 for open answers.
    pub answer: usize,
    /// Accepted texts of an open answer.
    pub accepted: Vec<String>,
}

/// A task with its rows.
#[derive(Clone, Debug)]
pub struct Task {
    /// The name.
    pub name: String,
    /// What comes before the shots.
    pub instruction: String,
    /// How answers are told apart.
    pub answers: Answers,
    /// Solved examples before the question.
    pub shots: usize,
    /// Rows for shots and training, shuffled; those of one group together.
    pub train: Vec<Item>,
    /// Rows that training does not see; those of one group together.
    pub test: Vec<Item>,
    /// The files that the rows are from.
    pub files: Vec<PathBuf>,
}

impl Task {
    /// The labels; empty for tasks without.
    pub fn labels(&self) -> &[String] {
        match &self.answers {
            Answers::Labels(labels) => labels,
            _ => &[],
        }
    }

    /// What comes before every question of a group: the instruction and solved examples, the first of its training rows.
    pub fn prefix(&self, group: &str) -> String {
        let shots = self.train.iter().filter(|row| row.group == group).take(self.shots);
        // A blank line between them shows where an answer ends.
        let shot = |item: &Item| format!("{}{}\n\n", item.prompt, self.text_of(item));
        self.instruction.clone() + &shots.map(shot).collect::<String>()
    }

    /// The right answer's text.
    fn text_of<'t>(&'t self, item: &'t Item) -> &'t str {
        match &self.answers {
            Answers::Labels(labels) => &labels[item.answer],
            Answers::Choices { .. } => &item.choices[item.answer],
            Answers::Open => &item.accepted[0],
        }
    }

    /// Training rows that are no shots, at most `n`: from every group alike.
    pub fn training_rows(&self, n: usize) -> Vec<Item> {
        let groups: Vec<&[Item]> =
            self.train.chunk_by(same_group).map(|rows| &rows[self.shots.min(rows.len())..]).collect();
        let longest = groups.iter().map(|rows| rows.len()).max().unwrap_or(0);
        // A group with many rows would otherwise leave none for the others.
        let by_turns = (0..longest).flat_map(|i| groups.iter().filter_map(move |rows| rows.get(i)));
        let mut chosen: Vec<Item> = by_turns.take(n).cloned().collect();
        // Questions of one group share their prefix: side by side it is evaluated once.
        chosen.sort_by(|a, b| a.group.cmp(&b.group));
        chosen
    }
}

/// Rows of one group lie together.
pub(super) fn same_group(a: &Item, b: &Item) -> bool {
    a.group == b.group
}
