//! The line editor: history, completion, and texts of several lines. Owns what is typed until it is a whole input.

use std::io::{self, ErrorKind, IsTerminal};
use std::path::PathBuf;

use anyhow::Context as _;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, CompletionType, Config, Context, Editor, Helper};

use super::keep::state_folder;
#[cfg(unix)]
use super::keyboard::{self, Keyboard};
use super::settings;
use super::slash::{self, COMMANDS, QUOTES, TOPICS};
use crate::commands::shared::note;
use crate::text;

/// What the user did at the prompt.
#[derive(Debug, PartialEq)]
pub(super) enum Input {
    /// A line that begins with a slash.
    Command(String),
    /// A message, without the marks that let it span lines.
    Text(String),
    /// Ctrl-C.
    Interrupt,
    /// A line that is no text.
    Unreadable,
    /// Ctrl-D.
    End,
}

/// Reads inputs from the terminal.
pub(super) struct Prompt {
    editor: Editor<Assistant, FileHistory>,
    history: Option<PathBuf>,
    colour: bool,
    #[cfg(unix)]
    keyboard: Option<Keyboard>,
}

impl Prompt {
    pub(super) fn new() -> anyhow::Result<Prompt> {
        // With stdout elsewhere the answers go there, and the prompt must not.
        let behavior = if io::stdout().is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .history_ignore_space(false)
            .bracketed_paste(true)
            .behavior(behavior)
            .build();
        #[cfg(unix)]
        let keyboard = Keyboard::start();
        let mut editor = Editor::with_config(config).context("cannot use the terminal")?;
        editor.set_helper(Some(Assistant {
            files: FilenameCompleter::new(),
            #[cfg(unix)]
            keyboard: keyboard.as_ref().map(Keyboard::shared),
        }));
        let history = history_file();
        if let Some(path) = &history {
            // There is none before the first chat.
            let _ = editor.load_history(path);
        }
        Ok(Prompt {
            editor,
            history,
            colour: wants_colour(),
            #[cfg(unix)]
            keyboard,
        })
    }

    /// The next input.
    pub(super) fn read(&mut self) -> anyhow::Result<Input> {
        let styled = if self.colour { "\x1b[1;32m> \x1b[0m" } else { "> " };
        match self.line(&("> ", styled)) {
            Ok(input) => {
                self.remember(&input);
                Ok(interpret(&input))
            }
            Err(ReadlineError::Interrupted) => Ok(Input::Interrupt),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => Ok(Input::Unreadable),
            Err(error) => Err(error).context("cannot read from the terminal"),
        }
    }

    fn line(&mut self, prompt: &(&str, &str)) -> rustyline::Result<String> {
        #[cfg(unix)]
        self.keyboard.iter().for_each(Keyboard::begin);
        let line = self.editor.readline(prompt);
        #[cfg(unix)]
        self.keyboard.iter().for_each(Keyboard::end);
        line
    }

    /// Adds to the history, in the file at once: a killed program keeps it too.
    fn remember(&mut self, input: &str) {
        if input.trim().is_empty() {
            return;
        }
        let added = self.editor.add_history_entry(input).unwrap_or(false);
        if let Some(path) = self.history.as_ref().filter(|_| added)
            && let Err(error) = self.editor.append_history(path)
        {
            note(format_args!("note: no history from here on: cannot write `{}`: {error}", path.display()));
            self.history = None;
        }
    }
}

/// The file that keeps what was typed; `None` where there is no folder for it, or something else has its name.
fn history_file() -> Option<PathBuf> {
    let path = state_folder()?.join("history");
    // What is no file may have no end, or wait for somebody for ever; the editor reads the whole of it.
    let problem = match std::fs::metadata(&path) {
        Ok(facts) if !facts.is_file() => "it is no file",
        Ok(facts) if facts.len() > text::SETTINGS_BYTES => "it is too large",
        _ => return Some(path),
    };
    note(format_args!("note: no history: cannot use `{}`: {problem}", path.display()));
    None
}

/// https://no-color.org: set and not empty means none.
pub(super) fn wants_colour() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    !refused && !dumb && std::io::stdout().is_terminal()
}

