//! Owns the vocabulary of a checkpoint: tokens, kinds, scores, merges, roles, templates, as GGUF's metadata has them.
//! Refuses kinds of tokenizer that GGUF's `llama` and `gpt2` are not, and splitting rules without a name.

mod bpe;
mod hf;
mod pre;
mod sentencepiece;
mod special;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Error;
use super::json::{Document, Object};
use crate::gguf::Metadata;
use crate::tokenizer::{ChatTemplate, Tokenizer};
use special::{Files, Special};

/// What a token is, with the ids of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl Kind {
    /// SentencePiece uses the same numbers.
    fn of_sentencepiece(id: u64) -> Option<Kind> {
        use Kind::*;
        let all = [Normal, Unknown, Control, UserDefined, Unused, Byte];
        all.get(usize::try_from(id.checked_sub(1)?).ok()?).copied()
    }
}

/// The tokens by id, as many as the model has rows.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<Kind>,
    /// Empty for byte-level BPE.
    scores: Vec<f32>,
}

impl Tokens {
    /// Every id unused.
    fn padding(n: usize, score: Option<f32>) -> Tokens {
        Tokens {
            texts: (0..n).map(|i| format!("[PAD{i}]")).collect(),
            kinds: vec![Kind::Unused; n],
            scores: score.map_or_else(Vec::new, |score| vec![score; n]),
        }
    }

    fn set(&mut self, id: usize, text: &str, kind: Kind, score: f32) {
        self.texts[id] = text.to_owned();
        self.kinds[id] = kind;
        if let Some(place) = self.scores.get_mut(id) {
            *place = score;
        }
    }

    fn len(&self) -> usize {
        self.texts.len()
    }

    fn id(&self, text: &str) -> Option<u64> {
        self.texts.iter().position(|t| t == text).map(|id| id as u64)
    }

