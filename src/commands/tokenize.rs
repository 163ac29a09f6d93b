//! Owns `tokenize`: the tokens of a text, as a table or as JSON. Refuses to load the weights.

use std::io::Write;
use std::path::Path;

use anyhow::Context;

use crate::gguf::File;
use crate::tokenizer::{Special, TokenId, Tokenizer};

/// Writes the tokens of `text`: id and piece, one a line, or with `json` one list of ids.
pub(super) fn tokenize(
    file: &Path,
    text: &str,
    parse_special: bool,
    bos: bool,
    json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let file = File::open(file)?;
    let tokenizer = Tokenizer::from_gguf(file.metadata())?;
    if let Some(notice) = tokenizer.notice() {
        eprintln!("note: {notice}");
    }
    let special = if parse_special { Special::Parse } else { Special::Plain };
    let ids = if bos { tokenizer.encode_with_bos(text, special) } else { tokenizer.encode(text, special) };
    write_tokens(&tokenizer, &ids, json, out).context("cannot write the tokens")
}

fn write_tokens(tokenizer: &Tokenizer, ids: &[TokenId], json: bool, out: &mut dyn Write) -> std::io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, ids)?;
        return writeln!(out);
    }
    let width = tokenizer.n_vocab().saturating_sub(1).to_string().len();
    for &id in ids {
        writeln!(out, "{id:width$}  {}", piece(tokenizer, id))?;
    }
    Ok(())
}

/// What a token prints, quoted and escaped so that it stays on its line; the name of one that prints nothing.
fn piece(tokenizer: &Tokenizer, id: TokenId) -> String {
    match tokenizer.token_bytes(id) {
        [] => tokenizer.token_text(id).escape_debug().to_string(),
        bytes => quoted(bytes),
    }
}

fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        text.extend(chunk.valid().escape_debug());
        text.extend(chunk.invalid().iter().map(|b| format!("\\x{b:02x}")));
    }
    text + "\""
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn bytes_that_are_no_character_are_shown_in_hex() {
        assert_eq!(quoted(b" a\n\xf0\x9f"), r#"" a\n\xf0\x9f""#);
    }
}
