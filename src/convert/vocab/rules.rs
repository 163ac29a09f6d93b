//! Owns the rules of a SentencePiece vocabulary that comes as `tokenizer.json`: what its normalizer and pre-tokenizer do to
//! spaces. Says what they do besides, for GGUF has no words for it.

use serde_json::Value;

use super::super::json::Object;
use crate::gguf::Metadata;
use crate::tokenizer::{Prefix, SPACE, keys};

/// What happens to the spaces of a text.
#[derive(Debug, PartialEq)]
pub(super) struct Spaces {
    pub(super) prefix: Prefix,
    /// Whether no merge crosses the beginning of a word.
    pub(super) split: bool,
    /// Whether tokens that want normal text are looked for in another one than the text itself.
    pub(super) normalizes: bool,
    /// What GGUF cannot say.
    unknown: Vec<String>,
}

impl Spaces {
    pub(super) fn read(root: &Object) -> Spaces {
        let mut spaces = Spaces { prefix: Prefix::Never, split: false, normalizes: false, unknown: Vec::new() };
        let (mut marks, mut doubles) = (false, false);
        for step in steps(root.get("normalizer"), "normalizers") {
            let pattern = &step["pattern"];
            match step["type"].as_str() {
                Some("Prepend") if step["prepend"] == SPACE => spaces.prefix = Prefix::Every,
                Some("Replace") if pattern["String"] == " " && step["content"] == SPACE => marks = true,
                // Metaspace puts no space before a space; with this it does.
                Some("Replace")
                    if marks && pattern["Regex"] == "\\A\u{2581}" && step["content"] == "\u{2581}\u{2581}" =>
                {
                    doubles = true;
                }
                _ => spaces.unknown.push(named("normalizer", step)),
            }
            spaces.normalizes = true;
        }
        for step in steps(root.get("pre_tokenizer"), "pretokenizers") {
            match step["type"].as_str() {
                Some("Metaspace") if step.get("replacement").is_none_or(|mark| mark == SPACE) => {
                    spaces.metaspace(step, doubles);
                }
                // Gemma's: its normalizer has left no space to split at.
                Some("Split") if step["pattern"]["String"] == " " && spaces.normalizes => {}
                _ => spaces.unknown.push(named("pre-tokenizer", step)),
            }
        }
        spaces
    }

    fn metaspace(&mut self, step: &Value, doubles: bool) {
        let scheme = match (step["prepend_scheme"].as_str(), step["add_prefix_space"].as_bool()) {
            (Some("never"), _) | (None, Some(false)) => Prefix::Never,
            (Some("first"), _) => Prefix::First,
            _ if doubles => Prefix::Last,
            _ => Prefix::Always,
        };
        // After a normalizer that puts one, there is a space already.
        if self.prefix == Prefix::Never {
            self.prefix = scheme;
        }
        self.split = step["split"].as_bool().unwrap_or(true);
    }

    /// Writes the rules, and says those that it cannot write. `crosses` tells whether a token goes over the beginning of a word.
    pub(super) fn write(self, crosses: bool, meta: &mut Metadata, notices: &mut Vec<String>) {
        self.prefix.write(meta);
        // Without a normalizer spaces are marked after all added tokens are found.
        if !self.normalizes && meta.get(keys::NORMALIZED).is_some() {
            meta.insert(keys::MARKS_FIRST, false);
        }
        if self.split && crosses {
            meta.insert(keys::SPLIT_WORDS, true);
        }
        for what in self.unknown {
            notices.push(format!("the tokenizer's {what} is left out, GGUF has no key for it: token ids may differ"));
        }
    }
}

/// The steps of a normalizer or pre-tokenizer, without sequences around them.
fn steps<'a>(whole: Option<&'a Value>, list: &str) -> Vec<&'a Value> {
    let Some(whole) = whole else { return Vec::new() };
    match whole[list].as_array() {
        Some(parts) if whole["type"] == "Sequence" => parts.iter().flat_map(|part| steps(Some(part), list)).collect(),
        _ => vec![whole],
    }
}

/// A step by its type.
fn named(what: &str, step: &Value) -> String {
    let name: String = step["type"].as_str().unwrap_or("of an unknown type").chars().take(40).collect();
    format!("{what} `{name}`")
}
