//! Text to token ids and back, by the rules that a GGUF file carries. Owns byte-level BPE, SentencePiece BPE,
//! special tokens, streaming text and chat templates; refuses other kinds of tokenizer and calls no C.
//!
//! [`Tokenizer::from_gguf`] checks the vocabulary once; after that every text encodes and every id decodes.

mod bpe;
mod chat;
pub(crate) mod jinja;
mod named;
mod pre;
mod spaces;
mod special;
mod spm;
mod stream;
mod vocab;

pub use chat::{ChatTemplate, Message};
pub use jinja::Rendered;
pub(crate) use spaces::{Prefix, SPACE};
pub use stream::TextStream;
pub(crate) use vocab::Kind;

use crate::gguf::{self, Metadata};
use special::{Defaults, Matcher, Part, Roles, Surroundings};
use vocab::{Strings, Vocab};

/// The number of a token.
pub type TokenId = u32;

/// What special tokens in a text are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Their text stands for the token: prompts that a template made.
    Parse,
    /// Their text is text like any other: what a user typed.
    Plain,
}

/// Why a file's tokenizer or chat template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file lacks a key, or a key has a value that cannot be.
    #[error(transparent)]
    File(#[from] gguf::Error),
    /// The chat template is no template, or it rejects the conversation.
    #[error("chat template{0}")]
    Template(String),
}

/// The tokenizer of a model.
pub struct Tokenizer {
    vocab: Vocab,
    bytes: Strings,
    roles: Roles,
    algorithm: Algorithm,
    /// What stands for a token in any text, and what does in text that is parsed.
    plain: Stages,
    parsed: Stages,
    add_bos: bool,
    add_eos: bool,
    notice: Option<String>,
}

impl Tokenizer {
    /// Reads the tokenizer of a file.
    pub fn from_gguf(meta: &Metadata) -> Result<Tokenizer, Error> {
        match meta.need_str(keys::MODEL)? {
            BPE => Tokenizer::bpe(meta),
            SPM => Tokenizer::spm(meta),
            other => {
                let expected = format!("`{BPE}` (byte-level BPE) or `{SPM}` (SentencePiece BPE)");
                Err(Error::invalid(meta, keys::MODEL, expected, format!("`{other}`")))
            }
        }
    }

    /// The ids of a text, without BOS or EOS.
    pub fn encode(&self, text: &str, special: Special) -> Vec<TokenId> {
        let stages = match special {
            Special::Parse => &self.parsed,
            Special::Plain => &self.plain,
        };
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encode_with(stages, text, &mut ids);
        ids
    }

