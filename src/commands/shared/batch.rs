//! Reads JSON Lines: one request a line, each error with file and line. Checks token ids against the vocabulary.

use std::io::{self, BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;

use super::interrupt;
use crate::text;
use crate::tokenizer::TokenId;

/// Calls `each` with every line's request until it breaks off; blank lines hold none.
pub(crate) fn for_each<T: DeserializeOwned>(
    path: &Path,
    mut each: impl FnMut(T) -> anyhow::Result<ControlFlow<()>>,
) -> anyhow::Result<()> {
    let (name, reader) = open(path)?;
    let mut lines = text::lines(reader, text::LINE_BYTES);
    for i in 0.. {
        let Some(line) = interrupt::while_waiting(|| lines.next()) else { break };
        let place = || format!("{name}:{}", i + 1);
        let line = line.with_context(place)?;
        if !line.trim().is_empty() {
            let request = serde_json::from_str(&line).map_err(|error| anyhow::anyhow!("{}", plain(&error)));
            if each(request.with_context(place)?).with_context(place)?.is_break() {
                break;
            }
        }
    }
    Ok(())
}

/// Refuses ids that the vocabulary does not have.
pub(crate) fn check_ids(field: &str, ids: &[TokenId], n_vocab: usize) -> anyhow::Result<()> {
    match ids.iter().position(|&id| id as usize >= n_vocab) {
        Some(i) => bail!("{field}[{i}]: expected a token id below {n_vocab}, found {}", ids[i]),
        None => Ok(()),
    }
}

fn open(path: &Path) -> anyhow::Result<(String, Box<dyn BufRead>)> {
    if path == Path::new("-") {
        return Ok(("stdin".into(), Box::new(io::stdin().lock())));
    }
    let name = path.display().to_string();
    let file = text::open(path).with_context(|| format!("cannot open `{name}`"))?;
    Ok((name, Box::new(BufReader::new(file))))
}

/// What is wrong and in which column: the line is the file's, not the one line that serde_json saw.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("{what} (column {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn error_of(text: &str) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().display().to_string();
        let error = for_each(file.path(), |ids: Vec<u32>| {
            check_ids("prompt", &ids, 10)?;
            Ok(ControlFlow::Continue(()))
        })
        .unwrap_err();
        format!("{error:#}").replace(&path, "F")
    }

    #[test]
    fn errors_name_file_and_line() {
        assert_eq!(error_of("[1]\n\n[1, 10]"), "F:3: prompt[1]: expected a token id below 10, found 10");
        assert!(error_of("[1]\n[1,").starts_with("F:2: EOF while parsing"));
        assert!(error_of("[-1]").starts_with("F:1: invalid value: integer `-1`"));
        assert!(error_of("nonsense").starts_with("F:1: expected ident"));
        assert!(error_of("\u{feff}[1]\r\n\r\n[10]\r\n").starts_with("F:3: prompt[0]: "));
    }
}
