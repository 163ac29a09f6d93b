//! Owns SentencePiece vocabularies that come as `tokenizer.json`: BPE over characters with single bytes to fall back
//! on. Scores are made from the order of the merges, so that GGUF's algorithm, which takes the pair of the best score,
//! does what the merges say. (llama.cpp's converter gives all tokens one score.)

use serde_json::Value;

use super::super::json::{Object, shown};
use super::added::check_model;
use super::rules::Spaces;
use super::tokens::{LeftOut, Tokens, Why};
use super::{ADDED_SCORE, Error, Kind, UNUSED_SCORE, Vocab, need_id};
use crate::gguf::Metadata;
use hashbrown::HashMap;

/// Whether a `tokenizer.json` holds such a vocabulary.
pub(super) fn is_sentencepiece(root: Object) -> bool {
    let Some(model) = root.get("model") else { return false };
    let has = |part: &str, kind: &str| root.get(part).is_some_and(|part| part["type"] == kind);
    model["type"] == "BPE"
        && model["byte_fallback"] == true
        && (has("decoder", "Sequence") || has("pre_tokenizer", "Metaspace"))
}

impl Vocab<'_> {
    pub(super) fn hf_sentencepiece(&mut self, rules: &super::Rules, meta: &mut Metadata) -> Result<(), Error> {
        let Some(tokenizer) = self.tokenizer.take() else { return Ok(()) };
        let (mut tokens, mut left_out) = (Tokens::padding(self.n_vocab, Some(UNUSED_SCORE)), LeftOut::default());
        let root = tokenizer.root();
        let Some(model) = root.object("model")? else { return Ok(()) };
        let Some(vocab) = model.object("vocab")? else { return Err(model.error("vocab", "an object", "no such key")) };
        check_model(&model, self.notices)?;
        let ranks = ranks(&model, &vocab, &mut left_out)?;
        for (text, _) in vocab.iter() {
            let score = ranks.get(text.as_str()).map_or(ADDED_SCORE, |&rank| -(rank as f32));
            let kind = if is_byte(text) { Kind::Byte } else { Kind::Normal };
            tokens.put(need_id(&vocab, text)?, text, kind, score, &mut left_out);
        }
        let added = self.added_with_json(&tokenizer)?;
        for token in &added {
            let (kind, text) = token.entry();
            // Spaces are marked before merges, not before added tokens are looked for: this one is only ever merged.
            if kind == Kind::UserDefined && text != token.text && ranks.contains_key(&token.text) {
                continue;
            }
            tokens.put_added(token.id, &text, kind, ADDED_SCORE, &mut left_out);
        }
        tokens.settle(&mut left_out);
        left_out.tell(self.notices);
        if model.bool("ignore_merges")?.unwrap_or(false) {
            self.notices.push("the tokenizer's `ignore_merges` is left out: token ids may differ".into());
        }
        self.write_spaces(Spaces::read(&root), &tokens, &added, meta);
        self.tokenizer = Some(tokenizer);
        self.finish_sentencepiece(&tokens, rules, meta)
    }
}

fn is_byte(text: &str) -> bool {
    text.strip_prefix("<0x")
        .and_then(|t| t.strip_suffix('>'))
        .is_some_and(|hex| hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The place of the first merge that makes each token. Merges that make none are left out.
fn ranks(model: &Object, vocab: &Object, left_out: &mut LeftOut) -> Result<HashMap<String, usize>, Error> {
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
        let whole = format!("{a}{b}");
        if [a, b, &whole].iter().all(|text| vocab.has(text)) {
            ranks.entry(whole).or_insert(rank);
        } else {
            left_out.push(Why::Merge, &format!("{a} {b}"));
        }
    }
    Ok(ranks)
}
