//! Reads a task: a TOML file that says how rows become prompts with a short answer.
//!
//! ```toml
//! name = "movie-sentiment"
//! # A template over the fields of a row (Jinja).
//! prompt = "Review: {{ text }}\nSentiment:"
//! # What may follow a prompt; told apart by the first token.
//! labels = [" negative", " positive"]
//! # The answer, an expression over the fields: the place of a label in the list, or one of `values`.
//! answer = "label"
//! values = ["negative", "positive"]
//! shots = 8
//! # JSON Lines, JSON, CSV, TSV or parquet; a list for several files.
//! train = "movie-sentiment.train.jsonl"
//! test = "movie-sentiment.test.jsonl"
//! ```
//!
//! Instead of `labels`, `choices` is an expression that gives a row's own choices; they are told apart by the likelihood of
//! their whole text (with `per_byte = true`: divided by its length). With neither, the answer is a text, or a list of
//! accepted ones, and its first token counts. `instruction` comes before everything; `group` is an expression whose value
//! keeps rows apart, so that solved examples come from a question's own group.

mod rows;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Deserialize;
use serde_json::Value;

use super::task::same_group;
use super::{Answers, Error, Item, Task};
use crate::text;
use crate::tokenizer::jinja::{self, Expression, Template, Whitespace};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    name: String,
    #[serde(default)]
    instruction: String,
    prompt: String,
    labels: Option<Vec<String>>,
    choices: Option<String>,
    #[serde(default)]
    per_byte: bool,
    answer: String,
    #[serde(default)]
    values: Vec<Value>,
    group: Option<String>,
    shots: usize,
    train: Files,
    test: Files,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Files {
    One(PathBuf),
    Several(Vec<PathBuf>),
}

impl Files {
    fn below(&self, folder: &Path) -> Vec<PathBuf> {
        let files = match self {
            Files::One(file) => std::slice::from_ref(file),
            Files::Several(files) => files,
        };
        files.iter().map(|file| folder.join(file)).collect()
    }
}

impl Task {
    /// Reads a task and its rows. Training rows are shuffled by `seed`; `shots` replaces the task's own number.
    pub fn open(path: &Path, seed: u64, shots: Option<usize>) -> Result<Task, Error> {
        let wrong = |why: String| Error::Task { place: path.display().to_string(), why };
        let text = text::read(path, text::SETTINGS_BYTES).map_err(|e| wrong(format!("cannot read it: {e}")))?;
        let description: Description = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let answers = answers(&description).map_err(wrong)?;
        let reader = Reader::new(&description, &answers).map_err(wrong)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let [of_train, of_test] = [&description.train, &description.test].map(|files| files.below(folder));
        let (mut train, mut test) = (reader.read(&of_train)?, reader.read(&of_test)?);
        let files = [of_train, of_test].concat();
        // Before the groups are sorted, which keeps the order within each.
        train.shuffle(&mut StdRng::seed_from_u64(seed));
        let shots = shots.unwrap_or(description.shots);
        for rows in [&mut train, &mut test] {
            rows.sort_by(|a, b| a.group.cmp(&b.group)); // stable
        }
        for group in train.chunk_by_mut(same_group) {
            // Choices and open answers have no labels to take turns.
            if let Answers::Labels(labels) = &answers {
                put_shots_first(group, shots, labels.len());
            }
        }
        let few = |rows: &[Item]| {
            let of = rows.first().map_or_else(String::new, |row| of_group(&row.group));
            wrong(format!("`shots`: expected at most {}, the training rows{of}, found {shots}", rows.len()))
        };
        if let Some(rows) = train.chunk_by(same_group).find(|rows| rows.len() < shots) {
            return Err(few(rows));
        }
        // No group at all is too short for its shots as well.
        if train.is_empty() && shots > 0 {
            return Err(few(&[]));
        }
        let Description { name, instruction, .. } = description;
        let task = Task { name, instruction, answers, shots, train, test, files };
        // A question takes its examples from its own group.
        let known: HashSet<&str> = task.train.iter().map(|row| row.group.as_str()).collect();
        if let Some(row) = task.test.iter().find(|row| shots > 0 && !known.contains(row.group.as_str())) {
            return Err(wrong(format!("`group`: there is no training row{} for shots", of_group(&row.group))));
        }
        Ok(task)
    }
}

fn of_group(group: &str) -> String {
    if group.is_empty() { String::new() } else { format!(" of the group {group:?}") }
}

