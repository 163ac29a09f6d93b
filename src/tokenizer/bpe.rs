//! Owns byte-level byte-pair encoding: pieces of text to symbols by the ranks of the merge list. A symbol is a token, or a text
//! that merges name and the vocabulary lacks: it may become a token by further merges, and is spelled out where it stays.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::pre::{Pre, Splitter};
use super::vocab::{Kind, Vocab};
use super::{Error, TokenId, keys};
use crate::gguf::Metadata;

/// The id of a token, or from the size of the vocabulary on the place of a text that is none.
type SymbolId = u32;

/// (left, right) -> (rank, merged)
type Merges = HashMap<(SymbolId, SymbolId), (u32, SymbolId)>;

/// The merges and the rules of one file.
pub(super) struct Bpe {
    splitter: Splitter,
    merges: Merges,
    /// Texts of merges that are no tokens.
    unlisted: Unlisted,
    byte_ids: [Option<SymbolId>; 256],
    byte_chars: [char; 256],
    unknown: Option<TokenId>,
    whole_words: bool,
    nfc: bool,
    /// Whether text starts with a space it does not have.
    space_prefix: bool,
}

impl Bpe {
    pub(super) fn from_gguf(meta: &Metadata, vocab: &Vocab, pre: &Pre, unknown: Option<TokenId>) -> Result<Bpe, Error> {
        let byte_chars = byte_chars();
        let mut unlisted = Unlisted { n_vocab: vocab.len() as SymbolId, ..Unlisted::default() };
        let merges = merges(meta, vocab, &mut unlisted)?;
        let symbol = |c: char| {
            let mut bytes = [0; 4];
            let text = c.encode_utf8(&mut bytes);
            vocab.id(text).or_else(|| unlisted.id(text))
        };
        Ok(Bpe {
            splitter: Splitter::new(pre),
            merges,
            byte_ids: byte_chars.map(symbol),
            unlisted,
            byte_chars,
            unknown,
            whole_words: pre.whole_words,
            nfc: pre.nfc,
            space_prefix: meta.str(keys::PREFIX_SCHEME)? == Some("always"),
        })
    }

    /// A text in the form in which it is split.
    pub(super) fn normal<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.nfc && is_nfc_quick(text.chars()) != IsNormalized::Yes {
            Cow::Owned(text.nfc().collect())
        } else {
            Cow::Borrowed(text)
        }
    }

    /// Appends the ids of a text in its normal form.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<TokenId>) {
        if self.space_prefix && !text.starts_with(' ') {
            return self.encode_normal(vocab, &format!(" {text}"), out);
        }
        self.encode_normal(vocab, text, out);
    }

    fn encode_normal(&self, vocab: &Vocab, text: &str, out: &mut Vec<TokenId>) {
        let mut work = Work::default();
        self.splitter.split(text, &mut |piece| match self.whole_word(vocab, piece, &mut work.text) {
            Some(id) => out.push(id),
            None => self.encode_piece(vocab, piece, &mut work, out),
        });
    }

    fn whole_word(&self, vocab: &Vocab, piece: &str, text: &mut String) -> Option<TokenId> {
        if !self.whole_words {
            return None;
        }
        text.clear();
        text.extend(piece.bytes().map(|b| self.byte_chars[b as usize]));
        vocab.id(text).filter(|&id| vocab.kind(id) == Kind::Normal)
    }

    /// Applies the merge of lowest rank, leftmost first, until none applies.
    fn encode_piece(&self, vocab: &Vocab, piece: &str, work: &mut Work, out: &mut Vec<TokenId>) {
        let ids = piece.bytes().filter_map(|b| self.byte_ids[b as usize].or(self.unknown));
        work.symbols.clear();
        work.symbols.extend(ids.enumerate().map(|(i, id)| Symbol {
            id,
            prev: i.wrapping_sub(1),
            next: i + 1,
            alive: true,
        }));
        work.heap.clear();
        for i in 1..work.symbols.len() {
            self.offer(work, i - 1, i);
        }
        while let Some(Reverse(merge)) = work.heap.pop() {
            self.apply(work, merge);
        }
        for symbol in work.symbols.iter().filter(|s| s.alive) {
            match self.unlisted.text(symbol.id) {
                None => out.push(symbol.id),
                Some(text) => out.extend(text.chars().filter_map(|c| self.spelled(vocab, c))),
            }
        }
    }

    /// The token of a character of a text that is no token.
    fn spelled(&self, vocab: &Vocab, c: char) -> Option<TokenId> {
        vocab.id(c.encode_utf8(&mut [0; 4])).or(self.unknown)
    }

    /// Puts the merge of two neighbours, if there is one, on the heap.
    fn offer(&self, work: &mut Work, left: usize, right: usize) {
        let (Some(l), Some(r)) = (work.symbols.get(left), work.symbols.get(right)) else { return };
        if let Some(&(rank, merged)) = self.merges.get(&(l.id, r.id)) {
            work.heap.push(Reverse(Merge { rank, left, pair: (l.id, r.id), merged }));
        }
    }

    fn apply(&self, work: &mut Work, merge: Merge) {
        let Symbol { id, prev, next, alive } = work.symbols[merge.left];
        // Earlier merges may have taken either side.
        let Some(&right) = work.symbols.get(next) else { return };
        if !alive || (id, right.id) != merge.pair {
            return;
        }
        work.symbols[next].alive = false;
        work.symbols[merge.left].id = merge.merged;
        work.symbols[merge.left].next = right.next;
        if let Some(after) = work.symbols.get_mut(right.next) {
            after.prev = merge.left;
        }
        self.offer(work, prev, merge.left);
        self.offer(work, merge.left, right.next);
    }
}

