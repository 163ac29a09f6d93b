//! Owns the vocabulary of a checkpoint: tokens, kinds, scores, merges, roles, templates, as GGUF's metadata has them.
//! Refuses kinds of tokenizer that GGUF's `llama` and `gpt2` are not, and splitting rules without a name.

mod added;
mod bpe;
mod hf;
mod pre;
mod rules;
mod sentencepiece;
mod special;
mod tokens;

use std::path::{Path, PathBuf};

use hashbrown::HashSet;
use indexmap::IndexSet;

use super::Error;
use super::json::{Document, Object};
use super::read::{self, Kind as FileKind};
use crate::gguf::{Metadata, Value};
use crate::tokenizer::{ChatTemplate, Kind, Prefix, Tokenizer, keys};
use added::{Added, Normal};
use rules::Spaces;
use special::{Files, Special};
use tokens::{LeftOut, Tokens};

/// What the tokenizers of an architecture have in common.
#[derive(Debug)]
pub(super) struct Rules {
    /// Whether they may be SentencePiece; if not, they are GPT-2's.
    sentencepiece: bool,
    first_space: FirstSpace,
    /// Keys of vocabularies that are told by their sizes, as llama.cpp's converter does.
    by_size: &'static [(usize, &'static str, Value)],
    /// Roles of added tokens that no file tells: role and text.
    roles: &'static [(&'static str, &'static str)],
}

/// Whether a text that starts with no space gets one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FirstSpace {
    /// As `add_prefix_space` of `tokenizer_config.json` says, if it does.
    OfSettings,
    /// As the tokenizer itself says.
    OfTokenizer,
    /// As the tokenizer itself says, and the file says so in either case.
    Always,
    /// Never.
    None,
}

/// CodeLlama has a token that ends an insertion, and IBM's Granite adds no BOS.
pub(super) const LLAMA: Rules = Rules {
    sentencepiece: true,
    first_space: FirstSpace::OfSettings,
    by_size: &[
        (32016, "tokenizer.ggml.eot_token_id", Value::U32(32010)),
        (49152, "tokenizer.ggml.add_bos_token", Value::Bool(false)),
    ],
    roles: &[],
};

/// SentencePiece or byte-level BPE, as the files are.
pub(super) const PLAIN: Rules =
    Rules { sentencepiece: true, first_space: FirstSpace::OfTokenizer, by_size: &[], roles: &[] };

pub(super) const GEMMA: Rules = Rules { sentencepiece: true, first_space: FirstSpace::None, by_size: &[], roles: &[] };

pub(super) const OPT: Rules =
    Rules { sentencepiece: false, first_space: FirstSpace::OfSettings, by_size: &[], roles: &[] };

/// Turns end with the token that begins the user's.
pub(super) const GLM4: Rules = Rules {
    roles: &[("eos", "<|endoftext|>"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("bos", "<|endoftext|>")],
    ..PLAIN
};

/// In chats EOS is what ends a turn.
pub(super) const INTERNLM2: Rules = Rules { first_space: FirstSpace::Always, roles: &[("eos", "<|im_end|>")], ..PLAIN };

/// The largest known vocabulary has a quarter of a million.
const MAX_VOCAB: usize = 1 << 21;

/// The tokenizer files of a folder.
pub(super) struct Vocab<'a> {
    folder: &'a Path,
    config: Object<'a>,
    tokenizer: Option<Document>,
    tokenizer_config: Option<Document>,
    n_vocab: usize,
    /// The name that the user gives to the splitting rules.
    pre: Option<&'a str>,
    notices: &'a mut Vec<String>,
}

