//! Owns byte-level BPE vocabularies: `tokenizer.json`, or GPT-2's `vocab.json` with `merges.txt`. Refuses splitting rules
//! without a name.

use serde_json::Value;

use super::super::json::{Document, Object, read_text, shown};
use super::added::{Added, Normal, check_model, write_surroundings};
use super::tokens::{LeftOut, Tokens, Why};
use super::{Error, FileKind, Kind, Vocab, need_id, pre};
use crate::gguf::Metadata;
use crate::tokenizer::keys;

impl Vocab<'_> {
    /// Writes tokens and merges; they are also returned, for roles to be found in.
    pub(super) fn bpe(&mut self, meta: &mut Metadata) -> Result<Tokens, Error> {
        let pre = self.pre_name()?;
        let mut left_out = LeftOut::default();
        let ((tokens, added), merges) = match self.tokenizer.take() {
            Some(tokenizer) => {
                let read = (self.read_tokenizer_json(&tokenizer, &mut left_out)?, merges_of_json(&tokenizer)?);
                self.tokenizer = Some(tokenizer);
                read
            }
            None => (self.read_vocab_json(&mut left_out)?, Vec::new()),
        };
        let merges = if merges.is_empty() { self.merges_txt(&mut left_out)? } else { merges };
        let merges = tokens.with_known_parts(merges, &mut left_out);
        left_out.tell(self.notices);
        tokens.write("gpt2", &pre, meta);
        if !merges.is_empty() {
            meta.insert("tokenizer.ggml.merges", merges);
        }
        let normalizer = self.tokenizer.as_ref().and_then(|tokenizer| tokenizer.root().get("normalizer"));
        let normal = if normalizer.is_some() { Normal::Changed } else { Normal::Same };
        write_surroundings(&added, &tokens, normal, meta);
        if self.puts_space() {
            meta.insert(keys::PREFIX_SCHEME, "always");
        }
        Ok(tokens)
    }

    /// Whether a text that starts with no space gets one. The tokenizer's settings come before the tokenizer's own, as in
    /// transformers, where the splitting is one step; as one of several, it is part of rules that have names.
    fn puts_space(&self) -> bool {
        let config = self.tokenizer_config.as_ref().map(Document::root);
        let set = config.and_then(|config| config.get("add_prefix_space")?.as_bool());
        let Some(tokenizer) = &self.tokenizer else { return set.unwrap_or(false) };
        match tokenizer.root().get("pre_tokenizer") {
            Some(pre) if pre["type"] == "ByteLevel" => set.or(pre["add_prefix_space"].as_bool()).unwrap_or(true),
            _ => false,
        }
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
        let mut whole = Value::Object(whole.into_iter().collect());
        if whole["pre_tokenizer"]["type"] == "ByteLevel" {
            whole["pre_tokenizer"]["add_prefix_space"] = false.into(); // has a key of its own
        }
        match pre::name(&whole) {
            Ok(name) => Ok(name.into()),
            Err(rules) => {
                let error = root.error("pre_tokenizer", "rules that GGUF has a name for", rules);
                Err(error.with_hint("if you know which rules these are, name them: --pre NAME"))
            }
        }
    }

    fn read_tokenizer_json(
        &mut self,
        tokenizer: &Document,
        left_out: &mut LeftOut,
    ) -> Result<(Tokens, Vec<Added>), Error> {
        let root = tokenizer.root();
        let model = root.object("model")?.ok_or_else(|| root.error("model", "an object", "no such key"))?;
        if !matches!(model.str("type")?, Some("BPE") | None) {
            return Err(model.error("type", "`BPE`", shown(model.get("type").unwrap_or(&Value::Null))));
        }
        check_model(&model, self.notices)?;
        let Some(vocab) = model.object("vocab")? else { return Err(model.error("vocab", "an object", "no such key")) };
        let added = self.added_with_json(tokenizer)?;
        Ok((self.tokens_of(&vocab, &added, left_out)?, added))
    }

    fn read_vocab_json(&self, left_out: &mut LeftOut) -> Result<(Tokens, Vec<Added>), Error> {
        let path = self.path_of("vocab.json");
        let Some(file) = Document::read(path, FileKind::Lists)? else {
            let expected = "`tokenizer.model`, `tokenizer.json`, or `vocab.json` with `merges.txt`";
            return Err(Error::invalid(self.folder, "tokenizer", expected, "none of them"));
        };
        let mut added = self.added_tokens_json()?;
        added.extend(self.added_tokens_decoder()?);
        let mut tokens = self.tokens_of(&file.root(), &added, left_out)?;
        self.mark_roles(&mut tokens)?;
        Ok((tokens, added))
    }

    /// The tokens of a vocabulary, and then those beside it, which may name some that it has.
    fn tokens_of(&self, vocab: &Object, added: &[Added], left_out: &mut LeftOut) -> Result<Tokens, Error> {
        let mut tokens = Tokens::padding(self.n_vocab, None);
        for (text, _) in vocab.iter() {
            tokens.put(need_id(vocab, text)?, text, Kind::Normal, 0.0, left_out);
        }
        for token in added {
            let (kind, text) = token.entry();
            tokens.put_added(token.id, &text, kind, 0.0, left_out);
        }
        tokens.settle(left_out);
        Ok(tokens)
    }

    /// GPT-2's files do not say which tokens are special: those with a role are.
    fn mark_roles(&self, tokens: &mut Tokens) -> Result<(), Error> {
        let map = Document::read(self.path_of("special_tokens_map.json"), FileKind::Settings)?;
        for file in [self.tokenizer_config.as_ref(), map.as_ref()].into_iter().flatten() {
            let texts = ["bos", "eos", "unk", "pad"].map(|role| super::special::role_text(file.root(), role));
            texts.iter().flatten().for_each(|text| tokens.make_control(text));
        }
        Ok(())
    }

    /// The lines of `merges.txt`: two tokens each.
    fn merges_txt(&self, left_out: &mut LeftOut) -> Result<Vec<String>, Error> {
        let path = self.path_of("merges.txt");
        let Some(text) = read_text(&path, FileKind::Lists)? else { return Ok(Vec::new()) };
        let lines = text.lines().enumerate().filter(|(i, line)| *i > 0 || !line.starts_with('#'));
        let mut merges = Vec::new();
        for (_, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            match *line.split_whitespace().collect::<Vec<_>>() {
                [a, b] => merges.push(format!("{a} {b}")),
                _ => left_out.push(Why::Merge, line),
            }
        }
        Ok(merges)
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
