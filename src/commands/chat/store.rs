//! Saved conversations: a JSON file with what was said, and beside it the sequence's token state. Each file appears
//! complete or not at all.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use super::conversation::Conversation;
use crate::commands::shared::chain;
use crate::commands::shared::output::{Inputs, write_whole};
use crate::engine::Sequence;
use crate::files;
use crate::model::Model;
use crate::text;

/// What a saved conversation and its state became.
pub(super) struct Loaded {
    pub(super) conversation: Conversation,
    /// Why the state could not be used, if so.
    pub(super) state_problem: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    format: String,
    version: u32,
    model: ModelId,
    /// Name of the file with the token state, in the same folder.
    state: PathBuf,
    conversation: Conversation,
}

/// Tells whether token ids mean the same.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ModelId {
    name: String,
    architecture: String,
    n_vocab: usize,
}

const FORMAT: &str = "curtail conversation";
const VERSION: u32 = 1;

/// Writes a conversation and the state of its sequence. Returns the two files.
pub(super) fn save(
    path: &Path,
    inputs: &Inputs,
    conversation: &Conversation,
    sequence: &Sequence,
) -> anyhow::Result<(PathBuf, PathBuf)> {
    let path = conversation_path(path)?;
    let state = state_of(&path);
    inputs.allow([path.as_path(), &state])?;
    write_whole(&state, |w| Ok(sequence.save_state(w)?))?;
    write(&path, conversation, &ModelId::of(sequence.model()))?;
    Ok((path, state))
}

/// Writes a conversation alone.
pub(super) fn write(path: &Path, conversation: &Conversation, model: &ModelId) -> anyhow::Result<()> {
    let saved = Saved {
        format: FORMAT.into(),
        version: VERSION,
        model: model.clone(),
        state: state_of(path).file_name().unwrap_or_default().into(),
        conversation: conversation.clone(),
    };
    write_whole(path, |w| {
        serde_json::to_writer_pretty(&mut *w, &saved)?;
        Ok(w.write_all(b"\n")?)
    })
}

fn state_of(path: &Path) -> PathBuf {
    path.with_extension("state")
}

/// Reads a conversation and brings the sequence to its state. A state that does not fit is no failure: the next
/// turn evaluates the tokens again.
pub(super) fn load(path: &Path, sequence: &mut Sequence) -> anyhow::Result<Loaded> {
    let (path, mut saved) = read(path)?;
    let same_model = saved.model == ModelId::of(sequence.model());
    if !same_model {
        saved.conversation.forget_tokens();
    }
    let n_vocab = sequence.model().config().n_vocab;
    saved.conversation.check(n_vocab).map_err(|why| anyhow!("`{}`: conversation.{why}", path.display()))?;
    let state_problem = if same_model {
        load_state(&path.with_file_name(&saved.state), sequence).err().map(|error| chain(&error))
    } else {
        Some(format!("it was saved with another model, {:?}", saved.model.name))
    };
    Ok(Loaded { conversation: saved.conversation, state_problem })
}

/// The file as named, or with the extension that saving adds.
fn read(path: &Path) -> anyhow::Result<(PathBuf, Saved)> {
    let path = if path.exists() { path.to_path_buf() } else { conversation_path(path)? };
    let text = text::read(&path, text::KEPT_BYTES).with_context(|| format!("cannot read `{}`", path.display()))?;
    let saved: Saved =
        serde_json::from_str(&text).with_context(|| format!("`{}` is not a saved conversation", path.display()))?;
    ensure!(
        saved.format == FORMAT && saved.version == VERSION,
        "`{}`: expected \"{FORMAT}\" version {VERSION}, found {:?} version {}",
        path.display(),
        saved.format,
        saved.version
    );
    let plain_name = saved.state.file_name().is_some_and(|name| name == saved.state.as_os_str());
    ensure!(plain_name, "`{}`: state: expected a file name, found {:?}", path.display(), saved.state);
    Ok((path, saved))
}

fn load_state(path: &Path, sequence: &mut Sequence) -> anyhow::Result<()> {
    let file = files::open_regular(path).with_context(|| format!("cannot open `{}`", path.display()))?;
    sequence.load_state(&mut BufReader::new(file)).with_context(|| format!("cannot use `{}`", path.display()))
}

fn conversation_path(path: &Path) -> anyhow::Result<PathBuf> {
    match path.extension() {
        None => Ok(path.with_extension("json")),
        Some(extension) if extension == "state" || extension == "gguf" => {
            bail!("`{}`: a conversation is a .json file", path.display())
        }
        Some(_) => Ok(path.to_path_buf()),
    }
}

impl ModelId {
    pub(super) fn of(model: &Model) -> ModelId {
        let config = model.config();
        ModelId { name: config.name.clone(), architecture: config.architecture.clone(), n_vocab: config.n_vocab }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_are_json_files() {
        assert_eq!(conversation_path(Path::new("a/talk")).unwrap(), Path::new("a/talk.json"));
        assert_eq!(conversation_path(Path::new("talk.txt")).unwrap(), Path::new("talk.txt"));
        assert!(conversation_path(Path::new("talk.state")).is_err());
    }
}