    /// Adds the ids of a text to those of what stands before it.
    fn encode_with(&self, stages: &Stages, text: &str, ids: &mut Vec<TokenId>) {
        let mut at_start = ids.is_empty();
        stages.raw.split(text, &mut |part| {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => self.encode_part(text, &stages.normal, at_start, ids),
            }
            at_start = false;
        });
    }

    /// The ids of what is between special tokens.
    fn encode_part(&self, text: &str, tokens: &Matcher, at_start: bool, ids: &mut Vec<TokenId>) {
        match &self.algorithm {
            Algorithm::Bpe(bpe) => tokens.split(&bpe.normal(text), &mut |part| match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => bpe.encode(&self.vocab, text, ids),
            }),
            Algorithm::Spm(spm) => spm.encode(&self.vocab, text, tokens, at_start, ids),
        }
    }

    /// The ids of a text that goes on: with BOS where the file asks for it, unless the text has it already. Never with
    /// EOS, whatever the file says: it would close what is to be continued.
    pub fn encode_with_bos(&self, text: &str, special: Special) -> Vec<TokenId> {
        self.with_bos(self.encode(text, special))
    }

    /// The ids of a whole text, with BOS and EOS where the file asks for them; one that the text has already is not
    /// added again.
    pub fn encode_whole(&self, text: &str, special: Special) -> Vec<TokenId> {
        let mut ids = self.encode_with_bos(text, special);
        if let Some(eos) = self.roles.eos.filter(|eos| self.add_eos && ids.last() != Some(eos)) {
            ids.push(eos);
        }
        ids
    }

    /// The ids of a rendered conversation, without BOS or EOS: special tokens are parsed where the template wrote them,
    /// and nowhere in what somebody typed.
    pub fn encode_rendered(&self, rendered: &Rendered) -> Vec<TokenId> {
        let (mut ids, mut text) = (Vec::new(), String::new());
        // Whether the token before takes the white space behind it, which may be somebody's.
        let mut takes_space = false;
        let add = |text: &mut String, part: &str, takes_space: bool| {
            text.push_str(if takes_space && text.is_empty() { part.trim_start() } else { part });
        };
        for (run, typed) in rendered.runs() {
            if typed {
                add(&mut text, run, takes_space);
                continue;
            }
            self.parsed.split(run, &mut |part| match part {
                Part::Text(part) => add(&mut text, part, takes_space),
                // Text on both sides of a token of this kind is one text: it is found again there.
                Part::Token(id) if self.vocab.kind(id) == Kind::UserDefined => {
                    add(&mut text, self.vocab.text(id), takes_space);
                }
                Part::Token(id) => {
                    let (before, behind) = self.parsed.takes_space(id);
                    self.encode_with(&self.plain, if before { text.trim_end() } else { &text }, &mut ids);
                    text.clear();
                    ids.push(id);
                    takes_space = behind;
                }
            });
        }
        self.encode_with(&self.plain, &text, &mut ids);
        ids
    }

    /// The ids of a rendered conversation from its beginning: with BOS where the file asks for it, once.
    pub fn encode_rendered_with_bos(&self, rendered: &Rendered) -> Vec<TokenId> {
        self.with_bos(self.encode_rendered(rendered))
    }

    fn with_bos(&self, mut ids: Vec<TokenId>) -> Vec<TokenId> {
        if let Some(bos) = self.roles.bos.filter(|bos| self.add_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        ids
    }

    /// The bytes that a token adds to a text; none for control tokens and ids outside the vocabulary.
    pub fn token_bytes(&self, id: TokenId) -> &[u8] {
        match self.vocab.kind(id) {
            Kind::Control => &[],
            _ => self.bytes.get(id),
        }
    }

    /// The vocabulary's entry as the file has it; empty for ids outside the vocabulary.
    pub fn token_text(&self, id: TokenId) -> &str {
        self.vocab.text(id)
    }

    /// The id of a vocabulary entry.
    pub fn token_id(&self, text: &str) -> Option<TokenId> {
        self.vocab.id(text)
    }

    /// The bytes of the text that the ids stand for.
    pub fn decode(&self, ids: &[TokenId]) -> Vec<u8> {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect();
        match bytes.strip_prefix(b" ") {
            Some(rest) if self.has_space_prefix() => rest.to_vec(),
            _ => bytes,
        }
    }

    /// A stream for a text of its own, such as an answer: a space that encoding puts before the first word is not
    /// shown.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self, self.has_space_prefix())
    }

    /// A stream for text that goes on after these ids.
    pub fn stream_after(&self, ids: &[TokenId]) -> TextStream<'_> {
        let starts = match &self.algorithm {
            Algorithm::Spm(spm) if spm.prefix == Prefix::First => ids.iter().all(|&id| self.is_control(id)),
            _ => ids.last().is_none_or(|&id| self.is_control(id)),
        };
        TextStream::new(self, starts && self.has_space_prefix())
    }

    /// Number of tokens.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<TokenId> {
        self.roles.bos
    }

    /// The token that begins a text, where the file asks for it.
    pub fn leading_bos(&self) -> Option<TokenId> {
        self.roles.bos.filter(|_| self.add_bos)
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<TokenId> {
        self.roles.eos
    }

    /// The token that ends a turn of a conversation.
    pub fn eot(&self) -> Option<TokenId> {
        self.roles.eot
    }

    /// Whether the model has said all when it says this.
    pub fn is_end_of_generation(&self, id: TokenId) -> bool {
        self.roles.is_end_of_generation(id)
    }

    /// Whether a token steers and has no text.
    pub fn is_control(&self, id: TokenId) -> bool {
        self.vocab.kind(id) == Kind::Control
    }

    /// What a user should know about this file's tokenizer.
    pub fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    fn bpe(meta: &Metadata) -> Result<Tokenizer, Error> {
        let mut vocab = Vocab::from_gguf(meta)?;
        let (pre, notice) = bpe_rules(meta)?;
        let roles = Roles::from_gguf(meta, &mut vocab, Defaults::default())?;
        let bpe = bpe::Bpe::from_gguf(meta, &vocab, &pre, roles.unknown)?;
        let mut tokenizer = Tokenizer::build(meta, vocab, roles, Algorithm::Bpe(Box::new(bpe)), bpe::token_bytes)?;
        tokenizer.add_bos = meta.bool(keys::ADD_BOS)?.unwrap_or(pre.add_bos);
        tokenizer.notice = notice;
        Ok(tokenizer)
    }

    fn spm(meta: &Metadata) -> Result<Tokenizer, Error> {
        let mut vocab = Vocab::from_gguf(meta)?;
        if !vocab.has_kinds {
            spm::mark_bytes(&mut vocab);
        }
        let defaults = Defaults { bos: Some(1), eos: Some(2), unknown: Some(0) };
        let roles = Roles::from_gguf(meta, &mut vocab, defaults)?;
        let spm = spm::Spm::from_gguf(meta, &vocab, roles.unknown)?;
        let mut tokenizer = Tokenizer::build(meta, vocab, roles, Algorithm::Spm(Box::new(spm)), spm::token_bytes)?;
        tokenizer.add_bos = meta.bool(keys::ADD_BOS)?.unwrap_or(true);
        Ok(tokenizer)
    }

    fn build(
        meta: &Metadata,
        vocab: Vocab,
        roles: Roles,
        algorithm: Algorithm,
        token_bytes: fn(&str, Kind) -> Vec<u8>,
    ) -> Result<Tokenizer, Error> {
        let around = Surroundings::from_gguf(meta)?;
        let ids = 0..vocab.len() as TokenId;
        Ok(Tokenizer {
            bytes: Strings::new(ids.map(|id| token_bytes(vocab.text(id), vocab.kind(id)))),
            plain: Stages::new(meta, &vocab, &algorithm, &around, &[Kind::UserDefined])?,
            parsed: Stages::new(meta, &vocab, &algorithm, &around, &[Kind::UserDefined, Kind::Control, Kind::Unknown])?,
            add_bos: false,
            add_eos: meta.bool(keys::ADD_EOS)?.unwrap_or(false),
            notice: None,
            vocab,
            roles,
            algorithm,
        })
    }

    fn has_space_prefix(&self) -> bool {
        matches!(&self.algorithm, Algorithm::Spm(spm) if spm.prefix != Prefix::Never)
    }
}

