//! Lines, signals and texts: what one line, one byte or one signal does wrong ends that line or the program, and no more.

mod escapes;
mod lines;
mod signals;
mod terminal;
mod windows;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::curtail;
use crate::common::tiny::Tiny;

/// A folder with the tiny model in it.
fn with_model() -> (tempfile::TempDir, String) {
    with(&Tiny::new())
}

fn with(tiny: &Tiny) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.gguf");
    tiny.write(&path);
    let model = path.to_str().expect("UTF-8").to_owned();
    (folder, model)
}

/// A chat that keeps its history in the folder.
fn chat(folder: &Path, model: &str, arguments: &[&str]) -> Command {
    let mut command = curtail(&["chat", "-m", model, "-t", "1", "--temp", "0"]);
    command.args(arguments).env("XDG_STATE_HOME", folder).env("TERM", "xterm").env("NO_COLOR", "1");
    command
}

/// What the user said in a saved conversation.
fn said(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let saved: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let messages = saved["conversation"]["messages"].as_array().expect("a list");
    let of_user = messages.iter().filter(|message| message["role"] == "user");
    of_user.map(|message| message["content"].as_str().expect("text").to_owned()).collect()
}

/// The files of a folder whose names contain a text.
fn named(folder: &Path, part: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.file_name().expect("a name").to_string_lossy().contains(part)).collect()
}
