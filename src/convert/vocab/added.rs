//! Owns the tokens beside the vocabulary proper: where files name them, and what must be around them in a text. GGUF knows of
//! none of the latter: keys of this program's own say it, to its tokenizer, and other programs pass over them.

use serde_json::Value;

use super::super::json::{Document, Object, shown};
use super::super::read::Kind as FileKind;
use super::{Error, Kind, Tokens, Vocab, need_id};
use crate::gguf::Metadata;
use crate::tokenizer::keys;

/// A token beside the vocabulary proper.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Added {
    pub(super) id: usize,
    pub(super) text: String,
    pub(super) special: bool,
    lstrip: bool,
    rstrip: bool,
    single_word: bool,
    /// Looked for after the text is brought to its normal form.
    normalized: bool,
}

impl Added {
    fn read(id: usize, token: &Value) -> Option<Added> {
        let flag = |key: &str| token[key].as_bool().unwrap_or(false);
        Some(Added {
            id,
            text: token["content"].as_str()?.to_owned(),
            special: flag("special"),
            lstrip: flag("lstrip"),
            rstrip: flag("rstrip"),
            single_word: flag("single_word"),
            normalized: flag("normalized"),
        })
    }

    /// Kind and text as GGUF has them.
    pub(super) fn entry(&self) -> (Kind, String) {
        if self.special || looks_special(&self.text) {
            (Kind::Control, self.text.clone())
        } else {
            (Kind::UserDefined, self.text.replace('\u{2581}', " "))
        }
    }

    fn has_surroundings(&self) -> bool {
        self.lstrip || self.rstrip || self.single_word
    }
}

/// Texts that steer although some files do not say so.
fn looks_special(text: &str) -> bool {
    let between =
        |start, end| text.len() >= str::len(start) + str::len(end) && text.starts_with(start) && text.ends_with(end);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || between("<|", "|>")
        || between("<\u{FF5C}", "\u{FF5C}>")
        || between("<unused", ">")
}

impl Vocab<'_> {
    /// The tokens of `tokenizer.json`, and those of `tokenizer_config.json` that it does not have.
    pub(super) fn added_with_json(&self, tokenizer: &Document) -> Result<Vec<Added>, Error> {
        let root = tokenizer.root();
        let mut all = Vec::new();
        for token in root.array("added_tokens")?.into_iter().flatten() {
            let id = token["id"].as_u64().map(|id| usize::try_from(id).unwrap_or(usize::MAX));
            match id.and_then(|id| Added::read(id, token)) {
                Some(added) => all.push(added),
                None => return Err(root.error("added_tokens", "entries with `id` and `content`", shown(token))),
            }
        }
        let known: hashbrown::HashSet<usize> = all.iter().map(|added| added.id).collect();
        all.extend(self.added_tokens_decoder()?.into_iter().filter(|added| !known.contains(&added.id)));
        Ok(all)
    }

    /// `added_tokens.json`: ids by text.
    pub(super) fn added_tokens_json(&self) -> Result<Vec<Added>, Error> {
        let path = self.folder.join("added_tokens.json");
        let Some(file) = Document::read(path, FileKind::Lists)? else { return Ok(Vec::new()) };
        let root = file.root();
        let entry = |(text, _): (&String, &Value)| {
            Ok(Added { id: need_id(&root, text)?, text: text.clone(), ..Added::default() })
        };
        root.iter().map(entry).collect()
    }

    /// The tokens of `tokenizer_config.json`.
    pub(super) fn added_tokens_decoder(&self) -> Result<Vec<Added>, Error> {
        let Some(file) = &self.tokenizer_config else { return Ok(Vec::new()) };
        let Some(decoder) = file.root().object("added_tokens_decoder")? else { return Ok(Vec::new()) };
        let entry = |(id, token): (&String, &Value)| {
            let added = id.parse().ok().and_then(|id| Added::read(id, token));
            added.ok_or_else(|| decoder.error(id, "an id with the `content` of a token", "something else"))
        };
        decoder.iter().map(entry).collect()
    }
}

/// What becomes of a text before tokens are looked for that want its normal form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Normal {
    /// Nothing.
    Same,
    /// It changes.
    Changed,
}

/// Writes what must be around the tokens that are in the vocabulary.
pub(super) fn write_surroundings(added: &[Added], tokens: &Tokens, normal: Normal, meta: &mut Metadata) {
    let in_place = |added: &&Added| tokens.texts().get(added.id) == Some(&added.entry().1);
    let added: Vec<&Added> = added.iter().filter(in_place).collect();
    let order_matters = normal == Normal::Changed || classes_overlap(&added);
    let mut put = |key: &str, flag: &dyn Fn(&Added) -> bool| {
        let ids: Vec<u32> = added.iter().filter(|added| flag(added)).map(|added| added.id as u32).collect();
        if !ids.is_empty() {
            meta.insert(key, ids);
        }
    };
    put(keys::LSTRIP, &|added| added.lstrip);
    put(keys::RSTRIP, &|added| added.rstrip);
    put(keys::SINGLE_WORD, &|added| added.single_word);
    put(keys::NORMALIZED, &|added| added.normalized && order_matters);
}

/// Whether user-defined tokens of a SentencePiece vocabulary must be cut out of a text before it gets its first space.
pub(super) fn must_split(added: &[Added], has_prefix: bool) -> bool {
    added.iter().any(|added| added.entry().0 == Kind::UserDefined && (has_prefix || added.has_surroundings()))
}

/// Whether one of the tokens that are looked for first can take a part of one that is looked for later.
fn classes_overlap(added: &[&Added]) -> bool {
    let (later, first): (Vec<&Added>, Vec<&Added>) = added.iter().partition(|added| added.normalized);
    // So many pairs take longer to compare than is worth it: the order is written, which is always right.
    if first.len() * later.len() > 1 << 16 {
        return true;
    }
    later.iter().any(|a| first.iter().any(|b| overlap(&a.text, &b.text)))
}

fn overlap(a: &str, b: &str) -> bool {
    let meets = |a: &str, b: &str| (1..a.len().min(b.len())).any(|n| a.as_bytes().ends_with(&b.as_bytes()[..n]));
    a.contains(b) || b.contains(a) || meets(a, b) || meets(b, a)
}

/// A flag of a file's model that byte-pair encoding as GGUF has it lacks: an error where it changes every token, a notice
/// where it changes some.
pub(super) fn check_model(model: &Object, notices: &mut Vec<String>) -> Result<(), Error> {
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if let Some(text) = model.str(key)?.filter(|text| !text.is_empty()) {
            return Err(model.error(key, "none, as GGUF's vocabularies have it", format_args!("`{text}`")));
        }
    }
    if model.f64("dropout")?.is_some_and(|dropout| dropout > 0.0) {
        notices.push("the tokenizer's `dropout` is left out: text is always merged as far as it goes".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_can_meet_are_known() {
        for (a, b, expected) in [("<a>", "<b>", false), ("<a>>", "><b", true), ("<a>", "a", true), ("ab", "bc", true)] {
            assert_eq!(overlap(a, b), expected, "{a} {b}");
            assert_eq!(overlap(b, a), expected, "{b} {a}");
        }
    }
}
