//! Which chat template a command uses, and what is said where it fails: another one is always a way out.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow, bail, ensure};

use super::Usage;
use crate::gguf::Metadata;
use crate::tokenizer::{ChatTemplate, Message, Rendered};

/// Bytes of a template's file at most.
const MAX_FILE: u64 = 1 << 20;

const HINT: &str = "hint: --chat-template NAME|FILE takes another template, --chat-template none continues plain text";

/// The template that `--chat-template` names, else the model's own, if there is one.
pub(crate) fn choose(wish: Option<&str>, meta: &Metadata) -> anyhow::Result<Option<ChatTemplate>> {
    let template = match wish {
        Some("none") => return Ok(None),
        Some(name) => {
            let source = source(name)?;
            ChatTemplate::for_model(meta, &source, if is_inline(name) { "--chat-template" } else { name }).map(Some)
        }
        None => ChatTemplate::from_gguf(meta),
    };
    template.map_err(|e| anyhow!("{e}\n{HINT}")).context("cannot use the chat template")
}

/// Whether the flag holds the template itself, as llama.cpp allows it.
fn is_inline(wish: &str) -> bool {
    wish.contains("{{") || wish.contains("{%")
}

fn source(wish: &str) -> anyhow::Result<String> {
    if let Some(source) = ChatTemplate::named(wish) {
        return Ok(source.to_owned());
    }
    if is_inline(wish) {
        return Ok(wish.to_owned());
    }
    let path = Path::new(wish);
    if !path.exists() {
        let names = ChatTemplate::names().collect::<Vec<_>>().join(", ");
        let expected = "expected `none`, a file, or the name of a template";
        return Err(Usage(format!("--chat-template: {expected}, found `{wish}`\nhint: known names: {names}")).into());
    }
    read(path).with_context(|| format!("--chat-template: cannot use `{wish}`"))
}

fn read(path: &Path) -> anyhow::Result<String> {
    // A FIFO or a device could go on for ever.
    ensure!(path.metadata()?.is_file(), "expected a file with a template, found something else");
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= MAX_FILE, "expected at most {MAX_FILE} bytes, found more");
    let Ok(text) = String::from_utf8(bytes) else { bail!("expected text in UTF-8") };
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
}

/// The text of a conversation up to where the answer begins.
pub(crate) fn render(template: &ChatTemplate, messages: &[Message]) -> anyhow::Result<Rendered> {
    template.render(messages, true).map_err(|e| anyhow!("{e}\n{HINT}"))
}

/// What is said where the template leaves the system prompt out; `None` where it has its place.
pub(crate) fn dropped_system(system: Option<&str>, rendered: &Rendered) -> Option<&'static str> {
    let system = system?.trim();
    // Some templates write messages as JSON.
    let escaped = serde_json::to_string(system).unwrap_or_default();
    let text = rendered.as_str();
    let found = text.contains(system) || text.contains(escaped.trim_matches('"'));
    (!found).then_some("note: the chat template leaves the system prompt out: the model does not see it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_found_by_name_or_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jinja");
        std::fs::write(&path, "\u{feff}{{ bos_token }}").unwrap();
        assert_eq!(source(path.to_str().unwrap()).unwrap(), "{{ bos_token }}");
        assert!(source("chatml").unwrap().contains("<|im_start|>"));
        assert_eq!(source("{{ 1 }}").unwrap(), "{{ 1 }}");
        let unknown = source("chatmll").unwrap_err();
        assert!(unknown.is::<Usage>() && unknown.to_string().contains("chatml, "), "{unknown}");
        assert!(format!("{:#}", source(folder.path().to_str().unwrap()).unwrap_err()).contains("expected a file"));
    }

    #[test]
    fn a_dropped_system_prompt_is_noticed() {
        let dropped = |text: &str| dropped_system(Some(" Say \"a\" "), &Rendered::from(text.to_owned())).is_some();
        assert!(dropped("hi"));
        assert!(!dropped("Say \"a\"") && !dropped(r#"{"content": " Say \"a\" "}"#));
        assert!(dropped_system(None, &Rendered::default()).is_none());
    }
}
