//! A corpus of templates against transformers' own renderer, to the byte (tests/makers/make_template_golden.py).

use std::fs;
use std::path::{Path, PathBuf};

use curtail::tokenizer::{ChatTemplate, Message};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/templates")
}

fn golden() -> Value {
    let text = fs::read_to_string(folder().join("golden.json")).expect("the golden file");
    serde_json::from_str(&text).expect("JSON")
}

fn messages(value: &Value) -> Vec<Message> {
    serde_json::from_value(value.clone()).expect("messages")
}

/// The text that a source gives, or why it gives none.
fn render(source: &str, messages: &[Message]) -> Result<String, String> {
    let template = ChatTemplate::new(source, Some("<s>"), Some("</s>")).map_err(|e| e.to_string())?;
    template.render(messages, true).map(|rendered| rendered.as_str().to_owned()).map_err(|e| e.to_string())
}

/// How a rendering differs from transformers'; `null` is an error there.
fn difference(source: &str, messages: &[Message], expected: &Value) -> Option<String> {
    let found = render(source, messages);
    let same = match &found {
        Ok(text) => expected.as_str() == Some(text),
        Err(_) => expected.is_null(),
    };
    (!same).then(|| format!("{source:?}\n  expected {expected}\n  found    {found:?}"))
}

fn assert_none(differences: Vec<String>) {
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn chat_templates_render_as_in_transformers() {
    let golden = golden();
    let conversations: Vec<Vec<Message>> =
        golden["conversations"].as_array().expect("a list").iter().map(messages).collect();
    let tools = golden["tools"].as_str().expect("a text");
    let mut differences = Vec::new();
    for (name, expected) in golden["chats"].as_object().expect("by name") {
        let source = fs::read_to_string(folder().join(format!("chat/{name}.jinja"))).expect("a template");
        for (i, conversation) in conversations.iter().enumerate() {
            differences.extend(difference(&source, conversation, &expected["plain"][i]));
            differences.extend(difference(&format!("{tools}{source}"), conversation, &expected["tools"][i]));
        }
    }
    assert_none(differences);
}

#[test]
fn expressions_have_the_values_of_jinja2() {
    let golden = golden();
    let talk = messages(&golden["talk"]);
    let expressions = golden["expressions"].as_array().expect("a list");
    assert!(expressions.len() > 600);
    let compare = |pair: &Value| {
        let source = format!("{{{{ ({}) }}}}", pair[0].as_str().expect("an expression"));
        difference(&source, &talk, &pair[1])
    };
    assert_none(expressions.iter().filter_map(compare).collect());
}

#[test]
fn statements_and_white_space_are_jinja2s() {
    let golden = golden();
    let talk = messages(&golden["talk"]);
    let statements = golden["statements"].as_array().expect("a list");
    let compare = |pair: &Value| difference(pair[0].as_str().expect("a template"), &talk, &pair[1]);
    assert_none(statements.iter().filter_map(compare).collect());
}
