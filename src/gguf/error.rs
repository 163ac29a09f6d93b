//! Owns the error of the file format: one sentence with file, field, expected and found.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a GGUF file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused to open, map, read or write the file.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: `open`, `map`, `write` ...
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The file breaks a rule of the format, or a value has a type or range that its reader cannot use.
    #[error("{field}: expected {expected}, found {found}{}{}", place(path), hint_line(hint))]
    Invalid {
        /// The file; empty for metadata that never was in one.
        path: PathBuf,
        /// The field of the file; metadata keys and tensor names are in backticks.
        field: String,
        /// What the field should have held.
        expected: String,
        /// What it held.
        found: String,
        /// What the user can do about it; empty when there is nothing to say.
        hint: String,
    },
    /// A key that the caller needs is absent.
    #[error("`{key}`: expected {expected}, found no such key{}", place(path))]
    MissingKey {
        /// The file; empty for metadata that never was in one.
        path: PathBuf,
        /// The metadata key.
        key: String,
        /// The type of value wanted.
        expected: &'static str,
    },
}

impl Error {
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> Error {
        Error::Io { path: path.to_owned(), action, source }
    }

    pub(super) fn invalid(
        path: &Path,
        field: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Error {
        Error::Invalid {
            path: path.to_owned(),
            field: visible(&field.to_string()),
            expected: expected.to_string(),
            found: visible(&found.to_string()),
            hint: String::new(),
        }
    }

    /// Adds a line that tells what to do; without effect on other kinds than `Invalid`.
    pub(super) fn with_hint(mut self, text: impl fmt::Display) -> Error {
        if let Error::Invalid { hint, .. } = &mut self {
            *hint = text.to_string();
        }
        self
    }
}

/// What a file says, for a message: not so long that it hides the rest, and without what would move the cursor of a terminal.
pub(crate) fn visible(text: &str) -> String {
    const MOST: usize = 400;
    let mut shown = String::new();
    for c in text.chars().take(MOST) {
        match c {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            c if c.is_control() => shown.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => shown.push(c),
        }
    }
    if text.chars().nth(MOST).is_some() {
        shown.push_str(" ...");
    }
    shown
}

fn place(path: &Path) -> String {
    if path.as_os_str().is_empty() { String::new() } else { format!(" in `{}`", path.display()) }
}

fn hint_line(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("\nhint: {hint}") }
}