/// Tokens that stand for themselves: those that are looked for in the text as it is, and then, between them, those that are
/// looked for in its normal form.
struct Stages {
    raw: Matcher,
    normal: Matcher,
}

impl Stages {
    /// Whether a token takes the white space before it, and behind it.
    fn takes_space(&self, id: TokenId) -> (bool, bool) {
        self.raw.takes_space(id).or_else(|| self.normal.takes_space(id)).unwrap_or_default()
    }

    /// Hands every part of a text to `sink`: what is text for both kinds of tokens is text.
    fn split<'t>(&self, text: &'t str, sink: &mut dyn FnMut(Part<'t>)) {
        self.raw.split(text, &mut |part| match part {
            Part::Text(text) => self.normal.split(text, sink),
            token => sink(token),
        });
    }

    fn new(
        meta: &Metadata,
        vocab: &Vocab,
        algorithm: &Algorithm,
        around: &Surroundings,
        kinds: &[Kind],
    ) -> Result<Stages, Error> {
        let split_user_defined = meta.bool(keys::SPLIT_USER_DEFINED)?.unwrap_or(false);
        let (mut raw, mut normal) = (Vec::new(), Vec::new());
        for id in (0..vocab.len() as TokenId).filter(|&id| kinds.contains(&vocab.kind(id))) {
            let (text, around) = (vocab.text(id), around.of(id));
            match algorithm {
                Algorithm::Bpe(bpe) if around.normalized => normal.push((id, around, bpe.normal(text))),
                // SentencePiece finds its user-defined tokens itself, in normal text.
                Algorithm::Spm(spm)
                    if around.normalized || (vocab.kind(id) == Kind::UserDefined && !split_user_defined) =>
                {
                    normal.push((id, around, spm.normal_text(text, around.normalized).into()));
                }
                _ => raw.push((id, around, text)),
            }
        }
        let normal = normal.iter().map(|(id, around, text)| (*id, *around, text.as_bytes())).collect();
        Ok(Stages { raw: Matcher::new(meta, raw)?, normal: Matcher::new(meta, normal)? })
    }
}

