//! Owns SentencePiece vocabularies that come as `tokenizer.json`: BPE over characters with single bytes to fall back
//! on. Scores are made from the order of the merges, so that GGUF's algorithm, which takes the pair of the best score,
//! does what the merges say. (llama.cpp's converter gives all tokens one score.)

use serde_json::Value;

use super::super::json::{Object, shown};
use super::{ADDED_SCORE, Error, Kind, Tokens, UNUSED_SCORE, Vocab, need_id};
use crate::gguf::Metadata;
use hashbrown::HashMap;

/// Whether a `tokenizer.json` holds such a vocabulary.
pub(super) fn is_sentencepiece(root: Object) -> bool {
    let (Some(model), Some(decoder)) = (root.get("model"), root.get("decoder")) else { return false };
    model["type"] == "BPE" && model["byte_fallback"] == true && decoder["type"] == "Sequence"
}

impl Vocab<'_> {
    pub(super) fn hf_sentencepiece(&mut self, meta: &mut Metadata) -> Result<(), Error> {
        let mut tokens = Tokens::padding(self.n_vocab, Some(UNUSED_SCORE));
        let Some(tokenizer) = self.tokenizer.clone() else { return Ok(()) };
        let root = tokenizer.root();
        let Some(model) = root.object("model")? else { return Ok(()) };
        let Some(vocab) = model.object("vocab")? else { return Err(model.error("vocab", "an object", "no such key")) };
        let ranks = ranks(&model)?;
        for (text, _) in vocab.iter() {
            let id = need_id(&vocab, text)?;
            if self.has_row(id, text) {
                let score = ranks.get(text.as_str()).map_or(ADDED_SCORE, |&rank| -(rank as f32));
                tokens.set(id, text, if is_byte(text) { Kind::Byte } else { Kind::Normal }, score);
            }
        }
        for token in root.array("added_tokens")?.into_iter().flatten() {
            let (Some(text), Some(id)) = (token["content"].as_str(), token["id"].as_u64()) else {
                return Err(root.error("added_tokens", "entries with `id` and `content`", token));
            };
            let id = usize::try_from(id).unwrap_or(usize::MAX);
            if self.has_row(id, text) {
                let (kind, text) = super::added(text, token["special"].as_bool().unwrap_or(false));
                tokens.set(id, &text, kind, ADDED_SCORE);
            }
        }
        let normalizer = root.get("normalizer").cloned().unwrap_or_default().to_string();
        if !normalizer.contains("Prepend") && meta.get("tokenizer.ggml.add_space_prefix").is_none() && !prepends(&root)
        {
            meta.insert("tokenizer.ggml.add_space_prefix", false);
        }
        let n = tokens.len();
        tokens.write("llama", "default", meta);
        self.special(n)?.write(meta);
        Ok(())
    }
}

/// Newer files put the space before a text in the pre-tokenizer.
fn prepends(root: &Object) -> bool {
    root.get("pre_tokenizer").is_some_and(|pre| {
        pre["type"] == "Metaspace" && pre["prepend_scheme"] != "never" && pre["add_prefix_space"] != false
    })
}

fn is_byte(text: &str) -> bool {
    text.strip_prefix("<0x")
        .and_then(|t| t.strip_suffix('>'))
        .is_some_and(|hex| hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The place of the first merge that makes each token.
fn ranks(model: &Object) -> Result<HashMap<String, usize>, Error> {
    let mut ranks = HashMap::new();
    for (rank, merge) in model.array("merges")?.into_iter().flatten().enumerate() {
        let pair = match merge {
            Value::String(merge) => merge.split_once(' '),
            Value::Array(pair) => match pair.as_slice() {
                [Value::String(a), Value::String(b)] => Some((a.as_str(), b.as_str())),
                _ => None,
            },
            _ => None,
        };
        let (a, b) = pair.ok_or_else(|| model.error("merges", "pairs of tokens", shown(merge)))?;
        ranks.entry(format!("{a}{b}")).or_insert(rank);
    }
    Ok(ranks)
}
