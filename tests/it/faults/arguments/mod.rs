//! The command line: spellings, numbers, files that are no files, outputs.

mod endless;
mod numbers;
mod outputs;
mod pulls;
mod spellings;

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::curtail;
use crate::common::tiny::Tiny;

/// A folder with a tiny model and a text, where the program runs.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        Tiny::new().write(&folder.path().join("m.gguf"));
        std::fs::write(folder.path().join("t.txt"), "the a th the a b c d e f g ".repeat(40)).expect("written");
        Place { folder }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program there; a word `MODEL` stands for `-m m.gguf -t 1`.
    pub(crate) fn command(&self, line: &str) -> Command {
        let line = line.replace("MODEL", "-m m.gguf -t 1");
        let mut command = curtail(&line.split_whitespace().collect::<Vec<_>>());
        command.current_dir(self.folder.path());
        command
    }
}
