//! Owns SentencePiece's byte-pair encoding: text to ids by the scores of the pieces, with a byte for each character
//! that no piece has. Refuses a vocabulary without scores.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::spaces::{Prefix, SPACE};
use super::special::{Matcher, Part};
use super::vocab::{Kind, Vocab};
use super::{Error, TokenId, keys};
use crate::gguf::Metadata;

/// The rules of one file.
pub(super) struct Spm {
    byte_ids: [Option<TokenId>; 256],
    unknown: Option<TokenId>,
    /// Longest piece in bytes.
    longest: usize,
    pub(super) prefix: Prefix,
    /// Whether spaces have their marks before user-defined tokens are looked for.
    marks_first: bool,
    /// Whether no merge crosses the beginning of a word.
    split_words: bool,
}

impl Spm {
    pub(super) fn from_gguf(meta: &Metadata, vocab: &Vocab, unknown: Option<TokenId>) -> Result<Spm, Error> {
        if meta.get(keys::SCORES).is_none() {
            let expected = format!("a score for each token of a `{}` tokenizer", super::SPM);
            return Err(Error::invalid(meta, keys::SCORES, expected, "no such key"));
        }
        Ok(Spm {
            byte_ids: std::array::from_fn(|b| byte_id(vocab, b as u8)),
            unknown,
            longest: (0..vocab.len() as TokenId).map(|id| vocab.text(id).len()).max().unwrap_or_default(),
            prefix: Prefix::from_gguf(meta)?,
            marks_first: meta.bool(keys::MARKS_FIRST)?.unwrap_or(true),
            split_words: meta.bool(keys::SPLIT_WORDS)?.unwrap_or(false),
        })
    }

    /// What a token that is looked for in normal text looks like there.
    pub(super) fn normal_text(&self, text: &str, normalized: bool) -> String {
        match normalized {
            // Hugging Face normalizes the token as it does a text.
            true => self.normal(text),
            false if self.marks_first => escaped(text),
            false => text.to_owned(),
        }
    }

    /// The form of a part of a text in which user-defined tokens are looked for.
    fn normal(&self, text: &str) -> String {
        match self.prefix {
            Prefix::Every => format!("{SPACE}{}", escaped(text)),
            _ if self.marks_first => escaped(text),
            _ => text.to_owned(),
        }
    }

    /// Appends the ids of a part of a text; `at_start` says that nothing was before it. `tokens` stand for themselves, and no
    /// merge touches them.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, tokens: &Matcher, at_start: bool, out: &mut Vec<TokenId>) {
        if text.is_empty() {
            return;
        }
        let mut is_first = true;
        tokens.split(&self.normal(text), &mut |part| {
            match part {
                Part::Token(id) => out.push(id),
                Part::Text(text) => self.encode_words(vocab, &self.prefixed(text, at_start, is_first), out),
            }
            is_first = false;
        });
    }

    /// What is between user-defined tokens, as it is merged; `is_first` says that it is what the part starts with.
    fn prefixed(&self, text: &str, at_start: bool, is_first: bool) -> String {
        let has_space = text.starts_with([' ', '\u{2581}']);
        let gets_one = match self.prefix {
            Prefix::Never | Prefix::Every => false,
            Prefix::Always => !has_space,
            Prefix::First => at_start && is_first && !has_space,
            Prefix::Last => is_first || !has_space,
        };
        format!("{}{}", if gets_one { SPACE } else { "" }, escaped(text))
    }

    fn encode_words(&self, vocab: &Vocab, mut text: &str, out: &mut Vec<TokenId>) {
        let next = |text: &str| text.char_indices().skip(1).find(|&(_, c)| c == '\u{2581}').map(|(at, _)| at);
        while let Some(at) = next(text).filter(|_| self.split_words) {
            self.encode_part(vocab, &text[..at], out);
            text = &text[at..];
        }
        self.encode_part(vocab, text, out);
    }

    fn encode_part(&self, vocab: &Vocab, text: &str, out: &mut Vec<TokenId>) {
        let first = out.len();
        let mut merger = Merger::new(self, vocab, text);
        merger.run();
        for symbol in merger.symbols.iter().filter(|s| s.start < s.end) {
            self.emit(&merger, (symbol.start, symbol.end), first, out);
        }
    }

    /// The ids of one symbol: its token, what it was merged from where that token is not for use, its bytes, or
    /// unknown.
    fn emit(&self, merger: &Merger, range: (usize, usize), first: usize, out: &mut Vec<TokenId>) {
        let mut todo = vec![range];
        while let Some((start, end)) = todo.pop() {
            let piece = &merger.text[start..end];
            match (piece_id(merger.vocab, piece), merger.unused.get(&(start, end))) {
                (Some(_), Some(&middle)) => todo.extend([(middle, end), (start, middle)]),
                (Some(id), None) => out.push(id),
                (None, _) => self.emit_bytes(piece, first, out),
            }
        }
    }

    fn emit_bytes(&self, piece: &str, first: usize, out: &mut Vec<TokenId>) {
        let bytes: Option<Vec<TokenId>> = piece.bytes().map(|b| self.byte_ids[b as usize]).collect();
        match (bytes, self.unknown) {
            (Some(ids), _) => out.extend(ids),
            // A run of unknown characters is one unknown token.
            (None, Some(id)) if out.len() == first || out.last() != Some(&id) => out.push(id),
            _ => {}
        }
    }
}

