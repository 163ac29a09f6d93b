//! Owns the way from tokens, one at a time, to text that can be shown. Refuses to show half a character.

use super::{TokenId, Tokenizer};

/// Text that arrives token by token.
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    /// Bytes of a character that is not complete.
    pending: Vec<u8>,
    /// The next text begins with a space that encoding put there.
    drop_space: bool,
    /// Whether tokens that steer are shown too.
    special: bool,
}

impl<'t> TextStream<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, drop_space: bool) -> TextStream<'t> {
        TextStream { tokenizer, pending: Vec::new(), drop_space, special: false }
    }

    /// With the text of tokens that steer, where they are wanted.
    pub fn with_special(mut self, special: bool) -> TextStream<'t> {
        self.special = special;
        self
    }

    /// The text of a token that ends an answer, as far as it is shown.
    pub fn end_text(&self, id: TokenId) -> &'t str {
        if self.special { self.tokenizer.token_text(id) } else { "" }
    }

    /// Takes a token and returns the characters that it completes. Bytes that no later byte can complete become
    /// U+FFFD.
    pub fn push(&mut self, id: TokenId) -> String {
        let mut bytes = match self.special && self.tokenizer.is_control(id) {
            true => self.tokenizer.token_text(id).as_bytes(),
            false => self.tokenizer.token_bytes(id),
        };
        if self.drop_space && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.drop_space = false;
        }
        self.pending.extend_from_slice(bytes);
        self.take_complete()
    }

    /// Ends the stream: what is left of a character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let mut text = self.take_complete();
        text.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.pending)));
        text
    }

    fn take_complete(&mut self) -> String {
        let mut text = String::new();
        let mut used = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = used + invalid.len() == self.pending.len();
            if at_end && is_prefix(invalid) {
                break;
            }
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
            used += invalid.len();
        }
        self.pending.drain(..used);
        text
    }
}

/// Whether more bytes could make these a character.
fn is_prefix(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}