    fn write(&self, model: &str, pre: &str, meta: &mut Metadata) {
        meta.insert("tokenizer.ggml.model", model);
        meta.insert("tokenizer.ggml.pre", pre);
        meta.insert("tokenizer.ggml.tokens", self.texts.clone());
        if !self.scores.is_empty() {
            meta.insert("tokenizer.ggml.scores", self.scores.clone());
        }
        meta.insert("tokenizer.ggml.token_type", self.kinds.iter().map(|&kind| kind as i32).collect::<Vec<_>>());
    }
}

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
        Ok(Vocab {
            folder,
            config,
            tokenizer: Document::read(folder.join("tokenizer.json"))?,
            tokenizer_config: Document::read(folder.join("tokenizer_config.json"))?,
            n_vocab,
            pre,
            notices,
        })
    }

    /// The tokenizer of a Llama: SentencePiece (as `tokenizer.model`, or as `tokenizer.json`) or byte-level BPE.
    pub(super) fn llama(mut self, meta: &mut Metadata) -> Result<(), Error> {
        self.write_space_prefix(meta);
        let path = self.folder.join("tokenizer.model");
        if path.exists() {
            self.sentencepiece(&path, meta)?;
        } else if self.tokenizer.as_ref().is_some_and(|t| hf::is_sentencepiece(t.root())) {
            self.hf_sentencepiece(meta)?;
        } else {
            let tokens = self.bpe(meta)?;
            self.special(tokens.len())?.write(meta);
        }
        // Two families of models, told by their sizes as llama.cpp's converter does: CodeLlama has a token that ends an
        // insertion, and IBM's Granite adds no BOS.
        match self.n_vocab {
            32016 => drop(meta.insert("tokenizer.ggml.eot_token_id", 32010u32)),
            49152 => drop(meta.insert("tokenizer.ggml.add_bos_token", false)),
            _ => {}
        }
        self.check(meta)
    }

    /// The tokenizer of an OPT: GPT-2's. Roles are looked for in the whole vocabulary, for its tokens are no added ones.
    pub(super) fn opt(mut self, meta: &mut Metadata) -> Result<(), Error> {
        self.write_space_prefix(meta);
        let tokens = self.bpe(meta)?;
        let map = Document::read(self.folder.join("special_tokens_map.json"))?;
        let files = [self.tokenizer_config.as_ref(), map.as_ref()];
        let text = |role| files.into_iter().flatten().find_map(|file| special::role_text(file.root(), role));
        let ids = ["bos", "eos", "unk", "pad"].map(|role| (role, text(role).and_then(|text| tokens.id(&text))));
        let n = tokens.len() as u32;
        let mut special = self.special(tokens.len())?;
        ids.into_iter().for_each(|(role, id)| special.set(role, id, n));
        // Where no file says otherwise, transformers puts `</s>` before a text.
        special.set_add("bos", self.tokenizer.is_none());
        special.write(meta);
        self.check(meta)
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

    fn sentencepiece(&mut self, path: &Path, meta: &mut Metadata) -> Result<(), Error> {
        let bytes = fs::read(path).map_err(|e| Error::io(path, "read", e))?;
        let model = sentencepiece::parse(path, &bytes)?;
        if !model.add_dummy_prefix && meta.get("tokenizer.ggml.add_space_prefix").is_none() {
            meta.insert("tokenizer.ggml.add_space_prefix", false);
        }
        if model.remove_extra_whitespaces {
            self.notices
                .push("the tokenizer removes spaces at the ends of texts and double ones; GGUF's keeps them".into());
        }
        let mut tokens = Tokens::padding(self.n_vocab, Some(UNUSED_SCORE));
        if model.pieces.len() > self.n_vocab {
            self.notices.push(format!(
                "{} tokens, {} of them without a row in the model: left out",
                model.pieces.len(),
                model.pieces.len() - self.n_vocab
            ));
        }
        for (id, piece) in model.pieces.iter().enumerate().take(self.n_vocab) {
            tokens.set(id, &piece.text, piece.kind, piece.score);
        }
        for (text, id) in self.added_tokens_json()? {
            if self.has_row(id, &text) {
                tokens.set(id, &text, Kind::UserDefined, ADDED_SCORE);
            }
        }
        for (id, text, special) in self.added_tokens_decoder()? {
            if self.has_row(id, &text) {
                let (kind, text) = added(&text, special);
                tokens.set(id, &text, kind, ADDED_SCORE);
            }
        }
        let n = tokens.len();
        tokens.write("llama", "default", meta);
        self.special(n)?.write(meta);
        Ok(())
    }

    fn has_row(&mut self, id: usize, text: &str) -> bool {
        if id >= self.n_vocab {
            self.notices.push(format!("the added token {text:?} has no row in the model: left out"));
        }
        id < self.n_vocab
    }

    /// `added_tokens.json`: ids by text.
    fn added_tokens_json(&self) -> Result<Vec<(String, usize)>, Error> {
        let Some(file) = Document::read(self.folder.join("added_tokens.json"))? else { return Ok(Vec::new()) };
        let root = file.root();
        let entry = |(text, _): (&String, &Value)| Ok((text.clone(), need_id(&root, text)?));
        root.iter().map(entry).collect()
    }

    /// The tokens of `tokenizer_config.json`: id, text, whether special.
    fn added_tokens_decoder(&self) -> Result<Vec<(usize, String, bool)>, Error> {
        let Some(file) = &self.tokenizer_config else { return Ok(Vec::new()) };
        let Some(decoder) = file.root().object("added_tokens_decoder")? else { return Ok(Vec::new()) };
        let entry = |(id, token): (&String, &Value)| match (id.parse().ok(), token["content"].as_str()) {
            (Some(id), Some(text)) => Ok((id, text.to_owned(), token["special"].as_bool().unwrap_or(false))),
            _ => Err(decoder.error(id, "an id with the `content` of a token", "something else")),
        };
        decoder.iter().map(entry).collect()
    }

    /// What is written must be a tokenizer that this program runs.
    fn check(self, meta: &Metadata) -> Result<(), Error> {
        let tokenizer = Tokenizer::from_gguf(meta)?;
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

/// Kind and text of a token beside the vocabulary proper.
fn added(text: &str, special: bool) -> (Kind, String) {
    if special || looks_special(text) {
        (Kind::Control, text.to_owned())
    } else {
        (Kind::UserDefined, text.replace('\u{2581}', " "))
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
