//! Owns the error of a conversion: one sentence with file, field, expected and found.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::gguf;
use crate::tokenizer;

/// Why a checkpoint cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused to open or read a file.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: `open`, `read` ...
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A file of the checkpoint says what cannot be, or what this program does not know.
    #[error("{field}: expected {expected}, found {found} in `{}`{}", path.display(), hint_line(hint))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field of the file; keys and tensor names are in backticks.
        field: String,
        /// What the field should have held.
        expected: String,
        /// What it held.
        found: String,
        /// What the user can do about it; empty when there is nothing to say.
        hint: String,
    },
    /// What was made of the checkpoint is no GGUF file, or it cannot be written.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// What was made of the vocabulary is none.
    #[error("the converted tokenizer cannot be used: {0}")]
    Tokenizer(#[from] tokenizer::Error),
    /// The caller asked to stop.
    #[error("interrupted: nothing was written")]
    Interrupted,
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
            field: field.to_string(),
            expected: expected.to_string(),
            found: found.to_string(),
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

fn hint_line(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("\nhint: {hint}") }
}