/// Spaces as the vocabulary has them.
fn escaped(text: &str) -> String {
    text.replace(' ', SPACE)
}

/// What the bytes of a token are.
pub(super) fn token_bytes(text: &str, kind: Kind) -> Vec<u8> {
    match (kind, byte_of(text)) {
        (Kind::Control | Kind::Unknown, _) => Vec::new(),
        (Kind::Byte, Some(b)) => vec![b],
        _ => text.replace(SPACE, " ").into_bytes(),
    }
}

/// One part of a text on its way from characters to pieces.
struct Merger<'a> {
    longest: usize,
    vocab: &'a Vocab,
    text: &'a str,
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Merge>,
    /// Where the pieces were joined that are merged through but not for use.
    unused: HashMap<(usize, usize), usize>,
}

/// A range of the text; an empty one has been merged into another. `prev` and `next` link the others.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    prev: usize,
    next: usize,
}

/// Two neighbours that join to a piece; the highest score comes first, then the leftmost.
struct Merge {
    score: f32,
    id: TokenId,
    left: usize,
    right: usize,
    start: usize,
    end: usize,
}

impl<'a> Merger<'a> {
    fn new(spm: &Spm, vocab: &'a Vocab, text: &'a str) -> Merger<'a> {
        let symbol = |(i, (start, c)): (usize, (usize, char))| Symbol {
            start,
            end: start + c.len_utf8(),
            prev: i.wrapping_sub(1),
            next: i + 1,
        };
        let symbols = text.char_indices().enumerate().map(symbol).collect();
        Merger { longest: spm.longest, vocab, text, symbols, heap: BinaryHeap::new(), unused: HashMap::new() }
    }

    fn run(&mut self) {
        for i in 1..self.symbols.len() {
            self.offer(i - 1, i);
        }
        while let Some(merge) = self.heap.pop() {
            self.apply(&merge);
        }
    }

    fn offer(&mut self, left: usize, right: usize) {
        let (Some(l), Some(r)) = (self.symbols.get(left), self.symbols.get(right)) else { return };
        if r.end - l.start > self.longest {
            return;
        }
        if let Some(id) = piece_id(self.vocab, &self.text[l.start..r.end]) {
            let score = self.vocab.score(id);
            self.heap.push(Merge { score, id, left, right, start: l.start, end: r.end });
        }
    }

    fn apply(&mut self, merge: &Merge) {
        let (left, right) = (self.symbols[merge.left], self.symbols[merge.right]);
        // Earlier merges may have taken either side.
        let fresh = left.start < left.end && right.start < right.end && left.end == right.start;
        if !fresh || (left.start, right.end) != (merge.start, merge.end) {
            return;
        }
        if self.vocab.kind(merge.id) == Kind::Unused {
            self.unused.insert((left.start, right.end), left.end);
        }
        self.symbols[merge.left] = Symbol { end: right.end, next: right.next, ..left };
        self.symbols[merge.right].end = right.start;
        if let Some(after) = self.symbols.get_mut(right.next) {
            after.prev = merge.left;
        }
        self.offer(left.prev, merge.left);
        self.offer(merge.left, right.next);
    }
}

impl Ord for Merge {
    fn cmp(&self, other: &Merge) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Merge) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Merge {
    fn eq(&self, other: &Merge) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Merge {}

/// The id of a text that merges may make; control and byte tokens are never spelled out.
fn piece_id(vocab: &Vocab, text: &str) -> Option<TokenId> {
    let spelled = |kind| !matches!(kind, Kind::Control | Kind::Unknown | Kind::Byte);
    vocab.id(text).filter(|&id| spelled(vocab.kind(id)))
}

fn byte_id(vocab: &Vocab, byte: u8) -> Option<TokenId> {
    vocab.id(&format!("<0x{byte:02X}>")).filter(|&id| vocab.kind(id) == Kind::Byte)
}

/// Byte tokens of a file that tells no kinds are known by their text.
pub(super) fn mark_bytes(vocab: &mut Vocab) {
    let ids: Vec<TokenId> = (0..=255u8).filter_map(|b| vocab.id(&format!("<0x{b:02X}>"))).collect();
    ids.into_iter().for_each(|id| vocab.set_kind(id, Kind::Byte));
}

fn byte_of(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}