fn interpret(input: &str) -> Input {
    if input.starts_with('/') {
        return Input::Command(input.trim_end().to_string());
    }
    let text = input.trim();
    if text.starts_with(QUOTES) {
        return Input::Text(slash::unquoted(text).to_string());
    }
    Input::Text(text.replace("\\\n", "\n"))
}

/// Whether more lines must come before the input is whole.
fn is_open(input: &str) -> bool {
    let text = input.trim_start();
    let quoted = text.starts_with(QUOTES) || (text.starts_with('/') && text.contains(QUOTES));
    if quoted { text.matches(QUOTES).count() % 2 == 1 } else { text.ends_with('\\') && !text.starts_with('/') }
}

struct Assistant {
    files: FilenameCompleter,
    #[cfg(unix)]
    keyboard: Option<keyboard::Shared>,
}

impl Helper for Assistant {}

impl Highlighter for Assistant {}

impl Hinter for Assistant {
    type Hint = String;
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let open = is_open(context.input());
        #[cfg(unix)]
        if open {
            self.keyboard.iter().for_each(keyboard::Shared::more);
        }
        Ok(if open { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, context: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        match typed.split_once(' ') {
            None => Ok((0, matching(typed, COMMANDS.iter().map(|command| command.0)))),
            Some(("/save" | "/load", _)) => self.files.complete(line, pos, context),
            Some(("/set", name)) => Ok((pos - name.len(), matching(name, settings::NAMES.into_iter()))),
            Some(("/show", topic)) => Ok((pos - topic.len(), matching(topic, TOPICS.iter().map(|topic| topic.0)))),
            Some(_) => Ok((pos, Vec::new())),
        }
    }
}

fn matching<'n>(typed: &str, names: impl Iterator<Item = &'n str>) -> Vec<Pair> {
    let pair = |name: &str| Pair { display: name.to_string(), replacement: format!("{name} ") };
    // Tab in a message must not offer commands.
    names
        .filter(|name| !typed.is_empty() || !name.starts_with('/'))
        .filter(|n| n.starts_with(typed))
        .map(pair)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_whole_or_open() {
        for open in ["\"\"\"", "\"\"\"a\nb", "a \\", "a\\\nb\\", "/system \"\"\"a"] {
            assert!(is_open(open), "{open}");
        }
        for whole in ["", "a", "\"\"\"a\nb\"\"\"", "a\\\nb", "/load a\\", "say \"\"\""] {
            assert!(!is_open(whole), "{whole}");
        }
    }

    #[test]
    fn marks_of_several_lines_are_taken_off() {
        assert_eq!(interpret("\"\"\"\na\n  b\n\"\"\""), Input::Text("a\n  b".into()));
        assert_eq!(interpret("a\\\nb "), Input::Text("a\nb".into()));
        assert_eq!(interpret("/exit "), Input::Command("/exit".into()));
        assert_eq!(interpret(" /etc is a folder"), Input::Text("/etc is a folder".into()));
    }

    #[test]
    fn commands_and_their_arguments_are_completed() {
        let assistant = Assistant {
            files: FilenameCompleter::new(),
            #[cfg(unix)]
            keyboard: None,
        };
        let history = FileHistory::new();
        let complete = |line: &str| {
            let (at, pairs) = assistant.complete(line, line.len(), &Context::new(&history)).unwrap();
            (at, pairs.into_iter().map(|pair| pair.replacement).collect::<Vec<_>>())
        };
        assert_eq!(complete("/re"), (0, vec!["/regen ".to_string()]));
        assert_eq!(complete("/set top"), (5, vec!["top-k ".to_string(), "top-p ".to_string()]));
        assert_eq!(complete("/show te"), (6, vec!["template ".to_string()]));
        assert_eq!(complete(""), (0, vec![]));
        assert_eq!(complete("tell me"), (7, vec![]));

        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("talk.json"), "").unwrap();
        let (_, files) = complete(&format!("/load {}/ta", folder.path().display()));
        assert!(files.len() == 1 && files[0].ends_with("talk.json"), "{files:?}");
    }
}
