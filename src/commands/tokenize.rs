//! Owns `tokenize`: the tokens of a text, as a table or as JSON, and the text of tokens. Refuses to load the weights.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use super::shared::open::{find_model, tell_remarks};
use super::shared::{Usage, batch, input, note, screen};
use crate::cli::TokenizeArgs;
use crate::gguf::File;
use crate::tokenizer::{Special, TokenId, Tokenizer};

pub(super) fn run(args: &TokenizeArgs) -> anyhow::Result<ExitCode> {
    let path = find_model(&args.model)?;
    let ids = args.ids.join(" ");
    let given = args.prompt.as_deref().or(Some(ids.as_str()).filter(|ids| !ids.is_empty()));
    let text = input::text(given, args.file.as_deref(), input::Kind::Corpus)?;
    if args.decode {
        decode(&path, &text, args, &mut screen::data())?;
    } else {
        tokenize(&path, &text, args, &mut screen::stdout())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the tokens of `text`: id and piece, one a line, or with `--json` one list of ids.
fn tokenize(file: &Path, text: &str, args: &TokenizeArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let file = File::open(file)?;
    let tokenizer = Tokenizer::from_gguf(file.metadata())?;
    tell_remarks(&file);
    if let Some(notice) = tokenizer.notice() {
        note(format_args!("note: {notice}"));
    }
    let special = if args.no_parse_special { Special::Plain } else { Special::Parse };
    let ids = if args.no_bos { tokenizer.encode(text, special) } else { tokenizer.encode_whole(text, special) };
    write_tokens(&tokenizer, &ids, args.json, out).context("cannot write the tokens")
}

/// Writes the text that the ids in `text` stand for, or with `--json` that text as JSON.
fn decode(file: &Path, text: &str, args: &TokenizeArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let file = File::open(file)?;
    let tokenizer = Tokenizer::from_gguf(file.metadata())?;
    tell_remarks(&file);
    let ids = read_ids(text)?;
    batch::check_ids("ids", &ids, tokenizer.n_vocab())?;
    let begins = args.no_bos && ids.first().is_some_and(|&id| tokenizer.bos() == Some(id));
    let bytes = text_of(&tokenizer, &ids[usize::from(begins)..]);
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&String::from_utf8_lossy(&bytes))?)?;
        return Ok(());
    }
    out.write_all(&bytes)?;
    // Elsewhere than at a terminal a line break would be one more byte of the text.
    if io::stdout().is_terminal() && !bytes.ends_with(b"\n") {
        writeln!(out)?;
    }
    Ok(out.flush()?)
}

/// Ids between spaces, commas or on lines, in brackets or not.
fn read_ids(text: &str) -> anyhow::Result<Vec<TokenId>> {
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']')).filter(|word| !word.is_empty());
    let id = |word: &str| {
        word.parse().map_err(|_| Usage(format!("ids: expected whole numbers, as in 1 2 3, found `{word}`")).into())
    };
    words.map(id).collect()
}

/// The bytes of ids; special tokens, which have none, by their names.
fn text_of(tokenizer: &Tokenizer, ids: &[TokenId]) -> Vec<u8> {
    let of_run = |run: &[TokenId]| match run {
        // Each run of other tokens was encoded as a text of its own.
        [id, ..] if tokenizer.is_control(*id) => {
            run.iter().flat_map(|&id| tokenizer.token_text(id).bytes()).collect::<Vec<u8>>()
        }
        _ => tokenizer.decode(run),
    };
    ids.chunk_by(|a, b| tokenizer.is_control(*a) == tokenizer.is_control(*b)).flat_map(of_run).collect()
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
    use super::{quoted, read_ids};

    #[test]
    fn ids_are_read_as_they_are_printed() {
        for text in ["1 2 30", "[1,2,30]\n", " 1, 2,\n30 ", "[1, 2][30]"] {
            assert_eq!(read_ids(text).unwrap(), [1, 2, 30], "{text}");
        }
        for bad in ["1 x", "-1", "1.5", "4294967296"] {
            assert!(read_ids(bad).unwrap_err().to_string().ends_with('`'), "{bad}");
        }
    }

    #[test]
    fn bytes_that_are_no_character_are_shown_in_hex() {
        assert_eq!(quoted(b" a\n\xf0\x9f"), r#"" a\n\xf0\x9f""#);
    }
}
