//! Owns byte-level byte-pair encoding: pieces of text to ids by the ranks of the merge list. Refuses merges that
//! name tokens the vocabulary lacks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::pre::{Pre, Splitter};
use super::vocab::{Kind, Vocab};
use super::{Error, TokenId, keys};
use crate::gguf::Metadata;

/// (left, right) -> (rank, merged)
type Merges = HashMap<(TokenId, TokenId), (u32, TokenId)>;

/// The merges and the rules of one file.
pub(super) struct Bpe {
    splitter: Splitter,
    merges: Merges,
    byte_ids: [Option<TokenId>; 256],
    byte_chars: [char; 256],
    unknown: Option<TokenId>,
    whole_words: bool,
    nfc: bool,
}

impl Bpe {
    pub(super) fn from_gguf(meta: &Metadata, vocab: &Vocab, pre: &Pre, unknown: Option<TokenId>) -> Result<Bpe, Error> {
        let byte_chars = byte_chars();
        Ok(Bpe {
            splitter: Splitter::new(pre),
            merges: merges(meta, vocab)?,
            byte_ids: byte_chars.map(|c| vocab.id(c.encode_utf8(&mut [0; 4]))),
            byte_chars,
            unknown,
            whole_words: pre.whole_words,
            nfc: pre.nfc,
        })
    }

    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<TokenId>) {
        if self.nfc && is_nfc_quick(text.chars()) != IsNormalized::Yes {
            self.encode_normal(vocab, &text.nfc().collect::<String>(), out);
        } else {
            self.encode_normal(vocab, text, out);
        }
    }

    fn encode_normal(&self, vocab: &Vocab, text: &str, out: &mut Vec<TokenId>) {
        let mut work = Work::default();
        self.splitter.split(text, &mut |piece| match self.whole_word(vocab, piece, &mut work.text) {
            Some(id) => out.push(id),
            None => self.encode_piece(piece, &mut work, out),
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
    fn encode_piece(&self, piece: &str, work: &mut Work, out: &mut Vec<TokenId>) {
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
        out.extend(work.symbols.iter().filter(|s| s.alive).map(|s| s.id));
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

fn merges(meta: &Metadata, vocab: &Vocab) -> Result<Merges, Error> {
    let list = meta.need_strings(keys::MERGES)?;
    if u32::try_from(list.len()).is_err() {
        let found = format!("{} merges", list.len());
        return Err(Error::invalid(meta, keys::MERGES, "at most 4294967295 merges", found));
    }
    let mut merges = HashMap::with_capacity(list.len());
    let mut joined = String::new();
    for (rank, merge) in list.iter().enumerate() {
        let wrong = |why| Error::invalid(meta, keys::MERGES, why, format!("{merge:?} at {rank}"));
        let (left, right) = merge.split_once(' ').ok_or_else(|| wrong("two tokens with a space between"))?;
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let (Some(l), Some(r), Some(m)) = (vocab.id(left), vocab.id(right), vocab.id(&joined)) else {
            return Err(wrong("two tokens of the vocabulary that join to a third"));
        };
        merges.insert((l, r), (rank as u32, m));
    }
    Ok(merges)
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
