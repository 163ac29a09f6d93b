//! Owns byte-level BPE vocabularies: `tokenizer.json`, or GPT-2's `vocab.json` with `merges.txt`. Refuses two tokens for
//! one id, ids without a row in the model, and splitting rules without a name.

use serde_json::Value;

use super::super::json::{Document, read_text, shown};
use super::{Error, Kind, Tokens, Vocab, added, need_id, pre};
use crate::gguf::Metadata;

/// What a token is beside the vocabulary proper: text and whether special.
type Added = (String, bool);

impl Vocab<'_> {
    /// Writes tokens and merges; they are also returned, for roles to be found in.
    pub(super) fn bpe(&mut self, meta: &mut Metadata) -> Result<Tokens, Error> {
        let pre = self.pre_name()?;
        let (tokens, merges) = match &self.tokenizer {
            Some(tokenizer) => (self.read_tokenizer_json(tokenizer)?, merges_of_json(tokenizer)?),
            None => (self.read_vocab_json()?, Vec::new()),
        };
        let merges = if merges.is_empty() { self.merges_txt()? } else { merges };
        tokens.write("gpt2", &pre, meta);
        if !merges.is_empty() {
            meta.insert("tokenizer.ggml.merges", merges);
        }
        Ok(tokens)
    }

    fn pre_name(&self) -> Result<String, Error> {
        if let Some(name) = self.pre {
            return Ok(name.to_owned());
        }
        // GPT-2's two files mean its rules.
        let Some(tokenizer) = &self.tokenizer else { return Ok("gpt-2".into()) };
        let root = tokenizer.root();
        let whole = ["normalizer", "pre_tokenizer", "model"]
            .map(|key| (key.to_owned(), root.get(key).cloned().unwrap_or_default()));
        match pre::name(&Value::Object(whole.into_iter().collect())) {
            Ok(name) => Ok(name.into()),
            Err(rules) => {
                let error = root.error("pre_tokenizer", "rules that GGUF has a name for", rules);
                Err(error.with_hint("if you know which rules these are, name them: --pre NAME"))
            }
        }
    }

    fn read_tokenizer_json(&self, tokenizer: &Document) -> Result<Tokens, Error> {
        let root = tokenizer.root();
        let model = root.object("model")?.ok_or_else(|| root.error("model", "an object", "no such key"))?;
        if !matches!(model.str("type")?, Some("BPE") | None) {
            return Err(model.error("type", "`BPE`", shown(model.get("type").unwrap_or(&Value::Null))));
        }
        let Some(vocab) = model.object("vocab")? else { return Err(model.error("vocab", "an object", "no such key")) };
        let mut slots = Slots::new(self.n_vocab);
        for (text, _) in vocab.iter() {
            let id = need_id(&vocab, text)?;
            slots.put(id, text).map_err(|found| vocab.error(text, slots.expected(), found))?;
        }
        for token in root.array("added_tokens")?.into_iter().flatten() {
            let (Some(text), Some(id)) = (token["content"].as_str(), token["id"].as_u64()) else {
                return Err(root.error("added_tokens", "entries with `id` and `content`", token));
            };
            let special = token["special"].as_bool().unwrap_or(false);
            let id = usize::try_from(id).unwrap_or(usize::MAX);
            slots.add(id, text, special).map_err(|found| root.error("added_tokens", slots.expected(), found))?;
        }
        self.finish(slots)
    }

    fn read_vocab_json(&self) -> Result<Tokens, Error> {
        let path = self.path_of("vocab.json");
        let Some(file) = Document::read(path)? else {
            let expected = "`tokenizer.model`, `tokenizer.json`, or `vocab.json` with `merges.txt`";
            return Err(Error::invalid(self.folder, "tokenizer", expected, "none of them"));
        };
        let vocab = file.root();
        let mut slots = Slots::new(self.n_vocab);
        for (text, _) in vocab.iter() {
            let id = need_id(&vocab, text)?;
            slots.put(id, text).map_err(|found| vocab.error(text, slots.expected(), found))?;
        }
        for (text, id) in self.added_tokens_json()? {
            slots.add(id, &text, false).map_err(|found| self.added_error("added_tokens.json", &slots, found))?;
        }
        self.mark_roles(&mut slots)?;
        self.finish(slots)
    }

    /// GPT-2's files do not say which tokens are special: those with a role are.
    fn mark_roles(&self, slots: &mut Slots) -> Result<(), Error> {
        let map = Document::read(self.path_of("special_tokens_map.json"))?;
        for file in [self.tokenizer_config.as_ref(), map.as_ref()].into_iter().flatten() {
            for role in ["bos", "eos", "unk", "pad"] {
                let text = super::special::role_text(file.root(), role);
                let id = text.as_ref().and_then(|text| slots.texts.iter().position(|t| t.as_ref() == Some(text)));
                if let (Some(id), Some(text)) = (id, text) {
                    slots.added[id] = Some((text, true));
                }
            }
        }
        Ok(())
    }

    fn finish(&self, mut slots: Slots) -> Result<Tokens, Error> {
        for (id, text, special) in self.added_tokens_decoder()? {
            slots.add(id, &text, special).map_err(|found| self.added_error("tokenizer_config.json", &slots, found))?;
        }
        let mut tokens = Tokens::padding(self.n_vocab, None);
        for (id, (text, addition)) in slots.texts.iter().zip(&slots.added).enumerate() {
            match (text, addition) {
                (_, Some((text, special))) => {
                    let (kind, text) = added(text, *special);
                    tokens.set(id, &text, kind, 0.0);
                }
                (Some(text), None) => tokens.set(id, text, Kind::Normal, 0.0),
                (None, None) => {}
            }
        }
        Ok(tokens)
    }

    fn added_error(&self, file: &str, slots: &Slots, found: String) -> Error {
        Error::invalid(&self.path_of(file), "added tokens", slots.expected(), found)
    }

    /// The lines of `merges.txt` that name two tokens.
    fn merges_txt(&self) -> Result<Vec<String>, Error> {
        let Some(text) = read_text(&self.path_of("merges.txt"))? else { return Ok(Vec::new()) };
        let lines = text.lines().enumerate().filter(|(i, line)| *i > 0 || !line.starts_with('#'));
        let parts = lines.map(|(_, line)| line.split_whitespace().collect::<Vec<_>>());
        Ok(parts.filter(|parts| parts.len() == 2).map(|parts| parts.join(" ")).collect())
    }
}