fn answers(description: &Description) -> Result<Answers, String> {
    match (&description.labels, &description.choices) {
        (Some(_), Some(_)) => Err("`choices`: expected no `labels` beside them".to_owned()),
        // One label is no question.
        (Some(labels), _) if labels.len() < 2 => {
            Err(format!("`labels`: expected at least two, found {}", labels.len()))
        }
        (Some(labels), _) if !description.values.is_empty() && description.values.len() != labels.len() => {
            Err(format!("`values`: expected {}, one for each label, found {}", labels.len(), description.values.len()))
        }
        (_, None) if description.per_byte => Err("`per_byte`: expected `choices` beside it".to_owned()),
        (Some(labels), None) => Ok(Answers::Labels(labels.clone())),
        (None, Some(_)) => Ok(Answers::Choices { per_byte: description.per_byte }),
        (None, None) => Ok(Answers::Open),
    }
}

/// Moves rows to the front so that the first `n` have the labels by turns: a prompt with more of one label draws the
/// model to it.
fn put_shots_first(rows: &mut [Item], n: usize, n_labels: usize) {
    for i in 0..n.min(rows.len()) {
        if let Some(next) = (i..rows.len()).find(|&r| rows[r].answer == i % n_labels) {
            rows[i..=next].rotate_right(1);
        }
    }
}

/// Makes items of rows.
struct Reader<'d> {
    description: &'d Description,
    answers: &'d Answers,
    prompt: Template,
    answer: Expression,
    group: Option<Expression>,
    choices: Option<Expression>,
}

impl<'d> Reader<'d> {
    fn new(description: &'d Description, answers: &'d Answers) -> Result<Reader<'d>, String> {
        let expression = |field: &str, source: &str| Expression::parse(source).map_err(|e| format!("`{field}`: {e}"));
        let optional =
            |field, source: &Option<String>| source.as_deref().map(|source| expression(field, source)).transpose();
        let prompt = Template::parse(&description.prompt, Whitespace::default(), true);
        Ok(Reader {
            description,
            answers,
            prompt: prompt.map_err(|e| format!("`prompt`: {e}"))?,
            answer: expression("answer", &description.answer)?,
            group: optional("group", &description.group)?,
            choices: optional("choices", &description.choices)?,
        })
    }

    fn read(&self, files: &[PathBuf]) -> Result<Vec<Item>, Error> {
        let read = || {
            let mut items = Vec::new();
            for file in files {
                for (place, row) in rows::read(file)? {
                    items.push(self.item(&row).map_err(|why| Error::Task { place, why })?);
                }
            }
            Ok(items)
        };
        // One thread for all rows: each template and expression would start its own.
        let place = files.first().map_or_else(String::new, |file| file.display().to_string());
        let no_thread = |e: jinja::Error| Error::Task { place, why: e.to_string() };
        jinja::on_deep_stack(read).map_err(no_thread)?
    }

    fn item(&self, row: &Value) -> Result<Item, String> {
        let prompt = self.prompt.render(&jinja::fields(row)).map_err(|e| format!("`prompt`: {e}"))?;
        let prompt = prompt.as_str().to_owned();
        let group = match &self.group {
            Some(group) => text(&value("group", group, self.description.group.as_deref(), row)?),
            None => String::new(),
        };
        // An expression: it may be a field, or be made of several.
        let answer = value("answer", &self.answer, Some(&self.description.answer), row)?;
        let mut item = Item { group, prompt, choices: Vec::new(), answer: 0, accepted: Vec::new() };
        match (self.answers, &self.choices) {
            (Answers::Labels(labels), _) => item.answer = self.place(&answer, labels.len())?,
            (Answers::Choices { .. }, Some(choices)) => {
                let choices = value("choices", choices, self.description.choices.as_deref(), row)?;
                item.choices =
                    texts(&choices).map_err(|found| format!("`choices`: expected a list of texts, found {found}"))?;
                item.answer = self.place(&answer, item.choices.len())?;
            }
            _ => {
                let accepted = texts(&answer);
                item.accepted =
                    accepted.map_err(|found| format!("`answer`: expected a text or several, found {found}"))?;
            }
        }
        Ok(item)
    }

    /// The place that an answer names among `n`.
    fn place(&self, answer: &Value, n: usize) -> Result<usize, String> {
        let values = &self.description.values;
        // A CSV has texts only.
        let same = |value: &&Value| text(value) == text(answer);
        // Without values the answer is the place itself, as many data sets have it.
        let place = match values.is_empty() {
            true => text(answer).trim().parse().ok(),
            false => values.iter().position(|value| same(&value)),
        };
        place.filter(|&place| place < n).ok_or_else(|| {
            let expected = match values.is_empty() {
                true => format!("a number below {n}"),
                false => values.iter().map(Value::to_string).collect::<Vec<_>>().join(", "),
            };
            format!("`answer`: expected {expected}, found {answer}")
        })
    }
}

