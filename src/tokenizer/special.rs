//! Owns the tokens with a meaning of their own: which there are, where they stand in a text, and which of them end
//! a generation. Leaves out ids outside the vocabulary.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::vocab::{Kind, Named, Vocab};
use super::{Error, TokenId, keys};
use crate::gguf::Metadata;

/// The ids that the file gives a role.
pub(super) struct Roles {
    pub(super) bos: Option<TokenId>,
    pub(super) eos: Option<TokenId>,
    pub(super) eot: Option<TokenId>,
    pub(super) unknown: Option<TokenId>,
    /// Ascending.
    end_of_generation: Vec<TokenId>,
}

impl Roles {
    /// Reads the roles and makes a control token of every token that is known to end a turn: files exist that
    /// list these as plain text.
    pub(super) fn from_gguf(meta: &Metadata, vocab: &mut Vocab, defaults: Defaults) -> Result<Roles, Error> {
        let named = |key, default: Option<TokenId>| match vocab.named_id(meta, key)? {
            Named::Absent => Ok(default.filter(|&id| (id as usize) < vocab.len())),
            Named::None => Ok(None),
            Named::Token(id) => Ok::<_, Error>(Some(id)),
        };
        let bos = named(keys::BOS, defaults.bos)?;
        let eos = named(keys::EOS, defaults.eos)?;
        let unknown = named(keys::UNKNOWN, defaults.unknown)?;
        let named_eot = named(keys::EOT, None)?;
        let mut end: Vec<TokenId> = [eos, named_eot, named(keys::EOM, None)?].into_iter().flatten().collect();
        let marked: Vec<TokenId> = end_markers(vocab).collect();
        let eot = named_eot.or_else(|| TURN_ENDS.iter().filter_map(|t| vocab.id(t)).find(|id| marked.contains(id)));
        end.extend(marked);
        keep_inner_end(vocab, &mut end);
        end.iter().for_each(|&id| vocab.set_kind(id, Kind::Control));
        if !vocab.has_kinds {
            bos.iter().for_each(|&id| vocab.set_kind(id, Kind::Control));
            unknown.iter().for_each(|&id| vocab.set_kind(id, Kind::Unknown));
        }
        end.sort_unstable();
        end.dedup();
        Ok(Roles { bos, eos, eot, unknown, end_of_generation: end })
    }

    pub(super) fn is_end_of_generation(&self, id: TokenId) -> bool {
        self.end_of_generation.binary_search(&id).is_ok()
    }
}

/// The ids of a tokenizer kind where the file names none.
#[derive(Default)]
pub(super) struct Defaults {
    pub(super) bos: Option<TokenId>,
    pub(super) eos: Option<TokenId>,
    pub(super) unknown: Option<TokenId>,
}

/// A part of a text.
pub(super) enum Part<'t> {
    Text(&'t str),
    Token(TokenId),
}

/// Finds tokens in text: leftmost, then longest.
pub(super) struct Matcher {
    automaton: Option<AhoCorasick>,
    ids: Vec<TokenId>,
}

impl Matcher {
    pub(super) fn new<T: AsRef<[u8]>>(meta: &Metadata, mut tokens: Vec<(TokenId, T)>) -> Result<Matcher, Error> {
        tokens.retain(|(_, text)| !text.as_ref().is_empty());
        let tokens = keep_findable(meta, tokens);
        let Some(longest) = tokens.iter().map(|(_, text)| text.as_ref().len()).max() else {
            return Ok(Matcher { automaton: None, ids: Vec::new() });
        };
        // The table that is chosen for a few patterns takes steps with the square of their length to make.
        let kind = (longest > MAX_TABLE_TOKEN).then_some(AhoCorasickKind::ContiguousNFA);
        let built = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(kind)
            .build(tokens.iter().map(|(_, text)| text.as_ref()));
        let few = "special tokens that fit a search automaton";
        let automaton = built.map_err(|e| Error::invalid(meta, keys::TOKENS, few, e))?;
        Ok(Matcher { automaton: Some(automaton), ids: tokens.into_iter().map(|(id, _)| id).collect() })
    }

    /// Hands every part of the text to `sink`, in order.
    pub(super) fn split<'t>(&self, text: &'t str, sink: &mut dyn FnMut(Part<'t>)) {
        let mut at = 0;
        for found in self.automaton.iter().flat_map(|a| a.find_iter(text)) {
            if at < found.start() {
                sink(Part::Text(&text[at..found.start()]));
            }
            sink(Part::Token(self.ids[found.pattern().as_usize()]));
            at = found.end();
        }
        if at < text.len() {
            sink(Part::Text(&text[at..]));
        }
    }
}

/// Bytes of the longest token that a table is made for.
const MAX_TABLE_TOKEN: usize = 64;

/// Bytes of all tokens that are looked for together: each takes some fifty in the automaton.
const MAX_SEARCHED: usize = 4 << 20;

/// The tokens that are looked for: all, unless somebody made them so long that the search would take gigabytes.
fn keep_findable<T: AsRef<[u8]>>(meta: &Metadata, mut tokens: Vec<(TokenId, T)>) -> Vec<(TokenId, T)> {
    let bytes: usize = tokens.iter().map(|(_, text)| text.as_ref().len()).sum();
    if bytes <= MAX_SEARCHED {
        return tokens;
    }
    tokens.sort_by_key(|(_, text)| text.as_ref().len());
    let mut sum = 0;
    let fits = |(_, text): &&(TokenId, T)| {
        sum += text.as_ref().len();
        sum <= MAX_SEARCHED
    };
    let n = tokens.iter().take_while(fits).count();
    meta.remark(format_args!(
        "`{}`: {} special tokens are too long to be looked for in a text: together {bytes} bytes",
        keys::TOKENS,
        tokens.len() - n
    ));
    tokens.truncate(n);
    tokens
}

/// Texts that end a turn in chat formats; the first one of a vocabulary is its end of turn.
const TURN_ENDS: [&str; 9] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<end_of_utterance>",
    "<|end_of_turn|>",
    "<EOT>",
    "[EOT]",
];

/// Texts that end a generation and can hardly be anything else.
const MARKERS: [&str; 14] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
];

/// Texts that end a generation where the file says that they are no text: some vocabularies have them as markup.
const AMBIGUOUS: [&str; 6] = ["</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]"];

fn end_markers(vocab: &Vocab) -> impl Iterator<Item = TokenId> + '_ {
    let is_control = |&id: &TokenId| !vocab.has_kinds || vocab.kind(id) == Kind::Control;
    let certain = MARKERS.iter().filter_map(|text| vocab.id(text));
    certain.chain(AMBIGUOUS.iter().filter_map(|text| vocab.id(text)).filter(is_control))
}

/// In the harmony format `<|end|>` closes a message, and the answer goes on after it.
fn keep_inner_end(vocab: &Vocab, end: &mut Vec<TokenId>) {
    if vocab.id("<|return|>").is_some() && vocab.id("<|call|>").is_some() {
        end.retain(|&id| vocab.text(id) != "<|end|>");
    }
}