impl<'a> Vocab<'a> {
    pub(super) fn open(
        folder: &'a Path,
        config: Object<'a>,
        n_vocab: usize,
        pre: Option<&'a str>,
        notices: &'a mut Vec<String>,
    ) -> Result<Vocab<'a>, Error> {
        if n_vocab > MAX_VOCAB {
            return Err(config.error("vocab_size", format_args!("at most {MAX_VOCAB}"), n_vocab));
        }
        Ok(Vocab {
            folder,
            config,
            tokenizer: Document::read(folder.join("tokenizer.json"), FileKind::Lists)?,
            tokenizer_config: Document::read(folder.join("tokenizer_config.json"), FileKind::Settings)?,
            n_vocab,
            pre,
            notices,
        })
    }

    /// Writes the tokenizer: SentencePiece (as `tokenizer.model`, or as `tokenizer.json`) or byte-level BPE.
    pub(super) fn write(mut self, rules: &Rules, meta: &mut Metadata) -> Result<(), Error> {
        if rules.first_space == FirstSpace::OfSettings {
            self.write_space_prefix(meta);
        }
        let path = self.folder.join("tokenizer.model");
        if !rules.sentencepiece {
            let tokens = self.bpe(meta)?;
            self.gpt2_roles(&tokens)?.write(meta, self.notices);
        } else if let Some(bytes) = read::bytes_if_any(&path, FileKind::Lists)? {
            self.sentencepiece(&path, &bytes, rules, meta)?;
        } else if self.tokenizer.as_ref().is_some_and(|t| hf::is_sentencepiece(t.root())) {
            self.hf_sentencepiece(rules, meta)?;
        } else {
            let tokens = self.bpe(meta)?;
            self.special_of(&tokens, rules)?.write(meta, self.notices);
        }
        if rules.first_space == FirstSpace::None {
            meta.remove(keys::SPACE_PREFIX); // it comes last
            meta.insert(keys::SPACE_PREFIX, false);
        }
        for (n_vocab, key, value) in rules.by_size {
            if self.n_vocab == *n_vocab {
                meta.insert(*key, value.clone());
            }
        }
        self.check(meta)
    }

    /// The roles of GPT-2's files are looked for in the whole vocabulary, for its tokens are no added ones.
    fn gpt2_roles(&self, tokens: &Tokens) -> Result<Special, Error> {
        let map = Document::read(self.folder.join("special_tokens_map.json"), FileKind::Settings)?;
        let files = [self.tokenizer_config.as_ref(), map.as_ref()];
        let text = |role| files.into_iter().flatten().find_map(|file| special::role_text(file.root(), role));
        let ids = ["bos", "eos", "unk", "pad"].map(|role| (role, text(role).and_then(|text| tokens.id(&text))));
        let n = tokens.len() as u32;
        let mut special = self.special(tokens.len())?;
        ids.into_iter().for_each(|(role, id)| special.set(role, id, n));
        // Where no file says otherwise, transformers puts `</s>` before a text.
        special.set_add("bos", self.tokenizer.is_none());
        Ok(special)
    }

    fn write_space_prefix(&self, meta: &mut Metadata) {
        let config = self.tokenizer_config.as_ref().map(Document::root);
        if let Some(add) = config.and_then(|c| c.get("add_prefix_space")?.as_bool()) {
            meta.insert("tokenizer.ggml.add_space_prefix", add);
        }
    }

    fn special(&self, tokens: usize) -> Result<Special, Error> {
        let files = Files {
            folder: self.folder,
            config: self.config.clone(),
            tokenizer: self.tokenizer.as_ref(),
            tokenizer_config: self.tokenizer_config.as_ref(),
        };
        Special::load(&files, tokens as u32)
    }

    /// The roles, with those that an architecture gives to tokens by their texts.
    fn special_of(&self, tokens: &Tokens, rules: &Rules) -> Result<Special, Error> {
        let mut special = self.special(tokens.len())?;
        for &(role, text) in rules.roles {
            if let Some(id) = tokens.id(text) {
                special.give(role, id as u32);
            }
        }
        Ok(special)
    }

    fn sentencepiece(&mut self, path: &Path, bytes: &[u8], rules: &Rules, meta: &mut Metadata) -> Result<(), Error> {
        let model = sentencepiece::parse(path, bytes)?;
        if !model.add_dummy_prefix && meta.get("tokenizer.ggml.add_space_prefix").is_none() {
            meta.insert("tokenizer.ggml.add_space_prefix", false);
        }
        model.remark(self.notices);
        let (mut tokens, mut left_out) = (Tokens::padding(self.n_vocab, Some(UNUSED_SCORE)), LeftOut::default());
        for (id, piece) in model.pieces.iter().enumerate() {
            tokens.put(id, &piece.text, piece.kind, piece.score, &mut left_out);
        }
        for Added { id, text, .. } in self.added_tokens_json()? {
            tokens.put_added(id, &text, Kind::UserDefined, ADDED_SCORE, &mut left_out);
        }
        let mut added = self.added_tokens_decoder()?;
        for token in &added {
            let (kind, text) = token.entry();
            tokens.put_added(token.id, &text, kind, ADDED_SCORE, &mut left_out);
        }
        // The same tokenizer in its other form says what the model's own does not: where spaces go around added tokens.
        let tokenizer = self.tokenizer.take();
        let other = tokenizer.as_ref().filter(|other| hf::is_sentencepiece(other.root()));
        if let Some(other) = other {
            let known: HashSet<usize> = added.iter().map(|token| token.id).collect();
            added = self.added_with_json(other)?;
            for token in added.iter().filter(|token| !known.contains(&token.id)) {
                let (kind, text) = token.entry();
                if !tokens.has(token.id) {
                    tokens.put_added(token.id, &text, kind, ADDED_SCORE, &mut left_out);
                }
            }
        }
        tokens.settle(&mut left_out);
        left_out.tell(self.notices);
        match other {
            Some(other) => {
                self.write_spaces(Spaces::read(&other.root()), &tokens, &added, meta);
            }
            None => {
                self.remark_first_space(&model);
                added::write_surroundings(&added, &tokens, Normal::Same, meta);
                if added::must_split(&added, false) {
                    meta.insert(keys::SPLIT_USER_DEFINED, true);
                }
            }
        }
        self.tokenizer = tokenizer;
        self.finish_sentencepiece(&tokens, rules, meta)
    }

    /// Where transformers puts a space only before the first part of a text, GGUF's rule is another one.
    fn remark_first_space(&mut self, model: &sentencepiece::Model) {
        let config = self.tokenizer_config.as_ref().map(Document::root);
        let is_legacy = config.and_then(|config| config.get("legacy")?.as_bool()).unwrap_or(true);
        if model.add_dummy_prefix && !is_legacy {
            self.notices.push(
                "`legacy` of the tokenizer is false: it puts a space only before the first part of a text, GGUF's rule one \
                 after each special token too; save the tokenizer as `tokenizer.json` beside it to have its rule kept"
                    .into(),
            );
        }
    }

    /// Writes what a `tokenizer.json` does to spaces, and what must be around its added tokens.
    fn write_spaces(&mut self, spaces: Spaces, tokens: &Tokens, added: &[Added], meta: &mut Metadata) {
        let has_prefix = spaces.prefix != Prefix::Never;
        let normal = if spaces.normalizes { Normal::Changed } else { Normal::Same };
        added::write_surroundings(added, tokens, normal, meta);
        if added::must_split(added, has_prefix) {
            meta.insert(keys::SPLIT_USER_DEFINED, true);
        }
        let crosses = |text: &String| text.chars().skip(1).any(|c| c == '\u{2581}');
        spaces.write(tokens.texts().iter().any(crosses), meta, self.notices);
    }

    fn finish_sentencepiece(&mut self, tokens: &Tokens, rules: &Rules, meta: &mut Metadata) -> Result<(), Error> {
        tokens.write("llama", "default", meta);
        if rules.first_space == FirstSpace::Always {
            let said = meta.remove(keys::SPACE_PREFIX).unwrap_or(Value::Bool(true)); // it comes behind the tokens
            meta.insert(keys::SPACE_PREFIX, said);
        }
        self.special_of(tokens, rules)?.write(meta, self.notices);
        Ok(())
    }

    /// What is written must be a tokenizer that this program runs.
    fn check(mut self, meta: &mut Metadata) -> Result<(), Error> {
        let tokenizer = Tokenizer::from_gguf(meta)?;
        self.write_more_ends(&tokenizer, meta)?;
        if let (Some(pre), Some(_)) = (self.pre, tokenizer.notice()) {
            let path = self.path_of("tokenizer.json");
            return Err(Error::invalid(
                &path,
                "--pre",
                "a name of splitting rules that this program knows",
                format_args!("`{pre}`"),
            ));
        }
        if let Err(e) = ChatTemplate::from_gguf(meta) {
            self.notices.push(format!("this program cannot render the {e}"));
        }
        Ok(())
    }

    /// Gives the tokens that end a generation besides EOS the keys that GGUF has for such.
    fn write_more_ends(&mut self, tokenizer: &Tokenizer, meta: &mut Metadata) -> Result<(), Error> {
        let file = Document::read(self.path_of("generation_config.json"), FileKind::Settings).unwrap_or_default();
        let list = |config: &Object| config.get("eos_token_id")?.as_array().cloned();
        let lists = [Some(self.config.clone()), file.as_ref().map(Document::root)].into_iter().flatten();
        let ids = lists.filter_map(|config| list(&config)).flatten();
        let mut ends: IndexSet<u32> = ids.filter_map(|id| id.as_u64()?.try_into().ok()).collect();
        ends.retain(|&id| (id as usize) < self.n_vocab && !tokenizer.is_end_of_generation(id));
        let mut keys = ["eos", "eot", "eom"].map(|role| format!("tokenizer.ggml.{role}_token_id")).into_iter();
        for id in ends {
            match keys.find(|key| meta.get(key).is_none()) {
                Some(key) => drop(meta.insert(key, id)),
                None => {
                    self.notices.push(format!("token {id} also ends an answer; left out, GGUF has no key left for it"))
                }
            }
        }
        Ok(())
    }

    fn path_of(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }
}

/// The scores of llama.cpp's converter.
const UNUSED_SCORE: f32 = -10000.0;
const ADDED_SCORE: f32 = -1000.0;

/// The id that a key holds.
fn need_id(object: &Object, key: &str) -> Result<usize, Error> {
    object.u32(key)?.map(|id| id as usize).ok_or_else(|| object.error(key, "the id of a token", "null"))
}
