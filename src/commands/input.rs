//! The text that a command works on: from a flag, a file or stdin. Refuses to wait for one at a terminal.

use std::io::{self, IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, ensure};

use super::Usage;

/// The text given with `-p`, else the file named with `-f` (`-` is stdin), else stdin.
pub(super) fn text(prompt: Option<&str>, file: Option<&Path>) -> anyhow::Result<String> {
    if let Some(text) = prompt {
        return Ok(text.to_string());
    }
    let (name, bytes) = match file.filter(|path| *path != Path::new("-")) {
        Some(path) => (format!("`{}`", path.display()), std::fs::read(path)),
        None => ("stdin".to_string(), read_stdin(file.is_none())?),
    };
    let bytes = bytes.with_context(|| format!("cannot read {name}"))?;
    let mut text = String::from_utf8(bytes).with_context(|| format!("{name} is not valid UTF-8"))?;
    // The newline that ends a text file is not part of the text.
    if text.ends_with('\n') {
        text.pop();
    }
    ensure!(!text.trim().is_empty(), "{name} holds no text");
    Ok(text)
}

fn read_stdin(refuse_terminal: bool) -> anyhow::Result<io::Result<Vec<u8>>> {
    if refuse_terminal && io::stdin().is_terminal() {
        return Err(Usage("no text given\nhint: give -p TEXT or -f FILE, or pipe it in".into()).into());
    }
    let mut bytes = Vec::new();
    Ok(io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_without_its_last_newline() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a\n\n").unwrap();
        assert_eq!(text(None, Some(file.path())).unwrap(), "a\n");
        assert_eq!(text(Some("b"), None).unwrap(), "b");
        for bad in [&b"\xff"[..], b"\n"] {
            std::fs::write(file.path(), bad).unwrap();
            assert!(text(None, Some(file.path())).is_err());
        }
    }
}
