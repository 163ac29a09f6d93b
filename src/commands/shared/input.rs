//! The text that a command works on: from a flag, a file or stdin. Refuses to wait for one at a terminal.

use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::{Context, ensure};

use super::{Usage, interrupt};
use crate::text;

/// The longest prompt that is read is as long as no context; a text to measure on may be longer.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Prompt,
    Corpus,
}

/// The text given with `-p`, else the file named with `-f` (`-` is stdin), else stdin.
pub(crate) fn text(prompt: Option<&str>, file: Option<&Path>, kind: Kind) -> anyhow::Result<String> {
    if let Some(text) = prompt {
        return Ok(text.to_string());
    }
    let limit = match kind {
        Kind::Prompt => text::PROMPT_BYTES,
        Kind::Corpus => text::CORPUS_BYTES,
    };
    let (name, text) = match file.filter(|path| *path != Path::new("-")) {
        Some(path) => (format!("`{}`", path.display()), text::read(path, limit)),
        None => ("stdin".to_string(), read_stdin(file.is_none(), limit)?),
    };
    let mut text = text.with_context(|| format!("cannot read {name}"))?;
    // The newline that ends a text file is not part of the text.
    if text.ends_with('\n') {
        text.pop();
    }
    ensure!(!text.trim().is_empty(), "{name} holds no text");
    Ok(text)
}

fn read_stdin(refuse_terminal: bool, limit: u64) -> anyhow::Result<io::Result<String>> {
    if refuse_terminal && io::stdin().is_terminal() {
        return Err(Usage("no text given\nhint: give -p TEXT or -f FILE, or pipe it in".into()).into());
    }
    Ok(interrupt::while_waiting(|| text::read_stdin(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_without_its_last_newline() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a\n\n").unwrap();
        assert_eq!(text(None, Some(file.path()), Kind::Prompt).unwrap(), "a\n");
        assert_eq!(text(Some("b"), None, Kind::Prompt).unwrap(), "b");
        for bad in [&b"\xff"[..], b"\n"] {
            std::fs::write(file.path(), bad).unwrap();
            assert!(text(None, Some(file.path()), Kind::Prompt).is_err());
        }
    }
}
