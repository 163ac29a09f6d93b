//! Owns the token list: text, kind and score of each id, and the way back from text to id. Refuses a list that
//! contradicts itself.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{Error, TokenId, keys};
use crate::gguf::{Metadata, Value};

/// What a token is, with the ids of `tokenizer.ggml.token_type`, which are SentencePiece's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Undefined = 0,
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl Kind {
    pub(crate) fn from_id(id: i128) -> Option<Kind> {
        use Kind::*;
        let all = [Undefined, Normal, Unknown, Control, UserDefined, Unused, Byte];
        all.get(usize::try_from(id).ok()?).copied()
    }
}

/// What a key says that names a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// Nothing: the default counts.
    Absent,
    /// That there is no such token.
    None,
    Token(TokenId),
}

/// The tokens of a model.
pub(super) struct Vocab {
    text: Strings,
    kinds: Vec<Kind>,
    scores: Vec<f32>,
    ids: HashTable<TokenId>,
    hasher: DefaultHashBuilder,
    /// Whether the file said which kind each token is.
    pub(super) has_kinds: bool,
}

impl Vocab {
    pub(super) fn from_gguf(meta: &Metadata) -> Result<Vocab, Error> {
        let tokens = meta.need_strings(keys::TOKENS)?;
        if tokens.is_empty() || TokenId::try_from(tokens.len()).is_err() {
            let found = format!("{} tokens", tokens.len());
            return Err(Error::invalid(meta, keys::TOKENS, "1 to 4294967295 tokens", found));
        }
        let kinds = kinds(meta, tokens.len())?;
        let mut vocab = Vocab {
            text: Strings::new(tokens.iter().map(String::as_bytes)),
            has_kinds: kinds.is_some(),
            kinds: kinds.unwrap_or_else(|| vec![Kind::Normal; tokens.len()]),
            scores: scores(meta, tokens.len())?,
            ids: HashTable::with_capacity(tokens.len()),
            hasher: DefaultHashBuilder::default(),
        };
        vocab.index(meta);
        Ok(vocab)
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The entry as the file has it; empty for an id that is none.
    pub(super) fn text(&self, id: TokenId) -> &str {
        std::str::from_utf8(self.text.get(id)).unwrap_or_default()
    }

    pub(super) fn kind(&self, id: TokenId) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Undefined)
    }

    pub(super) fn set_kind(&mut self, id: TokenId, kind: Kind) {
        if let Some(k) = self.kinds.get_mut(id as usize) {
            *k = kind;
        }
    }

    pub(super) fn score(&self, id: TokenId) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or_default()
    }

    pub(super) fn id(&self, text: &str) -> Option<TokenId> {
        let equal = |&id: &TokenId| self.text.get(id) == text.as_bytes();
        self.ids.find(self.hasher.hash_one(text.as_bytes()), equal).copied()
    }

    /// An id that a key of the file names; the file may leave the key out. One that no token has is left out too, with a remark:
    /// files of 2023 name the id behind the last.
    pub(super) fn named_id(&self, meta: &Metadata, key: &str) -> Result<Named, Error> {
        let Some(value) = meta.get(key) else { return Ok(Named::Absent) };
        match value.as_integer() {
            // Converters write 0xFFFFFFFF or -1 for "none".
            Some(-1 | 0xFFFF_FFFF) => Ok(Named::None),
            Some(id) if (0..self.len() as i128).contains(&id) => Ok(Named::Token(id as TokenId)),
            Some(id) => {
                meta.remark(format_args!("`{key}`: {id} is none of the {} tokens; it is left out", self.len()));
                Ok(Named::Absent)
            }
            None => Err(Error::invalid(meta, key, "the id of a token", value.describe())),
        }
    }

    fn index(&mut self, meta: &Metadata) {
        let Vocab { text, ids, hasher, .. } = self;
        for id in 0..self.kinds.len() as TokenId {
            let bytes = text.get(id);
            if bytes.is_empty() {
                continue; // padding: never matched
            }
            let hash = hasher.hash_one(bytes);
            match ids.find_mut(hash, |&other| text.get(other) == bytes) {
                // As in llama.cpp the last one stands for the text; the others can still be said by the model.
                Some(other) => {
                    let first = std::mem::replace(other, id);
                    let shown: String = String::from_utf8_lossy(bytes).chars().take(40).collect();
                    meta.remark(format_args!("`{}`: {shown:?} is token {first} and token {id}", keys::TOKENS));
                }
                None => {
                    ids.insert_unique(hash, id, |&other| hasher.hash_one(text.get(other)));
                }
            }
        }
    }
}

/// Many short byte strings in one allocation.
pub(super) struct Strings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Strings {
    pub(super) fn new<T: AsRef<[u8]>>(items: impl Iterator<Item = T>) -> Strings {
        let mut strings = Strings { bytes: Vec::new(), ends: Vec::with_capacity(items.size_hint().0) };
        for item in items {
            strings.bytes.extend_from_slice(item.as_ref());
            strings.ends.push(strings.bytes.len());
        }
        strings
    }

    /// Empty for an id that is none.
    pub(super) fn get(&self, id: TokenId) -> &[u8] {
        let i = id as usize;
        let Some(&end) = self.ends.get(i) else { return &[] };
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..end]
    }
}

fn kinds(meta: &Metadata, n: usize) -> Result<Option<Vec<Kind>>, Error> {
    let Some(value) = meta.get(keys::TOKEN_TYPE) else { return Ok(None) };
    let ids = match value {
        Value::Array(array) => array.integers(),
        _ => None,
    };
    let ids = ids.ok_or_else(|| wrong_array(meta, keys::TOKEN_TYPE, "an array of i32", value))?;
    check_len(meta, keys::TOKEN_TYPE, n, ids.len())?;
    let kind = |(i, &id): (usize, &i128)| {
        let wrong = || Error::invalid(meta, keys::TOKEN_TYPE, "types 0 to 6", format!("{id} at {i}"));
        Kind::from_id(id).ok_or_else(wrong)
    };
    ids.iter().enumerate().map(kind).collect::<Result<_, _>>().map(Some)
}

fn scores(meta: &Metadata, n: usize) -> Result<Vec<f32>, Error> {
    let Some(value) = meta.get(keys::SCORES) else { return Ok(Vec::new()) };
    let scores = match value {
        Value::Array(array) => array.floats(),
        _ => None,
    };
    let scores = scores.ok_or_else(|| wrong_array(meta, keys::SCORES, "an array of f32", value))?;
    check_len(meta, keys::SCORES, n, scores.len())?;
    if let Some(i) = scores.iter().position(|s| s.is_nan()) {
        return Err(Error::invalid(meta, keys::SCORES, "numbers", format!("NaN at {i}")));
    }
    Ok(scores)
}

fn wrong_array(meta: &Metadata, key: &str, expected: &str, value: &Value) -> Error {
    let found = match value {
        Value::Array(a) => format!("an array of {}", a.element_type()),
        v => v.value_type().to_string(),
    };
    Error::invalid(meta, key, expected, found)
}

fn check_len(meta: &Metadata, key: &str, n: usize, found: usize) -> Result<(), Error> {
    if found == n {
        return Ok(());
    }
    let expected = format!("{n} elements, one for each of `{}`", keys::TOKENS);
    Err(Error::invalid(meta, key, expected, found))
}
