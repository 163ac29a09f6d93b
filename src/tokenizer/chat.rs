//! Owns chat templates: a conversation to the text that the model was trained on. Refuses what the template
//! refuses, naming the template and its line.

use serde::{Deserialize, Serialize};

use super::jinja::{self, Data, Rendered, Whitespace};
use super::{Error, keys, named};
use crate::gguf::{self, Metadata};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant` ...
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A role is the program's word and may become part of a special token; what is said is not.
    fn data(&self) -> Data<'_> {
        Data::Dict(vec![("role", Data::Own(&self.role)), ("content", Data::Typed(&self.content))])
    }
}

/// The chat template of a model.
pub struct ChatTemplate {
    template: jinja::Template,
    source: String,
    /// Whose template it is, as errors say it.
    of: String,
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
        let of = meta.path().display().to_string();
        source.map(|source| ChatTemplate::for_model(meta, source, &of)).transpose()
    }

    /// A template from elsewhere, for the model of this file. `of` is its name in errors.
    pub fn for_model(meta: &Metadata, source: &str, of: &str) -> Result<ChatTemplate, Error> {
        let token = |key| {
            let id = meta.get(key).and_then(gguf::Value::as_integer).and_then(|id| usize::try_from(id).ok());
            match (id, meta.strings(keys::TOKENS)?) {
                (Some(id), Some(tokens)) => Ok(tokens.get(id).map(String::as_str)),
                _ => Ok::<_, Error>(None),
            }
        };
        ChatTemplate::parse(source, of, token(keys::BOS)?, token(keys::EOS)?)
    }

    /// The source of a format that this program knows by name.
    pub fn named(name: &str) -> Option<&'static str> {
        named::TEMPLATES.iter().find(|(known, _)| *known == name).map(|(_, source)| *source)
    }

    /// The names of the known formats.
    pub fn names() -> impl Iterator<Item = &'static str> {
        named::TEMPLATES.iter().map(|(name, _)| *name)
    }

    /// A template from its source and the texts of BOS and EOS.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<ChatTemplate, Error> {
        ChatTemplate::parse(source, "", bos, eos)
    }

    fn parse(source: &str, of: &str, bos: Option<&str>, eos: Option<&str>) -> Result<ChatTemplate, Error> {
        // The settings of transformers.
        let whitespace = Whitespace { trim_blocks: true, lstrip_blocks: true };
        Ok(ChatTemplate {
            template: jinja::Template::parse(source, whitespace, false).map_err(|e| template_error(of, &e))?,
            source: source.to_owned(),
            of: of.to_owned(),
            bos: bos.map(str::to_owned),
            eos: eos.map(str::to_owned),
        })
    }

    /// The source, as the file has it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation; with `add_generation_prompt` it ends where the assistant's answer begins.
    /// It may begin with BOS: [`Tokenizer::encode_rendered_with_bos`](super::Tokenizer::encode_rendered_with_bos) does
    /// not double it.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Rendered, Error> {
        let mut values = vec![
            ("messages", Data::List(messages.iter().map(Message::data).collect())),
            ("tools", Data::None),
            ("documents", Data::None),
            ("add_generation_prompt", Data::Bool(add_generation_prompt)),
        ];
        values.extend(self.bos.as_deref().map(|bos| ("bos_token", Data::Own(bos))));
        values.extend(self.eos.as_deref().map(|eos| ("eos_token", Data::Own(eos))));
        self.template.render(&values).map_err(|e| template_error(&self.of, &e))
    }
}

fn template_error(of: &str, error: &jinja::Error) -> Error {
    let of = if of.is_empty() { String::new() } else { format!(" of `{of}`") };
    Error::Template(format!("{of}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(content: &str) -> Vec<Message> {
        vec![Message { role: "user".into(), content: content.into() }]
    }

    fn render(source: &str) -> Result<String, Error> {
        let rendered = ChatTemplate::new(source, Some("<s>"), Some("</s>"))?.render(&user("a<b"), true)?;
        Ok(rendered.as_str().to_owned())
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
            error("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
                .contains("does not come to an end")
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

    #[test]
    fn named_templates_render_conversations() {
        let turn = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
        let talk = [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Yes?"), turn("user", "Bye")];
        for name in ChatTemplate::names() {
            let template = ChatTemplate::new(ChatTemplate::named(name).unwrap(), Some("<s>"), Some("</s>")).unwrap();
            let text = template.render(&talk, true).unwrap_or_else(|e| panic!("{name}: {e}"));
            let places = ["Be brief.", "Hi", "Yes?", "Bye"].map(|said| text.as_str().find(said));
            assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{name}: {text:?}");
            let shorter = template.render(&talk[..3], false).unwrap();
            assert!(text.as_str().starts_with(shorter.as_str()), "{name}: {text:?} after {shorter:?}");
        }
    }
}
