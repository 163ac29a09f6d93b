//! Where the fields of a valid file begin, so that mutations hit one at a time.

use crate::common::raw::Raw;

/// A valid GGUF file with every length, name, type, number and text of it as a field.
pub(crate) fn gguf(bytes: &[u8]) -> Raw {
    let mut walk = Walk { bytes, at: 0, fields: Vec::new() };
    walk.skip(4);
    walk.skip(4);
    let (n_tensors, n_pairs) = (walk.number(8), walk.number(8));
    for _ in 0..n_pairs {
        walk.text();
        let kind = walk.number(4);
        walk.value(kind);
    }
    for _ in 0..n_tensors {
        walk.text();
        let n_dims = walk.number(4);
        (0..n_dims + 2).for_each(|i| walk.skip(if i == n_dims { 4 } else { 8 })); // type, then offset
    }
    while walk.at + 4 <= bytes.len() {
        walk.skip(4);
    }
    Raw(bytes.to_vec(), walk.fields)
}

struct Walk<'b> {
    bytes: &'b [u8],
    at: usize,
    fields: Vec<usize>,
}

impl Walk<'_> {
    fn skip(&mut self, n: usize) {
        self.fields.push(self.at);
        self.at += n;
    }

    fn number(&mut self, n: usize) -> u64 {
        let mut number = [0; 8];
        number[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.skip(n);
        u64::from_le_bytes(number)
    }

    fn text(&mut self) {
        let n = self.number(8) as usize;
        self.skip(n);
    }

    fn value(&mut self, kind: u64) {
        match kind {
            0 | 1 | 7 => self.skip(1),
            2 | 3 => self.skip(2),
            4..=6 => self.skip(4),
            8 => self.text(),
            9 => {
                let (kind, n) = (self.number(4), self.number(8));
                (0..n).for_each(|_| self.value(kind));
            }
            10..=12 => self.skip(8),
            _ => unreachable!("a valid file"),
        }
    }
}

/// Pieces of these lengths, one after the other and over again behind the last.
pub(crate) fn pieces(bytes: &[u8], lengths: &[usize]) -> Raw {
    let (mut fields, mut at) = (Vec::new(), 0);
    let last = lengths.last().copied().unwrap_or(1);
    let mut lengths = lengths.iter().copied().chain(std::iter::repeat(last));
    while at < bytes.len() {
        fields.push(at);
        at += lengths.next().unwrap_or(1).max(1);
    }
    Raw(bytes.to_vec(), fields)
}

/// A text with every word and every mark as a field.
pub(crate) fn words(text: &str) -> Raw {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b >= 0x80;
    let bytes = text.as_bytes();
    let begins = |i: &usize| *i == 0 || !is_word(bytes[*i]) || !is_word(bytes[*i - 1]);
    Raw(bytes.to_vec(), (0..bytes.len()).filter(begins).collect())
}