/// What the bytes of a token are: byte-level entries spell each byte as a character.
pub(super) fn token_bytes(text: &str, kind: Kind) -> Vec<u8> {
    match kind {
        Kind::Control | Kind::Unknown => Vec::new(),
        Kind::UserDefined => text.as_bytes().to_vec(),
        _ => text.chars().map(char_byte).collect::<Option<_>>().unwrap_or_else(|| text.as_bytes().to_vec()),
    }
}

/// The buffers of one call, reused from piece to piece.
#[derive(Default)]
struct Work {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<Merge>>,
    text: String,
}

/// A token of the piece so far; `prev` and `next` link those still alive.
#[derive(Clone, Copy)]
struct Symbol {
    id: TokenId,
    prev: usize,
    next: usize,
    alive: bool,
}

/// A merge that could be done; ordered by rank, then by place.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Merge {
    rank: u32,
    left: usize,
    pair: (TokenId, TokenId),
    merged: TokenId,
}

/// Texts that merges name and that are no tokens, numbered from the size of the vocabulary on.
#[derive(Default)]
struct Unlisted {
    n_vocab: SymbolId,
    texts: Vec<String>,
    ids: HashMap<String, SymbolId>,
}

impl Unlisted {
    fn id(&self, text: &str) -> Option<SymbolId> {
        self.ids.get(text).copied()
    }

    /// The id of a text, which gets one.
    fn add(&mut self, text: &str) -> Option<SymbolId> {
        if let Some(id) = self.id(text) {
            return Some(id);
        }
        let id = self.n_vocab.checked_add(SymbolId::try_from(self.texts.len()).ok()?)?;
        self.texts.push(text.to_owned());
        self.ids.insert(text.to_owned(), id);
        Some(id)
    }

    /// `None` for the id of a token.
    fn text(&self, id: SymbolId) -> Option<&str> {
        self.texts.get(id.checked_sub(self.n_vocab)? as usize).map(String::as_str)
    }
}

/// The merges by what they merge. Of two of one pair the first counts, and one that names no pair none, as in llama.cpp.
fn merges(meta: &Metadata, vocab: &Vocab, unlisted: &mut Unlisted) -> Result<Merges, Error> {
    let list = meta.need_strings(keys::MERGES)?;
    if u32::try_from(list.len()).is_err() {
        let found = format!("{} merges", list.len());
        return Err(Error::invalid(meta, keys::MERGES, "at most 4294967295 merges", found));
    }
    let mut merges = HashMap::with_capacity(list.len());
    let (mut joined, mut n_odd) = (String::new(), 0);
    for (rank, merge) in list.iter().enumerate() {
        let Some((left, right)) = halves(merge) else {
            meta.remark(format_args!("`{}`: {:?} at {rank} is no pair", keys::MERGES, shortened(merge)));
            continue;
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let n_known = unlisted.texts.len();
        let mut id = |text: &str| vocab.id(text).or_else(|| unlisted.add(text));
        let (Some(l), Some(r), Some(m)) = (id(left), id(right), id(&joined)) else {
            return Err(Error::invalid(meta, keys::MERGES, "fewer texts that are no tokens", list.len()));
        };
        n_odd += usize::from(unlisted.texts.len() > n_known);
        if unlisted.texts.len() > n_known && n_odd == 1 {
            let shown = shortened(merge);
            meta.remark(format_args!("`{}`: {shown:?} at {rank} names texts that are no tokens", keys::MERGES));
        }
        merges.entry((l, r)).or_insert((rank as u32, m));
    }
    if n_odd > 1 {
        meta.remark(format_args!("`{}`: so do {} more", keys::MERGES, n_odd - 1));
    }
    Ok(merges)
}

/// What a merge joins: the texts before and behind its first space, which is not its first byte.
fn halves(merge: &str) -> Option<(&str, &str)> {
    let at = merge.bytes().skip(1).position(|b| b == b' ')? + 1;
    let (left, right) = (&merge[..at], &merge[at + 1..]);
    (!right.is_empty()).then_some((left, right))
}

/// Enough of a text for a message.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The character that stands for each byte: itself where it is printable, else one from U+0100 up.
fn byte_chars() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|b| {
        let b = b as u8;
        if matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) {
            return char::from(b);
        }
        let c = char::from_u32(next).unwrap_or_default();
        next += 1;
        c
    })
}

fn char_byte(c: char) -> Option<u8> {
    match c as u32 {
        b @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(b as u8),
        b @ 0x100..=0x120 => Some((b - 0x100) as u8),
        b @ 0x121..=0x142 => Some((b - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_and_comes_back() {
        for (b, c) in byte_chars().into_iter().enumerate() {
            assert_eq!(char_byte(c), Some(b as u8), "byte {b} as {c:?}");
        }
        assert_eq!(byte_chars()[b' ' as usize], 'Ġ');
        assert_eq!(byte_chars()[b'\n' as usize], 'Ċ');
        assert_eq!(char_byte('\u{144}'), None);
    }

    #[test]
    fn an_entry_that_spells_no_bytes_stands_for_its_text() {
        assert_eq!(token_bytes("Ġa", Kind::Normal), b" a");
        assert_eq!(token_bytes("日", Kind::Normal), "日".as_bytes());
        assert_eq!(token_bytes("Ġ", Kind::UserDefined), "Ġ".as_bytes());
        assert_eq!(token_bytes("<s>", Kind::Control), b"");
    }
}
