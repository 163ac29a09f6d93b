//! Owns the terminal's line editor: history, several lines, completion. Refuses to run without a terminal.

use std::path::PathBuf;

use anyhow::Context;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Helper, Highlighter, Hinter, Validator};

use super::slash::COMMANDS;

/// What the user typed.
pub(super) enum Input {
    Text(String),
    Interrupt,
    End,
}

pub(super) struct Editor {
    editor: rustyline::Editor<Completion, DefaultHistory>,
    history: Option<PathBuf>,
}

impl Editor {
    pub(super) fn new() -> anyhow::Result<Editor> {
        let config = Config::builder().completion_type(CompletionType::List).bracketed_paste(true).build();
        let mut editor = rustyline::Editor::with_config(config).context("cannot use the terminal")?;
        editor.set_helper(Some(Completion { files: FilenameCompleter::new() }));
        let history = history_path();
        if let Some(path) = &history {
            let _ = editor.load_history(path); // a first start has none
        }
        Ok(Editor { editor, history })
    }

    /// One input: a line; lines that end in `\` and the one after them; or everything between `"""` and `"""`.
    pub(super) fn read(&mut self) -> anyhow::Result<Input> {
        let mut text = String::new();
        let mut quoted = false;
        loop {
            let prompt = if text.is_empty() && !quoted { "> " } else { "... " };
            let line = match self.editor.readline(prompt) {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => return Ok(Input::Interrupt),
                Err(ReadlineError::Eof) if text.is_empty() => return Ok(Input::End),
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(error).context("cannot read from the terminal"),
            };
            let mut rest = line.as_str();
            if !quoted
                && text.is_empty()
                && let Some(inside) = rest.strip_prefix("\"\"\"")
            {
                (quoted, rest) = (true, inside);
            }
            if quoted {
                if let Some(end) = rest.strip_suffix("\"\"\"") {
                    text.push_str(end);
                    break;
                }
                if !(rest.is_empty() && text.is_empty()) {
                    text.push_str(rest);
                    text.push('\n');
                }
            } else if let Some(line) = rest.strip_suffix('\\') {
                text.push_str(line);
                text.push('\n');
            } else {
                text.push_str(rest);
                break;
            }
        }
        self.remember(&text);
        Ok(Input::Text(text))
    }

    fn remember(&mut self, text: &str) {
        let _ = self.editor.add_history_entry(text);
        if let Some(path) = &self.history {
            // A history that cannot be written must not stop a chat.
            let _ = path.parent().map(std::fs::create_dir_all);
            let _ = self.editor.save_history(path);
        }
    }
}

/// `$XDG_STATE_HOME/curtail/history`, by default under `~/.local/state`.
fn history_path() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    Some(state.join("curtail/history"))
}

/// Completes command names at the start of a line, and file names after them.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Completion {
    files: FilenameCompleter,
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        if !line.starts_with('/') {
            return Ok((pos, Vec::new()));
        }
        if line[..pos].contains(' ') {
            return self.files.complete(line, pos, context);
        }
        let names = COMMANDS.iter().map(|(name, ..)| *name).filter(|name| name.starts_with(&line[..pos]));
        Ok((0, names.map(|name| Pair { display: name.to_owned(), replacement: name.to_owned() }).collect()))
    }
}