/// An expression's value for a row.
fn value(field: &str, expression: &Expression, source: Option<&str>, row: &Value) -> Result<Value, String> {
    let value = expression.eval(row).map_err(|e| format!("`{field}`: {e}"))?;
    value.ok_or_else(|| format!("`{field}`: expected a field `{}`", source.unwrap_or("")))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A text or a list of texts, each as it follows a prompt: after a space.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    // Data sets give one text or several for the same field.
    let list = match value {
        Value::Array(list) if !list.is_empty() => list.as_slice(),
        Value::String(_) | Value::Number(_) => std::slice::from_ref(value),
        _ => return Err(value.to_string()),
    };
    // With one space: tokenizers join it with the word that follows.
    Ok(list.iter().map(|value| format!(" {}", text(value).trim())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(description: &str, train: &str, test: &str) -> Result<Task, Error> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("train.jsonl"), train).unwrap();
        std::fs::write(folder.path().join("test.jsonl"), test).unwrap();
        let path = folder.path().join("task.toml");
        std::fs::write(&path, format!("{description}\ntrain = \"train.jsonl\"\ntest = \"test.jsonl\"")).unwrap();
        Task::open(&path, 1, None)
    }

    const DESCRIPTION: &str = r#"
        name = "t"
        prompt = "Q: {{ text }}\nA:"
        labels = [" no", " yes"]
        answer = "a"
        values = ["n", "y"]
        shots = 1
    "#;

    #[test]
    fn rows_become_prompts() {
        let train = "{\"text\": \"one\", \"a\": \"y\"}\n";
        let t = task(DESCRIPTION, train, "{\"text\": \"two\", \"a\": \"n\"}").unwrap();
        assert_eq!(t.prefix(""), "Q: one\nA: yes\n\n");
        let item = Item {
            group: String::new(),
            prompt: "Q: two\nA:".into(),
            choices: Vec::new(),
            answer: 0,
            accepted: Vec::new(),
        };
        assert_eq!(t.test, [item]);
        assert!(t.training_rows(10).is_empty());
    }

    #[test]
    fn choices_belong_to_a_row_and_shots_to_a_group() {
        let description = r#"
            name = "t"
            prompt = "{{ question }}\nAnswer:"
            choices = "choices.text"
            answer = "answerKey"
            values = ["A", "B", "C"]
            group = "subject"
            shots = 1
        "#;
        let row = |subject: &str, question: &str, key: &str| {
            let choices = serde_json::json!({"label": ["A", "B"], "text": ["cat", "dog"]});
            serde_json::json!({"subject": subject, "question": question, "choices": choices, "answerKey": key})
                .to_string()
        };
        let train = [row("b", "Woof?", "B"), row("a", "Meow?", "A"), row("a", "Purr?", "A")].join("\n");
        let t = task(description, &train, &row("b", "Bark?", "B")).unwrap();
        assert_eq!(t.prefix("b"), "Woof?\nAnswer: dog\n\n");
        assert_eq!((&t.test[0].choices[..], t.test[0].answer), (&[" cat".to_owned(), " dog".to_owned()][..], 1));
        assert_eq!(t.training_rows(5).len(), 1);
        let error = task(description, &train, &row("c", "?", "B")).unwrap_err().to_string();
        assert!(error.ends_with("`group`: there is no training row of the group \"c\" for shots"), "{error}");
        let error = task(description, &row("a", "?", "C"), "").unwrap_err().to_string();
        assert!(error.ends_with("train.jsonl:1: `answer`: expected \"A\", \"B\", \"C\", found \"C\""), "{error}");
    }

    #[test]
    fn an_open_answer_is_one_of_several_texts() {
        let description = "name = \"t\"\nprompt = \"{{ q }}\"\nanswer = \"answers.text\"\nshots = 1";
        let train = "{\"q\": \"Who?\", \"answers\": {\"text\": [\"Ada\", \"Ada Lovelace\"]}}";
        let t = task(description, train, "").unwrap();
        assert_eq!(t.prefix(""), "Who? Ada\n\n");
        assert_eq!(t.train[0].accepted, [" Ada", " Ada Lovelace"]);
    }

    #[test]
    fn mistakes_name_file_line_and_field() {
        let message = |train: &str| task(DESCRIPTION, train, "").unwrap_err().to_string();
        let unknown = message("{\"text\": \"one\", \"a\": \"y\"}\n{\"text\": \"one\", \"a\": \"z\"}");
        assert!(unknown.ends_with("train.jsonl:2: `answer`: expected \"n\", \"y\", found \"z\""), "{unknown}");
        assert!(message("{\"a\": \"y\"}").contains("train.jsonl:1: `prompt`: undefined value"));
        assert!(message("{\"text\": \"one\"}").contains("train.jsonl:1: `answer`: expected a field `a`"));
        assert!(message("").contains("`shots`: expected at most 0"));
        assert!(task("name = 1", "", "").unwrap_err().to_string().contains("task.toml"));
    }
}