enum Algorithm {
    Bpe(Box<bpe::Bpe>),
    Spm(Box<spm::Spm>),
}

/// The values of `tokenizer.ggml.model` that are known.
const BPE: &str = "gpt2";
const SPM: &str = "llama";

pub(crate) mod keys {
    pub(crate) const MODEL: &str = "tokenizer.ggml.model";
    pub(crate) const PRE: &str = "tokenizer.ggml.pre";
    pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
    pub(crate) const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
    pub(crate) const SCORES: &str = "tokenizer.ggml.scores";
    pub(crate) const MERGES: &str = "tokenizer.ggml.merges";
    pub(crate) const BOS: &str = "tokenizer.ggml.bos_token_id";
    pub(crate) const EOS: &str = "tokenizer.ggml.eos_token_id";
    pub(crate) const EOT: &str = "tokenizer.ggml.eot_token_id";
    pub(crate) const EOM: &str = "tokenizer.ggml.eom_token_id";
    pub(crate) const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
    pub(crate) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
    pub(crate) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
    pub(crate) const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
    pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";
    // This program's own, for what GGUF has no keys for: `convert` writes them, other programs pass over them.
    pub(crate) const PREFIX_SCHEME: &str = "curtail.tokenizer.prefix_scheme";
    pub(crate) const MARKS_FIRST: &str = "curtail.tokenizer.marks_first";
    pub(crate) const SPLIT_WORDS: &str = "curtail.tokenizer.split_words";
    pub(crate) const SPLIT_USER_DEFINED: &str = "curtail.tokenizer.split_user_defined";
    pub(crate) const LSTRIP: &str = "curtail.tokenizer.lstrip";
    pub(crate) const RSTRIP: &str = "curtail.tokenizer.rstrip";
    pub(crate) const SINGLE_WORD: &str = "curtail.tokenizer.single_word";
    pub(crate) const NORMALIZED: &str = "curtail.tokenizer.normalized";
}

impl Error {
    fn invalid(meta: &Metadata, key: &str, expected: impl ToString, found: impl ToString) -> Error {
        Error::File(gguf::Error::Invalid {
            path: meta.path().to_owned(),
            field: format!("`{key}`"),
            expected: expected.to_string(),
            found: gguf::visible(&found.to_string()),
            hint: String::new(),
        })
    }
}

/// The splitting rules that the file names; the default ones, with a notice, where it names none that are known.
fn bpe_rules(meta: &Metadata) -> Result<(pre::Pre, Option<String>), Error> {
    let name = meta.str(keys::PRE)?;
    if let Some(pre) = name.and_then(pre::named) {
        return Ok((pre, None));
    }
    let why = match name {
        Some(name) => format!("unknown `{}` `{}`", keys::PRE, gguf::visible(name)),
        None => format!("no `{}` in the file", keys::PRE),
    };
    Ok((pre::default(), Some(format!("{why}: text is split by the `default` rules, token ids may differ"))))
}

#[cfg(test)]
mod tests;
