//! Owns a task: a TOML file that says how rows of JSON Lines become prompts with one of a few labels as the answer.
//!
//! ```toml
//! name = "movie-sentiment"
//! # A template over the fields of a row (Jinja).
//! prompt = "Review: {{ text }}\nSentiment:"
//! # What may follow a prompt; told apart by the first token.
//! labels = [" negative", " positive"]
//! # The field with the answer: the place of a label in the list, or one of `values`.
//! answer = "label"
//! values = ["negative", "positive"]
//! shots = 8
//! train = "movie-sentiment.train.jsonl"
//! test = "movie-sentiment.test.jsonl"
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use minijinja::Environment;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Deserialize;
use serde_json::Value;

use super::Error;

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The prompt without shots, up to the answer.
    pub prompt: String,
    /// The true label's place in the list.
    pub label: usize,
}

/// A task with its rows.
#[derive(Clone, Debug)]
pub struct Task {
    /// The name.
    pub name: String,
    /// What comes before the shots.
    pub instruction: String,
    /// What may follow a prompt.
    pub labels: Vec<String>,
    /// Solved examples before the question.
    pub shots: usize,
    /// Rows for shots and training, shuffled.
    pub train: Vec<Item>,
    /// Rows that training does not see.
    pub test: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: String,
    #[serde(default)]
    instruction: String,
    prompt: String,
    labels: Vec<String>,
    answer: String,
    #[serde(default)]
    values: Vec<Value>,
    shots: usize,
    train: PathBuf,
    test: PathBuf,
}

impl Task {
    /// Reads a task and its rows; training rows are shuffled by `seed`.
    pub fn open(path: &Path, seed: u64) -> Result<Task, Error> {
        let wrong = |why: String| Error::Task { place: path.display().to_string(), why };
        let text = fs::read_to_string(path).map_err(|e| wrong(format!("cannot read it: {e}")))?;
        let description: Description = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        if description.labels.len() < 2 {
            return Err(wrong(format!("`labels`: expected at least two, found {}", description.labels.len())));
        }
        if !description.values.is_empty() && description.values.len() != description.labels.len() {
            let (values, labels) = (description.values.len(), description.labels.len());
            return Err(wrong(format!("`values`: expected {labels}, one for each label, found {values}")));
        }
        let mut environment = Environment::new();
        environment
            .add_template_owned("prompt", description.prompt.clone())
            .map_err(|e| wrong(format!("`prompt`: {e}")))?;
        environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut train = read_rows(&folder.join(&description.train), &description, &environment)?;
        let test = read_rows(&folder.join(&description.test), &description, &environment)?;
        train.shuffle(&mut StdRng::seed_from_u64(seed));
        put_shots_first(&mut train, description.shots, description.labels.len());
        if train.len() < description.shots {
            return Err(wrong(format!(
                "`shots`: expected at most {}, the rows there are, found {}",
                train.len(),
                description.shots
            )));
        }
        let Description { name, instruction, labels, shots, .. } = description;
        Ok(Task { name, instruction, labels, shots, train, test })
    }

    /// What comes before every question: the instruction and solved examples, the first of the training rows.
    pub fn prefix(&self) -> String {
        let shots = &self.train[..self.shots];
        let shot = |item: &Item| format!("{}{}\n\n", item.prompt, self.labels[item.label]);
        self.instruction.clone() + &shots.iter().map(shot).collect::<String>()
    }

    /// Training rows that are no shots.
    pub fn training_rows(&self) -> &[Item] {
        &self.train[self.shots..]
    }
}

/// Moves rows to the front so that the first `n` have the labels by turns: a prompt with more of one label draws the
/// model to it.
fn put_shots_first(rows: &mut [Item], n: usize, n_labels: usize) {
    for i in 0..n.min(rows.len()) {
        if let Some(next) = (i..rows.len()).find(|&r| rows[r].label == i % n_labels) {
            rows[i..=next].rotate_right(1);
        }
    }
}

fn read_rows(path: &Path, description: &Description, environment: &Environment<'_>) -> Result<Vec<Item>, Error> {
    let place = |i: usize| format!("{}:{}", path.display(), i + 1);
    let text = fs::read_to_string(path)
        .map_err(|e| Error::Task { place: path.display().to_string(), why: format!("cannot read it: {e}") })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| read_row(line, description, environment).map_err(|why| Error::Task { place: place(i), why }))
        .collect()
}

fn read_row(line: &str, description: &Description, environment: &Environment<'_>) -> Result<Item, String> {
    let row: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let answer = row.get(&description.answer).ok_or_else(|| format!("expected a field `{}`", description.answer))?;
    let label = if description.values.is_empty() {
        answer.as_u64().map(|n| n as usize).filter(|&n| n < description.labels.len())
    } else {
        description.values.iter().position(|v| v == answer)
    };
    let label = label.ok_or_else(|| {
        let expected = match &description.values[..] {
            [] => format!("a number below {}", description.labels.len()),
            values => values.iter().map(Value::to_string).collect::<Vec<_>>().join(", "),
        };
        format!("`{}`: expected {expected}, found {answer}", description.answer)
    })?;
    let fields: minijinja::Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let template = environment.get_template("prompt").map_err(|e| e.to_string())?;
    let prompt = template.render(fields).map_err(|e| format!("`prompt`: {e}"))?;
    Ok(Item { prompt, label })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(description: &str, train: &str, test: &str) -> Result<Task, Error> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("train.jsonl"), train).unwrap();
        fs::write(folder.path().join("test.jsonl"), test).unwrap();
        let path = folder.path().join("task.toml");
        fs::write(&path, description).unwrap();
        Task::open(&path, 1)
    }

    const DESCRIPTION: &str = r#"
        name = "t"
        prompt = "Q: {{ text }}\nA:"
        labels = [" no", " yes"]
        answer = "a"
        values = ["n", "y"]
        shots = 1
        train = "train.jsonl"
        test = "test.jsonl"
    "#;

    #[test]
    fn rows_become_prompts() {
        let train = "{\"text\": \"one\", \"a\": \"y\"}\n";
        let t = task(DESCRIPTION, train, "{\"text\": \"two\", \"a\": \"n\"}").unwrap();
        assert_eq!(t.prefix(), "Q: one\nA: yes\n\n");
        assert_eq!(t.test, [Item { prompt: "Q: two\nA:".into(), label: 0 }]);
        assert!(t.training_rows().is_empty());
    }

    #[test]
    fn mistakes_name_file_line_and_field() {
        let message = |train: &str| task(DESCRIPTION, train, "").unwrap_err().to_string();
        let unknown = message("{\"text\": \"one\", \"a\": \"y\"}\n{\"text\": \"one\", \"a\": \"z\"}");
        assert!(unknown.ends_with("train.jsonl:2: `a`: expected \"n\", \"y\", found \"z\""), "{unknown}");
        assert!(message("{\"a\": \"y\"}").contains("train.jsonl:1: `prompt`: undefined value"));
        assert!(message("").contains("`shots`: expected at most 0"));
        assert!(task("name = 1", "", "").unwrap_err().to_string().contains("task.toml"));
    }
}
