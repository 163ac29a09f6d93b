//! Owns chat templates: a conversation to the text that the model was trained on. Refuses what the template
//! refuses, naming its line, and templates that do not end.

use std::fmt::Write;
use std::io;
use std::sync::LazyLock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value, context};
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::{Error, keys};
use crate::gguf::{self, Metadata};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` ...
    pub role: String,
    /// What is said.
    pub content: String,
}

/// The chat template of a model.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// The template of a file; `None` where it has none. Of several, the one without a name or named `default`.
    pub fn from_gguf(meta: &Metadata) -> Result<Option<ChatTemplate>, Error> {
        let source = match meta.str(keys::CHAT_TEMPLATE)? {
            Some(source) => Some(source),
            None => meta.str(&format!("{}.default", keys::CHAT_TEMPLATE))?,
        };
        let Some(source) = source else { return Ok(None) };
        let token = |key| {
            let id = meta.get(key).and_then(gguf::Value::as_integer).and_then(|id| usize::try_from(id).ok());
            match (id, meta.strings(keys::TOKENS)?) {
                (Some(id), Some(tokens)) => Ok(tokens.get(id).map(String::as_str)),
                _ => Ok::<_, Error>(None),
            }
        };
        ChatTemplate::new(source, token(keys::BOS)?, token(keys::EOS)?).map(Some)
    }

    /// A template from its source and the texts of BOS and EOS.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<ChatTemplate, Error> {
        let mut environment = environment().map_err(|e| template_error(&e))?;
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(|e| template_error(&e))?;
        Ok(ChatTemplate {
            environment,
            source: source.to_owned(),
            bos: bos.map(str::to_owned),
            eos: eos.map(str::to_owned),
        })
    }

    /// The source, as the file has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation; with `add_generation_prompt` it ends where the assistant's answer begins.
    /// It may begin with BOS: [`Tokenizer::encode_with_bos`](super::Tokenizer::encode_with_bos) does not double it.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Error> {
        let template = self.environment.get_template(NAME).map_err(|e| template_error(&e))?;
        let values = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt,
            bos_token => self.bos.as_deref().map_or(Value::UNDEFINED, Value::from),
            eos_token => self.eos.as_deref().map_or(Value::UNDEFINED, Value::from),
            tools => Value::from(()),
            documents => Value::from(()),
        };
        template.render(values).map_err(|e| template_error(&e))
    }
}

/// What error messages call the template.
const NAME: &str = "chat_template";

/// Instructions one rendering may take; long conversations need some thousands.
const FUEL: u64 = 20_000_000;

/// The settings and functions that transformers gives to chat templates.
fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("tojson", tojson);
    Ok(environment)
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    // An unknown specifier is an error here, and a panic in `to_string`.
    write!(text, "{}", chrono::Local::now().format(format)).map_err(|_| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: `{format}` is no date format"))
    })?;
    Ok(text)
}

/// JSON as Python's `json.dumps` spells it, not escaped for HTML.
fn tojson(value: Value, indent: Option<usize>, kwargs: Kwargs) -> Result<Value, minijinja::Error> {
    let indent = indent.or(kwargs.get("indent")?);
    kwargs.get::<Option<bool>>("ensure_ascii")?;
    kwargs.assert_all_used()?;
    let mut json = Vec::new();
    let written = match indent {
        Some(n) => {
            let spaces = " ".repeat(n.min(32));
            value.serialize(&mut Serializer::with_formatter(&mut json, PrettyFormatter::with_indent(spaces.as_bytes())))
        }
        None => value.serialize(&mut Serializer::with_formatter(&mut json, Spaced)),
    };
    written.map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}")))?;
    Ok(String::from_utf8_lossy(&json).into())
}

/// One line of JSON with a space after each comma and colon.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        w.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}

/// `{% generation %}` marks the assistant's text for training; it has no effect on the text.
fn without_generation_tags(source: &str) -> String {
    static TAG: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").unwrap_or_else(|e| unreachable!("{e}"))
    });
    TAG.replace_all(source, |found: &regex::Captures| {
        let tag = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {tag} {}%}}", &found[1], &found[3])
    })
    .into_owned()
}

/// The message with the line it belongs to, and what the template said last.
fn template_error(error: &minijinja::Error) -> Error {
    let mut message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    if let Some(line) = error.line() {
        // Writing to a string does not fail.
        let _ = write!(message, " (line {line})");
    }
    Error::Template(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(content: &str) -> Vec<Message> {
        vec![Message { role: "user".into(), content: content.into() }]
    }

    fn render(source: &str) -> Result<String, Error> {
        ChatTemplate::new(source, Some("<s>"), Some("</s>"))?.render(&user("a<b"), true)
    }

    #[test]
    fn values_are_not_escaped() {
        let text =
            render("{{ bos_token }}{% for m in messages %}{{ m['content'] }}{{ m|tojson }}{% endfor %}").unwrap();
        assert_eq!(text, r#"<s>a<b{"role": "user", "content": "a<b"}"#);
    }

    #[test]
    fn json_is_spelled_as_python_does() {
        assert_eq!(render("{{ [1, 'é', none, true, {}]|tojson }}").unwrap(), r#"[1, "é", null, true, {}]"#);
        assert_eq!(render("{{ {'a': [1]}|tojson(indent=2) }}").unwrap(), "{\n  \"a\": [\n    1\n  ]\n}");
    }

    #[test]
    fn errors_name_the_line() {
        let error = |source| render(source).unwrap_err().to_string();
        assert_eq!(error("a\n{{ raise_exception('no') }}"), "chat template: no (line 2)");
        assert!(error("a\n\n{% if %}").ends_with("(line 3)"), "{}", error("a\n\n{% if %}"));
        assert!(error("{{ strftime_now('%Q') }}").contains("%Q"));
        assert!(
            error("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}").contains("fuel")
        );
    }

    #[test]
    fn python_methods_and_blocks_work() {
        let text = render("{% if messages[0].content.strip().startswith('a') %}\n  {% break_me = 1 %}{% endif %}");
        assert!(text.is_err());
        let source = "{%- set ns = namespace(n=0) -%}\n{% for m in messages %}\n  {% set ns.n = ns.n + 1 %}\n{% endfor %}\nx{{ ns.n }}\n";
        assert_eq!(render(source).unwrap(), "x1");
        assert_eq!(render("{% generation %}a{%- endgeneration %} b").unwrap(), "a b");
        assert_eq!(render("{{ 'x' if tools is none else 'y' }}{{ undefined_name }}").unwrap(), "x");
        assert_eq!(render("{{ strftime_now('%Y') }}").unwrap().len(), 4);
    }
}