/// The tokens by id, as they are found.
struct Slots {
    texts: Vec<Option<String>>,
    added: Vec<Option<Added>>,
}

impl Slots {
    fn new(n: usize) -> Slots {
        Slots { texts: vec![None; n], added: vec![None; n] }
    }

    fn expected(&self) -> String {
        format!("one token for each id below {}, the rows of the model", self.texts.len())
    }

    fn put(&mut self, id: usize, text: &str) -> Result<(), String> {
        match self.texts.get_mut(id) {
            Some(slot @ None) => *slot = Some(text.to_owned()),
            Some(Some(old)) => return Err(format!("{old:?} and {text:?} as {id}")),
            None => return Err(format!("{text:?} as {id}")),
        }
        Ok(())
    }

    /// An added token may name one that the vocabulary has.
    fn add(&mut self, id: usize, text: &str, special: bool) -> Result<(), String> {
        match self.texts.get(id) {
            Some(Some(old)) if old != text => return Err(format!("{old:?} and {text:?} as {id}")),
            Some(_) => {}
            None => return Err(format!("{text:?} as {id}")),
        }
        self.texts[id] = Some(text.to_owned());
        self.added[id] = Some((text.to_owned(), special));
        Ok(())
    }
}

/// Merges as strings `a b`, or as pairs, whose spaces are spelled as byte-level BPE spells them.
fn merges_of_json(tokenizer: &Document) -> Result<Vec<String>, Error> {
    let Some(model) = tokenizer.root().object("model")? else { return Ok(Vec::new()) };
    let merge = |merge: &Value| match merge {
        Value::String(merge) => Ok(merge.clone()),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(a), Value::String(b)] => {
                Ok(format!("{} {}", a.replace(' ', "\u{120}"), b.replace(' ', "\u{120}")))
            }
            _ => Err(model.error("merges", "pairs of tokens", shown(merge))),
        },
        _ => Err(model.error("merges", "strings or pairs of tokens", shown(merge))),
    };
    model.array("merges")?.into_iter().flatten().map(merge).collect()
}
