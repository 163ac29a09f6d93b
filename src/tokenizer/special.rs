//! Owns the tokens with a meaning of their own: which there are, where they stand in a text, and which of them end
//! a generation. Leaves out ids outside the vocabulary.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use hashbrown::HashMap;
use regex::Regex;

use super::vocab::{Kind, Named, Vocab};
use super::{Error, TokenId, keys};
use crate::gguf::{Array, Metadata, Value};

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

/// What a text may have around a token for it to be found there, and whether white space goes with it: Hugging Face's
/// `AddedToken`. GGUF has no keys for these; `convert` writes keys of this program's own, which others pass over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Fused {
    /// White space before it belongs to it.
    lstrip: bool,
    /// White space behind it belongs to it.
    rstrip: bool,
    /// It is none beside letters and digits.
    single_word: bool,
    /// It is looked for after the text is brought to its normal form.
    pub(super) normalized: bool,
}

/// What the file says of the surroundings of its tokens.
#[derive(Default)]
pub(super) struct Surroundings(HashMap<TokenId, Fused>);

impl Surroundings {
    pub(super) fn from_gguf(meta: &Metadata) -> Result<Surroundings, Error> {
        let mut all = Surroundings::default();
        all.mark(meta, keys::LSTRIP, |around| &mut around.lstrip)?;
        all.mark(meta, keys::RSTRIP, |around| &mut around.rstrip)?;
        all.mark(meta, keys::SINGLE_WORD, |around| &mut around.single_word)?;
        all.mark(meta, keys::NORMALIZED, |around| &mut around.normalized)?;
        Ok(all)
    }

    pub(super) fn of(&self, id: TokenId) -> Fused {
        self.0.get(&id).copied().unwrap_or_default()
    }

    fn mark(&mut self, meta: &Metadata, key: &str, flag: fn(&mut Fused) -> &mut bool) -> Result<(), Error> {
        let ids = match meta.get(key) {
            None => return Ok(()),
            Some(Value::Array(Array::U32(ids))) => ids,
            Some(_) => return Err(Error::invalid(meta, key, "an array of u32", "something else")),
        };
        ids.iter().for_each(|&id| *flag(self.0.entry(id).or_default()) = true);
        Ok(())
    }
}

/// Finds tokens in text: leftmost, then longest.
pub(super) struct Matcher {
    automaton: Option<AhoCorasick>,
    tokens: Vec<(TokenId, Fused)>,
}

impl Matcher {
    pub(super) fn new<T: AsRef<[u8]>>(meta: &Metadata, mut tokens: Vec<(TokenId, Fused, T)>) -> Result<Matcher, Error> {
        tokens.retain(|(_, _, text)| !text.as_ref().is_empty());
        let tokens = keep_findable(meta, tokens);
        let Some(longest) = tokens.iter().map(|(_, _, text)| text.as_ref().len()).max() else {
            return Ok(Matcher { automaton: None, tokens: Vec::new() });
        };
        // The table that is chosen for a few patterns takes steps with the square of their length to make.
        let kind = (longest > MAX_TABLE_TOKEN).then_some(AhoCorasickKind::ContiguousNFA);
        let built = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(kind)
            .build(tokens.iter().map(|(_, _, text)| text.as_ref()));
        let few = "special tokens that fit a search automaton";
        let automaton = built.map_err(|e| Error::invalid(meta, keys::TOKENS, few, e))?;
        Ok(Matcher {
            automaton: Some(automaton),
            tokens: tokens.into_iter().map(|(id, around, _)| (id, around)).collect(),
        })
    }

    /// Whether a token takes the white space before it, and behind it; `None` for one that is not looked for here.
    pub(super) fn takes_space(&self, id: TokenId) -> Option<(bool, bool)> {
        let around = self.tokens.iter().find(|(known, _)| *known == id);
        around.map(|(_, around)| (around.lstrip, around.rstrip))
    }

    /// Hands every part of the text to `sink`, in order. White space that a token takes is in no part.
    pub(super) fn split<'t>(&self, text: &'t str, sink: &mut dyn FnMut(Part<'t>)) {
        let mut at = 0;
        for found in self.automaton.iter().flat_map(|a| a.find_iter(text)) {
            let (id, around) = self.tokens[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            if around.single_word && is_inside_word(&text[..start], &text[end..]) {
                continue;
            }
            if around.lstrip {
                // The token before may have taken it.
                start = text[..start].trim_end().len().max(at);
            }
            if around.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if at < start {
                sink(Part::Text(&text[at..start]));
            }
            sink(Part::Token(id));
            at = end;
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
fn keep_findable<T: AsRef<[u8]>>(meta: &Metadata, mut tokens: Vec<(TokenId, Fused, T)>) -> Vec<(TokenId, Fused, T)> {
    let bytes: usize = tokens.iter().map(|(_, _, text)| text.as_ref().len()).sum();
    if bytes <= MAX_SEARCHED {
        return tokens;
    }
    tokens.sort_by_key(|(_, _, text)| text.as_ref().len());
    let mut sum = 0;
    let fits = |(_, _, text): &&(TokenId, Fused, T)| {
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

/// Whether what stands between these two is part of a word.
fn is_inside_word(before: &str, behind: &str) -> bool {
    static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\w").unwrap_or_else(|e| unreachable!("{e}")));
    let is_word = |c: Option<char>| c.is_some_and(|c| WORD.is_match(c.encode_utf8(&mut [0; 4])));
    is_word(before.chars().next_back()) || is_word(behind.chars().next())
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
